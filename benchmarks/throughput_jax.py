"""The JAX side of `benchmarks.throughput`: the training step of the paper's recipe, and its network under `jax.jit`."""

import functools
import os
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.compiling import compile_all
from benchmarks.network_forms import every_dynamic_conv_by
from benchmarks.programs import Call, Programs
from dynet_jax.config.load import load_config
from dynet_jax.devices import make_layout, to_devices
from dynet_jax.measure.serve import serve
from dynet_jax.ops.pixels import normalize
from dynet_jax.train.compilation import steps_and_arguments
from dynet_jax.train.setup import Run, make_run
from dynet_jax.train.state import TrainState
from tests.models.smallest import random_variables

IMAGENET_IMAGES = 1_281_167  # learning rates are those of the first steps: the values stay finite


def describe() -> dict[str, str]:
    device = jax.devices()[0]
    return {"is": f"jax {jax.__version__} on {device.device_kind}", "runs_on": device.platform}


def prepare(cells: list[dict]) -> Iterator[tuple[str, Call | Exception]]:
    """Compiles all cells in parallel, because a GPU's compiler takes one core for each."""
    runs = {cell["name"]: make_cell_run(cell) for cell in cells}
    states = {name: random_state(run) for name, run in runs.items()}
    training = {cell["name"]: cell["pass"] == "training" for cell in cells}
    quick = {"xla_backend_optimization_level": 0} if any(cell["small"] for cell in cells) else {}
    steps = {name: _step(run, states[name], training[name]) for name, run in runs.items()}
    forms = {cell["name"]: cell["form"] for cell in cells}
    lowerings = {name: functools.partial(_lower, *step, forms[name]) for name, step in steps.items()}
    for name, compiled in compile_all(lowerings, **quick).items():
        if isinstance(compiled, Exception):
            yield name, compiled
        elif training[name]:
            yield name, _training(compiled, runs[name], states[name])
        else:
            yield name, _inference(compiled, runs[name], states[name])


def _lower(step, arguments: tuple, form: str) -> jax.stages.Lowered:
    with every_dynamic_conv_by(form):
        return step.lower(*arguments)


def make_cell_run(cell: dict) -> Run:
    """Returns the configuration's run on one device."""
    config = load_config(cell["network"]).unlock()
    config.batch_size = cell["batch"]
    config.data.image_size = config.data.resize_to = cell["image_size"]
    config.dtype = cell["dtype"]
    config.model.width = cell["width"]
    layout = make_layout(config.batch_size, config.bn_batch_size, devices=jax.devices()[:1])
    return make_run(config, max(IMAGENET_IMAGES, cell["batch"]), layout)


def random_state(run: Run) -> TrainState:
    """Returns a state like a new one, whose program would take longer to compile than the step."""
    template = run.state_template()
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    variables = random_variables(run.model, run.config.data.image_size)
    state = zeros.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    return jax.device_put(state, run.layout.replicated)


def random_batch(run: Run) -> dict[str, jax.Array]:
    rng, size, batch = np.random.default_rng(0), run.config.data.image_size, run.config.batch_size
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    labels = rng.integers(0, run.config.model.num_classes, batch).astype(np.int32)
    return to_devices({"image": images, "label": labels}, run.layout)


def _step(run: Run, state: TrainState, training: bool):
    if training:
        return steps_and_arguments(run, state, test_examples=run.config.batch_size, with_votes=False)[0]
    return make_predict_step(run.model, **run.pixels), (state.variables, random_batch(run)["image"])


def make_predict_step(model: nn.Module, *, mean, std) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns a function (variables, uint8 images) -> probabilities [batch, classes]."""
    return jax.jit(
        lambda variables, images: nn.softmax(model.apply(variables, normalize(images, mean, std), train=False))
    )


def _training(compiled, run: Run, state: TrainState) -> Call:
    batch = random_batch(run)

    def call(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = compiled(state, batch, run.rates(state.step))
        jax.block_until_ready((state, metrics))

    return call


def _inference(compiled, run: Run, state: TrainState) -> Call:
    variables, images = state.variables, random_batch(run)["image"]

    def call(count: int) -> None:
        for _ in range(count):
            probabilities = compiled(variables, images)
        jax.block_until_ready(probabilities)

    return call


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch has memory of its own
    jnp.zeros(()).block_until_ready()
    serve(Programs(prepare, describe).answer)
