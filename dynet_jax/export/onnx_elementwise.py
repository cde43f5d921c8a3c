"""Functions of each element in ONNX."""

from collections.abc import Sequence

import numpy as np

from dynet_jax.export.onnx_graph import Graph
from dynet_jax.inference.program import Elementwise

NODES = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max", "minimum": "Min",
    "power": "Pow", "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less",
    "less_equal": "LessOrEqual", "equal": "Equal", "logical_and": "And", "logical_or": "Or", "logical_not": "Not",
    "where": "Where", "exp": "Exp", "log": "Log", "tanh": "Tanh", "erf": "Erf", "sqrt": "Sqrt", "abs": "Abs",
    "negative": "Neg", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "sin": "Sin", "cos": "Cos",
    "identity": "Identity",
}  # fmt: skip
ONE = np.float32(1)


def elementwise(graph: Graph, operation: Elementwise, inputs: Sequence[str], rank: int) -> str:
    """Adds the nodes of a function that is no activation, of inputs of a rank; returns the result's name."""
    name, function, left = operation.name, operation.function, iter(inputs)
    constants = operation.constants or (None,) * len(inputs)
    operands = [
        next(left) if constant is None else graph.constant(_channels_first(constant, rank), f"{name}/constant")
        for constant in constants
    ]
    if function == "square":
        return graph.node("Mul", *operands, *operands, name=name)
    if function == "rsqrt":
        return graph.node("Reciprocal", graph.node("Sqrt", *operands, name=f"{name}/sqrt"), name=name)
    if function == "not_equal":
        return graph.node("Not", graph.node("Equal", *operands, name=f"{name}/equal"), name=name)
    if function == "erfc":
        return graph.node(
            "Sub", graph.constant(ONE, "1.0"), graph.node("Erf", *operands, name=f"{name}/erf"), name=name
        )
    if function == "expm1":
        return graph.node(
            "Sub", graph.node("Exp", *operands, name=f"{name}/exp"), graph.constant(ONE, "1.0"), name=name
        )
    if function == "log1p":
        return graph.node(
            "Log", graph.node("Add", *operands, graph.constant(ONE, "1.0"), name=f"{name}/plus"), name=name
        )
    return graph.node(NODES[function], *operands, name=name)


def _channels_first(constant: np.ndarray, rank: int) -> np.ndarray:
    """[], [channels] or [height, width, channels], beside a tensor of that rank."""
    if constant.ndim == 3:
        return constant.transpose(2, 0, 1)
    return constant.reshape(-1, 1, 1) if constant.ndim == 1 and rank == 4 else constant
