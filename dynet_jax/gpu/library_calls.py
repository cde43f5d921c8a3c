"""Calls out of a program that XLA has compiled for a GPU: of cuDNN, cuBLAS, and of kernels written by hand.

XLA's cost analysis cannot look into them and leaves them out. Bytes are those of operands and results, each once, and
without workspaces; operations follow from the shapes. Nothing here says that a library has a kernel for a call, or
that it reads every byte once.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from dynet_jax.compiled.hlo import Shape, bytes_of, shapes_in

TRITON = "__gpu$xla.gpu.triton"  # a Pallas kernel
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(?P<name>\S+) = (?P<shapes>\(.*?\)|\S+) (?P<operation>[\w-]+)\(")
_CALL = re.compile(r" custom-call\((?P<operands>[^)]*)\).*custom_call_target=\"(?P<target>[^\"]+)\"")
_LABELS = re.compile(r"dim_labels=\w+_(?P<kernel>\w+)->\w+")
_CONTRACTED = re.compile(r'"lhs_contracting_dimensions":(\[[^\]]*\])')


class LibraryCall(NamedTuple):
    """One call: its target, and what it works on."""

    target: str
    name: str
    operands: tuple[Shape, ...]
    results: tuple[Shape, ...]
    flops: float  # 2 per multiply-add; 0 where they are not known

    @property
    def bytes(self) -> int:
        """Returns what it reads and writes if every array moves once."""
        return sum(bytes_of(shape) for shape in (*self.operands, *self.results))


def find_library_calls(hlo: str) -> list[LibraryCall]:
    """Returns the calls in the text of a compiled program, in its order.

    >>> hlo = '''%x = bf16[8,16,16,32]{3,2,1,0} parameter(0)
    ... %w = bf16[64,3,3,32]{3,2,1,0} parameter(1)
    ... %y = (bf16[8,16,16,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convForward"'''
    >>> [call] = find_library_calls(hlo)
    >>> call.flops == 2 * (8 * 16 * 16 * 64) * (3 * 3 * 32), call.bytes
    (True, 430080)
    """
    return list(_calls(hlo))


def _calls(hlo: str) -> Iterator[LibraryCall]:
    shapes: dict[str, tuple[Shape, ...]] = {}
    for line in hlo.splitlines():
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        results = shapes[match["name"]] = shapes_in(match["shapes"])
        if match["operation"] == "custom-call" and (call := _CALL.search(line)):
            names = re.findall(r"%([\w.-]+)", call["operands"])
            operands = tuple(shape for name in names for shape in shapes.get(name, ()))
            flops = _flops(call["target"], operands, results, line)
            yield LibraryCall(call["target"], match["name"], operands, results, flops)


def _flops(target: str, operands: tuple[Shape, ...], results: tuple[Shape, ...], line: str) -> float:
    if "$conv" in target and (labels := _LABELS.search(line)):
        if "BackwardFilter" in target:
            output, kernel = operands[1], results[0]
        else:
            output, kernel = operands[0] if "BackwardInput" in target else results[0], operands[1]
        c_out = kernel[1][labels["kernel"].index("o")]
        return 2 * math.prod(output[1]) * math.prod(kernel[1]) / c_out
    if "__cublas" in target and (contracted := _CONTRACTED.search(line)):
        lhs = operands[0][1]
        return 2 * math.prod(results[0][1]) * math.prod(lhs[int(axis)] for axis in json.loads(contracted[1]))
    return 0.0
