"""How a layer over all channels is divided into blocks for its kernel, and whether it fits in VMEM.

The kernel's operands are x, [batch, *size, C_in] as `fold_shape` has it, and the bank, [group_size, kernel rows,
kernel columns x C_in, C_out].
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynet_jax.ops.strips import LANES
from dynet_jax.ops.tpu.tiles import SUBLANES, largest_divisor, round_up, vmem_bytes
from dynet_jax.ops.window import Window

DENSE_BYTES = 58 * 2**20  # of VMEM that a layer may take
BLOCK_BYTES = 2**20  # of a block of x
POSITIONS = 512  # of the output in a matrix product
CHUNK_BYTES = 2**17  # of a kernel in float32 that is fused at once: 32 vectors


class DenseScratch(NamedTuple):
    """Scratch of the forward kernel, and of that for gradients, which has more."""

    bank: jax.ShapeDtypeStruct  # in float32
    image: jax.ShapeDtypeStruct  # normalised and padded: [tiles of channels, rows, columns, lanes]
    patches: jax.ShapeDtypeStruct  # by rows of the window: [rows / stride, stride, columns, kernel columns x C_in]
    kernel: jax.ShapeDtypeStruct  # the image's, in x's dtype
    rows: jax.ShapeDtypeStruct  # of y, or of its gradient, whose columns are not folded
    dpatches: jax.ShapeDtypeStruct | None = None
    dkernel: jax.ShapeDtypeStruct | None = None


class DensePlan(NamedTuple):
    """Blocks of whole images, which are computed one after another."""

    window: Window
    size: tuple[int, int]  # height and width of x
    channels: int  # of x
    images: int  # in a block
    rows: int  # of the output in a matrix product
    chunk: int  # inputs of a kernel that are fused at once
    interpret: bool = False

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width."""
        rows, columns = self.window.output_shape(self.size)
        return rows, columns

    def scratch(self, x, bank) -> DenseScratch:
        rows, columns = self.output_size
        columns = round_up(columns, SUBLANES[1])  # whole vectors
        (top, _), (left, _) = self.window.padding
        last_row, last_column = (
            stride * (count - 1) + dilation * (size - 1)
            for size, stride, dilation, count in zip(*self.window[:3], (rows, columns))
        )
        stride, lanes = self.window.strides[0], min(self.channels, LANES)
        padded_rows = round_up(max(top + self.size[0], last_row + 1), stride)
        padded_columns = round_up(max(left + self.size[1], last_column + 1), SUBLANES[1])
        return DenseScratch(
            bank=jax.ShapeDtypeStruct(bank.shape, jnp.float32),
            image=jax.ShapeDtypeStruct((self.channels // lanes, padded_rows, padded_columns, lanes), jnp.float32),
            patches=jax.ShapeDtypeStruct((padded_rows // stride, stride, columns, bank.shape[2]), jnp.float32),
            kernel=jax.ShapeDtypeStruct(bank.shape[1:], x.dtype),
            rows=jax.ShapeDtypeStruct((self.rows, columns, bank.shape[-1]), jnp.float32),
        )

    def gradient_scratch(self, x, bank) -> DenseScratch:
        scratch = self.scratch(x, bank)
        dpatches, dkernel = (jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (scratch.patches, scratch.kernel))
        return scratch._replace(dpatches=dpatches, dkernel=dkernel)

    def bytes(self, x, bank) -> int:
        """Returns what the gradient takes of VMEM: blocks of x, y and their gradients twice, banks, and its scratch."""
        image = fold_shape((1, *self.size, self.channels))
        output = fold_shape((1, *self.output_size, bank.shape[-1]))
        blocks = 2 * vmem_bytes(image, x.dtype) + 2 * vmem_bytes(output, x.dtype)
        banks = vmem_bytes(bank.shape, bank.dtype) + vmem_bytes(bank.shape, jnp.float32)
        scratch = sum(vmem_bytes(array.shape, array.dtype) for array in jax.tree.leaves(self.gradient_scratch(x, bank)))
        return 2 * self.images * blocks + banks + scratch


def make_dense_plan(x, kernels, groups: int, window: Window, *, interpret: bool = False) -> DensePlan | None:
    """Returns the plan of a layer with a 2-D window over all channels if everything fits in VMEM; None for others.

    x: [batch, height, width, C_in]; kernels: [group_size, *kernel_size, C_in, C_out]. Only shapes and dtypes are used.
    """
    if x.ndim != 4 or groups > 1 or window.is_pointwise or min(min(sides) for sides in window.padding) < 0:
        return None
    if x.shape[-1] > LANES and x.shape[-1] % LANES:
        return None
    group_size, kernel_rows, kernel_columns, c_in, c_out = kernels.shape
    operand = jax.ShapeDtypeStruct(fold_shape(x.shape), x.dtype)
    bank = jax.ShapeDtypeStruct((group_size, kernel_rows, kernel_columns * c_in, c_out), kernels.dtype)
    rows, columns = window.output_shape(x.shape[1:3])
    fused_at_once = CHUNK_BYTES // vmem_bytes((1, c_out), jnp.float32) * SUBLANES[1]
    plan = DensePlan(
        window,
        x.shape[1:3],
        c_in,
        images=largest_divisor(x.shape[0], BLOCK_BYTES // vmem_bytes(operand.shape[1:], x.dtype)),
        rows=largest_divisor(rows, POSITIONS // round_up(columns, SUBLANES[1])),
        chunk=largest_divisor(bank.shape[2], fused_at_once, SUBLANES[0]),
        interpret=interpret,
    )
    return plan if plan.bytes(operand, bank) <= DENSE_BYTES else None


def fold_of(columns: int, channels: int) -> int:
    """Returns how many columns of an image lie side by side in the lanes, which few channels would not fill."""
    fold = LANES // channels if channels < LANES and LANES % channels == 0 else 1
    return fold if columns % fold == 0 else 1


def fold_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """[batch, height, width, channels] -> [batch, height, width / fold, fold x channels]

    >>> fold_shape((2, 56, 56, 32))
    (2, 56, 14, 128)
    """
    *major, columns, channels = shape
    fold = fold_of(columns, channels)
    return (*major, columns // fold, fold * channels)
