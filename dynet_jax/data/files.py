"""Image files below a folder, and what else lies there, which is passed over but not in silence."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dynet_jax.data.contents import listed
from dynet_jax.errors import one_line

# What OpenCV decodes, by the names that such files have.
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}
# Of file managers, network drives and archives: they hold copies, thumbnails, and what was deleted.
TOOL_FOLDERS = {
    *("__MACOSX", "__pycache__", "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"),
}
TOOL_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # in small letters
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "valid", "validation", "test")}


class Skipped:
    """What was passed over: how often each kind of thing, and the first of each as an example.

    `links` counts images that are taken though they are links.
    """

    def __init__(self, root: Path):
        self.root, self.links = root, 0
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Notes one thing; `kind` is a noun in the singular."""
        self.counts[kind] += 1
        self._examples.setdefault(kind, os.path.relpath(path, self.root))

    def update(self, other: "Skipped") -> None:
        """Adds what another folder has."""
        self.counts += other.counts
        self.links += other.links
        self._examples = other._examples | self._examples

    def __str__(self) -> str:
        """'2 .txt files (cat/notes.txt), 1 broken link (dog/7.jpg)', or ''."""
        kinds = [
            f"{count} {kind}{'s' * (count > 1)} ({one_line(self._examples[kind])})"
            for kind, count in self.counts.most_common()
        ]
        return listed(kinds, limit=8)


def list_images(folder: Path, skipped: Skipped | None = None) -> list[Path]:
    """The image files below a folder, sorted, so that an index means the same image everywhere.

    A link to a file is followed, one to a folder is not, so that there are no loops. `skipped` is told of all else.
    """
    return list(_walk(folder, Skipped(folder) if skipped is None else skipped))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is of some tool, not of the data's owner."""
    return name.startswith(".") or name in TOOL_FOLDERS or name.lower() in TOOL_FILES


def _walk(folder: Path | str, skipped: Skipped) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        kind = _not_taken(entry)
        if kind:
            skipped.add(kind, entry.path)
        elif entry.is_dir():
            yield from _walk(entry.path, skipped)
        else:
            skipped.links += entry.is_symlink()
            yield Path(entry.path)


def _not_taken(entry: os.DirEntry) -> str | None:
    """What an entry is that is neither an image nor a folder that may have some; None if it is."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "broken link"
    if entry.is_dir():
        return "hidden or tool folder" if is_hidden(entry.name) else "linked folder" if entry.is_symlink() else None
    if is_hidden(entry.name):
        return "hidden file"
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in IMAGE_SUFFIXES:
        return f"{suffix} file" if suffix.isprintable() and 1 < len(suffix) < 9 else "other file"
    return None if entry.is_file() else "special file"
