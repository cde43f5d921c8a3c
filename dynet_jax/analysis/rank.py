"""Effective ranks: how many directions a layer's kernel uses, and how much the kernels of different images differ."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.analysis.coefficients import Coefficients
from dynet_jax.analysis.trained import Trained
from dynet_jax.errors import UserError
from dynet_jax.layers import Conv, DynamicConv
from dynet_jax.layers.call_options import call_options

IMAGES = 8


class Convolution(NamedTuple):
    """A convolution of a network: its path, its kernel or bank, and its number of groups."""

    name: str
    kernel: np.ndarray  # [*kernel_size, C_in / groups, C_out], with a leading [group_size] if it is dynamic
    groups: int
    is_dynamic: bool


@dataclasses.dataclass(frozen=True)
class Rank:
    """The effective ranks of one convolution's kernels (Roy and Vetterli, 2007).

    Attributes:
      is_dynamic: whether the kernel is fused for each image.
      rank: the effective rank of the kernel as a matrix [k k C_in / groups, C_out / groups], averaged over groups and
        images.
      largest: the maximal rank of such a matrix; 1 for depthwise convolutions, for which it is meaningless.
      relative: rank / largest.
      images: number of images for which kernels were fused; 0 for a static convolution.
      group_size: g_t, 0 for a static convolution.
      over_images: the effective rank of the set of kernels that an output channel has over the images, averaged over
        channels: 1 if they are equal up to a factor, at most group_size. None for a static convolution.
    """

    is_dynamic: bool
    rank: float
    largest: int
    relative: float
    images: int
    group_size: int
    over_images: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values by the names of the attributes, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Rank":
        """Returns the rank that `to_dict` converted."""
        return cls(**values)


def effective_rank(matrices: np.ndarray) -> np.ndarray:
    """Returns exp of the entropy of normalised singular values, [...] for [..., rows, columns]; 0 for zeros.

    >>> round(float(effective_rank(np.eye(4))), 6), round(float(effective_rank(np.ones((3, 5)))), 6)
    (4.0, 1.0)
    """
    values = np.linalg.svd(np.asarray(matrices, np.float64), compute_uv=False)
    sums = values.sum(axis=-1, keepdims=True)
    shares = values / np.where(sums > 0, sums, 1)
    entropy = -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=-1)
    return np.where(sums[..., 0] > 0, np.exp(entropy), 0.0)


def rank_of_kernel(kernel: np.ndarray, groups: int = 1) -> tuple[float, int]:
    """Returns the effective rank (mean over groups) and the maximal rank of [*kernel_size, C_in / groups, C_out]."""
    inputs, outputs = int(np.prod(kernel.shape[:-1])), kernel.shape[-1] // groups
    matrices = np.moveaxis(kernel.reshape(inputs, groups, outputs), 1, 0)
    return float(effective_rank(matrices).mean()), min(inputs, outputs)


def rank_over_images(bank: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Returns, [C_out], the effective rank of the kernels that every output channel has over the images.

    bank: [group_size, *kernel_size, C_in / groups, C_out]; coefficients: [images, group_size, C_out or 1].

    The kernels of all images are a product, [images, group_size] by [group_size, weights]. Its singular values are
    those of a small matrix, the product of the two factors' triangular factors, so it is never formed.
    """
    group_size, features = len(bank), bank.shape[-1]
    weights = np.moveaxis(bank.reshape(group_size, -1, features).astype(np.float64), -1, 0)
    eta = np.broadcast_to(coefficients.astype(np.float64), (*coefficients.shape[:2], features))
    of_eta = np.linalg.qr(np.moveaxis(eta, -1, 0), mode="r")
    of_weights = np.linalg.qr(np.swapaxes(weights, 1, 2), mode="r")
    return effective_rank(of_eta @ np.swapaxes(of_weights, 1, 2))


def list_convolutions(model: nn.Module, variables: dict, image_shape: Sequence[int]) -> list[Convolution]:
    """Returns the convolutions of a network in the order of computation, each once.

    image_shape: [height, width, 3].
    """
    found = {}

    def note(call, arguments, keywords, context):
        module = context.module
        if context.method_name == "__call__" and isinstance(module, DynamicConv | Conv | nn.Conv):
            found.setdefault(module.path, (module.feature_group_count, isinstance(module, DynamicConv)))
        return call(*arguments, **keywords)

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(functools.partial(model.apply, **call_options(model)), variables, images)
    convolutions = []
    for path, (groups, is_dynamic) in found.items():
        parameters = functools.reduce(lambda tree, name: tree[name], path, variables["params"])
        kernel = np.asarray(parameters["kernels" if is_dynamic else "kernel"], np.float64)
        convolutions.append(Convolution("/".join(path) or "network", kernel, groups, is_dynamic))
    return convolutions


def ranks(
    convolutions: Sequence[Convolution], coefficients: Coefficients | None = None, images: int = IMAGES
) -> dict[str, Rank]:
    """Returns {convolution: its effective ranks}, in order.

    Args:
      convolutions: results of `list_convolutions`.
      coefficients: those of the same network; None for a static one.
      images: number of images, spread evenly over those of the coefficients, for which kernels are fused and
        decomposed, which is slow. `over_images` uses all.
    Raises:
      UserError: if a convolution is dynamic and has no coefficients.

    >>> kernel = np.eye(4).reshape(1, 1, 4, 4)
    >>> ranks([Convolution("conv", kernel, 1, False)])["conv"].relative
    1.0
    """
    return {c.name: _dynamic(c, coefficients, images) if c.is_dynamic else _static(c) for c in convolutions}


def ranks_of_trained(
    trained: Trained, coefficients: Coefficients | None = None, images: int = IMAGES
) -> dict[str, Rank]:
    """Returns `ranks` of all convolutions of a network from `open_trained` or `coefficients_of_workdir`."""
    return ranks(list_convolutions(trained.model, trained.variables, trained.image_shape), coefficients, images)


def _static(convolution: Convolution) -> Rank:
    rank, largest = rank_of_kernel(convolution.kernel, convolution.groups)
    return Rank(False, rank, largest, rank / largest, 0, 0, None)


def _dynamic(convolution: Convolution, coefficients: Coefficients | None, images: int) -> Rank:
    if coefficients is None or convolution.name not in coefficients.layers:
        raise UserError(f"{convolution.name} is dynamic: its kernels depend on coefficients, which are not given")
    bank, eta = convolution.kernel, coefficients.layers[convolution.name]
    images = min(images, len(eta))
    some = eta[np.arange(images) * len(eta) // images]
    # One image at a time, because the large kernels of many images would not fit in memory.
    found = [rank_of_kernel(np.einsum("g...o,go->...o", bank, _full(own, bank)), convolution.groups) for own in some]
    rank, largest = float(np.mean([rank for rank, _ in found])), found[0][1]
    over_images = float(rank_over_images(bank, eta).mean())
    return Rank(True, rank, largest, rank / largest, images, len(bank), over_images)


def _full(eta: np.ndarray, bank: np.ndarray) -> np.ndarray:
    return np.broadcast_to(eta, (len(bank), bank.shape[-1]))
