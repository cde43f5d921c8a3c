"""Trained networks that come with the package: their names and folders. `load_pretrained` is in `models/pretrained.py`.

A network is a folder with the files of a work directory (`config.json`, `labels.json`), its weights, and `card.json`,
which says how it was trained and how accurate it is. `benchmarks.pretrained` makes such folders from finished runs.
"""

from pathlib import Path

from dynet_jax.errors import UserError, suggest

FOLDER = Path(__file__).parent
SCHEME = "pretrained:"
WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.json"


def list_pretrained() -> list[str]:
    """Returns the names of the trained networks in the package, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD_FILE}"))


def pretrained_folder(name: str) -> Path:
    """Returns the folder of a trained network. Raises UserError for an unknown name."""
    if name not in list_pretrained():
        raise UserError(f"unknown pretrained network {name!r}; {suggest(name, list_pretrained())}")
    return FOLDER / name


def is_pretrained(folder: Path) -> bool:
    """Returns whether a path is one of the package's networks, to which nothing may be written."""
    return folder.parent == FOLDER
