"""Builds the graph of an ONNX model node by node: names that are unique, constants that are stored once."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from dynet_jax.errors import UserError


def import_onnx() -> ModuleType:
    """The package `onnx`, which only exporting needs. Raises UserError, with the command that installs it."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise UserError("exporting to ONNX needs the package onnx: pip install onnx") from error
    return onnx


class Graph:
    """A graph that grows; `node` and `constant` return the name of the tensor that they add.

    A graph inside another one (`outer`) shares its names, because ONNX forbids that they repeat.

    >>> graph = Graph()
    >>> one = graph.constant(np.float32(1), "one")
    >>> graph.node("Add", "x", one, name="sum"), graph.node("Add", "x", one, name="sum")
    ('sum', 'sum_2')
    """

    def __init__(self, outer: "Graph | None" = None):
        self._onnx = import_onnx()
        self._names: set[str] = set() if outer is None else outer._names
        self._shared: dict[tuple, str] = {}
        self._initializers, self._nodes, self._described = [], [], []

    def node(self, kind: str, *inputs: str, name: str, **attributes) -> str:
        """A node with one output, which is called `name` or after it. An attribute that is None is left out."""
        return self.nodes(kind, *inputs, names=[name], **attributes)[0]

    def nodes(self, kind: str, *inputs: str, names: Sequence[str], **attributes) -> tuple[str, ...]:
        """A node with an output for each name."""
        outputs = tuple(map(self.reserve, names))
        self._append(kind, inputs, outputs, attributes)
        return outputs

    def result(self, kind: str, *inputs: str, name: str, **attributes) -> str:
        """A node whose output has just this name, which has been reserved before anything could take it."""
        self._append(kind, inputs, (name,), attributes)
        return name

    def _append(self, kind, inputs, outputs, attributes):
        given = {key: value for key, value in attributes.items() if value is not None}
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **given))

    def constant(self, value: np.ndarray | np.generic | Sequence[int], name: str) -> str:
        """An array of the file. Equal small ones (axes, bounds, shapes) are one."""
        array = np.asarray(value, order="C")
        key = (array.dtype, array.shape, array.tobytes()) if array.size <= 16 else None
        if key in self._shared:
            return self._shared[key]
        name = self.reserve(name)
        self._initializers.append(self._onnx.numpy_helper.from_array(array, name))
        if key is not None:
            self._shared[key] = name
        return name

    def describe(self, name: str, shape: Sequence[int | str]) -> None:
        """Say what is known of the shape of a float32 tensor; dimensions that are strings are equal if they read so."""
        self._described.append(self.tensor(name, np.float32, shape))

    def tensor(self, name: str, dtype: type, shape: Sequence[int | str]):
        """The ValueInfoProto of an input or output."""
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._onnx.helper.make_tensor_value_info(name, kind, shape)

    def reserve(self, name: str) -> str:
        """The name, with a number if it is taken."""
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique

    def build(self, name: str, inputs: Sequence, outputs: Sequence):
        """The GraphProto, for the ValueInfoProtos of its inputs and outputs."""
        return self._onnx.helper.make_graph(
            self._nodes, name, inputs, outputs, self._initializers, value_info=self._described
        )
