"""Weights are found in a checkpoint by the names of their layers, and a message says which were used."""

import numpy as np
import pytest

from dynet_jax.errors import UserError
from dynet_jax.models.torch_contents import find_weights

LAYERS = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"]


def state(value, prefix=""):
    return {f"{prefix}{layer}.weight": np.full(2, value) for layer in LAYERS}


def find(content, choice=None):
    weights, said = find_weights(content, [["stem.conv"], LAYERS], choice)
    assert set(weights.tensors) == set(state(0))
    (value,) = {float(array[0]) for array in weights.tensors.values()}
    return value, said


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net.module.backbone.", "x."]
)
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "net", "whatever"])
def test_wrappers_and_prefixes(prefix, wrapper):
    assert find({"epoch": 3, wrapper: state(1, prefix), "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}}})[0] == 1
    assert find(state(1, prefix))[0] == 1


def test_wrappers_within_a_network():
    content = {name.replace("layer1.", "layer1._orig_mod."): array for name, array in state(1).items()}
    assert find(content | {"n_averaged": np.array(3), "bn1.num_batches_tracked": np.array(7)}) == (1, "")


@pytest.mark.parametrize(
    "name", ["state_dict_ema", "model_ema", "ema", "ema_state_dict", "averaged_model", "swa_state"]
)
def test_averages_are_preferred_and_said(name):
    value, said = find({"state_dict": state(1), name: state(2, "module.")})
    assert value == 2
    assert said.startswith(f"weights: the moving averages '{name}")
    assert "--state-dict=state_dict takes 'state_dict' instead" in said
    assert find({"state_dict": state(1), name: state(2, "module.")}, "state_dict")[0] == 1
    assert find({"state_dict": state(1), name: state(2, "module.")}, name)[0] == 2
    assert find({name: state(2)}) == (2, f"weights: the moving averages '{name}'")


def test_averages_beside_the_weights_in_one_state_dict():
    content = {"state_dict": state(1, "model.") | state(2, "ema_model.module.") | {"loss.weight": np.ones(3)}}
    value, said = find(content)
    assert (value, "'state_dict.ema_model.module'" in said, "1 tensors beside them, such as loss.weight" in said) == (
        2, True, True
    )  # fmt: skip
    assert find(content, "state_dict.model")[0] == 1
    assert find(state(1) | state(2, "ema."))[0] == 2
    assert find(state(1) | state(2, "ema."), "")[0] == 1


def test_several_that_are_no_averages_are_a_question():
    content = {"student": state(1), "teacher": state(2)}
    with pytest.raises(
        UserError, match="several weights of this network: 'student', 'teacher'; choose by --state-dict"
    ):
        find(content)
    assert find(content, "teacher")[0] == 2
    with pytest.raises(UserError, match=r"--state-dict=pupil is not one of the weights .* 'student', 'teacher'"):
        find(content, "pupil")


@pytest.mark.parametrize("name", ["semantic", "schema", "remap", "cinema.net", "swapped", "systema"])
def test_averages_are_whole_words(name):
    assert find({name: state(1)}) == (1, f"weights: {name!r}")
    with pytest.raises(UserError, match="several weights of this network"):
        find({"net": state(2), name: state(1)})


def test_averages_of_parameters_alone_have_the_raw_statistics():
    statistics = {f"conv1.{name}": np.full(2, 1) for name in ("running_mean", "running_var")}
    content = {"model": state(1) | statistics, "ema": state(2)}
    for choice in (None, "ema"):
        weights, said = find_weights(content, [LAYERS], choice)
        assert weights.tensors.keys() == content["model"].keys()
        assert (weights.tensors["fc.weight"][0], weights.tensors["conv1.running_var"][0]) == (2, 1)
        assert said.endswith("--state-dict=model takes 'model' instead; with BatchNorm's statistics of 'model'")
    content["ema"] |= {name: np.full(2, 3) for name in statistics}
    assert find_weights(content, [LAYERS])[0].tensors["conv1.running_var"][0] == 3


@pytest.mark.parametrize(
    ("beside", "name"),
    [
        ({"ema": {"decay": 0.9, "shadow_params": [np.ones(2), np.ones(3)]}}, "ema.shadow_params"),
        (
            {"optimizer_states": [{"state": {0: {"exp_avg": np.ones(2)}}, "ema": (np.ones(2),)}]},
            "optimizer_states.0.ema",
        ),
    ],
)
def test_averages_without_names_are_left_and_said(beside, name):
    assert find({"state_dict": state(1), **beside}) == (
        1, f"weights: 'state_dict'; left out: averages without names, '{name}'"
    )  # fmt: skip
    assert find({**state(1), **beside}) == (
        1, f"weights: those outside of any wrapping; left out: averages without names, '{name}'"
    )  # fmt: skip


@pytest.mark.parametrize("content", [(state(1), 7), [7, {"model": state(1)}], {"state_dict": state(1), 0: "x"}])
def test_what_is_around_may_be_a_tuple_or_have_keys_that_are_no_text(content):
    assert find(content)[0] == 1
    assert find({"checkpoint": content})[0] == 1


@pytest.mark.parametrize("content", [{"epoch": 3, 0: "x"}, {}, {"shadow_params": [np.ones(2)]}])
def test_nothing_with_a_name(content):
    with pytest.raises(UserError, match=r"there are no tensors with names, but (epoch, 0|nothing|shadow_params);"):
        find(content)


def test_a_choice_where_there_is_none():
    with pytest.raises(UserError, match=r"no choice by --state-dict: .* are '' \(outside of any wrapping\)$"):
        find(state(1), "model")


def test_what_is_beside_the_network_is_said():
    value, said = find(state(1, "model.") | {"criterion.weight": np.ones(3)})
    assert (value, said) == (1, "weights: 'model'; left out: 1 tensors beside them, such as criterion.weight")
