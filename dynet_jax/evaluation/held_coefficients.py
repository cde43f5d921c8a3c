"""Evaluation of a dynamic network with coefficients other than those that it predicts from the image.

This is the direct test of whether a network uses them: if its accuracy is the same, it has learnt nothing from the
image that a static kernel could not represent.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dynet_jax.data.record import Source
from dynet_jax.data.subset import Subset, shuffled
from dynet_jax.devices import AXES, BATCH, REPLICATED
from dynet_jax.errors import UserError, suggest
from dynet_jax.evaluation.evaluate import device_batches, summarise
from dynet_jax.evaluation.placed import PlacedNetwork
from dynet_jax.layers.coefficients import per_image, predicted_coefficients, replaced_coefficients
from dynet_jax.ops.pixels import normalize

Coefficients = dict[str, jax.Array]

HELD = {
    "frozen": "each coefficient at its mean over the test images",
    "shuffled": "all coefficients of another test image, chosen at random",
    "half": "all coefficients at 0.5",
}


def evaluate_held(
    network: PlacedNetwork, variables: dict, source: Source, how: str, *, seed: int = 0
) -> dict[str, float]:
    """Returns the metrics of `dynet_jax.evaluation.evaluate.evaluate` with coefficients as described by `HELD`.

    'frozen' reads the images twice, once for the means. With 'shuffled', the coefficients come from an ordinary pass of
    another image, whose choice depends only on `seed`; an image counts if both can be decoded.
    Raises UserError for a static network, another `how`, or 'shuffled' with fewer than two images or sliding windows.
    """
    if how not in HELD:
        raise UserError(f"coefficients cannot be {how!r}; {suggest(how, HELD)}")
    layers = _layers(network, variables)
    if not layers:
        raise UserError(f"{network.config.model.name} is static: it has no coefficients to be {how}")
    if how != "half" and network.config.get("inference") == "slide":
        raise UserError(f"{how} coefficients are of whole images, not of windows; use --config.inference=whole")
    step = _make_step(network)
    if how == "shuffled":
        batches = _with_donors(network, source, seed)
        sums = [step(variables, None, batch, donors) for batch, donors in batches]
    else:
        held = (
            dict.fromkeys(layers, jnp.float32(0.5)) if how == "half" else mean_coefficients(network, variables, source)
        )
        sums = [step(variables, held, batch, None) for batch in device_batches(network, source)]
    return summarise(network, sums, source)


def mean_coefficients(network: PlacedNetwork, variables: dict, source: Source) -> Coefficients:
    """Returns the mean coefficients over the decodable images, {layer: [group_size, features or 1]}."""

    def step(variables, batch):
        coefficients = predicted_coefficients(network.model, variables, normalize(batch["image"], **network.pixels))
        mask = batch["mask"]
        sums = {n: jnp.einsum("b,b...->...", mask, per_image(v, len(mask))) for n, v in coefficients.items()}
        return lax.psum((sums, batch["mask"].sum()), AXES)

    step = _compiled(network, step, (REPLICATED, BATCH))
    batches = (step(variables, batch) for batch in device_batches(network, source))
    sums, examples = functools.reduce(functools.partial(jax.tree.map, jnp.add), batches)
    return jax.tree.map(lambda value: value / jnp.maximum(1.0, examples), sums)


def _layers(network: PlacedNetwork, variables: dict) -> list[str]:
    """Returns the names of the layers that have coefficients."""
    images = jnp.zeros((1, *network.task.blank(training=False)["image"].shape))
    return list(jax.eval_shape(lambda images: predicted_coefficients(network.model, variables, images), images))


def _make_step(network: PlacedNetwork) -> Callable:
    """Returns a function (variables, held coefficients or None, batch, donors or None) -> the task's sums."""

    def step(variables, held, batch, donors):
        if held is None:
            held = predicted_coefficients(network.model, variables, normalize(donors["image"], **network.pixels))
            batch = {**batch, "mask": batch["mask"] * donors["mask"]}

        def apply(images):
            with replaced_coefficients(held) as replaced:
                outputs = network.model.apply(variables, images, train=False)
            if left := sorted(held.keys() - replaced):
                raise UserError(
                    f"the coefficients of {', '.join(left[:3])} could not be replaced: is it within nn.scan?"
                )
            return outputs

        sums = network.task.evaluate(apply, normalize(batch["image"], **network.pixels), batch)
        return lax.psum({**sums, "examples": jnp.sum(batch["mask"])}, AXES)

    return _compiled(network, step, (REPLICATED, REPLICATED, BATCH, BATCH))


def _compiled(network: PlacedNetwork, step: Callable, in_specs) -> Callable:
    return jax.jit(jax.shard_map(step, mesh=network.layout.mesh, in_specs=in_specs, out_specs=REPLICATED))


def _with_donors(network: PlacedNetwork, source: Source, seed: int) -> Iterable[tuple]:
    """Returns batches in random order, each with the preceding images of that order as donors."""
    if len(source) < 2:
        raise UserError("coefficients of another image need two test images")
    order = shuffled(source, seed).indices
    streams = (device_batches(network, Subset(source, indices)) for indices in (order, np.roll(order, 1)))
    return zip(*streams, strict=True)
