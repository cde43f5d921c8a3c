"""A network of a file: images in, logits or probabilities out."""

import ctypes
import os
from collections.abc import Sequence

import numpy as np

from dynet_runtime.errors import Error
from dynet_runtime.library import ARGUMENT, Description, check, load_library


class Model:
    """A network of `dynet export --format=native`. Threads may call it at once, and a fork has threads of its own.

    Attributes:
      name, arithmetic, storage: of the network; `storage` is how its kernels are stored.
      class_names: of the outputs, or empty.
      classes: how many outputs an image has, or each of its positions.
      image_size: (height, width) of what `preprocess` makes.
      mean, std: of pixels from 0 to 255, by which `logits` normalises.
      processor: the level of the processor's instructions that is used, and `threads` how many.
    """

    def __init__(self, source: str | os.PathLike | bytes, threads: int = 0):
        """source: the path of a file, or its content. threads: 0 for all cores that this process may use.

        Raises Error for a file that is none, or is damaged, or has a newer version.
        """
        self._library = library = load_library()
        self._model = ctypes.c_void_p()
        if isinstance(source, bytes | bytearray | memoryview):
            content = np.frombuffer(source, np.uint8)
            check(library.dynet_load_memory(content.ctypes.data, content.nbytes, threads, ctypes.byref(self._model)))
        else:
            check(library.dynet_load(os.fsencode(source), threads, ctypes.byref(self._model)))
        about = Description()
        library.dynet_describe(self._model, ctypes.byref(about))
        self.name, self.arithmetic, self.storage, self.processor = (
            text.decode(errors="replace") for text in (about.name, about.arithmetic, about.storage, about.processor)
        )
        self.threads, self.classes = about.threads, about.classes
        self.image_size = about.image_height, about.image_width
        self.resize_to, self.is_segmentation = about.resize_to, bool(about.is_segmentation)
        self.mean, self.std = tuple(about.mean), tuple(about.std)
        names = (library.dynet_class_name(self._model, i) for i in range(about.named_classes))
        self.class_names = [name.decode(errors="replace") for name in names]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Returns the probabilities [classes] of a picture uint8 [height, width, 3] of any size, in RGB.

        It is preprocessed as in the network's evaluation. A network for segmentation has positions, [rows, columns,
        classes], of the whole picture; windows are not averaged. Raises Error for what is no picture.
        """
        probabilities = self.logits(self.preprocess(picture)[None])[0]
        rows = probabilities.size // self.classes
        self._library.dynet_softmax(probabilities.ctypes.data, rows, self.classes)
        return probabilities

    def top(self, picture: np.ndarray, count: int = 5) -> list[tuple[str, float]]:
        """Returns the most probable classes of a picture, the best first, as names (or numbers) and probabilities.

        Raises Error for what is no picture, and for a network for segmentation.
        """
        if self.is_segmentation:
            raise Error("this network is for segmentation: it has classes for every position", ARGUMENT)
        probabilities = self(picture)[..., : len(self.class_names) or None]
        names: Sequence[str] = self.class_names or list(map(str, range(self.classes)))
        best = np.argsort(-probabilities, kind="stable")[:count]
        return [(names[i], float(probabilities[i])) for i in best]

    def preprocess(self, picture: np.ndarray) -> np.ndarray:
        """Returns the image [height, width, 3] that the network takes for a picture, bit-identical to evaluation."""
        picture = _checked(picture)
        image = np.empty((*self.image_size, 3), np.uint8)
        check(self._library.dynet_preprocess(self._model, picture.ctypes.data, *picture.shape[:2], image.ctypes.data))
        return image

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits [batch, classes], or [batch, rows, columns, classes], of images [batch, height, width, 3].

        Images are uint8, or floats from 0 to 255, of any size that is not smaller than the network's strides.
        Raises Error for others, or where there is not enough memory.
        """
        images, run = self._images(images)
        batch, height, width, _ = images.shape
        y = np.empty((batch, *self._output_shape(height, width)), np.float32)
        if batch:
            check(run(self._model, images.ctypes.data, batch, height, width, y.ctypes.data, y.size))
        return y

    def profile(self, image: np.ndarray) -> np.ndarray:
        """Returns the seconds of every operation for an image uint8 [height, width, 3], and behind them those of all
        fusions of kernels, which are a part of their predictors'. Raises Error as `logits` does."""
        image = _checked(image)
        seconds = np.zeros(self._library.dynet_operations(self._model) + 1)
        check(self._library.dynet_profile(self._model, image.ctypes.data, *image.shape[:2], seconds.ctypes.data))
        return seconds

    def _images(self, images: np.ndarray):
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise Error(f"images must be [batch, height, width, 3], not {images.shape}", ARGUMENT)
        if images.dtype == np.uint8:
            return np.ascontiguousarray(images), self._library.dynet_run
        return np.ascontiguousarray(images, np.float32), self._library.dynet_run_floats

    def _output_shape(self, height: int, width: int) -> tuple[int, ...]:
        shape = (ctypes.c_int32 * 3)()
        check(self._library.dynet_output_shape(self._model, height, width, shape))
        rows, columns, classes = shape
        return (rows, columns, classes) if rows else (classes,)

    def __reduce__(self):
        # Of copies that share the library's model, each would free it.
        raise TypeError("a model cannot be copied or pickled; load its file again")

    def __repr__(self) -> str:
        return f"<{self.name or 'network'} in {self.arithmetic}, {self.classes} classes, {self.processor}>"

    def __del__(self):
        if getattr(self, "_model", None):
            self._library.dynet_free(self._model)


def _checked(picture: np.ndarray) -> np.ndarray:
    """Returns what the library can read as a picture. Raises Error for what is none."""
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        raise Error(f"a picture must be [height, width, 3] uint8, not {picture.shape} {picture.dtype}", ARGUMENT)
    return np.ascontiguousarray(picture)
