"""Class folders of images."""

from pathlib import Path

from dynet_jax.data.files import SPLIT_FOLDERS, list_images
from dynet_jax.data.record import Record
from dynet_jax.data.source import register_dataset
from dynet_jax.errors import UserError


class FolderSource:
    """PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg; the classes are train's folders in sorted order."""

    def __init__(self, root: Path, split: str):
        train = self._split_folder(root, "train")
        folder = train if split == "train" else self._split_folder(root, split)
        self.class_names = sorted(_class_folders(train))
        unknown = _class_folders(folder) - set(self.class_names)
        if unknown:
            raise UserError(f"{folder} has classes that {train} has not: {', '.join(sorted(unknown)[:5])}")
        self.files = [
            (path, label) for label, name in enumerate(self.class_names) for path in list_images(folder / name)
        ]
        if not self.files:
            raise UserError(f"no images below {folder}; it must hold one folder of images per class")

    @staticmethod
    def _split_folder(root: Path, split: str) -> Path:
        for name in SPLIT_FOLDERS[split]:
            if (root / name).is_dir():
                return root / name
        names = " or ".join(f"{root / name}" for name in SPLIT_FOLDERS[split])
        raise UserError(
            f"there is no {names}; an image folder is laid out as PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path, label = self.files[index]
        return Record(path.read_bytes(), label, str(path))

    def name_of(self, index: int) -> str:
        return str(self.files[index][0])


def _class_folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}


@register_dataset("folder:PATH")
def _open(split: str, data_dir: str | None, path: Path) -> FolderSource:
    return FolderSource(path, split)
