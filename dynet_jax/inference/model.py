"""A network that is ready to be used: images in, probabilities out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from dynet_jax.console import warn
from dynet_jax.data.preprocessing import Preprocessing, ResizedPreprocessing
from dynet_jax.errors import UserError, suggest
from dynet_jax.hardware import devices
from dynet_jax.inference.calibration import calibration_batches
from dynet_jax.inference.fold import fold
from dynet_jax.inference.in_jax import module_in_jax, program_in_jax
from dynet_jax.inference.int8 import Ranges, find_ranges
from dynet_jax.inference.native.engine import Engine
from dynet_jax.inference.pictures import Picture, ReadAhead, is_one, list_pictures
from dynet_jax.inference.predictions import IMAGES_AT_ONCE, Prediction, classify, segment, softmax
from dynet_jax.inference.program import Program
from dynet_jax.inference.record import record
from dynet_jax.inference.stored import stored_as
from dynet_jax.machine import cores
from dynet_jax.ops.maps import Operand
from dynet_jax.trained import TrainedNetwork, open_trained

Runtime = Literal["auto", "native", "jax"]
RUNTIMES = ("auto", "native", "jax")
ARITHMETIC = ("float32", "bfloat16", "int8")
Images: TypeAlias = Shaped[Operand, "batch height width 3"]


class InferenceModel:
    """A callable network. One kernel is fused for each image; a batch may have any number of images of any size.

    Attributes:
      program: what is computed, with the banks as they are stored; None for a network that programs cannot express.
      preprocessing: from a picture to what a call takes; `predict` does it, a call normalises alone.
      class_names: of the outputs, or empty.
      runtime: 'native' or 'jax', what is used.
      engine: of the native runtime, or None.
      storage: how banks, and with the native engine predictors and the classifier, are stored.
      module: the Flax module and its variables of a network that programs cannot express, otherwise None.
      find_ranges: from a folder of images for calibration, or None for the run's own, to the ranges of int8 maps; None
        where there is no run.
    """

    def __init__(
        self,
        program: Program,
        preprocessing: Preprocessing | ResizedPreprocessing,
        class_names: Sequence[str] = (),
        *,
        runtime: Runtime = "auto",
        storage: str = "float32",
        arithmetic: str = "float32",
        threads: int | None = None,
        ranges: Ranges | None = None,
    ):
        """See `load` for the arguments; ranges: of int8 arithmetic, what `find_ranges` gives.

        Raises UserError where the runtime cannot be had, and for another number of class names than outputs.
        """
        check_options(runtime, arithmetic, threads)
        outputs = program.values[program.result].channels
        if len(class_names) not in (0, outputs):
            raise UserError(f"there are {len(class_names)} class names for a network of {outputs} outputs")
        self.program: Program | None = stored_as(program, storage)
        self._only_size = program.image_size
        self._smallest = program.strides  # found once: it takes as long as a tenth of an image
        self.preprocessing, self.class_names = preprocessing, list(class_names)
        self.engine: Engine | None = None
        self.storage = storage
        self.find_ranges: Callable[[Path | None], Ranges] | None = None
        self.module: tuple[nn.Module, dict] | None = None
        self._threads = threads or len(cores())
        if wants_engine(runtime):
            options: dict[str, Any] = {"storage": storage, "arithmetic": arithmetic, "ranges": ranges}
            options["threads"] = engine_threads(self._threads)
            try:
                self.engine = Engine(program, mean=preprocessing.mean, std=preprocessing.std, **options)
            except UserError as error:
                if runtime == "native":
                    raise
                warn(f"JAX is used instead, which is several times slower for single images: {error}")
        if self.engine is None and arithmetic != "float32":
            raise UserError(f"{arithmetic} arithmetic is the native engine's; use runtime='native'")
        self.runtime = "jax" if self.engine is None else "native"
        self._logits = self.engine or program_in_jax(self.program, preprocessing)

    @classmethod
    def of_module(
        cls,
        model: nn.Module,
        variables: dict,
        preprocessing: Preprocessing | ResizedPreprocessing,
        class_names: Sequence[str] = (),
    ) -> "InferenceModel":
        """A network that programs cannot express, run by JAX as it is."""
        own = cls.__new__(cls)
        own.program, own.engine, own.runtime, own._threads = None, None, "jax", len(cores())
        own.storage, own.find_ranges = "float32", None
        own._smallest, own._only_size = (1, 1), None
        own.module = model, variables
        own.preprocessing, own.class_names = preprocessing, list(class_names)
        own._logits = module_in_jax(model, variables, preprocessing)
        return own

    def logits(self, images: Images) -> Float[np.ndarray, "batch *positions classes"]:
        """Returns the logits of images in uint8, or in float32 from 0 to 255.

        A network for segmentation has positions, (height / stride, width / stride); others have none.
        Raises UserError for another shape, type or range, and for images that are smaller than the network's strides.
        """
        images = np.asarray(images)
        if images.dtype not in (np.uint8, np.float32):
            raise UserError(f"images must be uint8, or float32 from 0 to 255, not {images.dtype}")
        if images.dtype == np.float32 and 0 < np.max(images, initial=0.0) <= 1:
            raise UserError("these images are from 0 to 1; they must be uint8, or float32 from 0 to 255")
        if images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"images must be [batch, height, width, 3], not {images.shape}")
        size, smallest, only = images.shape[1:3], self._smallest, self._only_size
        if only is not None and only != size:
            raise UserError(
                f"images of {size[0]}x{size[1]} do not fit this network, which takes those of {only[0]}x{only[1]} "
                "alone, because what it does depends on their size"
            )
        if any(has < needs for has, needs in zip(size, smallest)):
            raise UserError(
                f"images of {size[0]}x{size[1]} are too small for this network; it takes those from "
                f"{smallest[0]}x{smallest[1]} on"
            )
        return np.asarray(self._logits(images))

    def __call__(self, images: Images) -> Float[np.ndarray, "batch *positions classes"]:
        """The probabilities of all classes, of images that `logits` takes."""
        return softmax(self.logits(images))

    def predict(self, pictures: Picture | Iterable[Picture], count: int = 5) -> Prediction | list[Prediction]:
        """Classifies, or segments, pictures of any size, preprocessed as in its evaluation.

        Args:
          pictures: a path, an array [height, width, 3] uint8, or a Pillow image; or several, or a folder of images.
          count: how many of the most probable classes.
        Returns:
          A `Prediction`; of several, a list in their order.
        Raises:
          UserError: for a path that does not exist or an array that is no image. One that cannot be decoded has its
            result's `error`.
        """
        ready = read_ahead(list_pictures(pictures), self.preprocessing, self._threads)
        results = list(self.predictions(ready, count))
        return results[0] if is_one(pictures) else results

    def predictions(self, pictures: ReadAhead, count: int = 5, batch: int | None = None) -> Iterator[Prediction]:
        """Yields what `predict` returns, one result after another; `pictures` are those of `read_ahead`.

        batch: how many of them a classifier is given at once.
        """
        with pictures:
            if isinstance(self.preprocessing, ResizedPreprocessing):
                yield from segment(self.logits, pictures, self.preprocessing)
            else:
                padded = self.runtime == "jax"
                yield from classify(self.logits, pictures, self.class_names, count, padded=padded, batch=batch)


def read_ahead(
    pictures: Iterable[Picture], preprocessing: Preprocessing | ResizedPreprocessing, threads: int | None = None
) -> ReadAhead:
    """Pictures made ready for a network, from now on: it may be loaded meanwhile."""
    maps = isinstance(preprocessing, ResizedPreprocessing)
    ahead = 2 if maps else 4 * IMAGES_AT_ONCE
    return ReadAhead(pictures, preprocessing, threads=threads or len(cores()), ahead=ahead, keep_images=maps)


def load(
    workdir: Path | str,
    *,
    step: int | str | None = None,
    runtime: Runtime = "auto",
    storage: str = "float32",
    arithmetic: str = "float32",
    threads: int | None = None,
    calibrate: Path | str | None = None,
) -> InferenceModel:
    """The trained network of a work directory.

    Args:
      workdir: of `train.py` or `dynet import-torch`.
      step: of the checkpoint, or 'best'; the newest if None.
      runtime: 'native' is the engine in C++ for CPUs, compiled at its first use; 'jax' runs on every device; 'auto' is
        'native' where JAX has no accelerator and there is a compiler.
      storage: of the banks, 'float32', 'bfloat16' or 'int8' (with a scale for each kernel and output channel). What is
        smaller is faster for single images, which wait for the bank; `native` stores predictors and classifier so too.
      arithmetic: of the native engine, 'float32', 'bfloat16' or 'int8'. In bfloat16 maps and kernels are rounded, and
        products summed in float32. It is for processors that have such instructions (AVX512_BF16); others take longer
        than for float32. In int8 maps are bytes, and kernels are rounded to bytes for each image
        (docs/inference.md).
      threads: of the native engine, and that read pictures; all cores by default.
      calibrate: of int8 arithmetic, the folder of images by which the ranges of maps are chosen; if None, the run's own
        training images.
    Raises:
      UserError: if there is no whole checkpoint, or the runtime cannot be had.
    """
    check_options(runtime, arithmetic, threads)
    options: dict[str, Any] = {"runtime": runtime, "storage": storage, "arithmetic": arithmetic, "threads": threads}
    return model_of(open_trained(workdir, step=step), calibrate, **options)


def model_of(trained: TrainedNetwork, calibrate: Path | str | None = None, **options: Any) -> InferenceModel:
    """Returns a trained network that has been opened; see `load` for calibrate and the options."""
    arithmetic = options["arithmetic"]
    try:
        program = program_of(trained.model, trained.variables, trained.task.init_size)
    except UserError as error:  # it can be trained and evaluated all the same
        if options["runtime"] == "native" or (options["storage"], arithmetic) != ("float32", "float32"):
            raise
        warn(f"JAX runs {trained.name} as it is, which is slower: {error}")
        return InferenceModel.of_module(trained.model, trained.variables, trained.preprocessing, trained.class_names)
    if arithmetic == "int8":
        options["ranges"] = find_ranges(program, trained.preprocessing, calibration_batches(trained, calibrate))
    elif calibrate is not None:
        raise UserError(f"images for calibration are for int8 arithmetic, not for {arithmetic}")
    model = InferenceModel(program, trained.preprocessing, **options)
    model.class_names = trained.class_names  # of the first outputs, where a network has been trained with spare ones
    return model


def check_options(runtime: Runtime, arithmetic: str, threads: int | None) -> None:
    """Raises UserError for one that there is not, and for arithmetic that the runtime has not."""
    if runtime not in RUNTIMES:
        raise UserError(f"unknown runtime {runtime!r}; {suggest(runtime, RUNTIMES)}")
    if arithmetic not in ARITHMETIC:
        raise UserError(f"unknown arithmetic {arithmetic!r}; {suggest(arithmetic, ARITHMETIC)}")
    if arithmetic != "float32" and not wants_engine(runtime):
        raise UserError(f"{arithmetic} arithmetic is the native engine's; use runtime='native'")
    if threads is not None and threads < 1:
        raise UserError(f"threads must be positive, not {threads}")


def engine_threads(wanted: int) -> int:
    """Returns the number of threads, at most that of cores: they wait for each other by spinning."""
    count = min(wanted, len(cores()))
    if count < wanted:
        warn(f"the native engine has {count} threads instead of {wanted}: this process has the time of {count} cores")
    return count


def wants_engine(runtime: Runtime) -> bool:
    """Returns whether the native engine is asked for, or is the fastest here."""
    return runtime == "native" or (runtime == "auto" and devices(or_cpu=True)[0].platform == "cpu")


def program_of(model: nn.Module, variables: dict | None, image_size: int) -> Program:
    """The folded program of a network, in float32.

    model: a Linen module; or an NNX module, with variables None.

    Raises UserError for a network with an operation that programs do not have (see `record`).

    >>> import jax
    >>> from dynet_jax import create_model
    >>> from dynet_jax.inference.program import Convolution
    >>> model = create_model("dy_mobile", width=0.1, num_classes=10)
    >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> sum(isinstance(operation, Convolution) for operation in program_of(model, variables, 32).operations)
    53
    """
    return fold(record(_plain(model), variables, image_size))


def _plain(model: nn.Module) -> nn.Module:
    """The network, and its backbone if it has one, in float32 and without what training alone needs."""
    if not isinstance(model, nn.Module):  # of NNX
        return model
    plain: dict[str, Any] = {"dtype": jnp.float32, "remat": False, "bn_axis_name": None}
    fields = {key: value for key, value in plain.items() if hasattr(model, key)}
    if isinstance(backbone := getattr(model, "backbone", None), nn.Module):
        fields["backbone"] = _plain(backbone)
    return model.clone(**fields)
