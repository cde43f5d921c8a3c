"""Pictures of images with the most similar coefficients."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dynet_jax.analysis import figures
from dynet_jax.analysis.coefficients import Coefficients
from dynet_jax.analysis.figures import COLORS
from dynet_jax.analysis.neighbours import Neighbours
from dynet_jax.analysis.trained import Trained
from dynet_jax.data.decode import decode

THUMBNAIL = 96  # pixels


def thumbnails(trained: Trained, coefficients: Coefficients, positions: Sequence[int]) -> dict[int, np.ndarray]:
    """Returns {position in the coefficients: its image, cropped to a square, [96, 96, 3] uint8}."""
    found = {}
    for position in positions:
        record = trained.images[int(coefficients.indices[position])]
        picture = Image.fromarray(decode(record.image, record.name))
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        # The pixels of small digits and icons should be visible, those of photographs should not.
        method = Image.Resampling.NEAREST if side < THUMBNAIL else Image.Resampling.LANCZOS
        box = (left, top, left + side, top + side)
        found[int(position)] = np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), method, box=box))
    return found


def plot_nearest_images(
    trained: Trained,
    coefficients: Coefficients,
    neighbours: Neighbours,
    queries: Sequence[int],
    file: Path,
    title: str | None = None,
) -> list[Path]:
    """Plots a row for each query: the query at the left, then its nearest images with distance and class below.

    A solid frame and a tick mark the query's class, a dashed frame and a cross another one.

    queries: positions in the coefficients, for example from `choose_queries`. title: None for one that states how often
    the nearest image has the same class. file: as in `figures.save`, whose result is returned.
    """
    order = neighbours.order[list(queries)]
    pictures = thumbnails(trained, coefficients, sorted({*queries, *order.ravel().tolist()}))
    labels, names = coefficients.labels, trained.images.class_names
    columns = 1 + order.shape[1]
    figure, grid = figures.subplots(
        len(queries), columns, figsize=(1.25 * columns + 0.4, 1.5 * len(queries) + 0.6), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, query, near in zip(grid, queries, order):
        _show(row[0], pictures[int(query)], None if labels is None else names[labels[query]], "black", "-")
        for axes, other, distance in zip(row[1:], near, neighbours.distances[query]):
            same = None if labels is None else bool(labels[other] == labels[query])
            color, line, sign = _MARKS[same]
            name = "" if labels is None else f"{sign} {names[labels[other]]}\n"
            _show(axes, pictures[int(other)], f"{name}{distance:.2f}", color, line)
    grid[0, 0].set_title("image", fontsize=9)
    grid[0, 1].set_title("nearest", fontsize=9)
    figure.suptitle(_title(neighbours) if title is None else title, fontsize=10)
    return figures.save(figure, file)


_MARKS = {True: (COLORS[0], "-", "✓"), False: (COLORS[1], (0, (3, 2)), "✗"), None: ("black", "-", "")}


def _title(neighbours: Neighbours) -> str:
    if neighbours.same_class is None or neighbours.chance is None:
        return "nearest by coefficients"
    same, chance = 100 * neighbours.same_class, 100 * neighbours.chance
    return f"nearest by coefficients: same class {same:.1f} %\n(by chance {chance:.1f} %)"


def _show(axes, picture: np.ndarray, text: str | None, color: str, line) -> None:
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(text or "", fontsize=7.5, labelpad=3)
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2.2, linestyle=line)
