"""Folders of images with class maps, and the content of a label file."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from dynet_jax.data.contents import Contents
from dynet_jax.data.files import SPLIT_FOLDERS, Skipped, list_images
from dynet_jax.data.record import IGNORED, Record, UnknownClass
from dynet_jax.data.source import register_dataset
from dynet_jax.data.text import read_class_list
from dynet_jax.errors import UserError

UNKNOWN = 254  # marks values that are no class
MODES = ("L", "P")  # Pillow's modes of 8 bits: grey, or with a palette
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


@register_dataset("maps:PATH", task="segmentation")
def _open_maps(split: str, data_dir: str | None, root: Path) -> "MapsSource":
    """Opens PATH with classes.txt, one class name per line. A label's pixels are classes from 0; 255 is ignored."""
    return MapsSource(root, split, _class_names(root, 2 if split == "train" else 1), IGNORED)


@register_dataset("camvid:PATH", task="segmentation")
def _open_camvid(split: str, data_dir: str | None, root: Path) -> "MapsSource":
    """Opens the same with CamVid's 11 classes, and 11 ignored."""
    return MapsSource(root, split, CAMVID, len(CAMVID))


class MapsSource:
    """Pairs of files with the same stem: PATH/train/NAME.jpg and PATH/trainannot/NAME.png.

    The split 'test' is the val folder, or the test folder if there is no val folder; 'held_out' is the test folder.
    """

    def __init__(self, root: Path, split: str, class_names: list[str], ignored: int):
        names = {"held_out": ("test",)}.get(split) or SPLIT_FOLDERS[split]
        found = [name for name in names if (root / name).is_dir()]
        if not found or not (root / f"{found[0]}annot").is_dir():
            pairs = " or ".join(f"{root / name} with {root / name}annot" for name in found[:1] or names)
            raise UserError(f"there is no {pairs}, folders of images and of label files with the same stems")
        skipped = Skipped(root)
        images, labels = (_by_stem(root / folder, skipped) for folder in (found[0], f"{found[0]}annot"))
        lonely = sorted(images.keys() ^ labels.keys())
        if lonely or not images:
            what = f"{', '.join(lonely[:5])} has no counterpart" if lonely else "there are no images"
            raise UserError(f"{root / found[0]} and {root / found[0]}annot do not fit: {what}")
        self.class_names, self.folder = class_names, root / found[0]
        self.pairs = [(images[stem], labels[stem]) for stem in sorted(images)]
        self.contents = Contents(found[0], {}, (f"skipped in {found[0]}: {skipped}",) if skipped.counts else ())
        self._classes = np.full(256, UNKNOWN, np.uint8)
        self._classes[: len(class_names)] = np.arange(len(class_names))
        self._classes[[ignored, IGNORED]] = IGNORED

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Record:
        image = self.pairs[index][0]
        return Record(image.read_bytes(), self.label(index), str(image))

    def label(self, index: int) -> "EncodedMap":
        """Returns the label alone. Raises OSError if it cannot be read."""
        file = self.pairs[index][1]
        return EncodedMap(file.read_bytes(), self._classes, str(file))

    def name_of(self, index: int) -> str:
        return str(self.pairs[index][0])


def _by_stem(folder: Path, skipped: Skipped) -> dict[str, Path]:
    """Returns {'city/0001': the file}. Raises UserError if two files have the same stem."""
    files: dict[str, Path] = {}
    for path in list_images(folder, skipped):
        stem = str(path.relative_to(folder).with_suffix(""))
        if stem in files:
            raise UserError(f"{files[stem]} and {path} have the same stem, so their label is ambiguous")
        files[stem] = path
    return files


class EncodedMap:
    """The content of a label file, and the class of each value: IGNORED, or UNKNOWN for a value that is no class."""

    def __init__(self, content: bytes, classes: np.ndarray, name: str):
        self._content, self._classes, self._name = content, classes, name

    def decode(self) -> np.ndarray:
        """Returns [height, width] uint8 of classes and IGNORED.

        Raises UserError if it cannot be decoded, and UnknownClass for a value that is no class.
        """
        try:
            with Image.open(io.BytesIO(self._content)) as image:
                values = np.asarray(image) if image.mode in MODES else None  # for a palette, the indices
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            values = None
        if values is None or values.ndim != 2 or is_shallow_png(self._content):
            raise UserError(f"{self._name} is not a label file: one channel of 8 bits, as a PNG; remove or replace it")
        classes = self._classes[values]
        if (classes == UNKNOWN).any():
            strange = sorted({int(value) for value in np.unique(values[classes == UNKNOWN])})
            known = len({*self._classes.tolist()} - {UNKNOWN, IGNORED})
            raise UnknownClass(
                f"{self._name} has pixels of {', '.join(map(str, strange[:5]))}, which are neither one of the {known} "
                "classes nor ignored; use the right dataset, or correct the labels"
            )
        return classes


def is_shallow_png(content: bytes) -> bool:
    """Returns whether a label file is a PNG of less than 8 bits, given at least its first 26 bytes.

    Decoding spreads grey values of 1, 2 or 4 bits over 0 to 255: class 1 of 1 bit would become 255.
    """
    return content.startswith(b"\x89PNG") and content[24] < 8 and content[25] == 0


def _class_names(root: Path, fewest: int) -> list[str]:
    path = root / "classes.txt"
    names = read_class_list(path)
    if not fewest <= len(names) < UNKNOWN:
        raise UserError(f"{path} names {len(names)} classes; there must be {fewest} to {UNKNOWN - 1}")
    return names
