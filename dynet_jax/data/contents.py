"""The contents of a dataset's split, reported before a run: classes, images per class, and skipped files."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynet_jax.data.record import Source
from dynet_jax.errors import UserError

NAMED = 5  # number of names that a message lists


class Contents(NamedTuple):
    """The contents of a source, in its attribute `contents`.

    Attributes:
      split: the user's name for it: 'val'.
      counts: number of images of each class, including classes without any; {} if unknown.
      notes: short notes on what may not be as the user believes.
    """

    split: str
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()


def contents_of(source: Source) -> Contents | None:
    """Returns the contents of a source, or None if the dataset does not report them."""
    return getattr(source, "contents", None)


def classes_with_images(source: Source) -> list[str]:
    """Returns the classes that some record may have."""
    contents = contents_of(source)
    counts = contents.counts if contents else {}
    return [name for name in source.class_names if not counts or counts.get(name)]


def check_classes(source: Source, dataset: str) -> None:
    """Raises UserError for a set of classes that no classifier can be trained on."""
    names = source.class_names
    twice = [name for name, count in Counter(map(same_name, names)).items() if count > 1]
    if twice:
        raise UserError(f"{dataset} has several classes called {listed(twice)}; give each class its own name")
    if len(names) < 2:
        raise UserError(f"{dataset} has one class, {listed(names)}; a classifier needs the images of two or more")


def describe(sources: Mapping[str, Source]) -> list[str]:
    """Returns one or two lines about {'train': its source, 'test': its source}.

    >>> from dynet_jax.data import load_source
    >>> describe({"train": load_source("digits", "train")})
    ['data: 10 classes, 1438 train images']
    """
    names, images, notes = next(iter(sources.values())).class_names, [], []
    for split, source in sources.items():
        contents = contents_of(source) or Contents(split, {})
        images.append(f"{len(source)} {contents.split} images{_of_each_class(contents.counts)}")
        notes += contents.notes
        missing = [name for name in names if contents.counts and not contents.counts.get(name)]
        if missing:
            notes.append(f"{contents.split} has no images of {listed(missing)}")
    lines = [f"data: {len(names)} classes, {', '.join(images)}"]
    return lines + ([f"data: {'; '.join(notes)}"] if notes else [])


def same_name(name: str) -> str:
    """Returns a normal form that is equal for names that look alike: macOS separates the accents from letters."""
    return unicodedata.normalize("NFC", name)


def listed(names: Sequence[str], limit: int = NAMED) -> str:
    """Returns the first names, and the number of the others.

    >>> listed(["a", "b"]), listed(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e and 3 more')
    """
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _of_each_class(counts: Mapping[str, int]) -> str:
    some = {name: count for name, count in counts.items() if count}
    if not some:
        return ""
    least, most = min(some, key=some.__getitem__), max(some, key=some.__getitem__)
    if some[least] == some[most]:
        return f" ({some[least]} a class)"
    return f" ({some[least]} of {least} to {some[most]} of {most})"
