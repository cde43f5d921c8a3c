"""Finding the weights of a network in a PyTorch checkpoint, by the names of tensors and whatever wraps them."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from dynet_jax.errors import UserError
from dynet_jax.models.torch_files import Foreign

AVERAGES = re.compile(r"(?<![a-z0-9])(ema|averag(e|es|ed|ing)|shadow|swa)(?![a-z])", re.IGNORECASE)  # whole words
TRANSPARENT = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # PyTorch's wrappers of modules
STATISTICS = (".running_mean", ".running_var")
NO_WEIGHTS = ("num_batches_tracked", "n_averaged")
DEPTH = 8  # maximal depth of nested containers
Names: TypeAlias = Collection[str]


class Weights(NamedTuple):
    """The tensors of one network in a checkpoint, by their names in it.

    Attributes:
      name: the path to them, such as 'state_dict.model'; '' if they are not wrapped.
      left: names of tensors beside them that belong to something else.
    """

    name: str
    tensors: dict[str, Any]
    left: tuple[str, ...] = ()


def find_weights(content: Any, schemes: Collection[Names], choice: str | None = None) -> tuple[Weights, str]:
    """Returns the weights of a network in a file's content, and a message about the choice if there was one.

    Args:
      schemes: for each library that has the network, the names of its layers in PyTorch, from the first layer on.
      choice: the name of the weights to use, of several. None uses the only ones, or the only moving averages.
    Raises UserError if there are none, or several and no choice.
    """
    states = dict(_state_dicts(content, ()))
    nameless = [name for name, state in states.items() if all(map(str.isdecimal, state))]  # lists of tensors
    states = {name: state for name, state in states.items() if name not in nameless}
    if not states:
        if not isinstance(content, Mapping):
            raise UserError(f"there is no state dict, but {type(content).__name__.lower()}")
        there = ", ".join(str(key) for key in list(content)[:5]) or "nothing"
        raise UserError(f"there are no tensors with names, but {there}; NumPy's arrays are read from np.savez's files")
    found = max((_fitting(states, layers) for layers in schemes), key=lambda fits: fits[0])[1]
    chosen = _chosen(found, choice)
    others = [other.name for other in found if other is not chosen]
    chosen, remarks = _with_statistics(chosen, found)
    lists = [repr(name) for name in nameless if AVERAGES.search(name)]
    if lists:
        remarks.append(f"left out: averages without names, {', '.join(lists)}")
    return chosen, _said(chosen, others, remarks)


def _with_statistics(chosen: Weights, found: list[Weights]) -> tuple[Weights, list[str]]:
    """Returns averages that have parameters only, with BatchNorm's statistics of the raw weights, and messages."""
    raw = next((weights for weights in found if not _is_average(weights)), None)
    if raw is None or not _is_average(chosen):
        return chosen, []
    lent = {n: t for n, t in raw.tensors.items() if n.endswith(STATISTICS) and n not in chosen.tensors}
    said = [f"with BatchNorm's statistics of {_place(raw)}"] if lent else []
    return chosen._replace(tensors=chosen.tensors | lent), said


def _fitting(states: Mapping[str, Mapping[str, Any]], layers: Names) -> tuple[int, list[Weights]]:
    """Returns how many of the layers are present, and the weights that have most of them, or else the largest state."""
    found = [weights for name, state in states.items() for weights in _below_prefixes(name, state, layers)]
    counts = [_count(weights.tensors, "", layers) for weights in found]
    fitting = [weights for weights, count in zip(found, counts) if 2 * count > max(counts)]
    return max(counts), fitting or [max(found, key=lambda weights: len(weights.tensors))]


def _chosen(found: list[Weights], choice: str | None) -> Weights:
    if choice is not None:
        fitting = [w for w in found if w.name == choice] or [w for w in found if w.name.startswith(f"{choice}.")]
    elif len(found) == 1:
        fitting = found
    else:
        fitting = list(filter(_is_average, found))
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(map(_place, found))
    if choice is None:
        raise UserError(f"there are several weights of this network: {names}; choose by --state-dict=NAME")
    if len(found) == 1:
        raise UserError(f"there is no choice by --state-dict: the only weights of this network are {names}")
    raise UserError(f"--state-dict={choice} is not one of the weights of this network, which are {names}")


def _is_average(weights: Weights) -> bool:
    return AVERAGES.search(weights.name) is not None


def _place(weights: Weights) -> str:
    return repr(weights.name) if weights.name else "'' (outside of any wrapping)"


def _said(chosen: Weights, others: list[str], remarks: list[str]) -> str:
    averages = "the moving averages " if _is_average(chosen) else ""
    said = [f"weights: {averages}{chosen.name!r}" if chosen.name else "weights: those outside of any wrapping"]
    if others:
        said.append(f"--state-dict={others[0]} takes {', '.join(map(repr, others))} instead")
    if chosen.left:
        said.append(f"left out: {len(chosen.left)} tensors beside them, such as {chosen.left[0]}")
    said += remarks
    return "; ".join(said) if chosen.name or said[1:] else ""


def _state_dicts(content: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields all mappings and lists that hold tensors, with the path to them; a pickled module counts as one."""
    if isinstance(content, Foreign) and isinstance(content.state, Mapping):
        content = dict(_of_module(content, "")) or content.state
    if isinstance(content, list | tuple) and not hasattr(content, "_fields"):  # a tensor is a named tuple
        content = {str(index): value for index, value in enumerate(content)}
    if not isinstance(content, Mapping) or len(path) > DEPTH:
        return
    content = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {_unwrapped(name): value for name, value in content.items() if hasattr(value, "shape")}
    if tensors:
        yield ".".join(path), tensors
    for name, value in content.items():
        yield from _state_dicts(value, (*path, name))


def _of_module(module: Foreign, prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the parameters and buffers of a module that was pickled whole."""
    state = module.state
    if not isinstance(state, Mapping) or depth > 4 * DEPTH:
        return
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if hasattr(value, "shape"):
                yield prefix + name, value
    for name, inner in (state.get("_modules") or {}).items():
        if isinstance(inner, Foreign):
            yield from _of_module(inner, f"{prefix}{name}.", depth + 1)


def _below_prefixes(name: str, state: Mapping[str, Any], layers: Names) -> list[Weights]:
    """Returns the networks of a state dict; each has its own prefix of names, such as 'module.' or 'ema_model.'."""
    first = next(iter(layers)) + ".weight"
    ends = [key.removesuffix(first) for key in state if key.endswith(first)]
    counts = {end: _count(state, end, layers) for end in ends if not end or end.endswith(".")}
    prefixes = [end for end, count in counts.items() if 2 * count > max(counts.values())] or [""]
    state = {key: value for key, value in state.items() if not key.endswith(NO_WEIGHTS)}
    found = []
    for prefix in prefixes:
        nested = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        own = {k: v for k, v in state.items() if k.startswith(prefix) and not (nested and k.startswith(nested))}
        left = tuple(k for k in state if k not in own and not k.startswith(tuple(p for p in prefixes if p)))
        tensors = {key.removeprefix(prefix): value for key, value in own.items()}
        found.append(Weights(".".join(filter(None, (name, prefix.rstrip(".")))), tensors, left))
    return found


def _count(state: Mapping[str, Any], prefix: str, layers: Names) -> int:
    return sum(f"{prefix}{layer}.weight" in state for layer in layers)


def _unwrapped(name: str) -> str:
    """Returns the name without the wrappers of PyTorch's modules.

    >>> _unwrapped("_orig_mod.layer1._orig_mod.0.conv1.weight")
    'layer1.0.conv1.weight'
    """
    return ".".join(part for part in name.split(".") if part not in TRANSPARENT)
