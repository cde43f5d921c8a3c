"""Work directories of tiny networks at step 0, and batches of their test images by other means than the package's."""

import jax
import numpy as np

from dynet_jax.config.recipe import paper_recipe
from dynet_jax.data import load_source
from dynet_jax.data.augment import make_test_transform
from dynet_jax.devices import make_layout
from dynet_jax.models import registry
from dynet_jax.train.setup import make_run
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import claim
from tests.train.tiny import tiny_network

DIGITS = [str(digit) for digit in range(10)]


def register():
    """'tiny', of one dynamic block, and 'tiny_static'."""

    def tiny(num_classes=10):
        return tiny_network(num_classes, strides=2, group_size=3)

    def tiny_static(num_classes=10):
        return tiny_network(num_classes, strides=2).clone(dynamic=None)

    for builder in (tiny, tiny_static):
        registry._MODELS[builder.__name__] = registry.Registered(builder.__name__, builder)


def digits_workdir(folder, name):
    config = paper_recipe(name).unlock()
    config.model = {"name": name, "num_classes": 10}
    config.data.update({"name": "digits", "image_size": 16, "resize_to": 16})
    config.dtype, config.batch_size = "float32", 64
    return save_untrained(folder, config.lock(), DIGITS)


def save_untrained(folder, config, classes):
    run = make_run(config, config.batch_size, make_layout(1, 1, devices=jax.devices()[:1]))
    claim(folder, config, classes)
    checkpoints = Checkpoints(folder)
    checkpoints.save(run.fresh_state(), wait=True)
    checkpoints.close()
    return folder


def digits_images(config, count):
    """(normalised test images at equal distances, their labels): [count, 16, 16, 3] of digits, which are 8x8."""
    transform, source = make_test_transform(16, 16), load_source("digits", "test")
    records = [source[index * len(source) // count] for index in range(count)]
    images = np.stack([transform(record)["image"] for record in records]).astype(np.float64)
    normal = (images - np.asarray(config.data.mean)) / np.asarray(config.data.std)
    return normal.astype(np.float32), np.asarray([record.label for record in records])
