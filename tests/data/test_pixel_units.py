"""Means and deviations of pixels in another unit or order are rejected, with the right values."""

import math
import re

import pytest

from dynet_jax.data.pixel_units import IMAGENET_MEAN, IMAGENET_STD, check_units, of_pixels
from dynet_jax.errors import UserError

TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET, TORCH = sorted(IMAGENET_MEAN), sorted(TORCH_MEAN)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (TORCH_MEAN, TORCH_STD, "mean and std of pixels from 0 to 1, where pixels are from 0 to 255"),
        (IMAGENET_MEAN, TORCH_STD, "are std of pixels from 0 to 1"),
        (TORCH_MEAN, IMAGENET_STD, "are mean of pixels from 0 to 1"),
        (IMAGENET_STD, IMAGENET_MEAN, "mean and std exchanged"),
        (TORCH_STD, TORCH_MEAN, "from 0 to 1, .*, and mean and std exchanged"),
        (IMAGENET_MEAN[::-1], IMAGENET_STD[::-1], "in the order blue, green, red"),
        (TORCH_MEAN[::-1], TORCH_STD[::-1], "from 0 to 1, .*, and in the order blue, green, red"),
        ((0, 0, 0), (0.5, 0.5, 0.5), "are std of pixels from 0 to 1"),
        ((63.0, 62.1, 66.7), (125.3, 123.0, 113.9), "mean and std exchanged"),
        ((104, 117, 123), (57, 57, 58), "in the order blue, green, red"),
        ((103.939, 116.779, 123.68), (1, 1, 1), "in the order blue, green, red"),
        ((300, 116, 103), IMAGENET_STD, "not of pixels from 0 to 255; ImageNet's are"),
        ((-0.5, 0.5, 0.5), TORCH_STD, "not of pixels from 0 to 255"),
        (IMAGENET_MEAN, (14949.0, 14949.0, 14949.0), "not of pixels from 0 to 255"),
    ],
)
def test_what_cannot_be_meant(mean, std, message):
    with pytest.raises(UserError, match=message) as error:
        check_units(mean, std)
    right = [
        tuple(map(float, re.findall(r"[\d.]+", re.findall(rf"config\.data\.{name}=\[(.*?)\]", str(error.value))[-1])))
        for name in ("mean", "std")
    ]
    check_units(*right)  # what is advised is not refused in turn
    if IMAGENET in (sorted(mean), sorted(std)) or TORCH in (sorted(mean), sorted(std)):
        assert all(math.isclose(a, b) for a, b in zip(right[0], IMAGENET_MEAN))
        assert all(math.isclose(a, b) for a, b in zip(right[1], IMAGENET_STD))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (IMAGENET_MEAN, IMAGENET_STD),
        ((0, 0, 0), (255, 255, 255)),
        ((127.5,) * 3, (255,) * 3),
        ((128,) * 3, (128,) * 3),
        ((127.5,) * 3, (128,) * 3),
        ((127,) * 3, (128,) * 3),
        ((3,) * 3, (128,) * 3),
        ((0.9, 0.8, 0.7), (12, 11, 10)),
        ((33.3,) * 3, (78.6,) * 3),
        ((127.5,) * 3, (63.75,) * 3),
    ],
)
def test_what_may_be_meant(mean, std):
    assert check_units(mean, std) is None
    assert of_pixels(mean, std) == (mean, std)


@pytest.mark.parametrize("mean", [(0, 0, 0), (123.68, 116.779, 103.939)])
def test_undivided_pixels_are_a_warning(mean):
    assert "std=[1,1,1] leaves pixels of up to 255 undivided" in str(check_units(mean, (1, 1, 1)))


def test_a_std_that_no_pixels_have_is_a_warning():
    """A mean far below the std was not exchanged with it."""
    assert "no pixels deviate as much from such a mean" in str(check_units((3, 3, 3), (128, 127, 126)))
