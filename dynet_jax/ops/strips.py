"""Images cut into strips of rows that lie side by side, as if they were so many images.

A TPU computes on vectors of 128 lanes. Maps of few channels fill them with images, and where there are fewer than 128
on a device, with strips of images: all that a convolution needs from another strip is a row next to its own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dynet_jax.ops.window import Window

LANES = 128
FEW_CHANNELS = 40  # with more of them, channels fill the lanes; the matrix unit is better at them, too
MANY_LANES = 64  # as few of them must be full, or channels are better


def strips_of(shape: Sequence[int]) -> int | None:
    """Returns into how many strips the images of a map are cut; None if its channels are to fill the lanes.

    shape: [batch, rows, columns, channels]; of maps with other axes nothing is cut. Maps of one size are cut alike, so
    that nothing has to be moved between their layers, and often those of half the size, too: by powers of two.

    >>> strips_of((32, 112, 112, 24)), strips_of((256, 112, 112, 24)), strips_of((32, 14, 14, 96))
    (4, 1, None)
    """
    if len(shape) != 4:
        return None
    batch, rows, _, channels = shape
    # A batch of 130 would be one block of 256 lanes: half empty, and no part of it is a whole number of vectors.
    if channels > FEW_CHANNELS or (batch > LANES and batch % LANES):
        return None
    strips = 1
    while 2 * strips * batch <= LANES and rows % (2 * strips) == 0:
        strips *= 2
    return strips if strips * batch >= MANY_LANES else None


def cut(x: jax.Array, strips: int) -> jax.Array:
    """[batch, rows, ...] -> [strips x batch, rows / strips, ...], the first strip of every image first."""
    if strips == 1:
        return x
    batch, _, *others = x.shape
    return jnp.swapaxes(x.reshape(batch, strips, -1, *others), 0, 1).reshape(strips * batch, -1, *others)


def join(x: jax.Array, strips: int) -> jax.Array:
    """Undoes `cut`."""
    if strips == 1:
        return x
    _, rows, *others = x.shape
    return jnp.swapaxes(x.reshape(strips, -1, rows, *others), 0, 1).reshape(-1, strips * rows, *others)


def for_strips(values: jax.Array, strips: int, axis: int = 0) -> jax.Array:
    """Repeats what belongs to images for each of their strips. Gradients of strips are summed in float32."""
    if strips == 1:
        return values
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return jnp.concatenate([wide] * strips, axis).astype(values.dtype)


def sum_of_strips(values: jax.Array, strips: int, axis: int = 0) -> jax.Array:
    """[..., strips x batch, ...] -> [..., batch, ...]"""
    if strips == 1:
        return values
    return values.reshape(*values.shape[:axis], strips, -1, *values.shape[axis + 1 :]).sum(axis)


def channel_sums(x: jax.Array, strips: int = 1) -> jax.Array:
    """Returns the sums of x and of its squares over all positions of each image: [2, batch, channels], float32.

    x: [batch, *spatial, channels], or cut into strips.

    >>> channel_sums(jnp.full((1, 2, 2, 1), 3.0)).ravel().tolist()
    [12.0, 36.0]
    """
    values, axes = x.astype(jnp.float32), tuple(range(1, x.ndim - 1))
    return sum_of_strips(jnp.stack([values.sum(axes), jnp.square(values).sum(axes)]), strips, 1)


def cut_with_margins(x: jax.Array, window: Window, strips: int) -> jax.Array:
    """Returns what the strips of a convolution's result see of x, [strips x batch, rows that a strip needs, ...].

    The window's padding above and below is in it.

    >>> window = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    >>> cut_with_margins(jnp.arange(1, 5).reshape(1, 4, 1, 1), window, strips=2)[..., 0, 0].tolist()
    [[0, 1, 2, 3], [2, 3, 4, 0]]
    """
    rows, _ = window.output_shape(x.shape[1:3])
    stride, each = window.strides[0], rows // strips
    reach = stride * (each - 1) + window.kernel_dilation[0] * (window.kernel_size[0] - 1) + 1
    x = jnp.pad(x, ((0, 0), window.padding[0], (0, 0), (0, 0)))
    return jnp.concatenate([x[:, stride * each * strip :][:, :reach] for strip in range(strips)])
