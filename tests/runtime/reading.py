"""A reader of the native format, written from docs/native_format.md alone and as slowly as it says."""

import math
import struct

import ml_dtypes
import numpy as np

FLOATS = {0: np.dtype(np.float32), 1: np.dtype(ml_dtypes.bfloat16), 2: np.dtype(np.int8)}


class Words:
    def __init__(self, file: bytes):
        self.file, self.at = file, 64
        (self.words,) = struct.unpack_from("<Q", file, 24)

    def i32(self, count=None):
        values = struct.unpack_from(f"<{count or 1}i", self.file, self.at)
        self.at += 4 * (count or 1)
        return values[0] if count is None else values

    def f32(self, count):
        values = struct.unpack_from(f"<{count}f", self.file, self.at)
        self.at += 4 * count
        return values

    def text(self):
        size = self.i32()
        text = self.file[self.at : self.at + size].decode()
        self.at += -(-size // 4) * 4
        return text

    def list(self):
        count = self.i32()
        return self.i32(count) if count else ()

    def array(self, dtype=FLOATS[0]):
        offset, size = struct.unpack_from("<QQ", self.file, self.at)
        self.at += 16
        assert offset % 64 == 0
        return np.frombuffer(self.file[offset : offset + size], dtype)

    def layer(self):
        inputs, outputs, storage = self.i32(3)
        return inputs, outputs, self.array(FLOATS[storage]), self.array(), self.array()


def read(file: bytes) -> tuple[dict, list[dict]]:
    """Returns the description and the operations of a file."""
    words = Words(file)
    about = {"name": words.text(), "numbers": words.i32(3), "mean": words.f32(3), "std": words.f32(3)}
    about["preprocessing"] = words.i32(6)
    about["classes"] = [words.text() for _ in range(words.i32())]
    about["values"], about["result"] = words.i32(2)
    operations = [_operation(words) for _ in range(words.i32())]
    assert words.at == 64 + 4 * words.words
    return about, operations


def _operation(words: Words) -> dict:
    kind = words.i32()
    op = {"kind": kind, "name": words.text()}
    if kind in (1, 2):
        op["window"] = words.i32(15)
        op["x"], op["y"], op["coefficients"], op["residual"], op["group_size"], op["storage"] = words.i32(6)
        at = words.at
        words.at += 48
        if kind == 1:
            op["mode"] = words.i32()
        else:
            op["to_floats"], op["padding"], op["requantization"] = words.i32(), words.i32(), words.f32(11)
        after, words.at = words.at, at
        static = {1: FLOATS[1] if op.get("mode") == 1 else FLOATS[0], 2: FLOATS[2]}[kind]
        op["weights"] = words.array(FLOATS[op["storage"]] if op["group_size"] else static)
        op["scales"], op["bias"] = words.array(), words.array()
        words.at = after
    elif kind == 3:
        op["x"], op["ys"], op["features"] = words.i32(), words.list(), words.list()
        op["group_size"], op["softmax"] = words.i32(2)
        op["limits"] = words.array()
        op["hidden"] = words.layer() if words.i32() else None
        op["output"] = words.layer()
    elif kind == 4:
        op["x"], op["y"], op["activation"] = words.i32(3)
        op["output"] = words.layer()
    elif kind == 5:
        op["x"], op["y"] = words.i32(2)
    elif kind == 6:
        op["inputs"] = words.list()
        op["y"], op["function"], op["bytes"] = words.i32(3)
        op["scale"] = words.f32(2)
    elif kind == 7:
        op["window"] = words.i32(15)
        op["x"], op["y"] = words.i32(2)
    else:
        assert kind == 8
        op["inputs"], op["y"], op["sources"] = words.list(), words.i32(), words.list()
    return op


def kernels_of_floats(op: dict) -> np.ndarray:
    """Returns [kernels, height, width, inputs of a group, outputs] of an operation of kind 1."""
    c_in, c_out, groups, height, width, *_ = op["window"]
    kernels, inputs, taps = max(1, op["group_size"]), c_in // groups, height * width
    each, most = {0: (1, 6), 1: (2, 6), 2: (1, 2)}[op["mode"]]
    parts = 1 if op["mode"] == 2 else groups
    result, at = np.zeros((kernels, taps, inputs, c_out), np.float32), 0
    for part in range(parts):
        for first in range(part * c_out // parts, (part + 1) * c_out // parts, most):
            w = min(most, (part + 1) * c_out // parts - first)
            chunk = math.lcm(w * each, 16)
            size = -(-inputs * taps * w // (chunk * each)) * chunk * each
            block = op["weights"][at : at + kernels * size].reshape(size // chunk, kernels, chunk)
            at += kernels * size
            for k in range(kernels):
                panel = block[:, k].ravel()[: inputs * taps * w].reshape(inputs // each, taps, w, each)
                result[k, ..., first : first + w] = panel.transpose(1, 0, 3, 2).reshape(taps, inputs, w)
    assert at == len(op["weights"])
    if len(op["scales"]):
        result *= op["scales"].reshape(kernels, 1, 1, c_out)
    return result.reshape(kernels, height, width, inputs, c_out)


def kernels_of_bytes(op: dict) -> np.ndarray:
    """Returns the same for kind 2: of a bank with its scales, of a static kernel the integers."""
    c_in, c_out, groups, height, width, *_ = op["window"]
    kernels, inputs, outputs, taps = op["group_size"], c_in // groups, c_out // groups, height * width
    unit = next((n for n in range(1, groups) if n * inputs % 4 == n * outputs % 4 == 0), groups)
    quads = _in_parts(-(-unit * inputs // 4), 1)
    row, rows = 4 * _in_parts(quads * taps, 4), -(-c_out // 4) * 4
    weights = op["weights"].astype(np.float32)
    if not kernels:
        weights = weights.reshape(rows, 1, row)
    elif op["storage"] == 2:
        weights = (
            weights.reshape(rows, row // 16, -1, 16, 2).transpose(0, 2, 4, 1, 3).reshape(rows, -1, row)[:, :kernels]
        )
    else:
        weights = weights.reshape(rows, row // 16, kernels, 16).transpose(0, 2, 1, 3).reshape(rows, kernels, row)
    result = np.zeros((max(1, kernels), taps, inputs, c_out), np.float32)
    for output in range(c_out):
        own = weights[output, :, : taps * quads * 4].reshape(-1, taps, quads * 4)
        start = output // outputs % unit * inputs
        result[..., output] = own[..., start : start + inputs]
        assert np.count_nonzero(own) == np.count_nonzero(result[..., output])
    assert not weights[c_out:].any()
    if kernels and len(op["scales"]):
        result *= op["scales"].reshape(kernels, 1, 1, c_out)
    return result.reshape(-1, height, width, inputs, c_out)


def _in_parts(quads: int, multiple: int) -> int:
    """Equal parts of at most 16, multiples of a number."""
    parts = -(-quads // 16)
    return -(-quads // (parts * multiple)) * parts * multiple
