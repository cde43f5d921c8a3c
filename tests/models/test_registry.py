"""The metadata of registered networks."""

import jax
import jax.numpy as jnp
import pytest

from dynet_jax.analysis.subject import Subject
from dynet_jax.errors import UserError
from dynet_jax.models.fcn import register_fcn
from dynet_jax.models.mobilenet import mobilenet_v2
from dynet_jax.models.network import Network
from dynet_jax.models.registry import create_model, is_dynamic, list_models, model_info, register_model
from dynet_jax.models.resnet import ResidualBlock
from dynet_jax.models.torch_names import SCHEMES, layer_names, register_names
from tests.models.torch_reference import CASES


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_what_a_network_is_compared_with(name):
    info = model_info(name)
    assert info.title != name
    for other in filter(None, (info.base, info.twin)):
        assert not is_dynamic(create_model(other))
        assert model_info(other).task == info.task
    assert is_dynamic(create_model(name)) <= (info.base is not None)
    if info.twin:
        counts = [Subject(which, {}).count for which in (name, info.twin)]
        assert counts[0].convolution == counts[1].convolution
        assert model_info(info.twin).family == info.family


def test_every_network_of_torchvision_and_timm_is_known_by_its_layers():
    """CASES are compared with them, weights and logits (test_torch_parity.py)."""
    named = {(name, scheme) for name in list_models() for scheme in SCHEMES if getattr(model_info(name), scheme)}
    assert named == set(CASES)


def test_titles_are_different():
    titles = [model_info(name).title for name in list_models()]
    assert len(set(titles)) == len(titles)


def test_a_backbone_of_ones_own_is_segmented_with():
    @register_fcn(recipe={"width": 0.2})
    @register_model
    def narrow(num_classes: int = 1000, width: float = 0.1) -> Network:
        return mobilenet_v2(num_classes, width)

    info = model_info("fcn_narrow")
    assert (info.task, info.base, info.recipe) == ("segmentation", None, {"width": 0.2})
    model = create_model("fcn_narrow", num_classes=3, hidden_features=8)
    shapes = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((1, 32, 48, 3)))
    assert shapes[0].shape == (1, 4, 6, 3)
    with pytest.raises(ValueError, match="a model named 'fcn_narrow' is registered already"):
        register_fcn(narrow)


def test_names_of_layers_of_ones_own(monkeypatch):
    class OwnBlock(ResidualBlock):
        pass

    model = create_model("resnet18").clone(block=OwnBlock)
    with pytest.raises(UserError, match="the names of timm's networks of this family are not known"):
        layer_names(model, "timm")
    monkeypatch.setattr("dynet_jax.models.torch_names._NAMERS", {})
    register_names(OwnBlock, "timm")(lambda model: iter([("stem", "conv1")]))
    assert layer_names(model, "timm") == {"stem": "conv1"}
