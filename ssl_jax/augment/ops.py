"""Augmentation of one image [H, W, C] with values in [0, 1]; `vmap` makes it a batch.

Each function is the deterministic op with its parameters given; what is drawn at random is in `render.py`. On the same
parameters the ops agree with torchvision's `transforms.v2.functional` on float images unless a docstring says
otherwise. Float32 or float64 in, the same out.

With `pillow` an op takes whole levels of 255 and leaves whole levels, rounded the way Pillow's op on bytes rounds: to
the nearest where it resamples or turns gray, down where it blends, and through a hue and a saturation of eight bits.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# ITU-R 601 luma, as torchvision, TensorFlow and BYOL round it.
LUMA = (0.2989, 0.5870, 0.1140)
PILLOW_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)


def nearest_level(x: jax.Array) -> jax.Array:
    """Rounds to the nearest of the levels 0, 1/255, ... 1 that a byte has, from the middle of two to the upper one."""
    return level_below(x + 0.5 / 255.0)


def level_below(x: jax.Array) -> jax.Array:
    """Rounds down to a level; what is short of one by float32's rounding (1/5000 of the step at most) is that level."""
    return jnp.floor(255.0 * x + 2e-4) / 255.0


def resize_matrix(
    start: jax.Array | int,
    length: jax.Array | int,
    size: int,
    out: int,
    *,
    interpolation: str,
    antialias: bool = True,
    flip: jax.Array | bool = False,
) -> jax.Array:
    """Weights that crop and resample one axis.

    Args:
      start: first pixel of the crop.
      length: pixels of the crop; nothing outside it is seen.
      size: pixels of the input axis.
      out: pixels of the output axis.
      interpolation: 'bilinear' or 'bicubic' (a = -0.5).
      antialias: widen the filter where the axis shrinks, as Pillow and torchvision do it; TensorFlow's resize does not.
      flip: reverse the output.

    Returns:
      matrix [out, size] whose rows sum to one.
    """
    scale = length / out
    support = jnp.maximum(scale, 1.0) if antialias else 1.0
    index = jnp.arange(out)
    index = jnp.where(flip, out - 1 - index, index)
    centre = start + (index + 0.5) * scale
    pixel = jnp.arange(size)
    distance = jnp.abs((pixel + 0.5 - centre[:, None]) / support)
    weights = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    weights = jnp.where((pixel >= start) & (pixel < start + length), weights, 0.0)
    return weights / weights.sum(1, keepdims=True)


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1.0 - x, 0.0)


def _cubic(x: jax.Array, a: float = -0.5) -> jax.Array:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def resized_crop(
    image: jax.Array,
    box: tuple[jax.Array | int, ...],
    size: int,
    *,
    interpolation: str = "bilinear",
    antialias: bool = True,
    flip: jax.Array | bool = False,
    pillow: bool = False,
) -> jax.Array:
    """Crops a box and resizes it to a square, as two matrix products.

    Args:
      image: [H, W, C].
      box: top, left, height and width, pixels.
      size: side of the output, pixels.
      interpolation: 'bilinear' or 'bicubic'; bicubic overshoot is clipped to [0, 1] as the authors do.
      antialias: as of `resize_matrix`.
      flip: mirror the output left to right.
      pillow: round after each axis.

    Returns:
      [size, size, C].
    """
    top, left, height, width = box
    options: dict[str, Any] = {"interpolation": interpolation, "antialias": antialias}
    rows = resize_matrix(top, height, image.shape[0], size, **options)
    columns = resize_matrix(left, width, image.shape[1], size, **options, flip=flip)
    rows, columns = rows.astype(image.dtype), columns.astype(image.dtype)
    if pillow:
        wide = nearest_level(jnp.clip(jnp.einsum("yxc,wx->ywc", image, columns, precision="highest"), 0.0, 1.0))
        return nearest_level(jnp.clip(jnp.einsum("hy,ywc->hwc", rows, wide, precision="highest"), 0.0, 1.0))
    out = jnp.einsum("hy,yxc,wx->hwc", rows, image, columns, precision="highest")
    return jnp.clip(out, 0.0, 1.0) if interpolation == "bicubic" else out


def blurred_by_shrinking(image: jax.Array, side: jax.Array) -> jax.Array:
    """Shrinks a square image to `side` x `side` pixels and enlarges it back, bilinearly, antialiased as Pillow.

    Args:
      image: [S, S, C].
      side: pixels, 1 to S, whole; may be traced.

    Returns:
      [S, S, C].
    """
    size = len(image)
    down = resize_matrix(0, size * size / side, size, size, interpolation="bilinear")
    down = jnp.where(jnp.arange(size)[:, None] < side, down, 0.0)  # only so many rows are pixels of the small image
    up = resize_matrix(0, side, size, size, interpolation="bilinear")
    both = jnp.matmul(up, down, precision="highest")
    return jnp.einsum("ih,hwc,jw->ijc", both, image, both, precision="highest")


def window(
    image: jax.Array, top: jax.Array, left: jax.Array, size: int, *, flip: jax.Array | bool = False
) -> jax.Array:
    """Cuts a square out, exactly, as two matrix products: a TPU would gather it pixel by pixel.

    Args:
      image: [H, W, C], floating point.
      top: first row, whole; outside the image are zeros.
      left: first column.
      size: side of the output, pixels.
      flip: mirror the output left to right.

    Returns:
      [size, size, C].
    """
    index = jnp.arange(size)
    mirrored = jnp.where(flip, size - 1 - index, index)
    rows = (jnp.arange(image.shape[0]) == (top + index)[:, None]).astype(image.dtype)
    columns = (jnp.arange(image.shape[1]) == (left + mirrored)[:, None]).astype(image.dtype)
    return jnp.einsum("hy,yxc,wx->hwc", rows, image, columns, precision="highest")


def gray(image: jax.Array, *, pillow: bool = False) -> jax.Array:
    """Luma [H, W, 1] of an RGB image [H, W, 3]."""
    return luma(planes(image), pillow=pillow)[..., None]


def luma(channels: list[jax.Array], *, pillow: bool = False) -> jax.Array:
    """Luma [H, W] of an RGB image as its `planes`."""
    weights = PILLOW_LUMA if pillow else LUMA
    out = functools.reduce(jnp.add, [weight * x for weight, x in zip(weights, channels, strict=True)])
    return nearest_level(out) if pillow else out


def blend(
    image: jax.Array, reference: jax.Array | float, factor: jax.Array | float, *, pillow: bool = False
) -> jax.Array:
    """`factor` of the image and the rest of the reference, clipped to [0, 1].

    With 0 for reference this changes the brightness, with that of `saturation_blend` the saturation.
    """
    out = jnp.clip(factor * image + (1 - factor) * reference, 0.0, 1.0)
    return level_below(out) if pillow else out


def saturation_blend(
    channels: list[jax.Array], factor: jax.Array | float, *, hsv: bool = False, pillow: bool = False
) -> tuple[jax.Array, jax.Array | float]:
    """The reference [H, W] and the factor with which `blend` changes the saturation of an RGB image.

    Args:
      channels: the image as its `planes`.
      factor: of the saturation.
      hsv: scale the S of HSV up to 1 and keep hue and value (TensorFlow's adjust_saturation, BYOL), where the other
        way keeps the luma (torchvision). A channel is V (1 - S share), so this blends with V, by as much as S changes.
      pillow: round the luma.
    """
    if not hsv:
        return luma(channels, pillow=pillow), factor
    _, value, chroma = _hue_value_chroma(channels)
    return value, jnp.minimum(factor, value / jnp.where(chroma > 0, chroma, 1.0))


def contrast(image: jax.Array, factor: jax.Array, *, per_channel: bool = False, pillow: bool = False) -> jax.Array:
    """Blends with the mean of the luma (torchvision), or with each channel's own mean (TensorFlow, BYOL)."""
    seen = image if per_channel or image.shape[-1] != 3 else gray(image, pillow=pillow)
    reference = jnp.mean(seen, (0, 1), keepdims=True)
    return blend(image, nearest_level(reference) if pillow else reference, factor, pillow=pillow)


def planes(image: jax.Array) -> list[jax.Array]:
    """The channels [H, W] of an image. Ops on them one by one are plain loops on every backend, without padding."""
    return [image[..., c] for c in range(image.shape[-1])]


def hue(channels: list[jax.Array], shift: jax.Array, *, pillow: bool = False) -> list[jax.Array]:
    """Turns the hue of an RGB image, as its `planes`, by `shift` turns of the colour circle."""
    turns, value, chroma = _hue_value_chroma(channels)
    if not pillow:
        return [jnp.clip(value - chroma * share, 0.0, 1.0) for share in _shares(turns + shift)]
    saturation = level_below(chroma / jnp.where(value > 0, value, 1.0))
    # The circle has 256 steps when it is turned and 255 when colours are made of it again, as in Pillow.
    turns = level_below(jnp.where(turns < 0, turns + 1.0, turns)) + jnp.trunc(255.0 * shift) / 255.0
    return [nearest_level(value * (1.0 - saturation * share)) for share in _shares(turns, 256 / 255)]


def _hue_value_chroma(channels: list[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hue in turns of the colour circle, from -1/6, value and chroma [H, W]; what has no chroma counts as red."""
    r, g, b = channels
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sector = jnp.where(value == r, (g - b) / safe, jnp.where(value == g, (b - r) / safe + 2.0, (r - g) / safe + 4.0))
    return jnp.where(chroma > 0, sector, 0.0) / 6.0, value, chroma


def _shares(turns: jax.Array, circle: float = 1.0) -> list[jax.Array]:
    """For each channel the share [H, W] of the chroma that a hue lacks of the value; it is back after `circle`."""
    # One remainder a pixel, which is slow on a CPU. With none XLA takes all of a jitter for cheap and computes each op
    # again for every channel of the next: forty times as slow.
    turned = 6.0 * jnp.mod(turns, circle)
    places = [jnp.where(turned + offset < 6.0, turned + offset, turned + (offset - 6.0)) for offset in (5.0, 3.0, 1.0)]
    return [jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0) for k in places]


def hsv_noise(
    image: jax.Array, power: jax.Array, factor: jax.Array, offset: jax.Array, shift: jax.Array | float
) -> jax.Array:
    """Bends saturation and value, s to factor * s^power + offset, and turns the hue (Exemplar-CNN, power_transform.m).

    Args:
      image: [H, W, 3]; or [H, W, 1], which has a value only.
      power: [2], of saturation and value.
      factor: [2], likewise.
      offset: [2], likewise.
      shift: of the hue, turns of the colour circle.

    Returns:
      [H, W, C], clipped to [0, 1].
    """

    def bent(x, i):
        return jnp.clip(factor[i] * x ** power[i] + offset[i], 0.0, 1.0)

    if image.shape[-1] == 1:
        return bent(image, 1)
    turns, value, chroma = _hue_value_chroma(planes(image))
    saturation = bent(chroma / jnp.where(value > 0, value, 1.0), 0)
    return jnp.stack([bent(value, 1) * (1.0 - saturation * share) for share in _shares(turns + shift)], -1)


# Eigenvectors of the colours of ImageNet's training images, in columns, by falling variance (Krizhevsky et al. 2012;
# the numbers are those of torch's and TensorFlow's ports of its colour augmentation), and their mean.
COLOUR_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
COLOUR_MEAN = (0.485, 0.456, 0.406)


def colour_components(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales the principal components of the colours about their mean (Exemplar-CNN, adjust_color.m).

    Args:
      image: RGB [H, W, 3].
      factor: [3], of the components by falling variance.

    Returns:
      [H, W, 3], clipped to [0, 1].
    """
    components = np.array(COLOUR_COMPONENTS)
    # The published vectors are rounded: with the inverse a factor of one leaves the image as it is.
    there, back = (jnp.asarray(x, image.dtype) for x in (components, np.linalg.inv(components)))
    change = jnp.matmul(there * factor, back, precision="highest")
    mean = jnp.asarray(COLOUR_MEAN, image.dtype)
    return jnp.clip(mean + jnp.matmul(image - mean, change.T, precision="highest"), 0.0, 1.0)


def grayscale(image: jax.Array, *, pillow: bool = False) -> jax.Array:
    """The luma of an RGB image in all three channels."""
    return jnp.broadcast_to(gray(image, pillow=pillow), image.shape)


def gaussian_blur(image: jax.Array, sigma: jax.Array, taps: int, *, padding: str = "reflect") -> jax.Array:
    """Blurs with a separable, normalised Gaussian.

    Args:
      image: [H, W, C].
      sigma: standard deviation, pixels.
      taps: odd length of the kernel, pixels.
      padding: 'reflect' (torchvision; near Pillow) or 'zero' (SimCLR's TensorFlow code and BYOL: darker borders).

    Returns:
      [H, W, C].
    """
    radius = taps // 2
    offsets = jnp.arange(-radius, radius + 1)
    kernel = jnp.exp(-0.5 * jnp.square(offsets / sigma)).astype(image.dtype)
    kernel = kernel / kernel.sum()
    for axis in (0, 1):
        widths = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(image, widths, mode="reflect" if padding == "reflect" else "constant")
        size = image.shape[axis]
        # Shifted copies fuse into one loop on every backend; a convolution with a kernel per image does not.
        shifted = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(taps)]
        image = functools.reduce(jnp.add, [k * x for k, x in zip(kernel, shifted, strict=True)])
    return image


def solarize(image: jax.Array, threshold: jax.Array | float = 0.5) -> jax.Array:
    """Inverts what is at or above the threshold (BYOL; Pillow's 128 on bytes)."""
    return jnp.where(image >= threshold, 1.0 - image, image)


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` bits of each byte."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(image * 255.0) / step) * step / 255.0


def autocontrast(image: jax.Array, *, pillow: bool = False) -> jax.Array:
    """Stretches each channel to [0, 1]; a constant channel stays as it is."""
    low, high = image.min((0, 1), keepdims=True), image.max((0, 1), keepdims=True)
    out = jnp.where(high > low, (image - low) / jnp.where(high > low, high - low, 1.0), image)
    return level_below(out) if pillow else out


def sharpness(image: jax.Array, factor: jax.Array, *, pillow: bool = False) -> jax.Array:
    """Blends with a 3x3 smoothing (centre 5, neighbours 1, over 13); the outermost pixels stay as they are."""
    h, w = image.shape[:2]
    shifted = [image[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)]
    smooth = (sum(shifted) + 4 * image[1:-1, 1:-1]) / 13.0
    smooth = nearest_level(smooth) if pillow else smooth
    return blend(image, image.at[1:-1, 1:-1].set(smooth), factor, pillow=pillow)


def affine(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """Samples the image at affinely moved places, bilinearly, with zeros outside.

    Args:
      image: [H, W, C].
      matrix: [2, 2], takes an output offset (y, x) from the centre to an input offset.
      shift: [2], added to the input offset, pixels.

    Returns:
      [H, W, C].
    """
    h, w = image.shape[:2]
    centre = jnp.array([(h - 1) / 2, (w - 1) / 2], image.dtype)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), -1).astype(image.dtype) - centre
    place = jnp.einsum("ij,hwj->hwi", matrix, grid, precision="highest") + shift + centre
    return _sampled(image, place)


def projective(image: jax.Array, matrix: jax.Array, fill: jax.Array | float) -> jax.Array:
    """Samples the image at projectively moved places, bilinearly (Pillow's PERSPECTIVE with its eight coefficients).

    Args:
      image: [H, W, C].
      matrix: [3, 3], takes an output point (x, y, 1) to an input point, homogeneous, in pixels from the upper left
        corner of the image; the centre of the first pixel is (1/2, 1/2).
      fill: value [C] of what lies outside.

    Returns:
      [H, W, C].
    """
    y, x = jnp.meshgrid(*(jnp.arange(side) + 0.5 for side in image.shape[:2]), indexing="ij")
    point = jnp.stack([x, y, jnp.ones_like(x)], -1).astype(image.dtype)
    moved = jnp.einsum("ij,hwj->hwi", matrix, point, precision="highest")
    place = moved[..., 1::-1] / moved[..., 2:] - 0.5
    return _sampled(image - fill, place) + fill


def quadrilateral_map(corners: jax.Array, size: int) -> jax.Array:
    """The projective map that takes given points to the corners of a square: an image warped by it has them there.

    Args:
      corners: points [4, 2] (x, y), pixels: where upper left, upper right, lower right and lower left come to lie.
      size: side of the square, pixels.

    Returns:
      coefficients [8]: the map [3, 3], output to input, row by row without its last entry, which is 1.
    """
    upper_left, upper_right, lower_right, lower_left = corners
    right, below = upper_right - lower_right, lower_left - lower_right
    bend = upper_left - upper_right + lower_right - lower_left
    cross = lambda a, b: a[0] * b[1] - a[1] * b[0]  # noqa: E731
    # From the unit square to the points, and by its adjugate back.
    g, h = cross(bend, below) / cross(right, below), cross(right, bend) / cross(right, below)
    (a, d), (b, e) = upper_right - upper_left + g * upper_right, lower_left - upper_left + h * lower_left
    c, f = upper_left
    back = jnp.array(
        [e - f * h, c * h - b, b * f - c * e, f * g - d, a - c * g, c * d - a * f, d * h - e * g, b * g - a * h]
    )
    return back / (a * e - b * d) * jnp.array([size] * 6 + [1, 1])


def _sampled(image: jax.Array, place: jax.Array) -> jax.Array:
    """The image [H, W, C] at places [H, W, 2] (row, column), bilinearly, with zeros outside."""
    h, w, c = image.shape
    place = jnp.clip(place, -1.0, jnp.array([h, w], place.dtype))  # zeros begin one pixel outside
    corner = jnp.clip(jnp.floor(place), max=jnp.array([h - 1, w - 1], place.dtype))
    down, right = jnp.moveaxis(place - corner, -1, 0)
    framed = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    # Each pixel beside its three neighbours, so that one row is looked up for a place and not four.
    table = jnp.concatenate([framed[dy : h + 1 + dy, dx : w + 1 + dx] for dy in (0, 1) for dx in (0, 1)], -1)
    index = ((corner[..., 0] + 1) * (w + 1) + corner[..., 1] + 1).astype(int)
    found = table.reshape(-1, 4 * c)[index]
    weights = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
    parts = [w[..., None] * found[..., i * c : (i + 1) * c] for i, w in enumerate(weights)]
    return functools.reduce(jnp.add, parts)
