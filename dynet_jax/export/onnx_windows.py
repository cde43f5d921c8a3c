"""Windows of convolutions and pooling in ONNX: how they are padded, and what becomes of the size of the images.

Sizes are not known when a network is exported, but how often each map has been halved is. That is enough for ONNX
Runtime to see that two maps have one size, without which it does not make an addition part of a convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dynet_jax.errors import UserError
from dynet_jax.export.onnx_graph import Graph
from dynet_jax.inference.program import (
    IMAGES,
    Channels,
    Convolution,
    Elementwise,
    MaxPool,
    Operation,
    Pool,
    Program,
    outputs,
)
from dynet_jax.ops.window import Padding, fixed_padding, pool_padding

Scale = tuple[int, int]  # a map has ceil(height / scale[0]) rows and ceil(width / scale[1]) columns
SIZE_DEPENDENT = {"SAME": "SAME_UPPER", "SAME_LOWER": "SAME_LOWER"}


class Window(NamedTuple):
    """The properties of a convolution or pooling that decide about positions."""

    name: str
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding
    kernel_dilation: tuple[int, int] = (1, 1)

    @property
    def reach(self) -> tuple[int, ...]:
        return tuple(d * (k - 1) + 1 for d, k in zip(self.kernel_dilation, self.kernel_size))


def window_of(operation: Convolution | MaxPool | Pool) -> Window:
    """The window of an operation that has one."""
    if isinstance(operation, MaxPool):
        size, strides = (operation.size,) * 2, (operation.strides,) * 2
        return Window(operation.name, size, strides, pool_padding(operation.padding, operation.size))
    if isinstance(operation, Pool):
        return Window(operation.name, operation.kernel_size, operation.strides, operation.padding)
    height, width, *_ = operation.kernel.shape
    return Window(operation.name, (height, width), operation.strides, operation.padding, operation.kernel_dilation)


def pad(graph: Graph, x: str, window: Window) -> tuple[str, dict]:
    """(x, padded if the node that follows cannot do it; that node's attributes about padding)

    Raises UserError for strides and dilation together where padding depends on the size of the images.
    """
    if window.padding in ("CIRCULAR", "REFLECT"):
        (top, bottom), (left, right) = _sides(window)
        pads = graph.constant([0, 0, top, left, 0, 0, bottom, right], f"{window.name}/pads")
        mode = "wrap" if window.padding == "CIRCULAR" else "reflect"
        return graph.node("Pad", x, pads, name=f"{window.name}/pad", mode=mode), {}
    # Without a stride SAME is the same number at every size, and better said: not every runtime has auto_pad.
    if window.padding in SIZE_DEPENDENT and any(s > 1 and r > 1 for s, r in zip(window.strides, window.reach)):
        if max(window.kernel_dilation) > 1:
            raise UserError(
                f"{window.name} has strides, dilation and padding={window.padding!r}, which ONNX Runtime cannot do "
                "at once; padding='TORCH' can be exported"
            )
        return x, {"auto_pad": SIZE_DEPENDENT[window.padding]}
    (top, bottom), (left, right) = _sides(window)
    return x, {"pads": (top, left, bottom, right)}


def scales(program: Program) -> dict[int, Scale | None]:
    """The scale of every value that is a map of known scale, and None for others.

    >>> from dynet_jax.inference.program import MaxPool
    >>> scales(Program((MaxPool("pool", 0, 1, size=3, strides=2, padding="SAME"),), result=1, values={}))
    {0: (1, 1), 1: (2, 2)}
    """
    known: dict[int, Scale | None] = {IMAGES: (1, 1)}
    for operation in program.operations:
        known.update(dict.fromkeys(outputs(operation), _scale(operation, known)))
    return known


def _scale(operation: Operation, known: dict[int, Scale | None]) -> Scale | None:
    if isinstance(operation, Convolution | MaxPool | Pool):
        before, window = known[operation.x], window_of(operation)
        covers = window.padding in SIZE_DEPENDENT or all(
            sum(sides) == reach - 1 for sides, reach in zip(_sides(window), window.reach)
        )  # ceil(size / stride) positions; and ceil(ceil(n / a) / b) = ceil(n / (a * b))
        rows, columns = window.strides
        return (before[0] * rows, before[1] * columns) if covers and before is not None else None
    if isinstance(operation, Elementwise | Channels):
        return next((known[value] for value in operation.inputs if known[value] is not None), None)
    return None


def _sides(window: Window) -> Sequence[tuple[int, int]]:
    """Padding (before, after) of rows and of columns; of SAME, where there is no stride."""
    if window.padding in ("SAME", "CIRCULAR", "REFLECT"):
        return [((r - 1) // 2, r // 2) for r in window.reach]
    if window.padding == "SAME_LOWER":
        return [(r // 2, (r - 1) // 2) for r in window.reach]
    return fixed_padding(window.padding, window.reach)
