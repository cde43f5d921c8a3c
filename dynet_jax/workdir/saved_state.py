"""The content of a checkpoint: the form of the training state, and the part that is used outside training."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.workdir.integrity import Manifest, check_manifest

AVERAGES = "ema"  # the part of a state that, if present, is used instead of the trained variables
VARIABLES = ("params", "batch_stats")


class State(Protocol):
    """The state that training saves: a dataclass of pytrees (see `dynet_jax.train.state.TrainState`)."""

    step: jax.Array
    params: Any
    batch_stats: Any
    ema: Any
    coefficients: dict[str, jax.Array]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def replace(self, **changes) -> Self: ...


S = TypeVar("S", bound=State)


class SavedNetwork(NamedTuple):
    """The part of a checkpoint that is used outside training: the moving averages, or else the trained variables."""

    variables: dict[str, Any]
    step: int


def on_disk(state: State) -> dict:
    """Returns the saved fields of a state. Orbax needs the same containers for reading, including empty ones."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return fields if state.coefficients else {k: v for k, v in fields.items() if k != "coefficients"}


def as_it_was_kept(template: S, manifest: Manifest) -> S:
    """Returns the template with the saved running means of coefficients, which earlier versions did not have."""
    sharding = getattr(jax.tree.leaves(template)[0], "sharding", None)
    saved = {
        name.removeprefix("coefficients/"): jax.ShapeDtypeStruct(shape, np.dtype(kind), sharding=sharding)
        for name, (shape, kind, *_) in check_manifest(manifest).items()
        if name.startswith("coefficients/")
    }
    return template.replace(coefficients=saved)


def fits(coefficients: dict, template: dict) -> bool:
    return {k: v.shape for k, v in coefficients.items()} == {k: v.shape for k, v in template.items()}


def zeros(template):
    return jax.tree.map(lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), template)
