"""Class folders of images."""

import os
from pathlib import Path

from dynet_jax.data.class_folders import NO_CLASSES, class_folders, read_classes, refuse_wrong_level
from dynet_jax.data.contents import Contents, listed, same_name
from dynet_jax.data.files import SPLIT_FOLDERS
from dynet_jax.data.record import Record
from dynet_jax.data.source import register_dataset
from dynet_jax.errors import UserError


class FolderSource:
    """PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg; the classes are train's folders in sorted order.

    If there is no train folder, test images have the classes of their own folders, and PATH may be the val folder
    itself. This serves networks that were trained on other images.
    """

    def __init__(self, root: Path, split: str):
        train = root / "train"
        folder = _split_folder(root, split)
        classes = read_classes(folder, may_be_empty=split != "train")
        files, notes = classes.files, classes.notes
        if not any(files.values()):
            raise UserError(f"no images below {folder}; it must hold one folder of images per class")
        if split == "train":
            refuse_wrong_level(folder, classes)
        elif train.is_dir():
            known = class_folders(train)
            spelled = {same_name(name): name for name in known}
            files = {spelled.get(same_name(name), name): paths for name, paths in files.items()}
            unknown = [name for name in files if name not in known]
            if unknown:
                raise UserError(f"{folder} has classes that {train} does not have: {listed(unknown)}")
            same = [name for name in files if os.path.exists(folder / name) and (folder / name).samefile(known[name])]
            notes += (f"the same folders as in train: {listed(same)}",) if same else ()
            files = {name: files.get(name, []) for name in known}
        self.class_names = list(files)
        self.files = [(path, label) for label, paths in enumerate(files.values()) for path in paths]
        self.contents = Contents(folder.name, {name: len(paths) for name, paths in files.items()}, notes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path, label = self.files[index]
        return Record(path.read_bytes(), label, str(path))

    def name_of(self, index: int) -> str:
        return str(self.files[index][0])


def _split_folder(root: Path, split: str) -> Path:
    for name in SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    names = " or ".join(f"{root / name}" for name in SPLIT_FOLDERS[split])
    lacking = f"there is no {names}; an image folder is laid out as PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"
    inside = list(class_folders(root)) if root.is_dir() else []
    around = [root.parent] if split == "train" else []  # an evaluation needs only a val folder
    meant = [place for place in (*around, *(root / name for name in inside[:20])) if (place / "train").is_dir()]
    if meant:
        raise UserError(f"{lacking}; did you mean folder:{meant[0]}?")
    if split != "train" and "train" not in inside and not all(name.lower() in NO_CLASSES for name in inside):
        return root
    spelled = [name for name in inside if name.lower() in SPLIT_FOLDERS[split]]
    hint = f"; rename {root / spelled[0]} to {spelled[0].lower()}" if spelled else ""
    if split != "train" and "train" in inside:
        hint = hint or f"; to test with those of train: `dynet evaluate WORKDIR --data=folder:{root / 'train'}`"
    raise UserError(lacking + (f"; {root} holds {listed(inside)}" if inside else "") + hint)


@register_dataset("folder:PATH")
def _open(split: str, data_dir: str | None, path: Path) -> FolderSource:
    return FolderSource(path, split)
