"""The real training and evaluation steps of a configuration, compiled for devices that are not there."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from dynet_jax.compiled.machine import Machine
from dynet_jax.compiled.program import CompiledProgram
from dynet_jax.compiled.traced import TracedKernel, traced_kernels
from dynet_jax.config.load import check_config
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError, one_line
from dynet_jax.ops.backend import tracing_for
from dynet_jax.train.compilation import steps_and_arguments
from dynet_jax.train.setup import make_run

# Their numbers only determine the size of an evaluation's batch.
TRAIN_EXAMPLES, TEST_EXAMPLES = 1_281_167, 50_000

Read = Callable[[Any, list[TracedKernel], float], CompiledProgram]  # a `jax.stages.Compiled` and what it took


class Steps(NamedTuple):
    """Both programs of a run, and what they work on."""

    training: CompiledProgram
    evaluation: CompiledProgram
    batch_size: int
    images_per_device: int  # at once: of a micro-batch
    hosts: int
    gradients: int  # bytes, in float32
    statistics: int  # bytes of BatchNorm's running means and variances
    coefficients: int = 0  # bytes of all coefficients of one image, whose sums are measured

    @property
    def undue_exchanges(self) -> int:
        """Bytes that a training step sums beyond what it has to; a few are its metrics and the vote on stopping.

        What it has to: every gradient, and in each BatchNorm two sums forward, two backward, and the statistics at the
        end. Where a device has BatchNorm's whole group of images, less. And a sum for every coefficient.
        """
        _, summed = self.training.collectives_by_kind.get("all-reduce", (0, 0))
        return max(0, summed - self.gradients - 3 * self.statistics - self.coefficients)


def compile_steps_for(
    config: ml_collections.ConfigDict,
    machine: Machine,
    devices: Sequence[Any],
    backend: str,
    read: Read,
    progress: Callable[[str], None],
) -> Steps:
    """Compiles both steps of a configuration for devices, and calls `progress` as each begins.

    backend: that the devices have, 'tpu' or 'gpu'. read: makes the facts of a compiled program.
    Raises UserError if its batch does not fit the devices or their memory.
    """
    check_config(config)
    layout = make_layout(config.batch_size, config.bn_batch_size, config.accumulation_steps, devices)
    hosts = len({device.process_index for device in devices})
    with tracing_for(backend, devices[0].device_kind):
        run = make_run(config, max(TRAIN_EXAMPLES, config.batch_size), layout)
        template = run.state_template()
        steps = steps_and_arguments(run, template, TEST_EXAMPLES, with_votes=hosts > 1)
        programs = []
        for name, (step, arguments) in zip(("training", "evaluation"), steps, strict=True):
            progress(f"the {name} step ...")
            programs.append(_compile(step, arguments, machine, read))
    training, evaluation = programs
    training = training._replace(rounds=config.accumulation_steps)
    summed = (
        sum(4 * leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (template.params, template.batch_stats, template.coefficients)
    )
    return Steps(training, evaluation, config.batch_size, layout.micro_batch, hosts, *summed)


def _compile(step, arguments, machine: Machine, read: Read) -> CompiledProgram:
    start = time.perf_counter()
    try:
        with traced_kernels() as kernels:
            lowered = step.lower(*arguments)
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or "vmem" in str(error):  # VMEM is not the user's to mend
            raise
        raise UserError(does_not_fit(machine, one_line(error, limit=200))) from error
    return read(compiled, kernels, time.perf_counter() - start)


def does_not_fit(machine: Machine, why: str) -> str:
    """Returns the line for a step that needs more memory than a device has."""
    return (
        f"it does not fit in the {machine.memory_bytes / 1e9:.0f} GB of a device of {machine.name} ({why}); use more "
        "devices, a smaller --config.batch_size, or --config.accumulation_steps"
    )
