"""Parts of JPEG images: the pixels and the errors of the whole image, with and without libjpeg-turbo."""

import itertools

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dynet_jax.data import training_batches, turbojpeg
from dynet_jax.data.augment import fast_resize, make_training_transform, resize
from dynet_jax.data.decode import decode
from dynet_jax.data.partial import PartialJpeg, open_image
from dynet_jax.data.record import Record
from dynet_jax.errors import UserError
from tests.data.images import encoded, saved, textured

PIXELS = textured(83, 101)


def sampled(factor: int) -> bytes:
    """PIXELS with colours that are sampled as Pillow cannot write them."""
    return cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()


WHOLE = {
    "4:2:0": encoded(PIXELS, "JPEG", quality=90),
    "4:2:2": encoded(PIXELS, "JPEG", subsampling="4:2:2"),
    "4:4:4": encoded(PIXELS, "JPEG", subsampling="4:4:4"),
    "4:4:0": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),  # as cameras have it that rotate images without decoding
    "4:1:1": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "grey": encoded(PIXELS[..., 0], "JPEG"),
    "RGB": encoded(PIXELS, "JPEG", keep_rgb=True),
    "restart markers": encoded(PIXELS, "JPEG", restart_marker_blocks=3),
    "zeros after it": encoded(PIXELS, "JPEG") + bytes(40),
}
PHOTOGRAPHS = load_sample_images().images  # two of 427x640 pixels


@pytest.fixture(params=["part", "whole"])
def by(request, monkeypatch):
    """Whether parts are decoded by libjpeg-turbo or cut from the whole image."""
    if request.param == "whole":
        monkeypatch.setattr(turbojpeg, "_library", lambda: None)
    elif not turbojpeg.available():
        pytest.skip("needs libjpeg-turbo 3")
    return request.param


def windows(height, width, count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        (top, bottom), (left, right) = (sorted(rng.choice(side + 1, 2, replace=False)) for side in (height, width))
        yield int(top), int(bottom), int(left), int(right)


@pytest.mark.parametrize("form", WHOLE)
def test_a_part_has_exactly_the_pixels_of_the_whole(form, by):
    image, whole = open_image(WHOLE[form]), decode(WHOLE[form])
    assert isinstance(image, PartialJpeg)
    assert image.shape == whole.shape
    for top, bottom, left, right in windows(*whole.shape[:2], 60):
        np.testing.assert_array_equal(image[top:bottom, left:right], whole[top:bottom, left:right])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (7, 9), (16, 17)])
def test_tiny_images_are_cut_too(height, width, by):
    content = encoded(textured(height, width), "JPEG")
    image, whole = open_image(content), decode(content)
    for top, left in itertools.product(range(height), range(width)):
        for window in (np.s_[top:height, left:width], np.s_[top : top + 1, left : left + 1]):
            np.testing.assert_array_equal(image[window], whole[window])


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PIXELS, "JPEG", exif=exif)


@pytest.mark.parametrize(
    "content",
    [
        encoded(PIXELS, "JPEG", progressive=True),
        saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
        with_orientation(6),
        WHOLE["4:2:0"] + b"what a camera appends",
        encoded(PIXELS, "PNG"),
        encoded(PIXELS, "WEBP"),
    ],
    ids=["progressive", "CMYK", "rotated", "appended", "PNG", "WebP"],
)
def test_other_images_are_decoded_as_a_whole(content):
    np.testing.assert_array_equal(open_image(content), decode(content))


def test_an_upright_image_with_exif_data_is_cut_too(by):
    content = with_orientation(1)
    assert isinstance(open_image(content), PartialJpeg)
    np.testing.assert_array_equal(open_image(content)[3:70, 5:90], decode(content)[3:70, 5:90])


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.99])
def test_a_cut_file_is_refused_as_before(part):
    content = WHOLE["4:2:0"][: int(part * len(WHOLE["4:2:0"]))]
    with pytest.raises(UserError, match=r"^a\.jpg is not an image that can be decoded"):
        open_image(content, "a.jpg")


def judged(read, content, window) -> np.ndarray | str:
    try:
        return read(content, "a.jpg")[window]
    except UserError as error:
        return str(error)


def test_damage_is_judged_as_before(by):
    """Whatever bytes have changed, lie elsewhere, or are missing: the same pixels, or the same error."""
    rng, refused = np.random.default_rng(0), 0
    forms = list(WHOLE.values())
    for number in range(300):
        content = bytearray(forms[number % len(forms)])
        first = 2 if number % 4 == 0 else len(content) // 3  # headers, too
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(first, len(content) - 2))
            if rng.random() < 0.7:
                content[at] = int(rng.choice([0, 0xFF, 0xD9, 0xC4, int(rng.integers(256))]))
            else:
                del content[at : at + int(rng.integers(1, 30))]
        content = bytes(content)
        top, bottom, left, right = next(windows(83, 101, 1, seed=number))
        expected, got = (judged(read, content, np.s_[top:bottom, left:right]) for read in (decode, open_image))
        assert type(got) is type(expected), (number, got, expected)
        np.testing.assert_array_equal(got, expected)
        refused += isinstance(expected, str)
    assert 5 < refused < 150


class Files:
    """Photographs as JPEG files, one of them with damage that only decoding finds."""

    class_names = ("a", "b")

    def __init__(self):
        self.images = [encoded(PHOTOGRAPHS[n % 2][40 * n : 40 * n + 200, : 300 + n], "JPEG") for n in range(6)]
        header = self.images[2]
        at = header.index(b"\xff\xc4")  # the Huffman tables become impossible
        self.images[2] = header[: at + 5] + b"\xff" * 16 + header[at + 21 :]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Record(self.images[index], index, self.name_of(index))

    def name_of(self, index):
        return f"{index}.jpg"


@pytest.mark.parametrize("fast", [False, True])
def test_batches_are_the_same_without_the_library(fast, monkeypatch, capsys):
    if not turbojpeg.available():
        pytest.skip("needs libjpeg-turbo 3")

    def batches():
        transform = make_training_transform(48, "random_resized_crop", flip=True, fast=fast)
        endless = training_batches(Files(), transform, batch_size=6, seed=3, start_step=0, threads=2)
        return list(itertools.islice(endless, 3)), capsys.readouterr().err

    with_library, told = batches()
    monkeypatch.setattr(turbojpeg, "_library", lambda: None)
    without, told_without = batches()
    assert told == told_without
    assert told.startswith("2.jpg is not an image that can be decoded")
    for batch, other in zip(with_library, without):
        assert 2 not in batch["label"]
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_a_damaged_image_leaves_its_draws_to_the_next(monkeypatch):
    """As if its file were a copy of the next one, whether decoding comes before or after the draws."""
    damaged, mended = Files(), Files()
    mended.images[2] = mended.images[3]
    transform = make_training_transform(32, "random_resized_crop", flip=True)
    options = {"batch_size": 6, "seed": 0, "start_step": 1, "threads": 1}
    batch, expected = (next(training_batches(source, transform, **options)) for source in (damaged, mended))
    np.testing.assert_array_equal(batch["image"], expected["image"])


@pytest.mark.parametrize("side", [250, 300, 350, 400])
def test_fast_crops_of_photographs_are_within_a_grey_level_on_average(side):
    differences = []
    for photograph in PHOTOGRAPHS:
        for top, left in [(0, 0), (20, 200), (13, 77)]:
            region = photograph[top : top + side, left : left + side]
            got, expected = (method(region, 224, 224).astype(int) for method in (fast_resize, resize))
            differences.append(np.abs(got - expected).mean())
    assert 0 < np.mean(differences) <= 1


@pytest.mark.parametrize(("height", "width"), [(100, 90), (224, 224), (427, 500), (426, 640)])
def test_fast_crops_are_exact_where_they_gain_nothing(height, width):
    """Images that grow, or shrink by more than 2."""
    region = PHOTOGRAPHS[0][:height, :width]
    np.testing.assert_array_equal(fast_resize(region, 224, 224), resize(region, 224, 224))
