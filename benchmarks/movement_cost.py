"""What it costs to measure the movement of coefficients in every training step.

    python -m benchmarks.movement_cost configs/dy_mobile.py:cifar10 --config.model.width=0.5

times the training step of a configuration as it is, and without that measurement, in turns on the first device and with
blank images, and prints the median of the ratios of neighbouring turns.
"""

import contextlib
import statistics
import sys
from collections.abc import Callable
from unittest import mock

import jax

from benchmarks.arguments import make_parser, positive
from benchmarks.console import progress
from benchmarks.timing import timed
from dynet_jax.cli.parsing import overrides, report_mistakes
from dynet_jax.config.load import check_config, load_config, override
from dynet_jax.train import step as training
from dynet_jax.train.compilation import steps_and_arguments
from dynet_jax.train.distributed import make_layout, to_devices
from dynet_jax.train.setup import Run, make_run


def compiled_step(run: Run, *, measured: bool) -> Callable:
    """A training step on blank images that carries its state from call to call."""
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
        state, metrics = compiled(state, batch)
        return jax.device_get(metrics)  # as training does, a step later

    return call


def ratios(run: Run, turns: int) -> list[float]:
    """Seconds of the measured step over those of the other, of neighbouring turns."""
    measured, plain = (compiled_step(run, measured=measured) for measured in (True, False))
    timed(measured, 3), timed(plain, 3)
    pairs = []
    for turn in range(turns):
        first, second = (measured, plain) if turn % 2 else (plain, measured)
        seconds = {first: timed(first, 3), second: timed(second, 3)}
        pairs.append(seconds[measured] / seconds[plain])
        progress(f"turn {turn + 1} of {turns}: {1000 * seconds[plain]:.1f} ms, ratio {pairs[-1]:.4f}")
    return pairs


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
    low, _, high = statistics.quantiles(found, n=4)
    print(f"with the measurement / without: {statistics.median(found):.4f} (quartiles {low:.4f} and {high:.4f})")
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("movement_cost", main))
