"""Evaluation with coefficients that are not the image's own, against single images evaluated one by one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.cli import main
from dynet_jax.data.subset import Subset, shuffled
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.evaluation.held_coefficients import HELD, evaluate_held, mean_coefficients
from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, replaced_coefficients, sown_coefficients
from dynet_jax.models import registry
from dynet_jax.ops.pixels import normalize
from dynet_jax.train import loop
from dynet_jax.train.setup import make_run, open_data
from tests.train.tiny import tiny_network

COUNT = 37  # no multiple of the devices


@pytest.fixture
def trained(tiny_config):
    """(run, variables whose coefficients matter, a source of some images of all digits)"""
    run = make_run(tiny_config, 1438, make_layout(64, 8))
    rng = np.random.default_rng(0)
    variables = jax.device_get(run.fresh_state().variables)
    variables["params"] = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), variables["params"]
    )
    source = open_data(tiny_config, "test")
    return run, variables, Subset(source, range(0, len(source), len(source) // COUNT)[:COUNT])


def one_by_one(run, variables, source):
    """The normalised images, labels, and {layer: [image, g, c]}, of images alone."""
    transform = run.task.evaluation_transform()
    records = [transform(source[index]) for index in range(len(source))]
    images = [normalize(jnp.asarray(record["image"])[None], **run.pixels) for record in records]
    parts = []
    for image in images:
        with sown_coefficients():
            _, sown = run.model.apply(variables, image, train=False, mutable=[COLLECTION])
        parts.append(dict(named_coefficients(sown[COLLECTION])))
    layers = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return images, [int(record["label"]) for record in records], layers


@pytest.mark.slow
@pytest.mark.parametrize("how", HELD)
def test_each_image_with_the_coefficients_that_are_meant(trained, how):
    run, variables, source = trained
    images, labels, own = one_by_one(run, variables, source)
    if how == "half":
        held = {name: np.full_like(values, 0.5) for name, values in own.items()}
    elif how == "frozen":
        held = {name: np.broadcast_to(values.mean(axis=0), values.shape) for name, values in own.items()}
        means = mean_coefficients(run, variables, source)
        for name, values in own.items():
            np.testing.assert_allclose(means[name], values.mean(axis=0), rtol=1e-5)
    else:
        order = shuffled(source).indices
        donor = dict(zip(order, np.roll(order, 1)))
        assert all(image != other for image, other in donor.items())
        held = {name: values[[donor[index] for index in range(len(source))]] for name, values in own.items()}
    losses, right = [], []
    for index, (image, label) in enumerate(zip(images, labels)):
        with replaced_coefficients({name: jnp.asarray(values[index]) for name, values in held.items()}):
            logits = np.asarray(run.model.apply(variables, image, train=False))[0]
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
        right.append(logits.argmax() == label)
    values = evaluate_held(run, variables, source, how)
    assert values["examples"] == COUNT
    assert values["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert values["top1"] == pytest.approx(np.mean(right))


def test_what_is_refused(trained, tiny_config, monkeypatch):
    run, variables, source = trained
    with pytest.raises(UserError, match=r"coefficients cannot be 'frosen'.*frozen"):
        evaluate_held(run, variables, source, "frosen")
    with pytest.raises(UserError, match="two test images"):
        evaluate_held(run, variables, Subset(source, [0]), "shuffled")
    static = lambda num_classes=10: tiny_network(num_classes, strides=2, features=12).clone(dynamic=None)  # noqa: E731
    monkeypatch.setitem(registry._MODELS, "tiny", registry.Registered("tiny", static))
    other = make_run(tiny_config, 1438, make_layout(64, 8))
    with pytest.raises(UserError, match="tiny is static"):
        evaluate_held(other, other.fresh_state().variables, source, "half")


@pytest.mark.slow
def test_the_command(tiny_config, tmp_path, capsys):
    assert loop.train(tiny_config, tmp_path / "run") == 0
    capsys.readouterr()
    results = {}
    for how in HELD:
        assert main(["evaluate", str(tmp_path / "run"), f"--coefficients={how}", "--json"]) == 0
        results[how] = json.loads(capsys.readouterr().out)
        assert results[how]["coefficients"] == how
        assert results[how]["examples"] == 359
    assert len({values["loss"] for values in results.values()}) == 3
    assert main(["evaluate", str(tmp_path / "run"), "--coefficients=half"]) == 0
    assert capsys.readouterr().out.strip().endswith("| coefficients half")
