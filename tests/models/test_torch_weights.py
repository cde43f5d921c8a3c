"""State dicts: what fits is loaded, and everything that does not is named."""

import jax
import numpy as np
import pytest

from dynet_jax import create_model
from dynet_jax.errors import UserError
from dynet_jax.models.torch_weights import (
    create_from_torch,
    load_torch_weights,
    torch_arguments,
    torch_preprocessing,
    torch_tensors,
)
from tests.models.torch_reference import make_weights


@pytest.fixture
def model():
    return create_model("resnet18", width=0.125, num_classes=3)


@pytest.fixture
def state(model):
    weights = make_weights({tensor.name: tensor.shape for tensor in torch_tensors(model, "torchvision").values()})
    return {**weights, "bn1.num_batches_tracked": np.array(7)}


@pytest.mark.slow
def test_every_variable_comes_from_a_tensor_of_its_own(model, state):
    variables = load_torch_weights(model, state)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert jax.tree.map(lambda leaf: leaf.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert len(jax.tree.leaves(variables)) == len(state) - 1
    kernel = variables["params"]["stage2_block1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 2, 3, 4], state["layer2.0.conv1.weight"][4, 3, 1, 2])
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"][5, 2], state["fc.weight"][2, 5])
    np.testing.assert_array_equal(variables["batch_stats"]["stem_norm"]["var"], state["bn1.running_var"])


@pytest.mark.slow
def test_everything_wrong_is_named(model, state):
    del state["layer1.0.bn2.running_mean"], state["fc.bias"]
    state |= {"extra.weight": np.zeros(3), "conv1.weight": np.zeros((8, 3, 3, 3))}
    with pytest.raises(UserError) as error:
        load_torch_weights(model, state)
    message = str(error.value)
    assert "missing: layer1.0.bn2.running_mean, fc.bias;" in message or (
        "missing: fc.bias, layer1.0.bn2.running_mean;" in message
    )
    assert "unexpected: extra.weight;" in message
    assert message.endswith("misshapen: conv1.weight has shape (8, 3, 3, 3), expected (8, 3, 7, 7)")


@pytest.mark.slow
def test_weights_of_another_network_are_one_line(state):
    for weights, others in (
        (state, r"they have 102 \(not layer.*\), and 0 others$"),
        ({"a": np.zeros(1), "b.weight": np.zeros(2)}, r"they have 0 \(not .*\), and 2 others, such as a, b.weight$"),
    ):
        with pytest.raises(UserError, match="of the 267 tensors of this one .*" + others) as error:
            load_torch_weights(create_model("resnet50"), weights)
        assert len(str(error.value)) < 300


def test_training_on_several_devices_leaves_a_prefix(model, state):
    prefixed = {f"module.{name}": array for name, array in state.items()}
    expected, got = load_torch_weights(model, state), load_torch_weights(model, prefixed)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.slow
def test_a_network_from_weights_alone(state, tmp_path):
    model, variables = create_from_torch("resnet18", state, width=0.125, dtype=np.float32)
    assert (model.num_classes, model.padding, model.bn_epsilon) == (3, "TORCH", 1e-5)
    assert model.apply(variables, np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 3)
    model, _ = create_from_torch("resnet18", state, width=0.125, padding="SAME", bn_epsilon=1e-3)
    assert (model.padding, model.bn_epsilon) == ("SAME", 1e-3)

    np.savez(tmp_path / "weights.npz", **state)
    for source in (tmp_path / "weights.npz", str(tmp_path / "weights.npz"), {"state_dict": state, "epoch": 3}):
        _, same = create_from_torch("resnet18", source, width=0.125)
        jax.tree.map(np.testing.assert_array_equal, same, variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dy_resnet18", "PyTorch's weights are of static networks; this one is dynamic"),
        ("shufflenet_v2", "these are weights of another network: of the 282 tensors of this one they have"),
    ],
)
def test_other_networks_are_refused(name, message, state):
    with pytest.raises(UserError, match=message):
        load_torch_weights(create_model(name), state)


def test_there_are_no_weights_of_segmentation_networks(state):
    with pytest.raises(UserError, match="no weights of torchvision or timm for fcn_resnet18"):
        create_from_torch("fcn_resnet18", state)


@pytest.mark.slow
def test_arguments_come_from_the_weights(state):
    expected = {"width": 0.125, "num_classes": 3, "padding": "TORCH", "bn_epsilon": 1e-5}
    assert torch_arguments("resnet18", state, width=0.125) == expected
    names = {
        scheme: {t.name: np.zeros(t.shape) for t in torch_tensors(create_model("mobilenet_v3_small"), scheme).values()}
        for scheme in ("torchvision", "timm")
    }
    assert torch_arguments("mobilenet_v3_small", names["torchvision"])["bn_epsilon"] == 1e-3
    assert torch_arguments("mobilenet_v3_small", names["timm"])["bn_epsilon"] == 1e-5
    shuffle = torch_tensors(create_model("shufflenet_v2", downsample="torchvision"), "torchvision").values()
    assert torch_arguments("shufflenet_v2", {t.name: np.zeros(t.shape) for t in shuffle})["downsample"] == "torchvision"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "layer1.0.bn1.bias",
            np.float32([0] * 7 + [np.nan]),
            "holds 1 values that are not finite, such as nan: the training",
        ),
        ("fc.bias", np.array([1e300, 0, 0]), "fc.bias holds 1 values that are not finite, such as inf"),
        ("bn1.running_var", np.float32([-0.5] * 8), "bn1.running_var holds a variance of -0.5"),
        ("fc.bias", np.int8([1, 2, 3]), "fc.bias has values of type int8: weights must be floats, not quantised"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_values_that_no_network_computes_with_are_named(model, state, name, values, message):
    with pytest.raises(UserError, match=message):
        load_torch_weights(model, state | {name: values})


@pytest.mark.slow
def test_timms_ports_of_tensorflow_have_values_of_their_own():
    model = create_model("mobilenet_v3_small", width=0.125)
    state = {t.name: np.zeros(t.shape) for t in torch_tensors(model, "timm").values()}
    port, own = (torch_arguments("mobilenet_v3_small", state, width=0.125, padding=p) for p in ("SAME", "TORCH"))
    assert (port["bn_epsilon"], own["bn_epsilon"]) == (1e-3, 1e-5)
    assert torch_preprocessing(create_model("mobilenet_v3_small", **port), state)["std"] == (127.5,) * 3
    assert torch_preprocessing(create_model("mobilenet_v3_small", **own), state) == {}
