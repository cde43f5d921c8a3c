"""Checks of images and their class maps before a run: every file's header, and the classes in some labels."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dynet_jax.data.contents import Contents, listed
from dynet_jax.data.maps import MODES, MapsSource, is_shallow_png
from dynet_jax.data.record import IGNORED, UnknownClass
from dynet_jax.errors import UserError

LABELS_READ = 64  # per split
THREADS = 16
ORIENTATION = 0x0112  # EXIF's tag


class Inspected(NamedTuple):
    """The contents of a split, and the size (height, width) that all its labels fit into."""

    contents: Contents
    largest: tuple[int, int]


class Pair(NamedTuple):
    """An image and its label, from their headers: the label's size, or what is wrong with them.

    `damage` is a sentence about this pair, which may be skipped like a few others. `kind` says why the labels mean
    something else than intended or, for a rotated image, which orientation its label fits.
    """

    name: Path
    size: tuple[int, int] = (0, 0)
    damage: str = ""
    kind: str = ""


COMPRESSED = "labels are JPEG files, whose compression changes classes at borders; export the originals as PNG"
ROTATED = "images are rotated by their EXIF orientation when read, unlike their labels; save them without it"
AS_SHOWN, UNCLEAR = "labelled in the displayed orientation", "of a size that fits the stored orientation as well"


def inspect_maps(source: MapsSource, max_corrupt: int) -> Inspected:
    """Returns the contents of a split.

    Raises UserError if more than `max_corrupt` pairs do not fit, and for labels that cannot be intended.
    """
    pairs: list[Pair] = _in_threads(_read_headers, source.pairs)
    found = {kind: [pair.name.name for pair in pairs if pair.kind == kind] for kind in {pair.kind for pair in pairs}}
    unclear = [] if AS_SHOWN in found else found.get(UNCLEAR, [])  # all labels of a folder were made in the same way
    for kind in (COMPRESSED, ROTATED):
        if kind in found:
            names = sorted(found[kind] + (unclear if kind == ROTATED else []))
            raise UserError(f"{len(names)} of {len(pairs)} {kind}: {listed(names)} of {source.folder}")
    damaged = [pair for pair in pairs if pair.damage]
    if len(damaged) > max_corrupt:
        count = f"pairs that do not fit: {len(damaged)} of {len(pairs)}"
        raise UserError(f"{damaged[0].damage}; {count}, more than --config.data.max_corrupt={max_corrupt}")
    heights, widths = zip(*(pair.size for pair in pairs))
    contents = source.contents
    turned = f"{len(unclear)} images of {source.folder.name} are rotated by their EXIF orientation: {listed(unclear)}"
    notes = [f"{turned}; make sure that their labels are rotated, too"] if unclear else []
    contents = contents._replace(notes=(*contents.notes, *notes, *_notes_on_classes(source)))
    return Inspected(contents, (max(heights), max(widths)))


def _read_headers(files: tuple[Path, Path]) -> Pair:
    """Returns a pair of files; an image that Pillow cannot open is left to OpenCV, but Pillow must read labels."""
    image_file, label_file = files
    try:
        with label_file.open("rb") as file:
            shallow = is_shallow_png(file.read(26))
            file.seek(0)
            with Image.open(file) as label:
                size, turned = label.size[::-1], label.getexif().get(ORIENTATION) in range(2, 9)
                if label.format in ("JPEG", "MPO", "JPEG2000") or "jpeg" in str(label.info.get("compression")):
                    return Pair(label_file, kind=COMPRESSED)
                if shallow or label.mode not in MODES:
                    has = "less than 8 bits" if shallow else f"mode {label.mode}"
                    reason = f"is not a label file: one channel of 8 bits, as a PNG; it has {has}"
                    return Pair(label_file, damage=f"{label_file} {reason}")
    except Exception:  # Pillow raises many exceptions for damaged files
        return Pair(label_file, damage=f"{label_file} is damaged, or not a label file")
    try:
        with Image.open(image_file) as image:
            stored = shown = image.size[::-1]
            orientation = image.getexif().get(ORIENTATION)
            if orientation in (5, 6, 7, 8):  # for TIFF files, Pillow returns the displayed size
                stored, shown = (stored[::-1], shown) if image.format == "TIFF" else (stored, shown[::-1])
    except Exception:
        return Pair(image_file, size)
    if turned or (size == stored != shown):
        return Pair(image_file, kind=ROTATED)
    if size != shown:
        sizes = " and ".join("x".join(map(str, sides)) for sides in (shown, size))
        return Pair(image_file, damage=f"{image_file} and its label have different sizes: {sizes}")
    kind = "" if orientation not in range(2, 9) else UNCLEAR if stored == shown else AS_SHOWN
    return Pair(image_file, size, kind=kind)


def _notes_on_classes(source: MapsSource) -> Iterator[str]:
    """Yields notes on the classes. Raises UserError if nothing can be learnt, for example from masks of 0 and 255."""
    some = range(0, len(source), max(1, len(source) // LABELS_READ))
    counts = _count_all(source, some)
    if np.count_nonzero(counts[:IGNORED]) < 2:  # a rare class may be missing in so few
        some = range(len(source))
        counts = _count_all(source, some)
    if not counts.any():
        return
    there = [name for name, count in zip(source.class_names, counts) if count]
    only = f"pixels of one class only, {there[0]}" if there else "no pixel of a class"
    rest = ", and others that are ignored" if there and counts[IGNORED] else ""
    is_mask = source.folder.name == "train" and there == source.class_names[:1] and counts[IGNORED]
    if is_mask or not there:
        raise UserError(
            f"the labels in {source.folder}annot have {only}{rest}; a pixel's value is its class, from 0 on, and 255 "
            "is ignored, so a mask of 0 and 255 has to be written with 0 and 1"
        )
    missing = [name for name in source.class_names if name not in there]
    if len(there) == 1 < len(source.class_names):
        yield f"the labels in {source.folder.name}annot have {only}{rest}"
    elif missing:
        yield f"no pixel of {listed(missing)} in {len(some)} labels of {source.folder.name}annot"


def _count_all(source: MapsSource, indices: Iterable[int]) -> np.ndarray:
    return np.sum(_in_threads(lambda index: _count(source, index), indices), axis=0)


def _count(source: MapsSource, index: int) -> np.ndarray:
    """Returns the number of pixels of each class, [256]; zeros for an unreadable file."""
    try:
        return np.bincount(source.label(index).decode().ravel(), minlength=256)
    except UnknownClass:
        raise
    except (OSError, UserError):
        return np.zeros(256, np.int64)


def _in_threads(work: Callable, items: Iterable) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))
