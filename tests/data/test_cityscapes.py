"""A miniature Cityscapes, in the layout of its archives, from `dynet prepare` to `dynet predict`."""

import importlib.util
import json
import zipfile

import numpy as np
import pytest

from dynet_jax.data import load_source
from dynet_jax.data.cityscapes import CITYSCAPES
from tests.data.images import encoded
from tests.data.test_tfds import run
from tests.quick_compilation import flags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="TensorFlow prepares these datasets, and is not installed",
    ),
]
CITIES = {"train": ["aachen", "bochum", "zurich"], "val": ["lindau"], "test": ["bonn"]}
IDS = list(CITYSCAPES)


def street(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(picture, Cityscapes' ids): sky above a road, with one of each class on it; below it the car itself (id 1)."""
    ids = np.full((1024, 2048), 23, np.uint8)
    ids[500 + 20 * number :] = 7
    for place, value in enumerate(IDS):
        ids[540:700, 100 * place : 100 * place + 80] = value
    ids[950:] = 1
    picture = np.stack([ids * 7, 255 - ids * 5, np.full_like(ids, 40 * number)], axis=-1)
    return picture, ids


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The directory of the prepared data set, and {name of a scene: (picture, ids)}."""
    root, scenes = tmp_path_factory.mktemp("cityscapes"), {}
    images, labels = (
        zipfile.ZipFile(root / name, "w") for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
    )
    with images, labels:
        for split, names in CITIES.items():
            for number, city in enumerate(names):
                name = f"{city}_00000{number}_000019"
                picture, ids = scenes[name] = street(number)
                path = f"{split}/{city}/{name}"
                images.writestr(f"leftImg8bit/{path}_leftImg8bit.png", encoded(picture, "PNG"))
                labels.writestr(f"gtFine/{path}_gtFine_labelIds.png", encoded(ids, "PNG"))
                labels.writestr(f"gtFine/{path}_gtFine_polygons.json", b"{}")
    assert "prepared in" in run(f"dynet prepare cityscapes --archives={root} --data-dir={root / 'data'}")
    return root / "data", scenes


@pytest.mark.slow
def test_records(prepared):
    data_dir, scenes = prepared
    for split, folder in (("train", "train"), ("test", "val")):
        source = load_source("cityscapes", split, str(data_dir), task="segmentation")
        assert source.class_names[0] == "road"
        assert len(source.class_names) == 19
        records = [source[index] for index in range(len(source))]
        assert {record.name.rpartition("/")[2].rpartition("_0")[0][:-7] for record in records} == {*CITIES[folder]}
        for record in records:
            picture, ids = scenes[record.name.rpartition("/")[2]]
            assert record.image == encoded(picture, "PNG")
            expected = np.asarray([IDS.index(value) if value in IDS else 255 for value in range(34)])[ids]
            np.testing.assert_array_equal(record.label.decode(), expected)


@pytest.mark.slow
def test_from_archives_to_predictions(prepared, tmp_path):
    """`train.py` on the real configuration, narrow and at a quarter of the size; labels stay whole."""
    data_dir, _ = prepared
    one_device = {"XLA_FLAGS": flags(devices=1)}
    options = "--config.model.width=0.1 --config.model.hidden_features=8 --config.batch_size=3 --config.epochs=2 "
    options += "--config.data.crop_size=[64,64] --config.data.eval_size=[64,128] --config.data.scale=[0.1,0.2] "
    options += f"--config.data.threads=2 --config.data.data_dir={data_dir} --config.eval_every_epochs=2"
    out = run(
        f"python train.py --config=configs/seg_dy_resnet18.py --workdir={tmp_path / 'run'} {options}", **one_device
    )
    assert "step 2/2 100.0%" in out
    values = json.loads(run(f"dynet evaluate {tmp_path / 'run'} --json", **one_device))
    assert np.asarray(values["confusion"]).shape == (19, 19)
    assert np.sum(values["confusion"]) == 950 * 2048  # of one image, all but the car itself
    assert 0 <= values["miou"] <= 1
    (tmp_path / "photo.png").write_bytes(encoded(street(0)[0], "PNG"))
    assert "photo.overlay.png" in run(f"dynet predict {tmp_path / 'run'} {tmp_path / 'photo.png'}", **one_device)
    assert (tmp_path / "run/predictions/photo.labels.png").stat().st_size > 100
