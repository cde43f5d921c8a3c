"""The keywords with which a network is called in evaluation, whoever wrote it."""

import inspect
from typing import Any

import flax.linen as nn

from dynet_jax.errors import UserError

IN_EVALUATION = {"train": False, "training": False, "deterministic": True}  # the usual arguments of Flax networks


def call_options(model: nn.Module) -> dict[str, Any]:
    """Returns the keywords of an evaluation, those of IN_EVALUATION that the network takes.

    Raises UserError if the network needs others.
    """
    if isinstance(model, nn.Sequential):  # it passes keywords to its first layer
        first = model.layers[0] if model.layers else None
        return call_options(first) if isinstance(first, nn.Module) else {}
    signature = inspect.signature(model.__call__)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    options = {name: value for name, value in IN_EVALUATION.items() if name in signature.parameters}
    if not options and inspect.Parameter.VAR_KEYWORD in kinds:
        options = {"train": False}
    try:
        signature.bind(None, **options)
    except TypeError as error:
        raise UserError(
            "the network is called with images and train=False, training=False or deterministic=True alone, which it "
            f"does not take: {error}"
        ) from error
    return options
