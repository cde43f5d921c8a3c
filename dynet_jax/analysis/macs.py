"""Multiply-adds and parameters of a network, layer by layer, in the parts that the paper's FLOPs are made of.

A dynamic network costs convolutions, the fusion of its kernels (g_t multiply-adds per weight of the dynamic kernel,
once per image) and the coefficient predictors. The paper's first version counted only convolutions, and the later one
everything except the classifier for Dy-mobile, so all four parts are kept separate.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynet_jax.layers import CoefficientPredictor, Conv, DynamicConv
from dynet_jax.layers.call_options import call_options


class LayerMacs(NamedTuple):
    """Multiply-adds of one layer for one image, and its own parameters."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    convolution: int
    fusion: int
    predictor: int
    classifier: int
    parameters: int

    @property
    def total(self) -> int:
        return self.convolution + self.fusion + self.predictor + self.classifier


class MacCount(NamedTuple):
    """The rows of a network's layers; the properties are sums over them, in multiply-adds per image."""

    rows: tuple[LayerMacs, ...]
    parameters: int

    @property
    def convolution(self) -> int:
        return sum(row.convolution for row in self.rows)

    @property
    def fusion(self) -> int:
        return sum(row.fusion for row in self.rows)

    @property
    def predictor(self) -> int:
        return sum(row.predictor for row in self.rows)

    @property
    def classifier(self) -> int:
        return sum(row.classifier for row in self.rows)

    @property
    def total(self) -> int:
        return sum(row.total for row in self.rows)


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> MacCount:
    """Returns the multiply-adds of one image, without running or allocating anything.

    Convolutions, kernel fusion and fully connected layers are counted; normalisation, activations, pooling and
    additions are not, as is customary. The network may be any whose convolutions are `DynamicConv`, `Conv` or
    `flax.linen.Conv` and whose fully connected layers are `flax.linen.Dense`. A `DynamicConv` counts as Eq. 1 (fused
    kernels, then one convolution), whatever form computes it. A `Dense` outside a `CoefficientPredictor` counts as
    classifier.

    Args:
      model: a Flax module, called with images and `train=False`, `training=False` or `deterministic=True` if it takes
        one of them; or one of NNX, in which `dynet_jax.nnx.DynamicConv` and every other convolution and product of
        matrices are counted, the latter as classifiers.
      input_shape: [height, width, channels] of one image.
    Returns:
      A `MacCount`: rows per layer, and .convolution, .fusion, .predictor, .classifier, .total, .parameters.

    >>> from dynet_jax import create_model
    >>> count = count_macs(create_model("dy_mobile"), (224, 224, 3))
    >>> count.convolution, count.total - count.classifier
    (129262392, 135143640)
    """
    if not isinstance(model, nn.Module):
        return _count_nnx(model, input_shape)
    rows: list[LayerMacs] = []

    def record(next_call, args, kwargs, context):
        y = next_call(*args, **kwargs)
        if context.method_name == "__call__":
            row = _layer_row(context.module, args, y)
            if row is not None:
                rows.append(row)
        return y

    def build(images):
        with nn.intercept_methods(record):
            return model.init(jax.random.key(0), images, **call_options(model))

    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(build, images)
    return MacCount(tuple(rows), sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])))


def _count_nnx(model, input_shape) -> MacCount:
    from dynet_jax.analysis.macs_nnx import nnx_parameters, nnx_rows

    rows = [LayerMacs(str(n), *row, parameters=0) for n, row in enumerate(nnx_rows(model, input_shape), start=1)]
    return MacCount(tuple(rows), nnx_parameters(model))


def _layer_row(module, args, y) -> LayerMacs | None:
    path = "/".join(module.path)
    if isinstance(module, (Conv, DynamicConv, nn.Conv)):
        dynamic = isinstance(module, DynamicConv)
        weights = module.variables["params"]["kernels" if dynamic else "kernel"].shape
        kernel = weights[1:] if dynamic else weights
        # A dense kernel visits every output position once; its size already accounts for the groups.
        convolution = math.prod(kernel) * math.prod(y.shape[1:-1])
        fusion = math.prod(weights) if dynamic else 0
        parameters = math.prod(weights) + (y.shape[-1] if module.use_bias else 0)
        kind = f"{'dynamic' if dynamic else 'static'} {'x'.join(map(str, kernel[:-2]))}"
        return LayerMacs(path, kind, y.shape[1:], convolution, fusion, 0, 0, parameters)
    if isinstance(module, nn.Dense):
        macs = args[0].shape[-1] * y.shape[-1]
        parameters = macs + (y.shape[-1] if module.use_bias else 0)
        predictor = isinstance(module.parent, CoefficientPredictor)
        kind = "predictor" if predictor else "classifier"
        return LayerMacs(path, kind, y.shape[1:], 0, 0, macs * predictor, macs * (not predictor), parameters)
    return None
