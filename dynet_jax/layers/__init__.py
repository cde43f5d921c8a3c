"""Flax layers: thin shells of parameters around `dynet_jax.ops`."""

from dynet_jax.layers.conv import Conv
from dynet_jax.layers.dynamic import CoefficientPredictor, DynamicConv
from dynet_jax.layers.norm import BatchNorm
from dynet_jax.layers.whole import channel_shuffle, max_pool, spatial_mean

__all__ = ["BatchNorm", "CoefficientPredictor", "Conv", "DynamicConv", "channel_shuffle", "max_pool", "spatial_mean"]
