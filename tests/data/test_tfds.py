"""Datasets prepared by TFDS, by the very command that the package recommends; read and trained on without TensorFlow.

The archives have the genuine layout and a handful of images. TensorFlow is imported by subprocesses only.
"""

import base64
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynet_jax.data import load_source, training_batches
from dynet_jax.data.augment import make_training_transform
from dynet_jax.data.decode import decode
from dynet_jax.data.tfds_source import PREPARE
from dynet_jax.errors import UserError
from tests.bucket_server import bucket_server
from tests.quick_compilation import flags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="TensorFlow prepares these datasets, and is not installed",
    ),
]

# The labels of the first three of ImageNet's 50,000 validation images, which TFDS knows by heart: class, folder's name.
FIRST_VALIDATION_LABELS = [(65, "n01751748"), (970, "n09193705"), (230, "n02105855")]
CLASSES = {"n01440764": 0, "n01443537": 1, "n15075141": 999}
# TFDS's name for the archive in its folder of downloads; one that lies there is not downloaded.
CIFAR10_ARCHIVE = "cs.toronto.edu_kriz_cifar-10-binaryxKOMUKG8XzocVTfyFVq51o-fJese2Nnd2j2ymlm8od0.tar.gz"

ROOT = Path(__file__).parents[2]

# Run with TensorFlow out of sight, as if it were not installed.
READ = """
import base64, importlib.machinery, json, sys

find_spec = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] == "tensorflow" else find_spec(name, *rest)
)

from dynet_jax.data import evaluation_batches, load_source
from dynet_jax.data.augment import make_test_transform

import numpy as np

dataset, split, data_dir = sys.argv[1:]
source = load_source(dataset, split, data_dir)
records = [source[index] for index in range(len(source))]
blank = {"image": np.zeros((8, 8, 3), np.uint8), "label": np.int32(0)}
batches = evaluation_batches(source, make_test_transform(8, 8), blank=blank, batch_size=2)
labels = [int(label) for batch in batches for label in batch["label"]]
assert "tensorflow" not in sys.modules
print(json.dumps({
    "records": [(r.name, r.label, base64.b64encode(r.image).decode()) for r in records],
    "pipeline_labels": labels[: len(records)],
    "class_names": source.class_names,
}))
"""


def run(command: str, **environment: str) -> str:
    """Returns the output of a command line, run as by a user in the root of this checkout, with its `dynet`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is the one that runs the tests
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def prepare(dataset: str, data_dir: Path, archives: Path) -> None:
    run(PREPARE[dataset].format(dir=data_dir).replace("DIR_WITH_ILSVRC2012_TAR_FILES", str(archives)))


def train_and_evaluate(variant: str, data_dir: Path, workdir: Path) -> tuple[dict, dict]:
    """The last line of metrics.jsonl, and what `dynet evaluate` says, after two epochs of a small static network."""
    options = "--config.model.width=0.1 --config.batch_size=2 --config.bn_batch_size=2 --config.data.threads=2 "
    options += "--config.data.image_size=32 --config.data.resize_to=36 --config.epochs=2 --config.warmup_epochs=0"
    one_device = {"XLA_FLAGS": flags(devices=1)}
    data = f"--config.data.data_dir={data_dir} --workdir={workdir}"
    run(f"python train.py --config=fix_resnet18:{variant} {data} {options}", **one_device)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    return last, json.loads(run(f"dynet evaluate {workdir} --json", **one_device))


def read(dataset: str, split: str, data_dir: Path | str) -> dict:
    command = [sys.executable, "-c", READ, dataset, split, str(data_dir)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    content = json.loads(result.stdout)
    content["records"] = {name: (label, base64.b64decode(image)) for name, label, image in content["records"]}
    return content


def jpeg(seed: int, height: int, width: int, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG")
    return file.getvalue()


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as writer:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    return archive.getvalue()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The directory of a prepared miniature ImageNet, and the {name: (label, JPEG)} of its two splits."""
    archives, data_dir = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("imagenet")
    train = {
        f"{wnid}_{n}.JPEG": (label, jpeg(10 * label + n, 20 + n, 30, mode))
        for wnid, label in CLASSES.items()
        for n, mode in ((3, "RGB"), (14, "L"))
    }
    classes = {
        f"{wnid}.tar": tar({name: image for name, (_, image) in train.items() if name.startswith(wnid)})
        for wnid in CLASSES
    }
    validation = {
        f"ILSVRC2012_val_{n:08}.JPEG": (label, jpeg(n, 25, 20))
        for n, (label, _) in enumerate(FIRST_VALIDATION_LABELS, start=1)
    }
    (archives / "ILSVRC2012_img_train.tar").write_bytes(tar(classes))
    (archives / "ILSVRC2012_img_val.tar").write_bytes(tar({name: image for name, (_, image) in validation.items()}))
    prepare("imagenet2012", data_dir, archives)
    return data_dir, {"train": train, "test": validation}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_imagenet2012(imagenet, split):
    data_dir, expected = imagenet
    content = read("imagenet2012", split, data_dir)
    assert content["records"] == expected[split]  # the same labels, and the same bytes of every image
    assert content["pipeline_labels"] == [label for label, _ in content["records"].values()]
    names = content["class_names"]
    assert len(names) == 1000
    assert all(names[label] == wnid for wnid, label in CLASSES.items())
    assert all(names[label] == wnid for label, wnid in FIRST_VALIDATION_LABELS)


@pytest.mark.slow
def test_imagenet2012_in_a_bucket(imagenet):
    data_dir, expected = imagenet
    bucket_server().put(data_dir, "tfds")
    assert read("imagenet2012", "test", "gs://bucket/tfds")["records"] == expected["test"]
    with pytest.raises(UserError, match="gs://bucket/nothing"):
        load_source("imagenet2012", "test", "gs://bucket/nothing")


@pytest.mark.slow
def test_imagenet2012_from_the_archives_to_the_accuracy(imagenet, tmp_path):
    data_dir, _ = imagenet
    last, evaluation = train_and_evaluate("imagenet2012", data_dir, tmp_path / "run")
    assert (last["kind"], last["step"], last["examples"]) == ("test", 6, 3)  # 6 images in batches of 2, twice
    assert (evaluation["step"], evaluation["examples"]) == (6, 3)
    assert evaluation["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert len(json.loads((tmp_path / "run/labels.json").read_text())) == 1000


def test_a_damaged_shard_of_imagenet2012(imagenet, tmp_path):
    """A bit is flipped in one record of six: the others are trained on."""
    shutil.copytree(imagenet[0] / "imagenet2012", tmp_path / "imagenet2012")
    source = load_source("imagenet2012", "train", str(tmp_path))
    expected = [source[index] for index in range(6)]
    unreadable = []
    for shard in tmp_path.glob("imagenet2012/*/imagenet2012-train*"):
        content = bytearray(shard.read_bytes())
        position = content.find(expected[4].image[-40:])
        if position > 0:
            content[position] ^= 1
            shard.write_bytes(content)
    source = load_source("imagenet2012", "train", str(tmp_path))
    for index in range(6):
        try:
            assert source[index] == expected[index]
        except OSError as error:
            unreadable.append((index, "Corrupted" in str(error)))
    assert unreadable == [(4, True)]
    transform = make_training_transform(8, "none", flip=False)
    batch = next(training_batches(source, transform, batch_size=6, seed=0, start_step=0))
    assert sorted(batch["label"]) == sorted(expected[{4: 5}.get(index, index)].label for index in range(6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info["splits"].pop(0), r"no split 'train' \(splits: validation\)"),
        (lambda info: info.update(fileFormat="tfrecord"), "cannot be opened .*TFRECORD"),
    ],
    ids=["without train", "tfrecord"],
)
def test_prepared_in_another_way(imagenet, tmp_path, change, message):
    data_dir, _ = imagenet
    shutil.copytree(data_dir / "imagenet2012", tmp_path / "imagenet2012")
    (path,) = tmp_path.glob("imagenet2012/*/dataset_info.json")
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match=message):
        load_source("imagenet2012", "train", str(tmp_path))


@pytest.mark.slow
def test_cifar10(tmp_path):
    rng = np.random.default_rng(0)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    labels = {"train": [3, 9, 0, 3, 7], "test": [8, 1]}
    images = {split: rng.integers(0, 256, (len(labels[split]), 32, 32, 3), np.uint8) for split in labels}
    # A record of CIFAR-10's files: the label's byte, then the red, the green and the blue plane.
    binary = {
        split: [
            bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in zip(labels[split], images[split])
        ]
        for split in labels
    }
    folder = "cifar-10-batches-bin"
    files = {f"{folder}/data_batch_{n + 1}.bin": record for n, record in enumerate(binary["train"])}
    files[f"{folder}/test_batch.bin"] = b"".join(binary["test"])
    files[f"{folder}/batches.meta.txt"] = "\n".join(names).encode()
    downloads = tmp_path / "downloads" / "cifar10"
    downloads.mkdir(parents=True)
    (downloads / CIFAR10_ARCHIVE).write_bytes(tar(files, "w:gz"))
    (downloads / f"{CIFAR10_ARCHIVE}.INFO").write_text(json.dumps({"original_fname": "cifar-10-binary.tar.gz"}))
    prepare("cifar10", tmp_path, tmp_path)

    for split in labels:
        content = read("cifar10", split, tmp_path)
        records = [(label, decode(image)) for label, image in content["records"].values()]
        # TFDS shuffles the records: they are compared as sets of (label, pixels).
        got = sorted((label, image.tobytes()) for label, image in records)
        assert got == sorted((label, image.tobytes()) for label, image in zip(labels[split], images[split]))
        assert content["pipeline_labels"] == [label for label, _ in records]
        assert content["class_names"] == names

    last, evaluation = train_and_evaluate("cifar10", tmp_path, tmp_path / "run")
    assert (last["kind"], last["step"], last["examples"]) == ("test", 4, 2)
    assert (evaluation["step"], evaluation["examples"]) == (4, 2)
    assert evaluation["loss"] == pytest.approx(last["loss"], rel=1e-5)
