"""Augmentation of one image [H, W, C] with values in [0, 1]; `vmap` makes it a batch.

Each function is the deterministic op with its parameters given; what is drawn at random is in `render.py`. On the same
parameters the ops agree with torchvision's `transforms.v2.functional` on float images unless a docstring says
otherwise. Float32 or float64 in, the same out.

With `pillow` an op takes whole levels of 255 and leaves whole levels, rounded the way Pillow's op on bytes rounds: to
the nearest where it resamples or turns gray, down where it blends, and through a hue and a saturation of eight bits.
"""

import functools

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
    # Not `value == r`: a compiler that computes r twice, once with a product and its sum rounded as one, would find no
    # channel that has the value. Here a wrong last bit picks a neighbour, which has the same hue there.
    red, green = (r >= g) & (r >= b), g >= b
    sector = jnp.where(red, (g - b) / safe, jnp.where(green, (b - r) / safe + 2.0, (r - g) / safe + 4.0))
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
