"""The loaders that `benchmarks.input_pipeline` compares: files -> batches of cropped images, without end.

As a program, which the benchmark starts pinned to one core, it is asked for {"batches": N} and answers with two numbers
of seconds: the elapsed time, and the processor time of this process.
"""

import itertools
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dynet_jax.measure.serve import serve
from dynet_jax.measure.turns import timed

IMAGENET = 1_281_167
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def decode_only(files: list[Path], batch: int, size: int) -> Iterator:
    """Yields images read and decoded by `dynet_jax.data.decode`, in their own sizes."""
    from dynet_jax.data.decode import decode

    images = (decode(path.read_bytes()) for path in itertools.cycle(files))
    while True:
        for _ in range(batch):
            next(images)
        yield None


def decode_and_crop(files: list[Path], batch: int, size: int) -> Iterator:
    """Yields images that the training transform crops and mirrors, in a plain loop."""
    from dynet_jax.data.augment import make_training_transform
    from dynet_jax.data.decode import decode
    from dynet_jax.data.record import Record

    transform, rng = make_training_transform(size, "random_resized_crop", flip=True), np.random.default_rng(0)
    endless = itertools.cycle(files)
    while True:
        for _ in range(batch):
            transform(Record(decode(next(endless).read_bytes()), 0, ""), rng)
        yield None


class _Source:
    """A source with as many records as ImageNet (Grain's shuffle is slow for only hundreds).

    The files come in rotation for any index, as for the other loaders, because some are much larger than others.
    """

    class_names = ("image",)

    def __init__(self, files: list[Path]):
        self._files, self._turn = files, itertools.count()

    def __len__(self):
        return IMAGENET

    def __getitem__(self, index):
        from dynet_jax.data.record import Record

        return Record(self._files[next(self._turn) % len(self._files)].read_bytes(), 0, "")

    def name_of(self, index):
        return f"{index}"


def pipeline(files: list[Path], batch: int, size: int, fast: bool = False) -> Iterator:
    """Yields `training_batches`, complete: shuffled, read ahead by threads, in batches."""
    from dynet_jax.data import training_batches
    from dynet_jax.data.augment import make_training_transform

    transform = make_training_transform(size, "random_resized_crop", flip=True, fast=fast)
    options = {"batch_size": batch, "seed": 0, "start_step": 0, "threads": 2}
    for arrays in training_batches(_Source(files), transform, **options):
        yield arrays["image"]


def fast_pipeline(files: list[Path], batch: int, size: int) -> Iterator:
    """Yields the same with `data.fast_crop`."""
    return pipeline(files, batch, size, fast=True)


def whole_pipeline(files: list[Path], batch: int, size: int) -> Iterator:
    """Yields the exact ones without libjpeg-turbo, as where it is not installed: whole images are decoded."""
    from dynet_jax.data import turbojpeg

    turbojpeg.decode_part = lambda *window: None
    return pipeline(files, batch, size)


def tf_data(files: list[Path], batch: int, size: int, method: str = "bilinear") -> Iterator:
    """Yields batches of tf.data: shuffled, `decode_and_crop_jpeg` (which decodes only the crop), resized bilinearly.

    TensorFlow's bilinear resize takes four pixels of the original for each of the result, however much it shrinks.
    """
    import tensorflow as tf

    def load(path):
        content = tf.io.read_file(path)
        window = _tf_box(tf, tf.io.extract_jpeg_shape(content))
        image = tf.io.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (size, size), method))
        return tf.cast(tf.round(image), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices([str(path) for path in files])
    dataset = dataset.shuffle(len(files), seed=0).repeat().map(load, num_parallel_calls=2).batch(batch).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 2
    return dataset.with_options(options).as_numpy_iterator()


def _tf_box(tf, shape):
    """Returns top, left, height and width of the crop that all loaders draw; TensorFlow's own draws smaller ones."""
    size = tf.cast(shape[:2], tf.float32)
    area = tf.random.uniform([10, 1], *AREA) * tf.reduce_prod(size)
    ratio = tf.exp(tf.random.uniform([10], *np.log(RATIO)))
    sides = tf.round(tf.sqrt(area * tf.stack([1 / ratio, ratio], axis=1)))
    fits = tf.reduce_all((sides > 0) & (sides <= size), axis=1)
    side = tf.where(tf.reduce_any(fits), sides[tf.argmax(tf.cast(fits, tf.int32))], tf.reduce_min(size))
    offset = tf.floor(tf.random.uniform([2]) * (size - side + 1))
    return tf.cast(tf.concat([offset, side], axis=0), tf.int32)


def tf_data_area(files: list[Path], batch: int, size: int) -> Iterator:
    """Yields the same with area averaging, as `dynet_jax.data.augment.resize` shrinks images."""
    return tf_data(files, batch, size, "area")


def pil(files: list[Path], batch: int, size: int) -> Iterator:
    """Yields batches of Pillow in a plain loop: decoded, cropped and resized (bilinear, antialiased), mirrored."""
    from PIL import Image

    draw, endless = random.Random(0), itertools.cycle(files)

    def load(path):
        with Image.open(path) as image:
            image = image.convert("RGB")
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=_box(draw, *image.size))
        if draw.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    while True:
        yield np.stack([load(next(endless)) for _ in range(batch)])


def _box(draw: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Returns the random resized crop of the others: left, top, right, bottom."""
    for _ in range(10):
        area = draw.uniform(*AREA) * width * height
        ratio = np.exp(draw.uniform(*np.log(RATIO)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


LOADERS = {
    "decode only": decode_only,
    "decode and crop": decode_and_crop,
    "training_batches": pipeline,
    "training_batches with fast_crop": fast_pipeline,
    "training_batches of whole images": whole_pipeline,
    "tf.data": tf_data,
    "tf.data with area averaging": tf_data_area,
    "PIL": pil,
}


def main(name: str, folder: str, batch: str, size: str) -> None:
    from dynet_jax.data.files import list_images

    files = list_images(Path(folder))

    def answer(question: dict) -> list[float]:
        batches = LOADERS[name](files, int(batch), int(size))
        next(batches)  # what reads ahead has as much under way after this as after the last batch
        used = time.process_time()
        seconds = question["batches"] * timed(lambda: next(batches), question["batches"])
        return [seconds, time.process_time() - used]

    serve(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
