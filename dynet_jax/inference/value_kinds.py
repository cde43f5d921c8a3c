"""What the values of a traced network are, by what they are made of: shapes do not say it.

A map may have one position in the trace, and more for another size of images; a vector never has. Beside the kinds that
the values of programs have, a trace has two that no operation of a program gives.
"""

from collections.abc import Sequence

from dynet_jax.inference.program import COEFFICIENTS, MAP, VECTOR, Convolution, MaxPool, Mean, Operation, Predictor

SPREAD = "repeated vector"  # at every position, which is of use beside a map only
UNKNOWN = "unknown"


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


def of_sum(kinds: Sequence[str], shapes: Sequence[Sequence[int]]) -> str | None:
    """Returns the kind of a sum or product of two vectors, or of a map and a value with its positions or none."""
    if MAP not in kinds:
        return common(kinds)
    of_map = all(shape[1:3] == shapes[-1][1:3] for kind, shape in zip(kinds, shapes) if kind == MAP)
    return MAP if of_map and set(kinds) <= {MAP, VECTOR, SPREAD} else None


def of_reshape(kind: str, before: tuple[int, ...], after: tuple[int, ...], params) -> str | None:
    """Returns the kind of a value whose axes of length 1 come, go or are repeated; None for any other change."""
    dimensions = params.get("broadcast_dimensions")
    kept = {2: (0, 3), 4: (0, 1, 2, 3)} if len(after) == 4 else {2: (0, 1)}
    if dimensions is not None and dimensions != kept.get(len(before)):
        return None
    if before == after:
        return kind
    batch, channels = before[0], before[-1]
    if kind != VECTOR or (after[0], after[-1]) != (batch, channels):
        return None
    if after in ((batch, channels), (batch, 1, 1, channels)):
        return VECTOR
    return SPREAD if dimensions is not None else None
