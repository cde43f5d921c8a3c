"""What the engine has not, so that it is said before anything is run, and JAX can be used instead."""

from collections.abc import Mapping

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    IMAGES,
    MAP,
    VECTOR,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    MaxPool,
    Operation,
    Program,
    Value,
)
from dynet_jax.ops.maps import ACTIVATIONS
from dynet_jax.ops.window import fixed_padding, pool_padding

MAX_TAPS, MAX_GROUP_SIZE = 256, 16
FUNCTIONS = ("add", "multiply", "identity", *ACTIVATIONS)
PADDINGS = ("SAME", "VALID", "TORCH")
KINDS = {"MaxPool": "pooling", "Pool": "pooling", "Dense": "linear layer", "Channels": "choice of channels"}


def unknown(op: Operation, what: str = "") -> UserError:
    """Returns the error for an operation that the engine does not have. what: which, of its kind."""
    kind = op.function if isinstance(op, Elementwise) else KINDS.get(type(op).__name__, type(op).__name__.lower())
    return UserError(f"the native engine has no {f'{kind} {what}'.strip()} ({op.name}); use runtime='jax'")


def check_convolution(conv: Convolution, on_vector: bool) -> None:
    """Raises UserError for a window that there is not."""
    group_size, height, width = (conv.kernel.kernels if isinstance(conv.kernel, Bank) else conv.kernel[None]).shape[:3]
    if group_size > MAX_GROUP_SIZE or height * width > MAX_TAPS:
        raise unknown(conv, f"with kernels of {height}x{width}, {group_size} of them")
    _check_padding(conv, conv.padding)
    if not on_vector:
        return
    if isinstance(conv.kernel, Bank) or height * width > 1 or _pads(conv.padding):
        raise unknown(conv, "on a map of one position")
    if conv.feature_group_count != 1:
        raise unknown(conv, "in groups on a map of one position")


def check_image(op: Operation) -> None:
    """Raises UserError for what cannot read the image where maps are of bytes."""
    reads = IMAGES in op.inputs
    if reads and (isinstance(op, MaxPool | Channels | Elementwise) or getattr(op, "residual", None) is not None):
        raise unknown(op, "of images, in int8 arithmetic")


def reads_image_as_bytes(program: Program) -> bool:
    """Returns whether whatever reads the image of a program is a static convolution of all its channels.

    The image is then taken as it is, with pixels from 0 to 255; otherwise such layers are of floats.
    """
    return all(
        isinstance(op, Convolution) and not isinstance(op.kernel, Bank) and op.feature_group_count == 1
        for op in program.operations
        if IMAGES in op.inputs
    )


def check_function(op: Elementwise) -> None:
    """Raises UserError for a function of elements that there is not."""
    if op.constants or op.function not in FUNCTIONS:
        raise unknown(op, "with a constant" if op.constants else "of elements")


def check_pool(pool: MaxPool, values: Mapping[int, Value]) -> None:
    """Raises UserError for a window that there is not."""
    if values[pool.x].kind == VECTOR:
        raise unknown(pool, "of a map of one position")
    padding = pool_padding(pool.padding, pool.size)
    _check_padding(pool, padding)
    if padding != "SAME" and max(n for side in fixed_padding(padding, (pool.size,) * 2) for n in side) >= pool.size:
        raise unknown(pool, "of windows that see nothing but padding")


def check_channels(op: Operation, values: Mapping[int, Value], paired: bool) -> None:
    """Raises UserError for maps that do not go together. paired: see `lower`."""
    together = op.inputs if isinstance(op, Elementwise) else ()
    if isinstance(op, Convolution) and op.residual is not None:
        together = (op.y, op.residual)
    if len({values[value].channels for value in together}) > 1:
        what = op.function if isinstance(op, Elementwise) else "add"
        raise UserError(f"the native engine cannot {what} maps of different channels; use runtime='jax'")
    if isinstance(op, Channels):
        if len({values[value].kind for value in op.inputs}) > 1:
            raise unknown(op, "of a map and of a vector")
        if paired and values[op.y].kind == MAP and values[op.y].channels % 2:
            raise unknown(op, "that leaves an odd number of them, in bfloat16 arithmetic")


def check_result(program: Program, paired: bool) -> None:
    """Raises UserError unless the last operation's is the result: logits of images, or of every position."""
    last = program.operations[-1]
    if last.y != program.result or not isinstance(last, Dense | Convolution):
        raise UserError("the native engine runs networks that end with a layer for classes; use runtime='jax'")
    if paired and not program.is_vector(program.result):
        raise UserError("the native engine has no results with positions in bfloat16 arithmetic; use runtime='jax'")


def _check_padding(op: Convolution | MaxPool, padding) -> None:
    if isinstance(padding, str) and padding not in PADDINGS:
        raise unknown(op, f"with padding {padding!r}")


def _pads(padding) -> bool:
    return not isinstance(padding, str) and any(n for side in fixed_padding(padding, (1, 1)) for n in side)
