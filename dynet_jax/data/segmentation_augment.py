"""Joint augmentation of an image and its class map. Labels are resampled by nearest neighbour, so they never mix."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from dynet_jax.data.augment import resize
from dynet_jax.data.record import IGNORED, Record
from dynet_jax.errors import UserError

CROPS_TRIED, LARGEST_SHARE = 10, 0.75  # mmsegmentation's cat_max_ratio


def random_scaled_crop(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, size: Sequence[int], scale: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a random region of the image, scaled by a factor from `scale`, of `size` (height, width).

    If the scaled image is smaller, it is padded, black and ignored, at a random position. Of ten regions the first one
    is used in which some pixels count and no class has more than three quarters of them, or else the last one.
    """
    smallest, largest = scale
    factor = rng.uniform(smallest, largest)
    height, width = label.shape
    whole = [max(1, round(side / factor)) for side in size]  # size of the crop in pixels of the image
    taken = [min(pair) for pair in zip(whole, label.shape)]
    for _ in range(CROPS_TRIED):
        top, left = rng.integers(0, height - taken[0] + 1), rng.integers(0, width - taken[1] + 1)
        part = np.s_[top : top + taken[0], left : left + taken[1]]
        counts = np.bincount(label[part].ravel(), minlength=256)[:IGNORED]
        if 0 < counts.max() < LARGEST_SHARE * counts.sum():
            break
    inside = [s if t == w else min(s, max(1, round(t * s / w))) for s, t, w in zip(size, taken, whole)]
    image = resize(np.ascontiguousarray(image[part]), *inside)  # pyrefly: ignore[unbound-name]  (ten are tried)
    label = cv2.resize(np.ascontiguousarray(label[part]), inside[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if tuple(inside) == tuple(size):
        return image, label
    top, left = (int(rng.integers(0, s - i + 1)) for s, i in zip(size, inside))
    borders = top, size[0] - inside[0] - top, left, size[1] - inside[1] - left
    return (
        cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=0),
        cv2.copyMakeBorder(label, *borders, cv2.BORDER_CONSTANT, value=IGNORED),
    )


def distort_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the image with random brightness, contrast, saturation and hue.

    Each changes in half of the cases: brightness by up to 32, contrast and saturation by 0.5 to 1.5, hue by up to 36
    degrees. This is the photometric distortion of SSD (Liu et al., 2016) as in mmsegmentation, with contrast always
    first.
    """
    gain = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    image = _scaled(image, gain, shift)
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 19)) if rng.random() < 0.5 else 0
    if saturation == 1.0 and hue == 0:
        return image
    h, s, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    h = ((h.astype(np.int16) + hue) % 180).astype(np.uint8)
    return cv2.cvtColor(cv2.merge([h, _scaled(s, saturation, 0.0), v]), cv2.COLOR_HSV2RGB)


def _scaled(values: np.ndarray, gain: float, shift: float) -> np.ndarray:
    table = np.clip(np.round(np.arange(256) * gain + shift), 0, 255).astype(np.uint8)
    return cv2.LUT(values, table)


def make_training_transform(size: Sequence[int], scale: Sequence[float], flip: bool, distortion: bool) -> Callable:
    """Returns a function (record, rng) -> {'image': [*size, 3] uint8, 'label': [*size] uint8}."""

    def transform(record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, label = random_scaled_crop(record.image, record.label, rng, size, scale)
        if flip and rng.random() < 0.5:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        if distortion:
            image = distort_colors(image, rng)
        return {"image": np.ascontiguousarray(image), "label": np.ascontiguousarray(label)}

    return transform


def make_test_transform(size: Sequence[int], label_size: Sequence[int]) -> Callable:
    """Returns a function record -> {'image': [*size, 3], 'label': [*label_size], 'size': that of the label}.

    The label is unchanged, in the upper left corner of an array of `label_size`; the rest is ignored.

    The function raises UserError for a label that is larger than `label_size`.
    """

    def transform(record: Record) -> dict[str, np.ndarray]:
        height, width = record.label.shape
        check_label_size((height, width), label_size, f"the label of {record.name}")
        label = np.full(tuple(label_size), IGNORED, np.uint8)
        label[:height, :width] = record.label
        image = np.ascontiguousarray(resize(record.image, *size))
        return {"image": image, "label": label, "size": np.asarray([height, width], np.int32)}

    return transform


def check_label_size(size: Sequence[int], label_size: Sequence[int], name: str) -> None:
    """Raises UserError if a label (height, width) does not fit into `data.label_size`."""
    needed = [max(pair) for pair in zip(size, label_size)]
    if needed != list(label_size):
        raise UserError(
            f"{name} is {size[0]}x{size[1]}, larger than data.label_size; use "
            f"--config.data.label_size=[{needed[0]},{needed[1]}]"
        )
