"""The ops against torchvision's and Pillow's numbers, what a view draws, and the papers' recipes."""

import colorsys
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest
from scipy import stats

from ssl_jax import dist
from ssl_jax.augment import draws, geometry, ops, recipes, threefry
from ssl_jax.augment import render as augment_render
from ssl_jax.augment.boxes import placed
from ssl_jax.augment.render import render, render_batch
from ssl_jax.augment.view import CROPS, STEPS, View, evaluation
from ssl_jax.runtime.errors import UserError

DRAWS = 20_000
# A view that leaves an 8x8 image as it is.
PLAIN = View(size=8, crop="centre", mean=(0.0,), std=(1.0,))


pytestmark = pytest.mark.usefixtures("quick_compilation")


def photo(height=8, width=8, seed=0):
    """Values over most of [0, 1], each pixel another colour."""
    return np.random.default_rng(seed).uniform(0.02, 0.98, (height, width, 3)).astype(np.float32)


def keys(n=DRAWS, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def draw(view, image, n=DRAWS, seed=0):
    """`n` renderings [n, size, size, C] of one image."""
    image = jnp.asarray(image)
    return np.asarray(jax.jit(jax.vmap(lambda key: render(view, key, image)))(keys(n, seed)))


def numbers(view, key):
    """The random numbers of each step, as `render` draws them."""
    return draws.split(view, jax.random.uniform(key, (draws.count(view),)))


def boxes(view, height, width, n=DRAWS, seed=0):
    """`n` crops: arrays top, left, height, width."""
    drawn = jax.jit(jax.vmap(lambda key: placed(view, numbers(view, key), height, width).box))(keys(n, seed))
    return [np.asarray(b, np.float64) for b in drawn]


def looks_uniform(values, low, high):
    """Kolmogorov-Smirnov at about four sigma."""
    assert low - 1e-5 <= values.min() and values.max() <= high + 1e-5
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


def looks_alike(a, b):
    return stats.ks_2samp(a, b).pvalue > 1e-4


# Ops against torchvision.


def by_planes(op):
    """An op on the channels one by one, as one on an image."""
    return lambda image, *given: jnp.stack(op(ops.planes(image), *given), -1)


def saturation(image, factor, *, hsv=False, pillow=False):
    reference, own = ops.saturation_blend(ops.planes(image), factor, hsv=hsv, pillow=pillow)
    return jnp.stack([ops.blend(x, reference, own, pillow=pillow) for x in ops.planes(image)], -1)


COLOUR = {"brightness": lambda image, factor: ops.blend(image, 0.0, factor), "contrast": ops.contrast,
          "saturation": saturation}  # fmt: skip
POINTWISE = {
    **{f"{name}_{f}": lambda x, op=op, f=f: op(x, f) for name, op in COLOUR.items() for f in (0.4, 1.0, 1.7)},
    **{f"hue_{shift}": lambda x, s=shift: by_planes(ops.hue)(x, s) for shift in (-0.4, -0.1, 0.05, 0.5)},
    **{f"gaussian_blur_sigma{sigma}_kernel{taps}": functools.partial(ops.gaussian_blur, sigma=sigma, taps=taps)
       for sigma, taps in ((0.1, 5), (1.0, 9), (2.0, 23))},
    "solarize_0.5": ops.solarize,
    "grayscale_3ch": ops.grayscale,
}  # fmt: skip
CROPPED = [(0, 0, 40, 48), (3, 7, 20, 25), (10, 4, 29, 13), (17, 20, 8, 9)]


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


def compare(op, images, expected, tolerance):
    out = jax.jit(jax.vmap(op))(images)
    assert out.dtype == images.dtype
    assert np.abs(np.asarray(out) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.fast
@pytest.mark.parametrize("name", POINTWISE)
def test_ops_agree_with_torchvision(golden, dtype, name):
    with np.load(golden / "augmentations.npz") as reference:
        images, expected = jnp.asarray(reference["images"], dtype), reference[name]
    # torchvision turns hues in float32 even when the image is float64.
    compare(POINTWISE[name], images, expected, 1e-7 if dtype == "float64" and not name.startswith("hue") else 1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", CROPPED)
def test_resized_crops_agree_with_torchvision(golden, dtype, box, interpolation):
    with np.load(golden / "augmentations.npz") as reference:
        images = jnp.asarray(reference["images"], dtype)
        expected = reference[f"resized_crop_{interpolation}_{'_'.join(map(str, box))}_to_24"]
    if interpolation == "bicubic":
        expected = expected.clip(0, 1)  # the reference overshoots; the authors clip
    crop = functools.partial(geometry.resized_crop, box=box, size=24, interpolation=interpolation)
    compare(crop, images, expected, 1e-7 if dtype == "float64" else 1e-5)
    compare(functools.partial(crop, flip=True), images, expected[:, :, ::-1], 1e-7 if dtype == "float64" else 1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [*CROPPED, (0, 0, 40, 9)])
def test_resized_crops_without_antialiasing_are_tensorflows(box, interpolation):
    """`tf.image.resize` is Keys' cubic at fixed distances, without what lies outside: `jax.image.resize` follows it."""
    image, (top, left, height, width) = jnp.asarray(photo(40, 48)), box
    part, kind = image[top : top + height, left : left + width], {"bilinear": "linear", "bicubic": "cubic"}
    wanted = jax.image.resize(part, (24, 24, 3), kind[interpolation], antialias=False).clip(0, 1)
    crop = functools.partial(geometry.resized_crop, image, box, 24, interpolation=interpolation)
    np.testing.assert_allclose(crop(antialias=False), wanted, atol=1e-5)
    np.testing.assert_allclose(crop(antialias=False, flip=True), wanted[:, ::-1], atol=1e-5)
    shrinks = max(height, width) > 24
    assert (np.abs(np.asarray(crop() - wanted)).max() > 1e-3) == shrinks


@pytest.mark.fast
def test_flip_of_the_columns_alone_agrees_with_torchvision(golden):
    with np.load(golden / "augmentations.npz") as reference:
        images, expected = reference["images"], reference["hflip"]
    columns = geometry.resize_matrix(0, 48, 48, 48, interpolation="bicubic", flip=True)
    np.testing.assert_allclose(np.einsum("nhwc,xw->nhxc", images, columns), expected, atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_enlarges_with_weights_that_sum_to_one(interpolation):
    for start, length in ((0, 3), (2, 1), (5, 11)):
        matrix = np.asarray(geometry.resize_matrix(start, length, 16, 24, interpolation=interpolation))
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
        assert not matrix[:, :start].any() and not matrix[:, start + length :].any()


@pytest.mark.fast
@pytest.mark.parametrize("shift", [-0.37, 0.0, 0.2, 1.0])
def test_hue_agrees_with_colorsys(shift):
    image = photo(seed=3).astype(np.float64)
    image[0, :3] = [[0.4, 0.4, 0.4], [0, 0, 0], [0.7, 0.7, 0.2]]  # gray, black, a tie of the two largest
    with jax.enable_x64(True):
        out = np.asarray(by_planes(ops.hue)(jnp.asarray(image), shift))
    for pixel, turned in zip(image.reshape(-1, 3), out.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(turned, colorsys.hsv_to_rgb((h + shift) % 1, s, v), atol=1e-12)


@pytest.mark.fast
@pytest.mark.parametrize("factor", [0.0, 0.2, 1.0, 1.7, 9.0])
def test_hsv_saturation_is_tensorflows(factor):
    """Hue and value are kept, and s becomes min(1, factor s): TensorFlow's adjust_saturation, BYOL's augmentations."""
    image = photo(seed=3).astype(np.float64)
    image[0, :3] = [[0.4, 0.4, 0.4], [0, 0, 0], [0.7, 0.7, 0.2]]
    with jax.enable_x64(True):
        out = np.asarray(saturation(jnp.asarray(image), factor, hsv=True))
    for pixel, changed in zip(image.reshape(-1, 3), out.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(changed, colorsys.hsv_to_rgb(h, min(1, factor * s), v), atol=1e-12)


@pytest.mark.fast
def test_the_two_saturations_of_one_pixel():
    """TensorFlow keeps the value of red (.9, .2, .1), torchvision its luma."""
    pixel = jnp.array([[[0.9, 0.2, 0.1]]])
    np.testing.assert_allclose(saturation(pixel, 0.2, hsv=True)[0, 0], [0.9, 0.76, 0.74], atol=1e-5)
    np.testing.assert_allclose(saturation(pixel, 0.2)[0, 0], [0.498, 0.358, 0.338], atol=5e-4)


# Ops on bytes, against Pillow's.

HEIGHT_SHRINKS = (10, 4, 29, 13)  # and the width does not: recent Pillow begins with the height of such a box


def pillow_hue(image, shift):
    """As torchvision turns the hue of a Pillow image."""
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, np.int64) + int(shift * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


def pillow_crop(image, box, interpolation):
    top, left, height, width = box
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    return image.crop((left, top, left + width, top + height)).resize((24, 24), kind)


ON_BYTES = {
    **{f"{name}_{f}": (lambda x, op=op, f=f: op(x, f), lambda image, e=enhance, f=f: e(image).enhance(f))
       for name, op, enhance in (
           ("brightness", lambda x, f: ops.blend(x, 0.0, f, pillow=True), ImageEnhance.Brightness),
           ("contrast", functools.partial(ops.contrast, pillow=True), ImageEnhance.Contrast),
           ("saturation", functools.partial(saturation, pillow=True), ImageEnhance.Color),
       ) for f in (0.4, 0.83, 1.0, 1.7)},
    **{f"hue_{shift}": (lambda x, s=shift: by_planes(functools.partial(ops.hue, pillow=True))(x, s),
                        functools.partial(pillow_hue, shift=shift)) for shift in (-0.4, -0.1, 0.05, 0.5)},
    **{f"crop_{interpolation}_{box}": (
        functools.partial(geometry.resized_crop, box=box, size=24, interpolation=interpolation, pillow=True),
        functools.partial(pillow_crop, box=box, interpolation=interpolation),
    ) for interpolation in ("bilinear", "bicubic") for box in CROPPED if box != HEIGHT_SHRINKS},
    "grayscale": (functools.partial(ops.grayscale, pillow=True), lambda image: image.convert("L").convert("RGB")),
    "autocontrast": (functools.partial(ops.autocontrast, pillow=True), ImageOps.autocontrast),
    **{f"sharpness_{f}": (functools.partial(ops.sharpness, factor=f, pillow=True),
                          lambda image, f=f: ImageEnhance.Sharpness(image).enhance(f)) for f in (0.3, 1.7)},
}  # fmt: skip


def off_pillow(op, wanted):
    """The share of values that are not Pillow's, and the largest gap, over noise, a smooth image and a flat one."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:5, :6]).resize((48, 40), Image.Resampling.BICUBIC))
    gaps = []
    for image in (noise, smooth, smooth // 8 + 100):
        found = 255 * np.asarray(jax.jit(op)(jnp.asarray(image, jnp.float32) / 255))
        np.testing.assert_allclose(found, np.round(found), atol=1e-4)
        gaps.append(np.abs(np.round(found) - np.asarray(wanted(Image.fromarray(image)), np.float64)))
    return max((gap > 0).mean() for gap in gaps), max(gap.max() for gap in gaps)


@pytest.mark.fast
@pytest.mark.parametrize("name", ON_BYTES)
def test_ops_round_as_pillow_does(name):
    """To the level, but for the few pixels where the last bit of a product decides (hue: of an eight-bit angle)."""
    share, largest = off_pillow(*ON_BYTES[name])
    assert share < (0.04 if name.startswith(("hue", "crop")) else 0.005)
    assert largest <= (6 if name.startswith("hue") else 1)


@pytest.mark.fast
def test_crops_are_a_level_from_those_of_another_order_of_axes():
    crop = functools.partial(geometry.resized_crop, box=HEIGHT_SHRINKS, size=24, pillow=True)
    share, largest = off_pillow(crop, functools.partial(pillow_crop, box=HEIGHT_SHRINKS, interpolation="bilinear"))
    assert share < 0.25 and largest <= 1


def test_a_view_of_pillow_has_whole_levels():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    every = dataclasses.replace(
        recipes.PIRL, size=8, **dict.fromkeys(("blur", "pca", "hsv", "affine"), 0.5), degrees=20.0, taps=5,
        order=("affine", "crop", "jitter", "hsv", "pca", "photometric", "gray", "blur", "flip"),
        mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    for view in (every, dataclasses.replace(every, additive_brightness=True)):
        levels = 255 * draw(dataclasses.replace(view, pillow=True), image, 64)
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
        levels = 255 * draw(dataclasses.replace(view, pillow=False), image, 64)
        assert np.abs(levels - np.round(levels)).max() > 0.4


@pytest.mark.fast
def test_contrast_per_channel_blends_with_each_channels_mean():
    image = photo()
    expected = (0.5 * image + 0.5 * image.mean((0, 1))).clip(0, 1)
    np.testing.assert_allclose(ops.contrast(image, 0.5, per_channel=True), expected, atol=1e-6)
    gray = image[..., :1]
    np.testing.assert_allclose(ops.contrast(gray, 0.5), 0.5 * gray + 0.5 * gray.mean(), atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("name", COLOUR)
def test_blends_stay_in_range(name):
    out = np.asarray(COLOUR[name](photo(), 9.0))
    assert out.min() >= 0 and out.max() == 1


@pytest.mark.fast
def test_zero_padding_darkens_the_border_and_reflection_does_not():
    image = jnp.full((16, 16, 3), 0.5)
    reflected, zero = (ops.gaussian_blur(image, 1.5, 5, padding=p) for p in ("reflect", "zero"))
    np.testing.assert_allclose(reflected, image, atol=1e-6)
    np.testing.assert_allclose(zero[2:-2, 2:-2], image[2:-2, 2:-2], atol=1e-6)
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)
    seen = weights[2:].sum() / weights.sum()  # of the kernel at the outermost pixel
    np.testing.assert_allclose(zero[0, 8], 0.5 * seen, atol=1e-6)
    np.testing.assert_allclose(zero[0, 0], 0.5 * seen**2, atol=1e-6)


@pytest.mark.fast
def test_a_window_is_exact_and_black_beyond_the_image():
    image = photo(6, 7)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    for top, left in ((0, 0), (2, 3), (4, 5)):
        wanted = padded[top : top + 6, left : left + 6]
        for flip in (False, True):
            out = geometry.window(jnp.asarray(image), top - 2, left - 2, 6, flip=flip)
            np.testing.assert_array_equal(out, wanted[:, ::-1] if flip else wanted)


# Ops against Pillow.


def bytes_image(seed=0):
    low, high = np.array([20, 0, 90]), np.array([200, 256, 160])
    return np.random.default_rng(seed).integers(low, high, (24, 31, 3)).astype(np.uint8)


def against_pillow(op, pillow, atol):
    raw = bytes_image()
    ours = np.asarray(op(jnp.asarray(raw, jnp.float32) / 255))
    np.testing.assert_allclose(ours * 255, np.asarray(pillow(Image.fromarray(raw)), np.float32), atol=atol)


@pytest.mark.fast
@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterize_agrees_with_pillow(bits):
    against_pillow(lambda x: ops.posterize(x, bits), lambda x: ImageOps.posterize(x, bits), 1e-3)


@pytest.mark.fast
@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
def test_sharpness_agrees_with_pillow(factor):
    against_pillow(lambda x: ops.sharpness(x, factor), lambda x: ImageEnhance.Sharpness(x).enhance(factor), 1.6)


@pytest.mark.fast
def test_autocontrast_and_solarize_agree_with_pillow():
    against_pillow(ops.autocontrast, ImageOps.autocontrast, 1.01)
    against_pillow(ops.solarize, ImageOps.solarize, 1e-3)
    constant = jnp.full((4, 4, 3), 0.3)
    np.testing.assert_array_equal(ops.autocontrast(constant), constant)


# Affine maps.

affine = jax.jit(geometry.affine)
TURN = jnp.array([[0.0, -1.0], [1.0, 0.0]])
NO_SHIFT = jnp.zeros(2)


@pytest.mark.fast
def test_affine_of_nothing_is_the_identity():
    image = jnp.asarray(photo(6, 9))
    np.testing.assert_allclose(affine(image, jnp.eye(2), NO_SHIFT), image, atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("size", [7, 8])
def test_affine_turns_by_quarters(size):
    image = jnp.asarray(photo(size, size))
    # Output (y, x) shows the input at (-x, y): what was on the right is on top.
    np.testing.assert_allclose(affine(image, TURN, NO_SHIFT), np.rot90(image, -1), atol=1e-6)
    np.testing.assert_allclose(affine(image, TURN.T, NO_SHIFT), np.rot90(image), atol=1e-6)


@pytest.mark.fast
def test_affine_shifts_with_zeros_outside():
    image = photo(6, 9)
    out = np.asarray(affine(jnp.asarray(image), jnp.eye(2), jnp.array([2.0, -3.0])))
    expected = np.zeros_like(image)
    expected[:-2, 3:] = image[2:, :-3]
    np.testing.assert_allclose(out, expected, atol=1e-6)
    half = np.asarray(affine(jnp.asarray(image), jnp.eye(2), jnp.array([0.5, 0.0])))
    np.testing.assert_allclose(half[:-1], (image[:-1] + image[1:]) / 2, atol=1e-6)
    np.testing.assert_allclose(half[-1], image[-1] / 2, atol=1e-6)


@pytest.mark.fast
def test_affine_magnifies_about_the_centre():
    image = np.zeros((9, 9, 1), np.float32)
    image[4, 6] = 1
    out = np.asarray(affine(jnp.asarray(image), jnp.eye(2) / 2, NO_SHIFT))
    assert out[4, 8, 0] == 1  # twice as far from the centre
    assert out[4, 6, 0] == 0


# What a view draws: probabilities.

CHANGES = {
    "flip": {},
    "jitter": {"brightness": 0.4},
    "gray": {},
    "blur": {"sigma": (0.5, 2.0), "taps": 5},
    "solarize": {},
    "photometric": {"order": ("crop", "photometric")},
    "affine": {"degrees": 30.0},
}


@pytest.mark.parametrize("step", CHANGES)
def test_a_step_happens_with_its_probability(step):
    image = photo()
    for p in (0.0, 0.3, 1.0):
        out = draw(dataclasses.replace(PLAIN, **{step: p}, **CHANGES[step]), image)
        share = np.mean(np.abs(out - image).max((1, 2, 3)) > 1e-6)
        assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / DRAWS)


def test_steps_are_drawn_independently():
    bright, dark = [0.6, 0.7, 0.9], [0.0, 0.2, 0.05]
    image = np.array([[bright, dark]] * 2, np.float32)
    out = draw(dataclasses.replace(PLAIN, size=2, flip=0.5, gray=0.5, solarize=0.5), image)[:, 0]
    flipped = out[:, 0].mean(1) < out[:, 1].mean(1)
    gray = np.ptp(out, axis=2).max(1) < 1e-6
    solarized = out.max((1, 2)) < 0.5
    counts = np.bincount(4 * flipped + 2 * gray + solarized, minlength=8)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.fast
@pytest.mark.parametrize("crop", CROPS)
def test_every_crop_can_be_flipped(crop):
    view = dataclasses.replace(PLAIN, crop=crop, pad=2)
    flipped = dataclasses.replace(view, flip=1.0)
    image = photo(10, 12)
    np.testing.assert_allclose(draw(flipped, image, 8), draw(view, image, 8)[:, :, ::-1], atol=1e-6)
    if crop == "centre":  # an image that has the view's size already
        np.testing.assert_array_equal(draw(flipped, photo(), 2), [photo()[:, ::-1]] * 2)


@pytest.mark.fast
def test_images_views_and_keys_differ():
    view = dataclasses.replace(PLAIN, crop="torch", flip=0.5, jitter=1.0, brightness=0.4)
    image, streams = jnp.asarray(photo()), [jax.random.fold_in(jax.random.key(0), s) for s in (0, 1)]
    render_both = jax.jit(lambda k: render_batch(view, k, jnp.stack([image] * 8)))
    first, second = (np.asarray(render_both(dist.example_keys(k, jnp.arange(8)))) for k in streams)
    np.testing.assert_array_equal(first, render_both(dist.example_keys(streams[0], jnp.arange(8))))
    rendered = [*first, *second]
    for a, b in itertools.combinations(rendered, 2):
        assert np.abs(a - b).max() > 1e-3


# What a view draws: numbers.

EVERY_STEP = dataclasses.replace(
    PLAIN, crop="torch", flip=0.5, jitter=0.8, brightness=0.4, hue=0.1, gray=0.2, blur=0.5, taps=5, solarize=1.0,
    photometric=0.5, pca=0.5, hsv=1.0, affine=0.5,
    order=("jitter", "pca", "affine", "crop", "hsv", "gray", "blur", "photometric", "solarize", "flip"),
)  # fmt: skip


@pytest.mark.fast
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("view", [PLAIN, EVERY_STEP, dataclasses.replace(EVERY_STEP, jitter=1.0, contrast=0.4)])
def test_every_number_of_a_view_is_used(monkeypatch, view, crop):
    shares, split = [], draws.split
    monkeypatch.setattr(draws, "split", lambda *args: shares.append(split(*args)) or shares[-1])
    jax.eval_shape(lambda key: render(dataclasses.replace(view, crop=crop), key, photo()), jax.random.key(0))
    assert len(shares) == 1 and set(shares[0]) == {"flip", *view.order}
    assert not any(len(left) for left in shares[0].values())


@pytest.mark.fast
@pytest.mark.parametrize("crop", CROPS)
def test_host_and_device_place_a_view_alike(crop):
    """NumPy from raw keys and JAX from keys, also behind steps that draw numbers before the crop."""
    view, count = dataclasses.replace(EVERY_STEP, size=32, crop=crop), 200
    raw = threefry.fold_in(np.zeros(2, np.uint32), np.arange(count))
    host = [placed(view, draws.split(view, x), 40, 48) for x in threefry.uniform(raw, draws.count(view))]
    on_device = jax.jit(jax.vmap(lambda key: placed(view, numbers(view, key), 40, 48)))
    box, flip = on_device(jax.random.wrap_key_data(jnp.asarray(raw)))
    np.testing.assert_array_equal([found.flip for found in host], flip)
    # An odd rounding of exp may move a side by a pixel.
    same = (np.array([found.box for found in host], float) == np.stack(box, -1)).all(1)
    assert same.mean() > 0.98 and 0.3 < np.mean(flip) < 0.7


@pytest.mark.fast
@pytest.mark.parametrize("crop", CROPS)
def test_a_crop_does_not_depend_on_the_colours_behind_it(crop):
    plain = View(crop=crop, size=32, order=("crop", "flip"), flip=0.5)
    coloured = dataclasses.replace(plain, order=("crop", "jitter", "flip"), jitter=0.8, brightness=0.4)
    for one, other in zip(boxes(plain, 40, 48, 50), boxes(coloured, 40, 48, 50), strict=True):
        np.testing.assert_array_equal(one, other)


# What a view draws: crops.


@pytest.mark.fast
@pytest.mark.parametrize("crop", ["torch", "byol"])
def test_crops_are_uniform_in_area_and_log_uniform_in_ratio(crop):
    top, left, h, w = boxes(View(crop=crop, area=(0.2, 0.7)), 3000, 3000)
    assert looks_uniform(h * w / 3000**2, 0.2 * 0.999, 0.7 * 1.001)
    assert looks_uniform(np.log(w / h), np.log(0.749), np.log(1.335))
    assert looks_uniform(top / (3000 - h), 0, 1) and looks_uniform(left / (3000 - w), 0, 1)
    assert not looks_uniform(np.sqrt(h * w) / 3000, np.sqrt(0.2 * 0.999), np.sqrt(0.7 * 1.001))


def simulated_torch(rng, height, width, view):
    """Ten tries each, in NumPy."""
    area = height * width * rng.uniform(*view.area, (DRAWS, 10))
    ratio = np.exp(rng.uniform(*np.log(view.ratio), (DRAWS, 10)))
    w, h = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
    fits = (w <= width) & (h <= height)
    first = fits.argmax(1)[:, None]
    assert fits.any(1).all()
    return np.take_along_axis(h, first, 1)[:, 0], np.take_along_axis(w, first, 1)[:, 0]


def simulated_byol(rng, height, width, view):
    area = height * width * rng.uniform(*view.area, DRAWS)
    ratio = np.exp(rng.uniform(*np.log(view.ratio), DRAWS))
    return np.minimum(np.round(np.sqrt(area / ratio)), height), np.minimum(np.round(np.sqrt(area * ratio)), width)


@pytest.mark.fast
@pytest.mark.parametrize(("crop", "simulated"), [("torch", simulated_torch), ("byol", simulated_byol)])
def test_large_crops_are_drawn_again_or_clipped(crop, simulated):
    view = View(crop=crop, area=(0.5, 0.95))
    _, _, h, w = boxes(view, 300, 340)
    expected_h, expected_w = simulated(np.random.default_rng(1), 300, 340, view)
    assert looks_alike(h, expected_h) and looks_alike(w, expected_w) and looks_alike(h * w, expected_h * expected_w)
    assert ((h == 300).mean() > 0.1) == (crop == "byol")


@pytest.mark.fast
@pytest.mark.parametrize("crop", ["torch", "byol", "tf"])
def test_crops_are_anywhere_in_the_image(crop):
    top, left, h, w = boxes(View(crop=crop, area=(0.5625, 0.5625), ratio=(1.0, 1.0)), 32, 32)
    assert (h == 24).all() and (w == 24).all()
    for place in (top, left):  # 0 to 8
        counts = np.bincount(place.astype(int), minlength=9)
        assert len(counts) == 9 and stats.chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(top, left)[0, 1]) < 4 / np.sqrt(DRAWS)


@pytest.mark.fast
@pytest.mark.parametrize("crop", ["torch", "byol", "tf"])
@pytest.mark.parametrize(("height", "width"), [(9, 40), (40, 9)])
def test_crops_are_whole_pixels_inside_the_image(crop, height, width):
    top, left, h, w = boxes(View(crop=crop), height, width, 2000)
    for values in (top, left, h, w):
        np.testing.assert_array_equal(values, np.round(values))
    assert (h >= 1).all() and (w >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("height", "width", "ratio", "expected"),
    [
        (10, 100, (3 / 4, 4 / 3), (0, 43, 10, 13)),
        (100, 10, (3 / 4, 4 / 3), (43, 0, 13, 10)),
        (10, 10, (4 / 3, 1.4), (1, 0, 8, 10)),
        (40, 48, (0.7, 0.71), (0, 10, 40, 28)),
    ],
)
def test_torchvisions_fallback_is_a_centred_crop(height, width, ratio, expected):
    box = boxes(View(crop="torch", area=(0.99, 1.0), ratio=ratio), height, width, 4)
    np.testing.assert_array_equal(np.transpose(box), [expected] * 4)


@pytest.mark.fast
def test_tensorflows_boxes_obey_the_limits():
    _, _, h, w = boxes(View(crop="tf", area=(0.08, 0.5)), 64, 48)
    share = h * w / (64 * 48)
    # A tenth of the image has to be covered whatever the area.
    assert share.min() >= 0.1 and share.max() <= 0.5
    assert share.min() < 0.11 and share.max() > 0.48
    assert (w <= (h * 4 / 3) + 0.5).all() and (w >= h * 3 / 4 - 0.5).all()


@pytest.mark.fast
def test_tensorflows_boxes_are_uniform_in_height_and_ratio():
    _, _, h, w = boxes(View(crop="tf", area=(0.25, 0.81), ratio=(1.0, 1.0)), 100, 100)
    np.testing.assert_array_equal(h, w)
    counts = np.bincount(h.astype(int))
    assert len(counts) == 91 and not counts[:50].any()
    assert stats.chisquare(counts[50:]).pvalue > 1e-4
    _, _, h, w = boxes(View(crop="tf", area=(0.3, 0.4)), 3000, 3000)
    assert looks_uniform(w / h, 3 / 4 - 1e-3, 4 / 3 + 1e-3)
    # No box of the whole area has the right shape: the image as it is.
    box = boxes(View(crop="tf", area=(0.99, 1.0)), 40, 90, 4)
    np.testing.assert_array_equal(np.transpose(box), [(0, 0, 40, 90)] * 4)


@pytest.mark.fast
def test_shifts_are_uniform():
    image = np.zeros((8, 8, 3), np.float32)
    image[2:4, 2:4] = [[[1.0] * 3, [0.75] * 3], [[0.5] * 3, [0.25] * 3]]
    out = draw(dataclasses.replace(PLAIN, crop="shift", pad=2), image)[..., 0]
    place = (out == 1).reshape(DRAWS, -1).argmax(1)
    assert (out == 1).any((1, 2)).all()
    counts = np.bincount(5 * (place // 8) + place % 8, minlength=25)
    assert len(counts) == 25 and stats.chisquare(counts).pvalue > 1e-4


# What a view draws: colours.

JITTER = dataclasses.replace(PLAIN, size=2, jitter=1.0)


def replace_ops(monkeypatch, write):
    """Puts `write(name, channel, number of the channel, strength)` in the place of each op of jitter."""

    def blended(_, channels, given, turn):
        for name in ("brightness", "saturation"):
            written = [write(name, x, c, given[name]) for c, x in enumerate(channels)]
            channels = [jnp.where(turn[name], *pair) for pair in zip(written, channels, strict=True)]
        return channels

    def hue(channels, shift, **_):
        return [write("hue", x, c, shift) for c, x in enumerate(channels)]

    def contrast(image, factor, **_):
        return jnp.stack([write("contrast", x, c, factor) for c, x in enumerate(ops.planes(image))], -1)

    monkeypatch.setattr(augment_render, "_blended", blended)
    monkeypatch.setattr(ops, "hue", hue)
    monkeypatch.setattr(ops, "contrast", contrast)


@pytest.mark.fast
def test_jitter_order_is_uniform(monkeypatch):
    # Each op writes its digit, so that a pixel spells the order they came in.
    digit = {"brightness": 1, "contrast": 2, "saturation": 3, "hue": 4}
    replace_ops(monkeypatch, lambda name, x, *_: 10 * x + digit[name])
    view = dataclasses.replace(JITTER, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    spelt = draw(view, np.zeros((2, 2, 3), np.float32))[:, 0, 0, 0].astype(int)
    orders, counts = np.unique(spelt, return_counts=True)
    assert orders.tolist() == sorted(int("".join(p)) for p in itertools.permutations("1234"))
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.fast
def test_jitter_is_all_four_ops_or_none(monkeypatch):
    weight = {"brightness": 1.0, "contrast": 10.0, "saturation": 100.0, "hue": 1000.0}
    replace_ops(monkeypatch, lambda name, x, *_: x + weight[name])
    view = dataclasses.replace(JITTER, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    values, counts = np.unique(draw(view, np.zeros((2, 2, 3), np.float32))[:, 0, 0, 0], return_counts=True)
    assert values.tolist() == [0, 1111]
    assert abs(counts[1] / DRAWS - 0.8) < 4 * np.sqrt(0.16 / DRAWS)


@pytest.mark.fast
def test_jitter_draws_its_strengths(monkeypatch):
    # Each op writes what it was given into a channel of its own.
    own = {"brightness": 0, "contrast": 1, "saturation": 2, "hue": 3}
    replace_ops(monkeypatch, lambda name, x, c, given: x + given if c == own[name] else x)
    view = dataclasses.replace(JITTER, brightness=1.5, contrast=0.5, saturation=0.2, hue=0.1)
    given = draw(view, np.zeros((2, 2, 4), np.float32))[:, 0, 0]
    for values, (low, high) in zip(given.T, ((0.0, 2.5), (0.5, 1.5), (0.8, 1.2), (-0.1, 0.1)), strict=True):
        assert looks_uniform(values, low, high)
    assert np.abs(np.corrcoef(given.T) - np.eye(4)).max() < 4 / np.sqrt(DRAWS)


ALL_FOUR = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
JITTERS = {
    **{name: {name: 0.4} for name in ALL_FOUR},
    "all": ALL_FOUR,
    "all, additive": {**ALL_FOUR, "additive_brightness": True},
    "all, contrast of each channel": {**ALL_FOUR, "channel_contrast": True},
    "all, saturation of HSV": {**ALL_FOUR, "hsv_saturation": True},
    "without contrast": {"brightness": 0.4, "saturation": 0.4, "hue": 0.1},
}


@pytest.mark.parametrize("pillow", [False, True])
@pytest.mark.parametrize("name", JITTERS)
def test_jitter_is_its_ops_one_after_another(name, pillow):
    """In the order and of the strengths drawn, with the reference and the rounding that the view asks for."""
    view = dataclasses.replace(JITTER, size=8, pillow=pillow, **JITTERS[name])
    image = jnp.round(255 * jnp.asarray(photo())) / 255
    names = [n for n in ALL_FOUR if n in JITTERS[name]]

    @jax.jit
    def drawn(key):  # as `_jitter` draws
        own = numbers(view, key)["jitter"]
        shift = own.between(-view.brightness, view.brightness)
        given = {n: own.between(1 - getattr(view, n), 1 + getattr(view, n)) for n in list(ALL_FOUR)[:3]}
        given |= {"hue": own.between(-view.hue, view.hue), "shift": shift}
        return given, jnp.argsort(own(len(names)))

    one = {
        "brightness": lambda x, f, _: ops.blend(x, 0.0, f, pillow=pillow),
        "contrast": lambda x, f, _: ops.contrast(x, f, per_channel=view.channel_contrast, pillow=pillow),
        "saturation": lambda x, f, _: saturation(x, f, hsv=view.hsv_saturation, pillow=pillow),
        "hue": lambda x, f, _: by_planes(functools.partial(ops.hue, pillow=pillow))(x, f),
    }
    if view.additive_brightness:
        level = ops.nearest_level if pillow else lambda x: x
        one["brightness"] = lambda x, _, shift: level(jnp.clip(x + shift, 0, 1))
    one = {n: jax.jit(op) for n, op in one.items()}
    found, orders, gaps = draw(view, image, 24), set(), []
    for key, got in zip(keys(24), found, strict=True):
        given, order = drawn(key)
        wanted = image
        for number in order:
            wanted = one[names[number]](wanted, given[names[number]], given["shift"])
        gaps.append(np.abs(got - np.asarray(wanted)))
        orders.add(tuple(order.tolist()))
    # With rounding the last bit may decide for another level, which the ops behind enlarge.
    assert np.max(gaps) < (8 / 255 if pillow else 1e-5) and np.mean(np.array(gaps) > 1e-3) < 0.01
    assert np.abs(found - np.asarray(image)).mean() > 0.01 and len(orders) > len(names) // 2


@pytest.mark.fast
def test_additive_brightness_is_another_distribution():
    additive = dataclasses.replace(JITTER, brightness=0.3, additive_brightness=True)
    out = draw(additive, np.full((2, 2, 3), 0.4, np.float32))
    assert looks_uniform(out[:, 0, 0, 0], 0.1, 0.7)
    black = np.zeros((2, 2, 3), np.float32)
    dark = draw(additive, black)
    assert dark.min() == 0 and abs((dark[:, 0, 0, 0] > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(DRAWS)
    assert not draw(dataclasses.replace(additive, additive_brightness=False), black).any()
    assert draw(additive, np.full((2, 2, 3), 0.9, np.float32)).max() == 1


@pytest.mark.fast
def test_blur_sigma_is_uniform():
    image = np.zeros((9, 9, 3), np.float32)
    image[4, 4] = 1
    out = draw(dataclasses.replace(PLAIN, size=9, blur=0.5, sigma=(0.3, 2.0), taps=5), image)
    out = out[out[:, 4, 4, 0] < 1]  # of those that are blurred
    # Next to an impulse is exp(-1 / 2 sigma^2) of its centre.
    sigma = np.sqrt(-0.5 / np.log(out[:, 4, 5, 0] / out[:, 4, 4, 0]))
    assert looks_uniform(sigma, 0.3, 2.0)


@pytest.mark.fast
@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_blur_padding_is_the_views(padding):
    view = dataclasses.replace(PLAIN, blur=1.0, sigma=(1.0, 1.0), taps=5, blur_padding=padding)
    out = draw(view, np.full((8, 8, 3), 0.5, np.float32), 2)
    assert (out[:, 0, 0] < 0.45).all() == (padding == "zero")


@pytest.mark.fast
def test_photometric_is_four_ops_in_a_row(monkeypatch):
    """VISSL's RandomApply of posterize, sharpness, solarize and autocontrast, each with a strength of its own."""
    seen = []

    def spy(name, image, strength):
        seen.append(name)
        return jnp.concatenate([image[..., 1:], jnp.full_like(image[..., :1], strength)], -1)

    monkeypatch.setattr(ops, "posterize", lambda image, bits: spy("posterize", image, bits))
    monkeypatch.setattr(ops, "sharpness", lambda image, factor, **_: spy("sharpness", image, factor))
    monkeypatch.setattr(ops, "solarize", lambda image, threshold: spy("solarize", image, threshold))
    monkeypatch.setattr(ops, "autocontrast", lambda image, **_: seen.append("autocontrast") or image)
    view = dataclasses.replace(PLAIN, photometric=1.0, order=("crop", "photometric"))
    bits, factor, threshold = draw(view, np.zeros((8, 8, 3), np.float32))[:, 0, 0].T
    assert seen == ["posterize", "sharpness", "solarize", "autocontrast"]
    counts = np.bincount(bits.astype(int), minlength=9)
    assert not counts[:4].any() and len(counts) == 9 and stats.chisquare(counts[4:]).pvalue > 1e-4  # 4 to 8 bits
    assert looks_uniform(factor, 0.1, 1.9)
    level = 255 * threshold + 0.5  # bytes 0 to 256
    np.testing.assert_allclose(level, np.round(level), atol=1e-3)
    assert np.round(level.min()) == 0 and np.round(level.max()) == 256
    assert looks_uniform(level + np.random.default_rng(0).uniform(-0.5, 0.5, DRAWS), -0.5, 256.5)


@pytest.mark.fast
def test_photometric_ops_are_pillows():
    """All four on bytes, with the strengths of each key, as VISSL applies them."""
    view = View(
        size=24, crop="centre", photometric=1.0, pillow=True, order=("crop", "photometric"), mean=(0.0,), std=(1.0,)
    )
    raw = bytes_image()[:24, :24]
    found = 255 * draw(view, raw, 40)
    for key, image in zip(keys(40), found, strict=True):
        own = numbers(view, key)["photometric"]
        bits, factor, level = int(4 + own.below(5)), float(own.between(0.1, 1.9)), int(own.below(257))
        wanted = ImageEnhance.Sharpness(ImageOps.posterize(Image.fromarray(raw), bits)).enhance(factor)
        wanted = np.asarray(ImageOps.autocontrast(ImageOps.solarize(wanted, level)), float)
        assert np.mean(np.abs(image - wanted) > 1.5) < 0.02


@pytest.mark.fast
def test_affine_draws_its_angle_scale_shear_and_shift():
    # Ramps show where each pixel came from, so that the map can be read off the middle of the image.
    y, x = np.mgrid[:16, :16].astype(np.float32)
    image = np.stack([y, x, np.zeros_like(x)], -1)
    view = View(
        size=16, crop="centre", affine=1.0, degrees=20.0, translate=0.1, scale=(0.8, 1.1), shear=15.0,
        order=("affine", "crop"), mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    place = draw(view, image)[:, 7:9, 7:9, :2].astype(np.float64)
    matrix = np.stack([place[:, 1, 0] - place[:, 0, 0], place[:, 0, 1] - place[:, 0, 0]], -1)
    angle = np.arctan2(-matrix[:, 0, 1], matrix[:, 1, 1])
    assert looks_uniform(np.rad2deg(angle), -20, 20.001)
    scale = 1 / np.sqrt(np.linalg.det(matrix))
    assert looks_uniform(np.log(scale), np.log(0.8), np.log(1.1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    shear = (np.linalg.inv(turn) @ matrix * scale[:, None, None])[:, 1, 0]
    assert looks_uniform(np.rad2deg(np.arctan(shear)), -15, 15.001)
    shift = (place.mean((1, 2)) - 7.5) / 16
    for axis in (0, 1):
        assert looks_uniform(shift[:, axis], -0.1, 0.1)
    assert abs(np.corrcoef(shift.T)[0, 1]) < 4 / np.sqrt(DRAWS)


# Output and evaluation.


@pytest.mark.fast
def test_output_is_normalised_float32_of_the_views_size():
    raw = (photo(10, 12) * 255).astype(np.uint8)
    view = View(size=6, crop="torch", mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 2.0))
    unit = dataclasses.replace(view, mean=(0.0,), std=(1.0,))
    out, plain = draw(view, raw, 64), draw(unit, raw, 64)
    assert out.shape == (64, 6, 6, 3) and out.dtype == np.float32
    assert plain.min() >= 0 and plain.max() <= 1 and plain.max() > 0.5
    np.testing.assert_allclose(out, (plain - [0.2, 0.4, 0.6]) / [0.5, 0.25, 2.0], atol=1e-5)
    np.testing.assert_allclose(draw(unit, raw.astype(np.float32) / 255, 64), plain, atol=1e-6)


def test_a_strong_recipe_stays_in_range():
    view = dataclasses.replace(recipes.SIMCLR_CIFAR, size=8, blur=0.5, taps=5, solarize=0.5)
    out = draw(view, photo(), 500)
    assert out.min() == 0 and out.max() == 1


@pytest.mark.fast
def test_evaluation_draws_nothing():
    view = evaluation(recipes.BYOL[1], 0.875)
    image = jnp.asarray(photo(40, 48))
    out = [render(view, jax.random.key(seed), image) for seed in (0, 1)]
    np.testing.assert_array_equal(*out)
    expected = geometry.resized_crop(image, (2, 6, 35, 35), 224, interpolation="bicubic")
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    np.testing.assert_allclose(out[0], (expected - mean) / std, atol=1e-5)
    assert view.order == ("crop",) and view.crop == "centre"
    assert not any(getattr(view, step) for step in STEPS if step != "crop")


@pytest.mark.fast
@pytest.mark.parametrize("name", ["LIGHTLY_SIMCLR", "WMSE_CIFAR", "ROTNET_CIFAR"])
def test_evaluation_of_a_whole_image_only_normalises(name):
    trained = getattr(recipes, name)
    image = photo(32, 32)
    out = render(evaluation(trained, 1.0), jax.random.key(0), jnp.asarray(image))
    np.testing.assert_allclose(out, (image - np.float32(trained.mean)) / np.float32(trained.std), atol=1e-5)


CHECKS = [
    ({"order": ("crop", "jiter")}, 3, "order has 'jiter'.*Did you mean 'jitter'"),
    ({"order": ("flip",)}, 3, "order has no 'crop'"),
    ({"order": ("crop",), "solarize": 0.2}, 3, "solarize is 0.2, but config.method.view1.order has no 'solarize'"),
    ({"photometric": 0.6}, 3, "order has no 'photometric'"),
    ({"order": ("crop", "flip", "crop")}, 3, "order has 'crop' more than once"),
    ({"crop": "center"}, 3, "crop is 'center'.*Did you mean 'centre'"),
    ({"interpolation": "nearest"}, 3, "use 'bilinear' or 'bicubic'"),
    ({"jitter": 0.8, "hue": 0.1, "mean": (0.5,), "std": (1.0,)}, 1, r"\(hue\).*1 channel.*view1.hue to 0"),
    (
        {"jitter": 0.8, "saturation": 0.1, "gray": 0.2, "mean": (0.5,), "std": (1.0,)},
        1,
        "saturation and config.method.view1.gray to 0",
    ),
    ({}, 1, "mean and .std have 3 and 3 values, but the images have 1"),
    ({"mean": (0.5, 0.5)}, 3, "mean and .std have 2 and 3 values"),
    ({"crop": "shift", "size": 49, "pad": 4}, 3, "more than the 40x48 images with 4 pixels.*raise config.*pad"),
    ({"area": (0.5,)}, 3, r"area is \(0.5,\): give the two ends of a range"),
    ({"ratio": (1.5, 0.5)}, 3, r"ratio is \(1.5, 0.5\): give the two ends"),
    ({"area": (0.2, 3.0)}, 3, "a crop covers at most the whole image"),
    ({"jitter": 80.0}, 3, "jitter is 80.0: a probability is from 0 to 1"),
    ({"gray": -1.0}, 3, "gray is -1.0: a probability"),
    ({"blur_padding": "reflct"}, 3, "use 'reflect' or 'zero'"),
    ({"blur": 0.5, "taps": 22}, 3, "taps is 22: a blur kernel has an odd length"),
    ({"blur": 0.5, "size": 10, "taps": 23}, 3, "taps is 23, too long for a 10-pixel view"),
]


@pytest.mark.fast
@pytest.mark.parametrize(("changes", "channels", "message"), CHECKS, ids=[c[2][:20] for c in CHECKS])
def test_check_names_the_field_to_change(changes, channels, message):
    with pytest.raises(UserError, match=message) as error:
        View(**changes).check("view1", 40, 48, channels)
    assert "config.method.view1" in str(error.value)


@pytest.mark.fast
def test_check_accepts_what_has_a_meaning():
    View(crop="shift", size=48, pad=4).check("view", 40, 48, 3)
    View(blur=0.5, size=12, taps=23).check("view", 40, 48, 3)
    View(blur=0.5, size=8, taps=23, blur_padding="zero").check("view", 40, 48, 3)
    View(jitter=0.8, brightness=0.4, contrast=0.4, mean=(0.5,), std=(1.0,)).check("view", 40, 48, 1)
    View(saturation=0.5, mean=(0.5,), std=(1.0,)).check("view", 40, 48, 1)  # no jitter, no saturation


# The recipes.

RECIPES = {
    f"{name}{i or ''}": view
    for name, value in vars(recipes).items()
    if name.isupper() and not name.startswith(("_", "CIFAR10_"))
    for i, view in enumerate(value if isinstance(value, tuple) else (value,))
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = ((0.0,), (1.0,))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR_OLD = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
SWAV = (IMAGENET[0], (0.228, 0.224, 0.225))
FULL, BYOL_COLOURS = (0.08, 1.0), (0.4, 0.4, 0.2, 0.1)
LATE_FLIP = "jitter gray blur solarize flip"
BLUR_LAST = "jitter gray flip blur"
EARLY_FLIP = "flip jitter gray blur solarize"

# methods.md 1.2 and 1.3: size, crop area, interpolation, flip, (b, c, s, h), p, gray, blur, solarize, order of those
# that happen, normalisation.
TABLE = {
    "SIMCLR": (224, FULL, "bicubic", 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0, EARLY_FLIP, UNIT),
    "SIMCLR_CIFAR": (32, FULL, "bicubic", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0, 0, EARLY_FLIP, UNIT),
    "MOCO_V1": (224, (0.2, 1), "bilinear", 0.5, (0.4,) * 4, 1, 0.2, 0, 0, "gray jitter flip", IMAGENET),
    "MOCO_V2": (224, (0.2, 1), "bilinear", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0, LATE_FLIP, IMAGENET),
    "SIMSIAM": (224, (0.2, 1), "bilinear", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0, LATE_FLIP, IMAGENET),
    "NPID": (224, (0.2, 1), "bilinear", 0.5, (0.4,) * 4, 1, 0.2, 0, 0, "gray jitter flip", IMAGENET),
    "NPID_CIFAR": (32, (0.2, 1), "bilinear", 0, (0.4,) * 4, 1, 0.2, 0, 0, "jitter gray", CIFAR_OLD),
    "MOCO_CIFAR": (32, FULL, "bilinear", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0, 0, EARLY_FLIP, CIFAR_OLD),
    "SIMSIAM_CIFAR": (32, (0.2, 1), "bilinear", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0, 0, LATE_FLIP, CIFAR),
    "BYOL": (224, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 1, 0, EARLY_FLIP, IMAGENET),
    "BYOL1": (224, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0.1, 0.2, EARLY_FLIP, IMAGENET),
    "BARLOW_TWINS": (224, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 1, 0, EARLY_FLIP, IMAGENET),
    "BARLOW_TWINS1": (224, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0.1, 0.2, EARLY_FLIP, IMAGENET),
    "VICREG": (224, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 1, 0, EARLY_FLIP, IMAGENET),
    "VICREG1": (224, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0.1, 0.2, EARLY_FLIP, IMAGENET),
    "MOCO_V3_VIT": (224, FULL, "bilinear", 0.5, BYOL_COLOURS, 0.8, 0.2, 1, 0, LATE_FLIP, IMAGENET),
    "MOCO_V3_VIT1": (224, FULL, "bilinear", 0.5, BYOL_COLOURS, 0.8, 0.2, 0.1, 0.2, LATE_FLIP, IMAGENET),
    "MOCO_V3_RESNET": (224, (0.2, 1), "bilinear", 0.5, BYOL_COLOURS, 0.8, 0.2, 1, 0, LATE_FLIP, IMAGENET),
    "MOCO_V3_RESNET1": (224, (0.2, 1), "bilinear", 0.5, BYOL_COLOURS, 0.8, 0.2, 0.1, 0.2, LATE_FLIP, IMAGENET),
    "SWAV_LARGE": (224, (0.14, 1), "bilinear", 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0, EARLY_FLIP, SWAV),
    "SWAV_SMALL": (96, (0.05, 0.14), "bilinear", 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0, EARLY_FLIP, SWAV),
    "DINO_GLOBAL": (224, (0.4, 1), "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 1, 0, EARLY_FLIP, IMAGENET),
    "DINO_GLOBAL1": (224, (0.4, 1), "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0.1, 0.2, EARLY_FLIP, IMAGENET),
    "DINO_LOCAL": (96, (0.05, 0.4), "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0.5, 0, EARLY_FLIP, IMAGENET),
    "MAE": (224, (0.2, 1), "bicubic", 0.5, (0,) * 4, 0, 0, 0, 0, "flip", IMAGENET),
    "PIRL": (224, FULL, "bilinear", 0.5, (0.4, 0.4, 0.4, 0.2), 1, 0.2, 0, 0, LATE_FLIP, IMAGENET),
    "WMSE_CIFAR": (32, (0.2, 1), "bicubic", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.1, 0, 0, "jitter gray flip", CIFAR_OLD),
    "WMSE_IMAGENET": (224, FULL, "bicubic", 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0, BLUR_LAST, IMAGENET),
    "SOLO_SYMMETRIC": (32, FULL, "bicubic", 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0, LATE_FLIP, CIFAR),
    "SOLO_WEAK": (32, FULL, "bicubic", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0, LATE_FLIP, CIFAR),
    "SOLO_ASYMMETRIC": (32, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0, 0, LATE_FLIP, CIFAR),
    "SOLO_ASYMMETRIC1": (32, FULL, "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0, 0.2, LATE_FLIP, CIFAR),
    "SOLO_VICREG": (32, (0.2, 1), "bicubic", 0.5, BYOL_COLOURS, 0.8, 0.2, 0, 0.1, LATE_FLIP, CIFAR),
    "LIGHTLY_SIMCLR": (32, FULL, "bilinear", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0, 0, EARLY_FLIP, IMAGENET),
    "LIGHTLY_BYOL": (32, FULL, "bilinear", 0.5, BYOL_COLOURS, 0.8, 0.2, 0, 0, EARLY_FLIP, IMAGENET),
    "LIGHTLY_BYOL1": (32, FULL, "bilinear", 0.5, BYOL_COLOURS, 0.8, 0.2, 0, 0.2, EARLY_FLIP, IMAGENET),
    "ROTNET": (224, FULL, "bilinear", 0.5, (0,) * 4, 0, 0, 0, 0, "flip", IMAGENET),
}  # fmt: skip
OURS = {"ROTNET_CIFAR", "DIGITS", "FASHION"}  # not in the tables
LATER = (
    "CAPI",
    "DINOV2",
    "IBOT",
    "IJEPA",
    "LEJEPA",
    "MSN",
    "SIMDINOV2",
    "VISREG",
)  # methods that the tables do not have


@pytest.mark.fast
def test_every_recipe_is_in_the_table():
    assert {name for name in RECIPES if not name.startswith(LATER)} == set(TABLE) | OURS


@pytest.mark.fast
@pytest.mark.parametrize("name", TABLE)
def test_recipe_has_the_fields_of_the_table(name):
    size, area, interpolation, flip, strengths, jitter, gray, blur, solarize, order, normalisation = TABLE[name]
    view = RECIPES[name]
    assert (view.size, view.area, view.interpolation, view.flip) == (size, area, interpolation, flip)
    assert (view.brightness, view.contrast, view.saturation, view.hue) == strengths
    assert (view.jitter, view.gray, view.blur, view.solarize) == (jitter, gray, blur, solarize)
    happens = [s for s in view.order if s not in ("crop", "photometric") and getattr(view, s)]
    assert happens == [s for s in order.split() if getattr(view, s)]
    assert (view.mean, view.std) == normalisation
    assert view.sigma == (0.1, 2.0)
    assert view.ratio == (3 / 4, 4 / 3)
    first = "jitter" if name == "WMSE_CIFAR" else "crop"
    assert next(s for s in view.order if s == "crop" or getattr(view, s)) == first


@pytest.mark.fast
def test_recipes_of_the_tensorflow_and_jax_codes_differ_in_their_ops():
    for name, view in RECIPES.items():
        google = name.startswith(("SIMCLR", "BYOL"))
        assert view.channel_contrast == view.hsv_saturation == google, name
        assert view.antialias != google, name
        assert view.additive_brightness == (google and name != "SIMCLR_CIFAR"), name  # its command uses v2's
        assert view.blur_padding == ("zero" if google else "reflect"), name
        others = {"ROTNET_CIFAR": "shift", "DIGITS": "centre"}
        expected = "tf" if name.startswith("SIMCLR") else "byol" if name.startswith("BYOL") else others.get(name)
        assert view.crop == (expected or "torch"), name
        assert view.photometric == (0.66 if name == "PIRL" else 0), name
        assert view.pillow == (not google and name not in OURS), name
    assert recipes.SIMCLR.taps == recipes.BYOL[0].taps == 23
    assert recipes.SOLO_SYMMETRIC.taps == 13
    assert (recipes.ROTNET_CIFAR.pad, recipes.ROTNET_CIFAR.flip, recipes.ROTNET_CIFAR.jitter) == (4, 0.5, 0)


def image_for(view):
    if len(view.mean) == 1 and view.mean != (0.0,):  # gray data sets
        return photo(view.size, view.size)[..., :1]
    return photo(32, 32)


@pytest.mark.fast
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_passes_its_check_and_has_its_shape(name):
    view = RECIPES[name]
    images = jnp.asarray(image_for(view))[None]
    view.check("view", *images.shape[1:])
    out = jax.eval_shape(functools.partial(render_batch, view), keys(1), images)
    assert out.shape == (1, view.size, view.size, images.shape[-1]) and out.dtype == jnp.float32


@pytest.mark.parametrize("name", {view: name for name, view in RECIPES.items()}.values())
def test_recipe_renders(name):
    view = RECIPES[name]
    out = draw(view, image_for(view), 2)
    plain = out * np.float32(view.std) + np.float32(view.mean)
    assert np.isfinite(out).all() and plain.min() > -1e-5 and plain.max() < 1 + 1e-5
    assert np.ptp(plain) > 0.1 and np.abs(out[0] - out[1]).max() > 1e-3
