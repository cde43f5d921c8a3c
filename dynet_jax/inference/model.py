"""A network that is ready to be used: images in, probabilities out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.console import warn
from dynet_jax.errors import UserError, one_line, suggest
from dynet_jax.inference import run_jax
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.fold import fold
from dynet_jax.inference.native.engine import Engine
from dynet_jax.inference.program import Convolution, Dense, Operation, Predictor, Program
from dynet_jax.inference.record import record
from dynet_jax.machine import cores
from dynet_jax.ops.pixels import normalize
from dynet_jax.train.restore import load_workdir
from dynet_jax.workdir.files import read_class_names

Runtime = Literal["auto", "native", "jax"]
RUNTIMES = ("auto", "native", "jax")
ARITHMETIC = ("float32", "bfloat16")


class Preprocessing(NamedTuple):
    """What the network was trained on: the shorter side is resized to `resize_to`, the central square cut out.

    mean, std: of the pixels of each channel, in units of 0..255.
    """

    image_size: int
    resize_to: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class InferenceModel:
    """A callable network. One kernel is fused for each image; a batch may have any number of images of any size.

    Attributes:
      program: what is computed, with the banks as they are stored.
      preprocessing: see `Preprocessing`; a call normalises, but neither resizes nor crops.
      class_names: of the outputs, or empty.
      runtime: 'native' or 'jax', what is used.
      engine: of the native runtime, or None.
    """

    def __init__(
        self,
        program: Program,
        preprocessing: Preprocessing,
        class_names: Sequence[str] = (),
        *,
        runtime: Runtime = "auto",
        storage: str = "float32",
        arithmetic: str = "float32",
        threads: int | None = None,
    ):
        """See `load` for the arguments.

        Raises UserError where the runtime cannot be had, and for another number of class names than outputs.
        """
        if runtime not in RUNTIMES:
            raise UserError(f"unknown runtime {runtime!r}; {suggest(runtime, RUNTIMES)}")
        if arithmetic not in ARITHMETIC:
            raise UserError(f"unknown arithmetic {arithmetic!r}; {suggest(arithmetic, ARITHMETIC)}")
        if threads is not None and threads < 1:
            raise UserError(f"threads must be positive, not {threads}")
        outputs = program.values[program.result].channels
        if len(class_names) not in (0, outputs):
            raise UserError(f"there are {len(class_names)} class names for a network of {outputs} outputs")
        self.program = stored_as(program, storage)
        self.preprocessing, self.class_names = preprocessing, list(class_names)
        self.engine = None
        if runtime == "native" or (runtime == "auto" and jax.default_backend() == "cpu"):
            options = {"threads": threads or len(cores()), "storage": storage, "arithmetic": arithmetic}
            try:
                self.engine = Engine(program, mean=preprocessing.mean, std=preprocessing.std, **options)
            except UserError as error:
                if runtime == "native":
                    raise
                warn(f"JAX is used instead, which is several times slower for single images: {error}")
        if self.engine is None and arithmetic != "float32":
            raise UserError(f"{arithmetic} arithmetic is the native engine's; use runtime='native'")
        self.runtime = "jax" if self.engine is None else "native"
        self._logits = self.engine or _in_jax(self.program, preprocessing)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """[batch, height, width, 3] uint8, or float32 from 0 to 255 -> [batch, classes] float32.

        Raises UserError for another shape, type or range, and for images that are smaller than the network's strides.
        """
        images = np.asarray(images)
        if images.dtype not in (np.uint8, np.float32):
            raise UserError(f"images must be uint8, or float32 from 0 to 255, not {images.dtype}")
        if images.dtype == np.float32 and 0 < np.max(images, initial=0.0) <= 1:
            raise UserError("these images are from 0 to 1; they must be uint8, or float32 from 0 to 255")
        if images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"images must be [batch, height, width, 3], not {images.shape}")
        size, smallest = images.shape[1:3], self.program.strides
        if any(has < needs for has, needs in zip(size, smallest)):
            raise UserError(
                f"images of {size[0]}x{size[1]} are too small for this network; it takes those from "
                f"{smallest[0]}x{smallest[1]} on"
            )
        return np.asarray(self._logits(images))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[batch, height, width, 3] uint8 -> probabilities [batch, classes] float32."""
        logits = self.logits(images)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


def load(
    workdir: Path | str,
    *,
    step: int | str | None = None,
    runtime: Runtime = "auto",
    storage: str = "float32",
    arithmetic: str = "float32",
    threads: int | None = None,
) -> InferenceModel:
    """The trained network of a work directory.

    Args:
      workdir: of `train.py` or `dynet import-torch`.
      step: of the checkpoint, or 'best'; the newest if None.
      runtime: 'native' is the engine in C++ for CPUs, compiled at its first use; 'jax' runs on every device; 'auto' is
        'native' where JAX has no accelerator and there is a compiler.
      storage: of the banks, 'float32', 'bfloat16' or 'int8' (with a scale for each kernel and output channel). What is
        smaller is faster for single images, which wait for the bank; `native` stores predictors and classifier so too.
      arithmetic: of the native engine, 'float32' or 'bfloat16': maps and kernels are rounded, and products summed in
        float32. It is for processors that have such instructions (AVX512_BF16); others take longer than for float32.
      threads: of the native engine; all cores by default.
    Raises:
      UserError: if there is no whole checkpoint, or the runtime cannot be had.
    """
    workdir = Path(workdir)
    run, state = load_workdir(workdir, devices=jax.devices()[:1], step=step)
    if run.config.task != "classification":
        raise UserError(
            f"{workdir} holds a network for {run.config.task}; only classifiers can be loaded for inference"
        )
    data = run.config.data
    preprocessing = Preprocessing(data.image_size, data.resize_to, tuple(data.mean), tuple(data.std))
    program = program_of(run.model, jax.device_get(state.averaged_variables), data.image_size)
    options = {"runtime": runtime, "storage": storage, "arithmetic": arithmetic, "threads": threads}
    return InferenceModel(program, preprocessing, read_class_names(workdir), **options)


def program_of(model: nn.Module, variables: dict, image_size: int) -> Program:
    """The folded program of a network, in float32.

    Raises UserError for a network with an operation that programs do not have (see `record`).

    >>> from dynet_jax import create_model
    >>> model = create_model("dy_mobile", width=0.1, num_classes=10)
    >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> sum(isinstance(operation, Convolution) for operation in program_of(model, variables, 32).operations)
    53
    """
    plain = {"dtype": jnp.float32, "remat": False, "bn_axis_name": None}
    fields = {key: value for key, value in plain.items() if hasattr(model, key)}
    return fold(record(model.clone(**fields), variables, image_size))


def stored_as(program: Program, storage: str) -> Program:
    """The same program with its banks rounded.

    Raises UserError for a storage that there is not, and for one that cannot hold weights of some layer.
    """
    Bank(np.zeros((1, 1, 1, 1, 1), np.float32)).stored_as(storage)  # a static network is as strict
    return program._replace(operations=tuple(_stored_as(operation, storage) for operation in program.operations))


def _stored_as(operation: Operation, storage: str) -> Operation:
    try:
        if isinstance(operation, Convolution) and isinstance(operation.kernel, Bank):
            return operation._replace(kernel=operation.kernel.stored_as(storage))
        if isinstance(operation, Predictor | Dense):  # the engine stores them so too
            layers = (operation.output, operation.hidden) if isinstance(operation, Predictor) else ([operation.kernel],)
            for kernel, *_ in filter(None, layers):
                Bank(kernel[None]).stored_as(storage)
    except UserError as error:
        raise UserError(f"{operation.name}: {error}") from error
    return operation


def _in_jax(program: Program, preprocessing: Preprocessing) -> Callable[[np.ndarray], jax.Array]:
    arrays = jax.device_put(run_jax.arrays_of(program))  # arguments: as constants, XLA would fold them for minutes

    @jax.jit
    def logits(arrays, images):
        return run_jax.run(program, arrays, normalize(images, preprocessing.mean, preprocessing.std))

    def call(images):
        try:
            return logits(arrays, images)
        except (TypeError, ValueError) as error:  # windows that do not fit, or maps that are no longer of one size
            size = "x".join(map(str, images.shape[1:3]))
            raise UserError(f"images of {size} do not fit this network: {one_line(error, limit=200)}") from error

    return call
