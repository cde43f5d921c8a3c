"""Image files below a folder."""

from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, sorted, so that an index means the same image everywhere."""
    return sorted(path for path in folder.rglob("*") if _is_image(path))
