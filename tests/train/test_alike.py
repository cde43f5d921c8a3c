"""A run names all settings that the loaded weights need at once, and accepts them as named."""

import types

import pytest

from dynet_jax.config.load import load_config, override
from dynet_jax.config.network import build_model
from dynet_jax.errors import UserError
from dynet_jax.models.registry import list_models, model_info
from dynet_jax.train.alike import check_alike

IMPORTED = [name for name in list_models() if model_info(name).torchvision or model_info(name).timm]


def with_model(config):
    return types.SimpleNamespace(config=config, model=build_model(config), workdir="runs/pretrained")


def imported(name, **arguments):
    """A work directory as made by `dynet import-torch`."""
    config = load_config(f"{name}:imagenette").unlock()
    config.model.update({"padding": "TORCH", "width": 0.5, **model_info(name).torch_arguments, **arguments})
    return with_model(config)


@pytest.mark.parametrize("name", IMPORTED)
def test_advice_is_whole_and_accepted(name):
    other = imported(name, bn_epsilon=2e-3)
    other.config.data.mean, other.config.data.std = (0.5,) * 3, (0.5,) * 3
    config = load_config(f"{name}:imagenette")
    with pytest.raises(UserError, match="its own settings are") as error:
        check_alike(other, with_model(config), ["params/stem/kernel"])
    options = [word for word in str(error.value).split() if word.startswith("--config.")]
    keys = {"model.padding", "model.bn_epsilon", "model.width", "data.mean", "data.std"}
    keys |= {f"model.{key}" for key in model_info(name).torch_arguments}
    assert {option.removeprefix("--config.").partition("=")[0] for option in options} == keys
    override(config, options)
    check_alike(other, with_model(config), [])
    assert (config.model.width, config.model.bn_epsilon, config.data.std) == (0.5, 2e-3, (0.5,) * 3)


def test_what_the_network_decides_itself_is_not_asked_for():
    """torchvision's MobileNetV3 has its own epsilon, in ours as well."""
    other = imported("mobilenet_v3_small", bn_epsilon=1e-3)
    with pytest.raises(UserError) as error:
        check_alike(other, with_model(load_config("mobilenet_v3_small:imagenette")), [])
    assert str(error.value).endswith("its weights need --config.model.padding=TORCH")


def test_rounded_means_are_the_same():
    other = imported("resnet18", padding="SAME")
    other.config.data.mean = tuple(255 * mean for mean in (0.485, 0.456, 0.406))
    assert check_alike(other, with_model(load_config("resnet18:imagenette")), []) == ""


def test_the_datas_own_mean_and_std_are_said():
    other, config = imported("resnet18", padding="SAME"), load_config("resnet18:imagenette")
    config.data.mean, config.data.std = (33.3,) * 3, (78.6,) * 3
    assert check_alike(other, with_model(config), []) == (
        " (it was trained with data.mean=(123.675, 116.28, 103.53), data.std=(58.395, 57.12, 57.375); this run has "
        "data.mean=(33.3, 33.3, 33.3), data.std=(78.6, 78.6, 78.6))"
    )
    config.data.mean, config.data.std = (0.5,) * 3, (0.5,) * 3
    with pytest.raises(UserError, match=r"its weights need --config\.data\.mean="):
        check_alike(other, with_model(config), [])


def test_another_stem_is_named():
    other, config = imported("resnet18", padding="SAME"), load_config("resnet18:imagenette")
    config.model.small_input = True
    with pytest.raises(UserError, match=r"--config\.model\.small_input=False"):
        check_alike(other, with_model(config), ["params/stem/kernel"])


def test_another_architecture_is_named_and_its_settings_are_not():
    config = load_config("dy_resnet18:imagenette")
    with pytest.raises(UserError, match="holds resnet18, not dy_resnet18: params/a differ") as error:
        check_alike(imported("resnet18"), with_model(config), ["params/a"])
    assert "--config" not in str(error.value)


def test_a_backbone_asks_for_all_as_well():
    """The example is that of docs/segmentation.md: another stem, and PyTorch's padding."""
    config = load_config("fcn_resnet50")
    with pytest.raises(UserError, match="a classifier on the same backbone") as error:
        check_alike(imported("resnet50", width=1.0), with_model(config), ["params/backbone/stem1/kernel"])
    assert str(error.value).endswith("--config.model.padding=TORCH --config.model.stem=[64]")
