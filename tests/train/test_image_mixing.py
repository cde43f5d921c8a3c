"""A training step that mixes images and drops features: a textbook's loss, and the same numbers on any devices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.config.load import override
from dynet_jax.devices import make_layout, to_devices
from dynet_jax.errors import UserError
from dynet_jax.layers.image_noise import dropout
from dynet_jax.ops.mixing import mix_pairs
from dynet_jax.tasks.losses import MixedLabels, mixed_cross_entropy
from dynet_jax.tasks.task import make_task
from dynet_jax.train.image_mixing import ImageMixing, network_noise
from dynet_jax.train.setup import make_run
from dynet_jax.train.startup import check_pairs
from dynet_jax.train.step import make_train_step
from tests.train.tasks import classification
from tests.train.test_step import OPTIMIZER, PIXELS, assert_same_metrics, assert_same_states, make_batch, make_state
from tests.train.tiny import tiny_network

MIXING = ImageMixing(mixup=0.5, cutmix=1.0)


def noisy_batch(size, seed=0):
    noise = np.random.default_rng(seed + 100).integers(2**32, size=size, dtype=np.uint32)
    return {**make_batch(size, seed), "noise": noise}


def run_steps(devices, accumulation_steps=1, steps=2, **options):
    layout = make_layout(16, 2, accumulation_steps, devices=jax.devices()[:devices])
    model = tiny_network(5, strides=1, bn_batch_size=2, bn_axis_name=layout.bn_axis_name, **options)
    state = make_state(model, layout)
    step = make_train_step(model, OPTIMIZER, layout, classification(label_smoothing=0.1), mixing=MIXING, **PIXELS)
    metrics = []
    for index in range(steps):
        state, sums = step(state, to_devices(noisy_batch(16, index), layout))
        metrics.append(jax.device_get(sums))
    return jax.device_get(state), metrics


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "accumulation_steps"), [(8, 1), (1, 2), (2, 4)])
def test_the_numbers_are_the_same_on_any_devices(devices, accumulation_steps):
    options = {"dropout": 0.3, "stochastic_depth": 0.5}
    one, one_metrics = run_steps(1, **options)
    other, other_metrics = run_steps(devices, accumulation_steps, **options)
    assert_same_states(other, one)
    assert_same_metrics(other_metrics, one_metrics)


@pytest.mark.slow
def test_the_loss_is_that_of_soft_labels():
    layout = make_layout(16, 2, devices=jax.devices()[:1])
    model = tiny_network(5, strides=1, bn_batch_size=2)
    state = make_state(model, layout)
    batch = noisy_batch(16)
    pixels = (jnp.asarray(batch["image"], jnp.float32) - jnp.array(PIXELS["mean"])) / jnp.array(PIXELS["std"])
    images, shares = mix_pairs(pixels, jax.vmap(jax.random.key)(batch["noise"][::2]), *MIXING)
    logits, _ = model.apply(state.variables, images, train=True, mutable=["batch_stats"])
    loss, correct = 0.0, 0
    for index, (row, share) in enumerate(zip(np.asarray(logits, float), np.asarray(shares))):
        soft = np.zeros(5)
        soft[batch["label"][index]] += share
        soft[batch["label"][index ^ 1]] += 1 - share
        log_probabilities = row - np.log(np.exp(row).sum())
        loss -= (0.9 * soft + 0.1 / 5) @ log_probabilities
        correct += row.argmax() == batch["label"][index if share >= 0.5 else index ^ 1]
    _, metrics = run_steps(1, steps=1)
    np.testing.assert_allclose(metrics[0]["loss"], loss, rtol=1e-4)
    assert metrics[0]["top1"] == correct
    assert metrics[0]["examples"] == 16


def test_mixed_labels_of_one_class_are_plain_labels():
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    labels = MixedLabels(jnp.array([0, 1, 2]), jnp.array([0, 3, 1]), jnp.array([0.3, 1.0, 0.0]))
    expected = [-np.log(np.exp(row[k]) / np.exp(row).sum()) for row, k in zip(logits, (0, 1, 1))]
    np.testing.assert_allclose(mixed_cross_entropy(logits, labels), expected, rtol=1e-5)
    np.testing.assert_array_equal(labels.largest, [0, 1, 1])


def test_what_the_network_drops_does_not_depend_on_how_images_are_mixed():
    noise = np.random.default_rng(0).integers(2**32, size=1000, dtype=np.uint32)
    mixed, labels = MIXING(jnp.indices((1000, 4, 4, 1))[0].astype(jnp.float32), jnp.zeros(1000, jnp.int32), noise)
    blended = np.ptp(mixed, axis=(1, 2, 3)) == 0  # by mixup, or by a rectangle that is empty or the whole image
    with network_noise(noise):
        kept = np.stack([dropout(jnp.ones((1000, 1)), 0.5, site)[:, 0] > 0 for site in range(4)])
    own = slice(None, None, 2)  # a pair has the random numbers of its first image
    for site in range(4):
        for other in (blended, labels.share):
            assert abs(np.corrcoef(kept[site, own], other[own])[0, 1]) < 0.2


def test_random_numbers_are_part_of_a_batch_only_if_something_draws(tiny_config):
    assert "noise" not in make_task(tiny_config).blank(training=True)
    for changed in ("mixup=0.2", "cutmix=1", "model.dropout=0.1", "model.stochastic_depth=0.1"):
        config = tiny_config.copy_and_resolve_references()
        override(config, [f"--config.{changed}"])
        task = make_task(config)
        assert task.blank(training=True)["noise"].dtype == np.uint32
        assert "noise" not in task.blank(training=False)


def test_an_odd_number_of_images_is_refused(tiny_config):
    override(tiny_config, ["--config.mixup=0.2", "--config.batch_size=15", "--config.bn_batch_size=15"])
    layout = make_layout(15, 15, devices=jax.devices()[:1])
    with pytest.raises(UserError, match=r"pairs of images, and a device sees 15 at a time.*batch_size=30"):
        check_pairs(make_run(tiny_config, 1000, layout))


@pytest.mark.parametrize("key", ["mixup=0.2", "cutmix=1.0", "data.trivial_augment=True", "data.random_erasing=0.1"])
def test_segmentation_refuses_what_changes_labels(key, segmentation_config):
    name = key.partition("=")[0]
    with pytest.raises(UserError, match=f"^{name} is for classification, and this configuration for segmentation$"):
        override(segmentation_config, [f"--config.{key}"])


def test_batches_are_a_function_of_seed_and_step(tiny_config):
    """Whatever is on, a batch that is requested again is the same, on one host or two."""
    from dynet_jax.data import load_source, training_batches

    override(
        tiny_config, ["--config.mixup=0.2", "--config.data.trivial_augment=True", "--config.data.random_erasing=1"]
    )
    transform, source = make_task(tiny_config).training_transform(), load_source("digits", "train")

    def batches(start, **host):
        options = {"batch_size": 8, "seed": 1, "start_step": start, "threads": 2, **host}
        return list(itertools.islice(training_batches(source, transform, **options), 2))

    (_, second), (again, _) = batches(5), batches(6)
    halves = [batches(6, host=host, hosts=2)[0] for host in range(2)]
    for key in ("image", "label", "noise"):
        np.testing.assert_array_equal(again[key], second[key])
        np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), second[key])
    assert len(set(second["noise"].tolist())) == 8
