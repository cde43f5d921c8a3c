"""The form of values in ONNX: a vector is [batch, channels], or [batch, channels, 1, 1], as an operation needs it."""

from collections.abc import Sequence

from dynet_jax.export.onnx_graph import Graph
from dynet_jax.inference.program import (
    IMAGES,
    Channels,
    Dense,
    Elementwise,
    Flatten,
    Mean,
    Operation,
    Predictor,
    Reduce,
)

COEFFICIENTS = 3  # their rank


class Forms:
    """The tensors of every value: of a vector there may be two, of rank 4 and of rank 2."""

    def __init__(self, graph: Graph, images: str):
        self._graph = graph
        self._tensors: dict[tuple[int, int], str] = {(IMAGES, 4): images}
        self._ranks: dict[int, int] = {IMAGES: 4}

    def add(self, values: Sequence[int], tensors: Sequence[str], rank: int) -> None:
        for value, tensor in zip(values, tensors):
            self._tensors[value, rank], self._ranks[value] = tensor, rank

    def inputs(self, operation: Operation) -> tuple[int, list[str]]:
        """(the rank of the result, the inputs in the form that the operation needs)"""
        ranks = [self._ranks[value] for value in operation.inputs]
        if isinstance(operation, Predictor):
            return COEFFICIENTS, [self._tensors[operation.x, ranks[0]]]
        of_channels = isinstance(operation, Reduce) and operation.groups is not None
        if isinstance(operation, Dense | Elementwise | Channels) or of_channels:
            rank = needed = 2 if isinstance(operation, Dense) else max(ranks)
        else:
            flat = isinstance(operation, Reduce | Flatten)
            needed, rank = 4, 2 if flat or (isinstance(operation, Mean) and not operation.keep_positions) else 4
        return rank, [
            self._tensors[value, own] if own == COEFFICIENTS else self.of_rank(value, needed)
            for value, own in zip(operation.inputs, ranks)
        ]

    def of_rank(self, value: int, rank: int) -> str:
        if (value, rank) not in self._tensors:
            tensor = self._tensors[value, self._ranks[value]]
            shape = self._graph.constant([0, -1] if rank == 2 else [0, -1, 1, 1], f"of_rank_{rank}")
            self._tensors[value, rank] = self._graph.node("Reshape", tensor, shape, name=f"{tensor}/of_rank_{rank}")
        return self._tensors[value, rank]

    def rank(self, value: int) -> int:
        return self._ranks[value]
