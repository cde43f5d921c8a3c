"""Whole training steps of Dy-mobile, with every dynamic convolution in one form."""

import argparse
import math
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax

from benchmarks.console import table_head, table_row, three_digits
from benchmarks.network_forms import every_dynamic_conv_by
from benchmarks.timing import Timing, random_array, time_in_turns
from dynet_jax import create_model
from dynet_jax.console import say
from dynet_jax.measure.failures import what_failed


def step_table(forms: list[str], arguments: argparse.Namespace) -> Iterator[str]:
    """Returns lines of Markdown with a row per form."""
    compile_seconds, calls, failures = {}, {}, {}
    for form in forms:
        say(f"compiling the training step with {form}")
        try:
            calls[form], compile_seconds[form] = compiled_step(form, arguments)
        except jax.errors.JaxRuntimeError as error:
            failures[form] = Timing(math.nan)
            say(f"  {form} failed: {what_failed(error)}")
    say("timing the training steps")
    timings = failures | time_in_turns(calls, arguments.repeats, arguments.once_above)
    yield from table_head("form", numbers=["compile s", "step ms", "ratio"])
    for form in forms:
        compilation = three_digits(compile_seconds[form]) if form in compile_seconds else "failed"
        yield table_row(form, compilation, *timings[form].cells(timings[forms[0]]))


def compiled_step(form: str, arguments: argparse.Namespace) -> tuple[Callable, float]:
    """Returns a training step that carries its state from call to call, and its compilation time in seconds."""
    size = arguments.image_size
    model = create_model(
        "fix_mobile" if form == "static" else "dy_mobile",
        num_classes=10,
        width=arguments.width,
        small_input=arguments.small_input,
    )
    optimizer = optax.sgd(0.01, momentum=0.9)
    batch = arguments.batch[0]
    images = random_array((batch, size, size, 3))
    labels = jnp.arange(batch) % 10
    # Values that serve for timing; the network's own initialisation would take longer to compile than the step.
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: 0.1 * jnp.abs(random_array(leaf.shape)), shapes)
    state = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))

    def loss(params, batch_stats, images, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), updated["batch_stats"]

    def step(state, images, labels):
        params, batch_stats, momentum = state
        gradients, batch_stats = jax.grad(loss, has_aux=True)(params, batch_stats, images, labels)
        updates, momentum = optimizer.update(gradients, momentum, params)
        return optax.apply_updates(params, updates), batch_stats, momentum

    start = time.perf_counter()
    with every_dynamic_conv_by(form):
        compiled = jax.jit(step, donate_argnums=0).lower(state, images, labels).compile()
    seconds = time.perf_counter() - start

    def call():
        nonlocal state
        state = compiled(state, images, labels)
        return state

    return call, seconds
