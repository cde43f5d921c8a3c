"""A network and a configuration that compile in seconds."""

from unittest import mock

import ml_collections
import pytest

from configs import common
from dynet_jax.models import registry
from tests.data.maps import write_maps
from tests.train import tiny_segmentation
from tests.train.tiny import tiny_network

# Odd sizes, smaller than the crop of 32x32 and larger; more test images than devices.
SIZES = {
    "train": [(40, 48), (33, 61), (20, 25), (64, 31)] * 4,
    "val": [(40, 48), (33, 61), (64, 64), (17, 23), (40, 48), (41, 47), (20, 64), (50, 30), (40, 48)],
    "test": [(40, 48), (30, 30)],
}


@pytest.fixture
def tiny_config(monkeypatch) -> ml_collections.ConfigDict:
    """Digits at 16x16, 16 steps of 64 images, on a network of one dynamic block."""

    def tiny(num_classes=10, features=12):
        return tiny_network(num_classes, strides=2, features=features, group_size=3)

    monkeypatch.setitem(registry._MODELS, "tiny", registry.Registered("tiny", tiny))
    config = common.recipe("tiny", "digits").unlock()
    config.model = {"name": "tiny", "num_classes": 10}
    config.bn_batch_size = 8
    config.epochs, config.warmup_epochs = 16 / 22, 0.0
    config.log_every_steps, config.checkpoint_every_steps, config.eval_every_epochs = 4, 4, 0.5
    return config.lock()


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A folder of images and labels: (its path, {split: [(image, labels), ...]})."""
    root = tmp_path_factory.mktemp("maps")
    return root, write_maps(root, SIZES)


@pytest.fixture(scope="module")
def registered():
    """Removes what the tests of a file register."""
    with mock.patch.dict(registry._MODELS):
        yield


@pytest.fixture
def segmentation_config(maps, registered) -> ml_collections.ConfigDict:
    """A tiny network on those maps; see tiny_segmentation.py."""
    config = tiny_segmentation.get_config().unlock()
    config.data.name = f"maps:{maps[0]}"
    return config.lock()
