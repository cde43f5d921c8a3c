"""A network that JAX runs, compiled for each size of images: its program, or the Flax module where there is none."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import numpy as np

from dynet_jax.errors import UserError, one_line
from dynet_jax.inference import run_jax
from dynet_jax.inference.program import Program
from dynet_jax.inference.record import evaluation_of
from dynet_jax.layers.call_options import call_options
from dynet_jax.ops.pixels import normalize


def program_in_jax(program: Program, preprocessing) -> Callable[[np.ndarray], jax.Array]:
    arrays = jax.device_put(run_jax.arrays_of(program))  # arguments: as constants, XLA would fold them for minutes
    return _compiled(lambda arrays, images: run_jax.run(program, arrays, images), arrays, preprocessing)


def module_in_jax(model: nn.Module, variables: dict, preprocessing) -> Callable[[np.ndarray], jax.Array]:
    if not isinstance(model, nn.Module):
        apply = evaluation_of(model, None)
        return _compiled(lambda _, images: apply(images), (), preprocessing)
    return _compiled(partial(model.apply, **call_options(model)), jax.device_put(variables), preprocessing)


def _compiled(function: Callable, arrays, preprocessing) -> Callable[[np.ndarray], jax.Array]:
    """(arrays, normalised images) -> logits, as a function of images alone."""

    @jax.jit
    def logits(arrays, images):
        return function(arrays, normalize(images, preprocessing.mean, preprocessing.std))

    def call(images):
        try:
            return logits(arrays, images)
        except UserError:
            raise
        except (TypeError, ValueError) as error:  # windows that do not fit, or maps that are no longer of one size
            size = "x".join(map(str, images.shape[1:3]))
            raise UserError(f"images of {size} do not fit this network: {one_line(error, limit=200)}") from error

    return call
