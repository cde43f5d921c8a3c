"""ImageNet and CIFAR-10 from the ArrayRecord files that TensorFlow Datasets prepares. Reading needs no TensorFlow."""

from pathlib import Path

from dynet_jax.data.record import Record
from dynet_jax.errors import UserError

SPLITS = {
    "imagenet2012": {"train": "train", "test": "validation"},
    "cifar10": {"train": "train", "test": "test"},
}
# The command `tfds build` would need Apache Beam too. ImageNet's archives have to be fetched by hand, for its terms.
PREPARE = {
    "imagenet2012": (
        'python -c "import tensorflow_datasets as tfds; '
        "tfds.builder('imagenet2012', data_dir='{dir}', file_format='array_record').download_and_prepare("
        "download_config=tfds.download.DownloadConfig(manual_dir='DIR_WITH_ILSVRC2012_TAR_FILES'))\""
    ),
    "cifar10": (
        'python -c "import tensorflow_datasets as tfds; '
        "tfds.builder('cifar10', data_dir='{dir}', file_format='array_record').download_and_prepare()\""
    ),
}


class TfdsSource:
    """One split of a prepared TFDS dataset; images stay encoded until the pipeline decodes them."""

    def __init__(self, dataset: str, split: str, data_dir: str | None):
        import tensorflow_datasets as tfds

        folder = Path(data_dir or "~/tensorflow_datasets").expanduser()
        try:
            builder = tfds.builder(dataset, data_dir=str(folder), file_format="array_record")
            prepared = Path(builder.data_dir).is_dir()
        except Exception as error:
            raise UserError(f"{dataset} cannot be opened in {folder}: {' '.join(str(error).split())[:300]}") from error
        if not prepared:
            raise UserError(_missing(dataset, folder))
        if SPLITS[dataset][split] not in builder.info.splits:
            there = ", ".join(builder.info.splits) or "none"
            raise UserError(
                f"{builder.data_dir} has no split {SPLITS[dataset][split]!r} (splits: {there}); remove it and prepare "
                "it again from all archives"
            )
        self.class_names = builder.info.features["label"].names
        self.name = f"{dataset}/{SPLITS[dataset][split]}"
        self._records = builder.as_data_source(
            split=SPLITS[dataset][split], decoders={"image": tfds.decode.SkipDecoding()}
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        name = record.get("file_name", f"{self.name}/{index}")
        return Record(record["image"], int(record["label"]), name.decode() if isinstance(name, bytes) else str(name))


def _missing(dataset: str, folder: Path) -> str:
    command = PREPARE[dataset].format(dir=folder)
    return (
        f"{dataset} is not prepared in {folder}. "
        f"To prepare it (needs `pip install tensorflow-cpu`): {command} . "
        "To train on the bundled digits now: python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits"
    )
