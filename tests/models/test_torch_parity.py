"""The static networks compute the same as torchvision's and timm's with the same weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynet_jax import create_model
from dynet_jax.models.torch_weights import create_from_torch, torch_tensors
from tests.models import torch_reference
from tests.models.torch_reference import CASES, CLASSES, GOLDEN_FILE, LABELS, SIZES

GOLDEN = json.loads(GOLDEN_FILE.read_text())


def make_network(name, scheme):
    """Returns the network and its variables, made as by a user; only the shapes of the tensors are ours."""
    arguments = {"downsample": "torchvision"} if name == "shufflenet_v2" else {}
    model = create_model(name, num_classes=CLASSES, **arguments)
    shapes = {tensor.name: tensor.shape for tensor in torch_tensors(model, scheme).values()}
    state = torch_reference.make_weights(shapes)
    momentum = 0.99 if name.startswith("mobilenet_v3") and scheme == "torchvision" else 0.9
    return create_from_torch(name, state, bn_unbiased=True, bn_momentum=momentum)


def run_jax(name, scheme, size):
    """Returns the results; those of a training step only at the first size, on which they do not depend."""
    model, variables = make_network(name, scheme)
    images, labels = torch_reference.make_images(size), jnp.array(LABELS)
    evaluate = jax.jit(model.apply)
    loss = lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean().item()  # noqa: E731

    logits = evaluate(variables, images)
    if size != SIZES[0]:
        return {"logits": np.asarray(logits)}
    train = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    train_logits, updated = train(variables, images)
    updated_loss = loss(evaluate({**variables, **updated}, images))
    return {"logits": np.asarray(logits), "train_loss": loss(train_logits), "updated_loss": updated_loss}


def assert_parity(got, expected):
    """Logits to 1e-4 of the largest, losses to 1e-4."""
    logits = np.array(expected["logits"])
    assert np.ptp(logits, axis=0).max() > 1e-2 * np.abs(logits).max()  # the images matter
    np.testing.assert_allclose(got["logits"], logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    for key in got.keys() - {"logits"}:
        assert got[key] == pytest.approx(expected[key], rel=1e-4), key
    assert abs(expected["updated_loss"] - expected["train_loss"]) > 1e-3  # the statistics matter


cases = pytest.mark.parametrize(("name", "scheme"), CASES)
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))


# The padding of odd sizes does not depend on how tensors are named.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheme", "size"),
    [(*case, size) for size in SIZES for case in CASES if size == SIZES[0] or case[1] == "torchvision"],
)
def test_golden_logits(name, scheme, size):
    assert_parity(run_jax(name, scheme, size), GOLDEN[f"{name} {scheme} {size[0]}x{size[1]}"])


@pytest.mark.slow
@cases
@sizes
def test_live(name, scheme, size):
    for package in ("torch", "torchvision", *(["timm"] if scheme == "timm" else [])):
        pytest.importorskip(
            package, reason=f"{package} is not installed (`make env-torch` makes an environment with it)"
        )
    assert_parity(run_jax(name, scheme, size), torch_reference.run_torch(name, scheme, size))


@pytest.mark.slow
def test_padding_matters():
    """At an even size SAME pads the strided layers on one side only, which is not PyTorch's function."""
    model, variables = make_network("resnet18", "torchvision")
    images = torch_reference.make_images((64, 64))
    same, torch = (jax.jit(model.clone(padding=padding).apply)(variables, images) for padding in ("SAME", "TORCH"))
    assert np.abs(same - torch).max() > 1e-2 * np.abs(torch).max()


def test_every_case_has_golden_logits():
    assert GOLDEN.keys() - {"made with"} == {f"{name} {scheme} {h}x{w}" for name, scheme in CASES for h, w in SIZES}
