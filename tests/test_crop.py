"""Crops made while decoding, against the ops of the device and against Pillow."""

import io

import numpy as np
from PIL import Image, JpegImagePlugin
import pytest
from sklearn.datasets import load_sample_images

from ssl_jax.augment import geometry
from ssl_jax.data import crop, decode
from ssl_jax.data.crop import Crop, cut

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """427 x 640 pixels."""
    return load_sample_images().images[0]


def encoded(pixels: np.ndarray, kind: str = "png", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def one(data: bytes, *box, side=32, interpolation="bilinear", antialias=True, size=None) -> np.ndarray:
    return cut(data, lambda height, width: [Crop(*box, side, interpolation, antialias)], size)[0].astype(float)


@pytest.fixture(params=["simd", "pillow"])
def library(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(crop, "simd", None)
    elif crop.simd is None:
        pytest.skip("cykooz-resizer is not installed")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "box", [(100, 200, 150, 201), (3, 5, 20, 17), (0, 0, 427, 640), (395, 608, 32, 32), (0, 600, 427, 3)]
)
def test_crops_are_the_devices_up_to_rounding(photograph, library, box, interpolation):
    """The device resamples in floating point, libraries in fixed point with uint8 between the two axes."""
    found = one(encoded(photograph), *box, interpolation=interpolation)
    # The box with 3 columns would smear if the filter saw what lies beside it.
    wanted = 255 * geometry.resized_crop(photograph.astype(np.float32) / 255, box, 32, interpolation=interpolation)
    assert np.abs(found - wanted).mean() < 1.0
    assert np.abs(found - wanted).max() < 4.0


@pytest.mark.fast
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("box", [(100, 200, 150, 201), (3, 5, 20, 17), (0, 0, 427, 640), (0, 600, 427, 3)])
def test_crops_without_antialiasing_are_the_devices_too(photograph, box, kind, interpolation):
    """A JPEG is not decoded at reduced scale for them, which would smooth it."""
    data, options = encoded(photograph, kind), {"interpolation": interpolation, "antialias": False}
    found = one(data, *box, **options)
    pixels = np.asarray(Image.open(io.BytesIO(data)), np.float32)
    wanted = 255 * geometry.resized_crop(pixels / 255, box, 32, **options)
    assert np.abs(found - wanted).max() < 0.51


def test_large_crops_are_decoded_at_reduced_scale(photograph, monkeypatch):
    large = np.repeat(np.repeat(photograph, 2, 0), 2, 1)[:851, :1277]  # odd sides
    data, box, scales = encoded(large, "jpeg", quality=95), (101, 205, 650, 811), []
    real = JpegImagePlugin.JpegImageFile.draft

    def spy(image, mode, size):
        done = real(image, mode, size)
        scales.append(round(851 / image.height))
        return done

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    found = one(data, *box, side=150)
    assert scales == [4]
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    wanted = 255 * geometry.resized_crop(pixels.astype(np.float32) / 255, box, 150)
    assert np.abs(found - wanted).mean() < 3.0
    shifted = 255 * geometry.resized_crop(pixels.astype(np.float32) / 255, (101, 209, 650, 811), 150)
    assert np.abs(found - shifted).mean() > 2 * np.abs(found - wanted).mean()  # a pixel aside would be noticed


@pytest.mark.fast
def test_reduced_scale_enlarges_no_crop():
    rng = np.random.default_rng(0)
    for _ in range(500):
        crops = [Crop(0, 0, *rng.integers(1, 2000, 2), rng.integers(1, 300)) for _ in range(rng.integers(1, 4))]
        scale = crop.draft_scale(crops)
        room = min(min(c.height, c.width) / c.side for c in crops)
        assert scale == 1 or room >= scale
        assert scale == 8 or room < 2 * scale  # and no larger one would do


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_when_held_in_memory(photograph, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph[:200, :300], "jpeg", quality=95, exif=exif)
    upright = decode.decode(data)
    places = []

    def place(height, width):
        places.append((height, width))
        return [Crop(20, 30, 90, 70, 64)]

    found = cut(data, place)[0]
    assert places == [upright.shape[:2]]
    np.testing.assert_array_equal(found, cut(encoded(upright), place)[0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_three_channels(photograph, mode):
    image = Image.fromarray(photograph[:40, :40])
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "tiff" if mode == "CMYK" else "png")
    found = one(stream.getvalue(), 4, 4, 32, 32)
    assert found.shape == (32, 32, 3)
    np.testing.assert_array_equal(found, np.broadcast_to(decode.decode(stream.getvalue()), (40, 40, 3))[4:36, 4:36])


@pytest.mark.fast
def test_outside_the_image_are_zeros(photograph):
    found = one(encoded(photograph[:30, :30]), -2, 5, 32, 32)
    assert not found[:2].any() and not found[:, 25:].any()
    np.testing.assert_array_equal(found[2:, :25], photograph[:30, 5:30])


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_stored_side_comes_first(photograph, kind):
    data = encoded(photograph, kind)
    wanted = decode.decode(data, 100)[10:42, 20:52].astype(float)
    assert np.abs(one(data, 10, 20, 32, 32, size=100) - wanted).mean() < (0.01 if kind == "png" else 5.0)


@pytest.mark.fast
def test_damage_is_an_error(photograph):
    with pytest.raises(Exception, match="truncated"):
        one(encoded(photograph)[:20000], 0, 0, 32, 32)
