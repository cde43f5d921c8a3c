"""ArrayRecord files prepared by TensorFlow Datasets, as records. Reading them does not need TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynet_jax.bucket import is_folder, place, unless_failed
from dynet_jax.data.record import Record
from dynet_jax.data.source import register_dataset
from dynet_jax.errors import UserError, one_line

SPLITS = {
    "imagenet2012": {"train": "train", "test": "validation"},
    "cifar10": {"train": "train", "test": "test"},
}
PREPARE = {
    "imagenet2012": "dynet prepare imagenet2012 --archives=DIR_WITH_ILSVRC2012_TAR_FILES --data-dir={dir}",
    "cifar10": "dynet prepare cifar10 --data-dir={dir}",
    "cityscapes": "dynet prepare cityscapes --archives=DIR_WITH_BOTH_ZIP_FILES --data-dir={dir}",
}
DEFAULT_FOLDER = "~/tensorflow_datasets"  # the default of TFDS


def open_tfds(dataset: str, split: str, data_dir: str | None, encoded: Sequence[str]) -> tuple:
    """Returns (features, records) of a split, by TFDS's name; the images named by `encoded` are not decoded.

    Raises UserError if it is not prepared, or incomplete.
    """
    import tensorflow_datasets as tfds

    folder = place(data_dir or DEFAULT_FOLDER).expanduser()
    try:
        builder = tfds.builder(dataset, data_dir=str(folder), file_format="array_record")
        prepared = is_folder(place(builder.data_dir))
    except Exception as error:
        raise UserError(f"{dataset} cannot be opened in {folder}: {one_line(error, limit=300)}") from error
    if not prepared:
        raise UserError(_missing(dataset, folder))
    if split not in builder.info.splits:
        there = ", ".join(builder.info.splits) or "none"
        raise UserError(
            f"{builder.data_dir} has no split {split!r} (splits: {there}); remove it and prepare it again from all "
            "archives"
        )
    decoders: dict[str, Any] = {key: tfds.decode.SkipDecoding() for key in encoded}
    return builder.info.features, builder.as_data_source(split=split, decoders=decoders)


def read_tfds(records, index: int, data_dir: str | None = None) -> dict:
    """Returns a record of `open_tfds`. Raises OSError if it cannot be read, for example for a wrong checksum."""
    try:
        return records[index]
    except (RuntimeError, ValueError) as error:
        raise unless_failed(error, data_dir or DEFAULT_FOLDER) from error


class TfdsSource:
    """One split of a prepared TFDS dataset; images stay encoded until the pipeline decodes them."""

    def __init__(self, dataset: str, split: str, data_dir: str | None):
        split = SPLITS[dataset][split]
        features, self._records = open_tfds(dataset, split, data_dir, encoded=("image",))
        self.class_names, self.name, self._data_dir = features["label"].names, f"{dataset}/{split}", data_dir

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = read_tfds(self._records, index, self._data_dir)
        name = record.get("file_name", self.name_of(index))
        return Record(record["image"], int(record["label"]), name.decode() if isinstance(name, bytes) else str(name))

    def name_of(self, index: int) -> str:
        return f"{self.name}/{index}"


@register_dataset("imagenet2012", like="imagenet2012", from_bucket=True)
def _open_imagenet2012(split: str, data_dir: str | None) -> TfdsSource:
    return TfdsSource("imagenet2012", split, data_dir)


@register_dataset("cifar10", like="cifar10", from_bucket=True)
def _open_cifar10(split: str, data_dir: str | None) -> TfdsSource:
    return TfdsSource("cifar10", split, data_dir)


def _missing(dataset: str, folder: Path) -> str:
    command = PREPARE[dataset].format(dir=folder)
    return (
        f"{dataset} is not prepared in {folder}. "
        f"To prepare it (this needs `pip install tensorflow-cpu`): {command} . "
        "To train on the bundled digits now: python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits"
    )
