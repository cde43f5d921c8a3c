"""The image files below a folder, and a report of everything else there, which is skipped."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dynet_jax.data.contents import listed
from dynet_jax.errors import one_line

# Suffixes of the formats that OpenCV decodes.
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}
# Folders of file managers, network drives and archives, which hold copies, thumbnails and deleted files.
TOOL_FOLDERS = {
    *("__MACOSX", "__pycache__", "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"),
}
TOOL_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # in lower case
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "valid", "validation", "test")}


class Skipped:
    """The skipped files and folders: the number of each kind, with the first one as an example.

    `links` counts images that are used although they are links.
    """

    def __init__(self, root: Path):
        self.root, self.links = root, 0
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Adds one item; `kind` is a noun in the singular."""
        self.counts[kind] += 1
        self._examples.setdefault(kind, os.path.relpath(path, self.root))

    def update(self, other: "Skipped") -> None:
        """Adds the items of another folder."""
        self.counts += other.counts
        self.links += other.links
        self._examples = other._examples | self._examples

    def __str__(self) -> str:
        """Returns '2 .txt files (cat/notes.txt), 1 broken link (dog/7.jpg)', or ''."""
        kinds = [
            f"{count} {kind}{'s' * (count > 1)} ({one_line(self._examples[kind])})"
            for kind, count in self.counts.most_common()
        ]
        return listed(kinds, limit=8)


def list_images(folder: Path, skipped: Skipped | None = None) -> list[Path]:
    """Returns the sorted image files below a folder, so that an index means the same image on all machines.

    Links to files are followed, links to folders are not, which avoids loops. Everything else is added to `skipped`.
    """
    return list(_walk(folder, Skipped(folder) if skipped is None else skipped))


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder belongs to some tool, not to the data."""
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
    """Returns the kind of an entry that is neither an image nor a folder to read; None for those two."""
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
