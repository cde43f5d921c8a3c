"""The registry of datasets: the registering decorator, and the opening of a dataset. It knows nothing about models."""

from collections.abc import Callable
from typing import NamedTuple

from dynet_jax import data
from dynet_jax.bucket import check_access, place, told
from dynet_jax.data.record import Source
from dynet_jax.errors import UserError
from dynet_jax.plugins import unknown
from dynet_jax.registry import Registry


class Registered(NamedTuple):
    """A dataset: its name, like 'folder:PATH' if a path follows the colon, and the arguments of `register_dataset`."""

    name: str
    task: str
    like: str | None
    open: Callable[..., Source]
    from_bucket: bool


_DATASETS: Registry[Registered] = Registry("dataset", own=data.modules)


def register_dataset(
    name: str, task: str = "classification", like: str | None = "folder", *, from_bucket: bool = False
) -> Callable:
    """Registers `open(split, data_dir)` as a decorator, or `open(split, data_dir, path)` for a name like 'folder:PATH'.

    Args:
      name: the value of `data.name` in a configuration. The user's text in the place of PATH is passed as a Path.
      task: 'classification' for records with one class, 'segmentation' for records with a class map.
      like: the dataset of this package whose recipe and budgets `dynet reproduce` uses for it; None for none.
      from_bucket: whether PATH, or data_dir, may be an address like gs://BUCKET/PATH (`dynet_jax.bucket.place`).
    The function returns the split ('train' or 'test'; also 'held_out' for segmentation) as a `Source`, and raises
    UserError, with advice, if it is not on this machine. `data_dir` is `data.data_dir` or None.
    Raises ValueError if the name is taken.
    """

    def register(open: Callable[..., Source]) -> Callable[..., Source]:
        kind = name.partition(":")[0]
        _DATASETS.add(kind, Registered(name, task, like, open, from_bucket))
        return open

    return register


def list_datasets(task: str | None = None) -> list[str]:
    """Returns the sorted names of the registered datasets, of one task if it is given.

    >>> list_datasets("segmentation")
    ['camvid:PATH', 'cityscapes', 'maps:PATH']
    """
    return sorted(dataset.name for dataset in _DATASETS.everything().values() if task in (None, dataset.task))


def find_dataset(dataset: str) -> Registered | None:
    """Returns the dataset registered for 'digits' or 'folder:PATH', with any path; None for another name."""
    kind, _, path = dataset.partition(":")
    found = _DATASETS.everything().get(kind)
    return found if found is not None and bool(path) == (":" in found.name) else None


def load_source(dataset: str, split: str, data_dir: str | None = None, task: str = "classification") -> Source:
    """Opens one split of a dataset; images are read on demand.

    Args:
      dataset: one of `list_datasets(task)`. `folder:PATH` holds PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg;
        `packed:DIR` is made from such folders by `dynet prepare folder:PATH --data-dir=DIR`; docs/data.md and
        docs/segmentation.md describe the others.
      split: 'train' or 'test' (ImageNet's and a folder's validation images); for segmentation also 'held_out'.
      data_dir: the folder of prepared datasets; TFDS's default (~/tensorflow_datasets) if None. For fashion_mnist, the
        folder of its four idx files.
    Raises:
      UserError: for an unknown dataset, one of another task, or, with advice, one that is not on this machine.

    >>> source = load_source("digits", "test")
    >>> len(source), source[0].image.shape, source.class_names[:3]
    (359, (8, 8, 3), ['0', '1', '2'])
    """
    names, found, path = list_datasets(task), find_dataset(dataset), dataset.partition(":")[2]
    if found is None:
        what = f"dataset {dataset!r}" + (" of maps" if task == "segmentation" else "")
        raise unknown(what, dataset, names)
    if found.task != task:
        has = {
            "classification": f"one class for each image; a network for segmentation needs one of {', '.join(names)}",
            "segmentation": "class maps, for segmentation (--config=fcn_NETWORK); this is a classifier",
        }
        raise UserError(f"{dataset} has {has[found.task]}")
    for address in (path, data_dir or ""):
        if "://" in address and not found.from_bucket:
            raise UserError(
                f"{address} is an address, not a folder, which {found.name} is read from; mount or copy it, as "
                "docs/tpu.md says, or pack its images (packed:DIR)"
            )
        if address:
            check_access(address)
    with told(path or data_dir or ""):
        return found.open(split, data_dir, *([place(path).expanduser()] if path else []))
