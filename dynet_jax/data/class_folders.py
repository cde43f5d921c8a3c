"""Reading class folders: the images of each class, skipped files, and layouts that cannot be intended."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dynet_jax.data.contents import listed, same_name
from dynet_jax.data.files import IMAGE_SUFFIXES, Skipped, is_hidden, list_images
from dynet_jax.errors import UserError

# Names of folders that divide a dataset by something else than the class.
NO_CLASSES = {
    *("train", "training", "val", "valid", "validation", "test", "testing"),
    *("images", "imgs", "img", "jpegimages", "labels", "masks", "annotations", "annot"),
}


class ClassFolders(NamedTuple):
    """The content of the class folders, by class name.

    Attributes:
      files: the image files.
      places: the number of images in each of the subfolders, and in '', the folder itself.
      notes: facts that the owner may not know.
    """

    files: dict[str, list[Path]]
    places: dict[str, Counter[str]]
    notes: tuple[str, ...]


def class_folders(folder: Path, skipped: Skipped | None = None) -> dict[str, Path]:
    """Returns {class: its folder}, sorted by name. A link to a folder is a class, too.

    Raises UserError for a broken link, a link to an enclosing folder or to another class, and for a name that no file
    of labels could contain.
    """
    skipped, found = Skipped(folder) if skipped is None else skipped, {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink() and not os.path.exists(entry.path):
                raise UserError(f"{entry.path} is a broken link; repair or remove it")
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
    """Returns the images of every class. Raises UserError for a class without any, unless `may_be_empty`.

    A folder that contains only other files is always rejected, because these were meant to be images.
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
    return ClassFolders(files, places, tuple(notes + _alike(folder, files) + _nested(folder, places)))


def refuse_wrong_level(folder: Path, classes: ClassFolders) -> None:
    """Raises UserError if the subfolders of a folder cannot be the classes of a training set."""
    names, places = list(classes.files), set().union(*classes.places.values())
    beside = [name for name in names if name.lower() in NO_CLASSES and classes.places[name].keys() & {*names}]
    if beside:
        raise UserError(f"{folder / beside[0]} holds folders of the classes beside it; move it out of {folder}")
    if all(name.lower() in NO_CLASSES for name in names) or (len(names) == 1 and "" not in places):
        within = f" with {listed(sorted(places - {''}))} in it" if places - {""} else ""
        raise UserError(
            f"{folder} holds {listed(names)}{within}, but it must hold a folder of images for each class itself; "
            "move the class folders into it"
        )


def _places(folder: Path, paths: list[Path]) -> Counter[str]:
    begin = len(str(folder)) + 1
    return Counter(text[begin : max(begin, text.find("/", begin))] for text in map(str, paths))


def _alike(folder: Path, names: Iterable[str]) -> list[str]:
    """Returns a note on classes like 'Cat' and 'cat', which are legitimate for the letters of an alphabet."""
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(_key(name).casefold(), []).append(name)
    twice = [" and ".join(group) for group in spelled.values() if len(group) > 1]
    return [f"classes of {folder.name} differ in capitals only: {listed(twice)}"] if twice else []


def _nested(folder: Path, places: Mapping[str, Counter[str]]) -> list[str]:
    """Returns notes on folders within class folders: copies, or classes that are a level too deep."""
    inner = [f"{name}/{place} ({n})" for name, of_class in places.items() for place, n in of_class.items() if place]
    if not inner:
        return []
    total = sum(of_class.total() - of_class[""] for of_class in places.values())
    deep = [name for name, of_class in places.items() if of_class and not of_class[""]]
    notes = [f"{total} images of {folder.name} lie in folders within class folders: {listed(inner)}"]
    return notes + ([f"all images of {listed(deep)} do: are these folders the classes?"] if deep else [])


def _refuse_bad_names(found: Mapping[str, Path], folder: Path) -> None:
    alike: dict[str, str] = {}
    for name in found:
        if alike.setdefault(_key(name), name) != name:
            differ = "whose accents or spaces are written differently"
            raise UserError(f"{folder} has two folders {name}, {differ}; join them")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"a class folder in {folder} has a name that is not UTF-8: {os.fsencode(name)!r}; rename it"
            ) from error


def _key(name: str) -> str:
    """Returns a key that is equal for names that a file of labels may not distinguish."""
    return " ".join(same_name(name).split())


def _refuse_bad_links(found: Mapping[str, Path], folder: Path) -> None:
    own, places = os.path.realpath(folder), []
    for name, path in found.items():
        place = os.path.realpath(path) if path.is_symlink() else os.path.join(own, name)
        if f"{own}/".startswith(f"{place.rstrip('/')}/"):
            raise UserError(f"{path} is a link to {place}, in which it lies; remove it")
        places.append((f"{place}/", name))
    for (outer, name), (inner, other) in pairwise(sorted(places)):  # a folder's content is sorted right after it
        if inner.startswith(outer):
            how = "are the same folder" if inner == outer else "have images in common"
            raise UserError(f"{found[other]} and {found[name]} {how}; remove one of them")
