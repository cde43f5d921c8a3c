"""A program on the native engine."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Shaped

import dynet_runtime
from dynet_jax.data.preprocessing import Preprocessing
from dynet_jax.errors import UserError
from dynet_jax.inference.int8 import Ranges
from dynet_jax.inference.native.file import Numbers, write_file
from dynet_jax.inference.program import Program
from dynet_runtime.library import OTHER_SIZES, load_library


class Engine:
    """Runs a program on images [batch, height, width, 3], uint8 or float32 from 0 to 255, of any size.

    storage: of what is read once per image: banks, predictors and the classifier (see `Bank`).
    arithmetic: 'float32', or 'bfloat16' for maps and kernels, whose products are summed in float32, or 'int8', with the
      `ranges` of maps that `find_ranges` gives. Vectors, and so coefficients and logits, are float32 always.
    A batch of less than two images per thread goes image by image, each by all threads; a larger one by images.
    Threads of the caller may call it at once, and wait for each other. After a fork it starts threads of its own; a
    copy, or what is unpickled, is built anew from the program.

    Raises UserError if the program has something that the engine has not, or there is no compiler for it.
    """

    def __init__(
        self,
        program: Program,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        threads: int,
        storage: str,
        arithmetic: str,
        ranges: Ranges | None = None,
    ):
        options = {"mean": mean, "std": std, "threads": threads, "storage": storage, "arithmetic": arithmetic}
        self._made_from = options | {"ranges": ranges}, program
        preprocessing = Preprocessing(1, 1, tuple(mean), tuple(std))  # images come to an engine as they are
        content, self.program = write_file(program, Numbers(storage, arithmetic, ranges), preprocessing)
        with _told():
            self._model = dynet_runtime.load(content, threads=threads)

    def __call__(
        self, images: Shaped[np.ndarray, "batch height width 3"]
    ) -> Float32[np.ndarray, "batch *positions classes"]:
        """Logits, at positions (height / stride, width / stride) of a program ending in a map.

        Raises UserError for images that are smaller than the network's stride, or for which there is no memory, and
        where they are made bytes for pixels that are not numbers.
        """
        if self._model.arithmetic == "int8" and images.dtype != np.uint8 and np.isnan(images).any():
            raise UserError("int8 arithmetic needs images of numbers, and these have NaN")
        with _told():
            return self._model.logits(images)

    def profile(self, image: Shaped[np.ndarray, "1 height width 3"]) -> Float64[np.ndarray, " times"]:
        """Seconds of every operation of `program` for one image, and of all fusions, which are a part of the
        predictors'. Raises UserError as a call does."""
        with _told():
            return self._model.profile(image[0])

    def __reduce__(self):
        options, program = self._made_from
        return functools.partial(Engine, **options), (program,)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Says what the library cannot do as a mistake of the user."""
    try:
        yield
    except dynet_runtime.Error as error:
        remedy = "; use runtime='jax'" if error.status == OTHER_SIZES else ""
        raise UserError(f"{error}{remedy}") from error


def has_bfloat16() -> bool:
    """Returns whether this processor has instructions for bfloat16 arithmetic, so that it is the faster one.

    Raises UserError if there is no engine here.
    """
    with _told():
        return bool(load_library().dynet_has_bfloat16())
