"""Configurations of registered networks by name: the recipe of the network's task, and its variants."""

import re

import ml_collections

from dynet_jax.config.recipe import paper_recipe, segmentation_recipe
from dynet_jax.config.variants import SEGMENTATION_VARIANTS, VARIANTS
from dynet_jax.errors import UserError, suggest
from dynet_jax.models.registry import default_arguments, list_models, model_info

# Suffixes of a network's name: dy_mobile_g2 has group_size=2, mobilenet_v2_0_75 has width=0.75.
WITH_ARGUMENT = re.compile(r"(?P<network>.+)_(?:g(?P<group_size>\d+)|(?P<width>\d+_\d+))")


def recipe(model: str, variant: str = "imagenet2012", **model_arguments) -> ml_collections.ConfigDict:
    """Returns the paper's recipe for a network, in one of VARIANTS. Raises UserError for another variant."""
    return _make(paper_recipe, VARIANTS, model, variant, model_arguments)


def segmentation(model: str, variant: str = "cityscapes", **model_arguments) -> ml_collections.ConfigDict:
    """Returns the recipe for segmentation, in one of SEGMENTATION_VARIANTS. Raises UserError for another variant."""
    return _make(segmentation_recipe, SEGMENTATION_VARIANTS, model, variant, model_arguments)


# The files configs/NAME.py of a checkout, for an installed package: the recipe and its usual network.
FILES = {"paper": (recipe, "dy_mobile"), "segmentation": (segmentation, "fcn_dy_resnet50")}


def config_of_network(name: str, *variant: str, network: str | None = None) -> ml_collections.ConfigDict | None:
    """Returns the configuration of a network with the recipe of its task; None if no network has this name.

    Args:
      name: one of `list_models()`, optionally with a suffix for group_size or width; seg_NAME means fcn_NAME; or one of
        FILES, the file of this name in configs/.
      variant: one of the variants of the recipe, or none for the recipe itself.
      network: the network of one of FILES; its usual one if None.
    Raises UserError for an unknown variant.

    >>> config_of_network("dy_mobile_g2", "digits").model.group_size, config_of_network("seg_dy_mobile").model.name
    (2, 'fcn_dy_mobile')
    """
    if name in FILES:
        make, usual = FILES[name]
        return make(network or usual, *variant)
    known, arguments = list_models(), {}
    name = re.sub("^seg_", "fcn_", name)
    matched = WITH_ARGUMENT.fullmatch(name)
    if name not in known and matched:
        name = matched["network"]
        arguments = {"group_size": int(matched["group_size"])} if matched["group_size"] else {}
        arguments |= {"width": float(matched["width"].replace("_", "."))} if matched["width"] else {}
    if name not in known:
        return None
    return (segmentation if model_info(name).task == "segmentation" else recipe)(name, *variant, **arguments)


def _make(begin, variants, model, variant, arguments):
    config = begin(model, **{**model_info(model).recipe, **arguments})
    if variant not in variants:
        raise UserError(f"unknown variant {variant!r} of this configuration; {suggest(variant, variants)}")
    variants[variant](config)
    known = default_arguments(model)
    for key in [key for key in config.model if key not in ("name", "num_classes", *arguments, *known)]:
        del config.model[key]  # an argument of the recipe, such as width, that this network does not have
    return config.lock()
