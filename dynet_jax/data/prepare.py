"""The work of `dynet prepare`: writing a dataset once in the form that training reads fast."""

import importlib.util
from pathlib import Path

from dynet_jax.data.pack import pack_folder
from dynet_jax.data.packed import read_description
from dynet_jax.data.tfds_source import DEFAULT_FOLDER
from dynet_jax.errors import UserError, one_line, suggest

# Datasets that TFDS prepares, and the archives of each that must be downloaded by hand because of their terms.
ARCHIVES = {
    "cifar10": (),
    "cityscapes": ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    "imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
}
WEB_PAGES = {"cityscapes": "www.cityscapes-dataset.com", "imagenet2012": "image-net.org"}


def prepare(dataset: str, data_dir: str | None, archives: str | None) -> str:
    """Writes a dataset as ArrayRecord files, once. Returns a line that says where, for the user.

    Args:
      dataset: 'folder:PATH', or one of ARCHIVES, which TFDS prepares; CIFAR-10 is downloaded.
      data_dir: where to write. TFDS's datasets get a subfolder each, by default in ~/tensorflow_datasets.
      archives: the folder that holds the ARCHIVES of a dataset.
    Raises:
      UserError: for another dataset, without `archives`, or without TensorFlow, which TFDS needs to prepare.
    """
    kind, _, path = dataset.partition(":")
    if kind == "folder" and path:
        return _prepare_folder(Path(path).expanduser(), data_dir)
    if dataset not in ARCHIVES:
        raise UserError(f"{dataset!r} is not a dataset to prepare; {suggest(dataset, [*ARCHIVES, 'folder:PATH'])}")
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("preparing a dataset needs TensorFlow (training does not): pip install tensorflow-cpu")
    missing = [name for name in ARCHIVES[dataset] if not archives or not (Path(archives) / name).is_file()]
    if missing:
        raise UserError(f"--archives must be a folder that holds {' and '.join(missing)}, from {WEB_PAGES[dataset]}")
    return f"prepared in {_prepare_by_tfds(dataset, data_dir, archives)}"


def _prepare_folder(root: Path, data_dir: str | None) -> str:
    if not data_dir:
        raise UserError("--data-dir must name the directory to write")
    target = Path(data_dir).expanduser()
    done = "packed into" if pack_folder(root, target) else "already packed into"
    description = read_description(target)
    counts = ", ".join(f"{split['examples']} {name}" for name, split in description["splits"].items())
    return (
        f"{done} {target}: {counts} images of {len(description['classes'])} classes; "
        f"train with --config.data.name=packed:{target}"
    )


def _prepare_by_tfds(dataset: str, data_dir: str | None, archives: str | None) -> Path:
    import tensorflow_datasets as tfds

    folder = Path(data_dir or DEFAULT_FOLDER).expanduser()
    builder = tfds.builder(dataset, data_dir=str(folder), file_format="array_record")
    downloads = tfds.download.DownloadConfig(manual_dir=archives and str(Path(archives).absolute()))
    try:
        builder.download_and_prepare(download_config=downloads)
    except Exception as error:  # no network, a damaged archive, a full disk: TFDS raises any exception
        raise UserError(f"{dataset} cannot be prepared: {one_line(error, limit=300)}") from error
    return Path(builder.data_dir)
