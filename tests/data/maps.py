"""Folders of images and class maps, made for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["earth", "water", "sky"]
COLORS = np.asarray([(150, 90, 40), (30, 60, 200), (200, 220, 250)], np.uint8)
IGNORED = 255


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(image, labels): three bands whose borders slope, in noisy colours; some pixels are ignored."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    borders = [0.2 + 0.3 * rng.random() + rng.uniform(-0.2, 0.2) * columns for _ in range(2)]
    labels = sum((rows > border).astype(np.uint8) for border in borders)
    image = COLORS[labels].astype(np.float64) + rng.normal(scale=20, size=(height, width, 3))
    labels[: height // 10] = IGNORED
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_maps(root: Path, sizes: dict[str, list[tuple[int, int]]], seed: int = 0) -> dict[str, list]:
    """ROOT/train, ROOT/trainannot, ..., ROOT/classes.txt, with images of these sizes; {split: [(image, labels)]}."""
    rng, scenes = np.random.default_rng(seed), {}
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for split, shapes in sizes.items():
        scenes[split] = [scene(rng, *shape) for shape in shapes]
        for folder in (root / split, root / f"{split}annot"):
            folder.mkdir()
        for index, (image, labels) in enumerate(scenes[split]):
            Image.fromarray(image).save(root / split / f"{index:03}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{index:03}.png")
    return scenes
