"""A digest of every array of a checkpoint, written when it is saved and compared when it is read.

Orbax writes checkpoints atomically, but reads one with changed bits without an error.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

DIGEST_BYTES = 16
Manifest = dict[str, Any]


class Damaged(Exception):
    """An error: a checkpoint differs from what was saved, as the message describes."""


def make_manifest(state) -> Manifest:
    """Returns the names, shapes, types and digests of all arrays of a state, and a digest of these entries.

    >>> manifest = make_manifest({"kernel": np.zeros((2, 3), np.float32)})
    >>> manifest["arrays"]["kernel"][:2]
    [[2, 3], 'float32']
    """
    values = jax.device_get(state)
    arrays = {name: [*_form(leaf), _digest(np.asarray(leaf))] for name, leaf in named_leaves(values).items()}
    return {"arrays": arrays, "digest": _digest_of_arrays(arrays)}


def check_manifest(manifest: Any) -> dict[str, list]:
    """Returns the entries of a manifest, name -> [shape, type, digest]. Raises Damaged if it is not intact."""
    try:
        arrays, digest = manifest["arrays"], manifest["digest"]
    except (TypeError, KeyError) as error:
        raise Damaged("its manifest is invalid") from error
    if digest != _digest_of_arrays(arrays):
        raise Damaged("its manifest has changed since it was saved")
    return arrays


def part_of(manifest: Manifest, names: Collection[str]) -> Manifest:
    """Returns the manifest of some of a state's fields, after a check. Raises Damaged if it is not intact."""
    arrays = {name: e for name, e in check_manifest(manifest).items() if name.partition("/")[0] in names}
    return {"arrays": arrays, "digest": _digest_of_arrays(arrays)}


def check_arrays(state, manifest: Manifest) -> None:
    """Raises Damaged, naming an array, unless the state is bit-identical to the one that the manifest was made from."""
    arrays = check_manifest(manifest)
    found = make_manifest(state)["arrays"]
    if found != arrays:
        changed = [name for name in sorted(found.keys() | arrays.keys()) if found.get(name) != arrays.get(name)]
        raise Damaged(f"{len(changed)} of {len(arrays)} arrays have changed since they were saved, first {changed[0]}")


def differences(state, manifest: Manifest) -> list[str]:
    """Returns a short text for each array of a state that differs from the saved one in name, shape or type."""
    saved = {name: _text(*entry[:2]) for name, entry in check_manifest(manifest).items()}
    wanted = {name: _text(*_form(leaf)) for name, leaf in named_leaves(state).items()}
    return [
        f"{name} (saved {saved.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')})"
        for name in sorted(saved | wanted)
        if saved.get(name) != wanted.get(name)
    ]


def named_leaves(tree) -> dict[str, Any]:
    """Returns {'params/stem/kernel': leaf, ...}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_key(key) for key in path): leaf for path, leaf in leaves}


def _key(key) -> str:
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))


def _form(leaf) -> list:
    return [list(leaf.shape), str(np.dtype(leaf.dtype))]


def _text(shape, dtype) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(
        np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=DIGEST_BYTES
    ).hexdigest()


def _digest_of_arrays(arrays) -> str:
    return hashlib.blake2b(json.dumps(arrays, sort_keys=True).encode(), digest_size=DIGEST_BYTES).hexdigest()
