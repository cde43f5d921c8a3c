"""Decoding every form of images, against the original pixels, Pillow, and EXIF's standard."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from dynet_jax.data.decode import decode
from dynet_jax.errors import UserError
from tests.data.images import JPEG_END, encoded, saved, smooth, textured


def test_decode_png_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode(encoded(pixels, "PNG")), pixels)


def test_decode_jpeg_nearly():
    pixels = smooth(40, 56)
    got = decode(encoded(pixels, "JPEG", quality=95))
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got.astype(int), pixels, atol=8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_decode_grey(kind):
    pixels = smooth(16, 24)[..., 0]
    got = decode(encoded(pixels, kind)).astype(int)
    assert got.shape == (16, 24, 3)
    for channel in range(3):
        np.testing.assert_allclose(got[..., channel], pixels, atol=0 if kind == "PNG" else 4)


def test_decode_leaves_transparency_out():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    np.testing.assert_array_equal(decode(encoded(pixels, "PNG")), pixels[..., :3])


# What each value of EXIF's orientation asks a viewer to do to the stored pixels.
ORIENTATIONS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_decode_turns_an_image_as_its_exif_says(orientation):
    pixels = smooth(40, 56)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode(encoded(pixels, "JPEG", quality=95, exif=exif))
    expected = ORIENTATIONS[orientation](pixels)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.astype(int), expected, atol=8)


def test_decode_passes_arrays_through():
    pixels = smooth(3, 4)
    assert decode(pixels) is pixels


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", encoded(textured(9, 9), "PNG")[:40], b"\xff\xd8\xff\xe0" + bytes(30)],
    ids=["empty", "text", "cut PNG", "JPEG's first bytes"],
)
def test_decode_names_a_corrupt_image(content):
    with pytest.raises(UserError, match=rf"^cat/7\.jpg is not an image that can be decoded \({len(content)} bytes\)"):
        decode(content, "cat/7.jpg")


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


PICTURE = Image.fromarray(textured(40, 56))
TRANSPARENT = Image.fromarray(np.dstack([textured(40, 56), smooth(40, 56)[..., 1]]))
FORMS = {
    "progressive JPEG": saved(PICTURE, "JPEG", progressive=True),
    "CMYK JPEG": saved(PICTURE.convert("CMYK"), "JPEG"),
    "palette PNG": saved(PICTURE.quantize(64), "PNG"),
    "palette PNG with transparency": saved(PICTURE.quantize(64), "PNG", transparency=3),
    "RGBA PNG": saved(TRANSPARENT, "PNG"),
    "grey PNG with transparency": saved(TRANSPARENT.convert("LA"), "PNG"),
    "black and white PNG": saved(PICTURE.convert("1"), "PNG"),
    "WebP": saved(PICTURE, "WEBP"),
    "transparent WebP": saved(TRANSPARENT, "WEBP", lossless=True, exact=True),
    "BMP": saved(PICTURE, "BMP"),
    "palette BMP": saved(PICTURE.quantize(64), "BMP"),
    "GIF": saved(PICTURE.quantize(64), "GIF"),
    "TIFF": saved(PICTURE, "TIFF"),
    "compressed TIFF": saved(PICTURE, "TIFF", compression="tiff_lzw"),
    "CMYK TIFF": saved(PICTURE.convert("CMYK"), "TIFF"),
}


@pytest.mark.parametrize("form", FORMS)
def test_decode_agrees_with_pillow(form):
    got, expected = decode(FORMS[form], "picture.JPEG").astype(int), by_pillow(FORMS[form])
    assert got.shape == (40, 56, 3)
    np.testing.assert_allclose(got, expected, atol=1)  # of CMYK they round differently


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_takes_16_bits_down_to_8(kind, channels):
    """Pillow would clip grey values at 255."""
    deep = np.random.default_rng(0).integers(0, 2**16, (5, 7, channels), np.uint16)
    content = cv2.imencode(f".{kind}", deep[..., ::-1])[1].tobytes()
    np.testing.assert_allclose(decode(content).astype(int), np.broadcast_to(deep / 257, (5, 7, 3)), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_decode_turns_other_formats_too(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(PICTURE, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode(content), np.rot90(np.asarray(PICTURE), -1))


# Damage

WHOLE = {
    "JPEG": encoded(textured(60, 80), "JPEG"),
    "progressive JPEG": encoded(textured(60, 80), "JPEG", progressive=True),
    "PNG": encoded(textured(60, 80), "PNG"),
    "WebP": encoded(textured(60, 80), "WEBP"),
    "BMP": encoded(textured(60, 80), "BMP"),
    "GIF": FORMS["GIF"],
    "TIFF": FORMS["TIFF"],
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_cut_image_is_never_decoded(form, part):
    content = WHOLE[form]
    with pytest.raises(UserError, match=r"^a\.jpg is not an image that can be decoded"):
        decode(content[: int(part * len(content))], "a.jpg")


@pytest.mark.parametrize("form", ["JPEG", "progressive JPEG", "PNG", "GIF"])
def test_a_cut_image_filled_up_with_zeros_is_not_decoded(form):
    """A crash of the writing machine can leave such a file; in the other formats it cannot be recognised."""
    content = WHOLE[form]
    with pytest.raises(UserError, match="not an image that can be decoded"):
        decode(content[: len(content) // 2].ljust(len(content), b"\0"))


def test_a_jpeg_with_an_overwritten_end_is_not_decoded():
    """Its second half is another file's. OpenCV takes that for pixels in nearly all of these cases."""
    content, rng = WHOLE["JPEG"], np.random.default_rng(0)
    found, half = 0, len(content) // 2
    for _ in range(50):
        other = rng.integers(0, 256, half, np.uint8).tobytes().replace(JPEG_END, b"") + b"x"
        try:
            decode(content[:half] + other, "a.jpg")
        except UserError as error:
            assert str(error).startswith("a.jpg is ")  # noqa: PT017  (not all of them raise)
            found += "with a damaged end" in str(error)
    assert found >= 45


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("appended", [bytes(50), b"what a camera appends"], ids=["zeros", "text"])
def test_what_follows_a_whole_image_does_no_harm(form, appended):
    np.testing.assert_array_equal(decode(WHOLE[form] + appended), decode(WHOLE[form]))


def test_an_image_of_absurd_size_is_refused():
    header = b"BM" + (2**31 - 1).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + 2 * (60_000).to_bytes(4, "little") + b"\1\0\x18\0" + bytes(24)
    with pytest.raises(UserError, match="huge is not an image that can be decoded"):
        decode(header + bytes(1000), "huge")
