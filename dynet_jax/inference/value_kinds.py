"""What the values of a traced network are, by what they are made of: shapes do not say it.

Beside the kinds that the values of programs have, a trace has some that no operation of a program gives.
"""

from collections.abc import Sequence

from dynet_jax.inference.program import COEFFICIENTS, MAP, VECTOR, Convolution, MaxPool, Mean, Operation, Predictor
from dynet_jax.inference.traced import BATCH, CHANNELS, ONE, POSITIONS, Axes

SPREAD = "repeated vector"  # at every position, which is of use beside a map only
PART = "value without channels, or with grouped channels"
UNKNOWN = "unknown"


def kind_of(kind: str, axes: Axes) -> str:
    """Returns the kind of a value in a trace: that of the program's value, if it has the shape of one."""
    if kind not in (MAP, VECTOR):
        return kind
    if len(axes) not in (2, 4) or axes[0] != BATCH or axes[-1] not in (CHANNELS, ONE):
        return PART
    positions = axes[1:-1]
    if kind == VECTOR and set(positions) <= {ONE}:
        return VECTOR
    if positions != POSITIONS:
        return PART
    return MAP if kind == MAP else SPREAD


def kind_of_layer(operation: Operation, kinds: Sequence[str], shape: Sequence[int]) -> str | None:
    """Returns the kind of the result of a layer; None for a layer of something that it cannot be of."""
    x, *others = kinds
    if isinstance(operation, Convolution):
        if others != [COEFFICIENTS] * (operation.coefficients is not None):
            return None
        alone = x == VECTOR and operation.kernel.shape[:2] == shape[1:3] == (1, 1)
        return x if x == MAP or alone else None
    if isinstance(operation, MaxPool | Mean):
        return {MaxPool: MAP, Mean: VECTOR}[type(operation)] if x == MAP else None
    kind = COEFFICIENTS if isinstance(operation, Predictor) else x
    return kind if x in (MAP, VECTOR) else None


def common(kinds: Sequence[str]) -> str | None:
    """The kind of maps alone or of vectors alone."""
    return kinds[0] if set(kinds) in ({MAP}, {VECTOR}) else None
