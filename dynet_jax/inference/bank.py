"""The fixed kernels behind a dynamic one, as they are stored: they are most of a network, and read once per image."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Shaped

from dynet_jax.errors import UserError, suggest

STORAGE = ("float32", "bfloat16", "int8")


class Bank(NamedTuple):
    """A stack of kernels, [group_size, *kernel_size, C_in / groups, C_out].

    int8 has a scale for every kernel and output channel, [group_size, C_out]; fusion is linear, so the coefficients can
    be multiplied by it instead of the kernels.
    """

    kernels: Shaped[np.ndarray, "group_size *kernel c_out"]
    scales: Float32[np.ndarray, "group_size c_out"] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of each kernel, [*kernel_size, C_in / groups, C_out]."""
        return self.kernels.shape[1:]

    @property
    def dequantized(self) -> Float32[np.ndarray, "group_size *kernel c_out"]:
        """The kernels in float32."""
        kernels = self.kernels.astype(np.float32)
        if self.scales is None:
            return kernels
        return kernels * self.scales.reshape(len(kernels), *(1,) * (kernels.ndim - 2), -1)

    def stored_as(self, storage: str) -> "Bank":
        """The same kernels, rounded to 'float32', 'bfloat16' or 'int8'.

        Raises UserError for another name, and for int8, which has no NaN, if not all weights are finite.

        >>> bank = Bank(np.array([0.5, -1.0, 0.25], np.float32).reshape(1, 1, 1, 3, 1))
        >>> bank.stored_as("int8").kernels.ravel().tolist()
        [64, -127, 32]
        """
        if storage not in STORAGE:
            raise UserError(f"banks cannot be stored as {storage!r}; {suggest(storage, STORAGE)}")
        if self.kernels.dtype == storage:
            return self
        kernels = self.dequantized
        if storage == "bfloat16":
            return Bank(kernels.astype(ml_dtypes.bfloat16))
        if storage == "float32":
            return Bank(kernels)
        if not np.isfinite(kernels).all():
            raise UserError("weights that are not finite cannot be stored as int8: the training has diverged")
        axes = tuple(range(1, kernels.ndim - 1))
        scales = np.abs(kernels).max(axes) / 127
        scales = np.where(scales > 0, scales, 1).astype(np.float32)
        steps = kernels / scales.reshape(len(kernels), *(1,) * (kernels.ndim - 2), -1)
        return Bank(np.rint(steps).astype(np.int8), scales)
