"""A folder of class folders, read once: the images of each class, what was left out, and what cannot be meant."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dynet_jax.data.contents import listed, same_name
from dynet_jax.data.files import IMAGE_SUFFIXES, Skipped, is_hidden, list_images
from dynet_jax.errors import UserError

# Of folders that divide a dataset in other ways than by class.
NO_CLASSES = {
    *("train", "training", "val", "valid", "validation", "test", "testing"),
    *("images", "imgs", "img", "jpegimages", "labels", "masks", "annotations", "annot"),
}


class ClassFolders(NamedTuple):
    """What lies in the folder of each class, by its name.

    Attributes:
      files: the image files.
      places: names of the folders within it that have images, and '' if it has some itself.
      notes: what the owner may not know.
    """

    files: dict[str, list[Path]]
    places: dict[str, frozenset[str]]
    notes: tuple[str, ...]


def class_folders(folder: Path, skipped: Skipped | None = None) -> dict[str, Path]:
    """{class: its folder}, sorted by name. A link to a folder is a class, too.

    Raises UserError for a link that leads nowhere, to a folder around it, or to another class, and for a name that no
    file of labels could hold.
    """
    skipped, found = Skipped(folder) if skipped is None else skipped, {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink() and not os.path.exists(entry.path):
                raise UserError(f"{entry.path} is a link to what is not there; mend or remove it")
            if not entry.is_dir():
                is_image = Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(entry.name)
                kind = "image" if is_image else "hidden file" if is_hidden(entry.name) else "file"
                skipped.add(f"{kind} beside the class folders", entry.path)
            elif is_hidden(entry.name):
                skipped.add("hidden or tool folder", entry.path)
            else:
                found[entry.name] = Path(entry.path)
    _refuse_bad_names(found, folder)
    _refuse_bad_links(found, folder)
    return found


def read_classes(folder: Path, *, may_be_empty: bool) -> ClassFolders:
    """Lists the images of every class. Raises UserError for a class without any, as `may_be_empty` has it.

    A folder of files of which none is an image is refused in any case: they were meant to be some.
    """
    skipped, files = Skipped(folder), {}
    folders = class_folders(folder, skipped)
    for name, path in folders.items():
        of_class = Skipped(folder)
        files[name] = list_images(path, of_class)
        meant = [kind for kind in of_class.counts if not kind.startswith("hidden")]
        if not files[name] and (meant or not may_be_empty):
            only = f", only {of_class}" if of_class.counts else ""
            cure = "make them .jpg or .png files" if meant else "put those of the class there"
            raise UserError(f"no images below {path}{only}; {cure}, or remove the folder")
        skipped.update(of_class)
    notes = [f"skipped in {folder.name}: {skipped}"] if skipped.counts else []
    notes += [f"{skipped.links} images of {folder.name} are links"] if skipped.links else []
    linked = [f"{folder.name}/{name}" for name, path in folders.items() if path.is_symlink()]
    notes += [f"links to folders: {listed(linked)}"] if linked else []
    places = {name: _places(path, files[name]) for name, path in folders.items()}
    return ClassFolders(files, places, tuple(notes + _nested(folder, places)))


def refuse_wrong_level(folder: Path, classes: ClassFolders) -> None:
    """Raises UserError where the folders in a folder cannot be the classes of a training set."""
    names, places = list(classes.files), frozenset().union(*classes.places.values())
    if all(name.lower() in NO_CLASSES for name in names) or (len(names) == 1 and "" not in places):
        within = f" with {listed(sorted(places - {''}))} in it" if places - {""} else ""
        raise UserError(
            f"{folder} holds {listed(names)}{within}, but it must hold a folder of images for each class itself; "
            "move the class folders into it"
        )


def _places(folder: Path, paths: list[Path]) -> frozenset[str]:
    begin = len(str(folder)) + 1
    return frozenset(text[begin : max(begin, text.find("/", begin))] for text in map(str, paths))


def _nested(folder: Path, places: Mapping[str, frozenset[str]]) -> list[str]:
    """A note where every class has the same folders and nothing else, as classes have that lie a level too high."""
    alike = sorted(next(iter(places.values()))) if len(set(places.values())) == 1 else []
    if len(alike) < 2 or "" in alike:
        return []
    return [f"every class of {folder.name} consists of the folders {listed(alike)}: are these the classes?"]


def _refuse_bad_names(found: Mapping[str, Path], folder: Path) -> None:
    alike: dict[str, str] = {}
    for name in found:
        if alike.setdefault(same_name(name), name) != name:
            raise UserError(f"{folder} has two folders {name}, whose accents are written differently; join them")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"a class folder in {folder} has a name that is not UTF-8: {os.fsencode(name)!r}; rename it"
            ) from error


def _refuse_bad_links(found: Mapping[str, Path], folder: Path) -> None:
    places = {name: os.path.realpath(path) for name, path in found.items() if path.is_symlink()}
    own = os.path.realpath(folder)
    for name, place in places.items():
        if f"{own}/".startswith(f"{place.rstrip('/')}/"):
            raise UserError(f"{found[name]} is a link to {place}, in which it lies; remove it")
        for other in found:
            if other != name and (places.get(other) or os.path.join(own, other)) == place:
                raise UserError(f"{found[name]} and {found[other]} are the same folder; remove one of them")
