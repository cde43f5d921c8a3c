"""The cost of measuring the movement of coefficients in every training step.

    python -m benchmarks.movement_cost configs/dy_mobile.py:cifar10 --config.model.width=0.5

times the training step of a configuration with and without that measurement, in alternation, on the first device and
with blank images, and prints the median of the ratios of neighbouring calls.
"""

import contextlib
import functools
import sys
from collections.abc import Callable
from unittest import mock

import jax

from benchmarks.arguments import make_parser, positive
from dynet_jax.arguments import overrides, report_mistakes
from dynet_jax.config.load import check_config, load_config, override
from dynet_jax.console import say
from dynet_jax.devices import make_layout, to_devices
from dynet_jax.measure.turns import Turns, quartiles, timed
from dynet_jax.train import step as training
from dynet_jax.train.compilation import steps_and_arguments
from dynet_jax.train.setup import Run, make_run


def compiled_step(run: Run, *, measured: bool) -> Callable:
    """Returns a training step on blank images that carries its state from call to call."""
    state = run.fresh_state()
    watching = contextlib.nullcontext()
    if not measured:
        state = state.replace(coefficients={})
        watching = mock.patch.object(training, "sown_coefficients", contextlib.nullcontext)
    with watching:
        (step, arguments), _ = steps_and_arguments(run, state, 1, with_votes=False)
        compiled = step.lower(*arguments).compile()
    blank = run.task.blank(training=True)
    batch = {key: value[None].repeat(run.config.batch_size, axis=0) for key, value in blank.items()}
    batch = to_devices(batch, run.layout)

    def call():
        nonlocal state
        state, metrics = compiled(state, batch, run.rates(state.step))
        return jax.device_get(metrics)  # as training does, a step later

    return call


def ratios(run: Run, rounds: int) -> list[float]:
    """Returns ratios of seconds of the measured step and the other, of neighbouring calls."""
    calls = {name: compiled_step(run, measured=name == "measured") for name in ("plain", "measured")}
    samples = {name: functools.partial(timed, call, 3) for name, call in calls.items()}
    for sample in samples.values():
        sample()  # what is allocated or tuned at the first steps
    turns = Turns(say=say)

    def after(number: int) -> None:
        milliseconds, ratio = 1000 * turns.seconds["plain"][number], turns.ratios("measured", "plain")[-1]
        say(f"turn {number + 1} of {rounds}: {milliseconds:.1f} ms, ratio {ratio:.4f}")

    turns.take(samples, rounds, after=after)
    return turns.ratios("measured", "plain")


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("movement_cost", __doc__)
    parser.add_argument("config", metavar="FILE[:VARIANT]")
    parser.add_argument("--turns", type=positive(int), default=20)
    options, rest = parser.parse_known_args(arguments)
    config = load_config(options.config)
    override(config, overrides(rest))
    check_config(config)
    layout = make_layout(config.batch_size, config.bn_batch_size, devices=jax.devices()[:1])
    found = ratios(make_run(config, 100 * config.batch_size, layout), options.turns)
    low, median, high = quartiles(found)
    print(f"with the measurement / without: {median:.4f} (quartiles {low:.4f} and {high:.4f})")
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("movement_cost", main))
