"""Flax layers: thin modules that hold parameters for `dynet_jax.ops`, and the functions that blocks are made of."""

from dynet_jax.layers.conv import Conv
from dynet_jax.layers.dynamic import DynamicConv
from dynet_jax.layers.norm import BatchNorm
from dynet_jax.layers.predictor import CoefficientPredictor, CoefficientSpec
from dynet_jax.layers.whole import channel_shuffle, max_pool, spatial_mean
from dynet_jax.ops.maps import activate, add, concatenate, scale, split, to_array

__all__ = [
    "BatchNorm",
    "CoefficientPredictor",
    "CoefficientSpec",
    "Conv",
    "DynamicConv",
    "activate",
    "add",
    "channel_shuffle",
    "concatenate",
    "max_pool",
    "scale",
    "spatial_mean",
    "split",
    "to_array",
]
