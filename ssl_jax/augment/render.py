"""Views of images, drawn on the device."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, streams
from ssl_jax.augment import boxes, draws, geometry, ops
from ssl_jax.augment.draws import Draws
from ssl_jax.augment.view import View


def render(view: View, key: jax.Array, image: jax.Array, *, cropped: bool = False) -> jax.Array:
    """Draws one view of one image.

    Args:
      view: the recipe.
      key: the example's own key.
      image: uint8 [H, W, C], or float in [0, 1].
      cropped: the image is the crop that this key draws, already resized (`ssl_jax/data/crop.py`); what is left to
        do is everything else.

    Returns:
      float32 [size, size, C], normalised.
    """
    if not cropped:
        image = _unit(image) if image.dtype == jnp.uint8 else _levels(view, image)
    own = draws.from_key(view, key)
    box, flip = boxes.placed(view, own, *image.shape[:2])
    for step in view.order:
        if step == "crop":
            # A flip commutes with every later step, so it rides on the crop's resampling where there is one.
            image = _ready(view, image, flip) if cropped else _crop(view, box, image, flip)
            image = _unit(image)  # a ready crop is mirrored while it is bytes
        elif step != "flip" and getattr(view, step):
            image = _sometimes(getattr(view, step), own[step], _CHANGES[step](view, own[step], image), image)
    mean, std = jnp.asarray(view.mean, image.dtype), jnp.asarray(view.std, image.dtype)
    return (image - mean) / std


def render_batch(view: View, keys: jax.Array, images: jax.Array, *, cropped: bool = False) -> jax.Array:
    """`render` over a batch: keys [B], images [B, H, W, C] to [B, size, size, C]."""
    return jax.vmap(lambda key, image: render(view, key, image, cropped=cropped))(keys, images)


def view_keys(views: Mapping[str, View], names: Sequence[str], rng: jax.Array, positions: jax.Array) -> jax.Array:
    """The keys of images, for some views of one recipe.

    An image's randomness is known by its position and the view's stream, whatever the devices.

    Args:
      views: all views of the method.
      names: of those that are wanted.
      rng: a key that all replicas share.
      positions: positions [B, ...] of the images in the global batch. Of a view that is shared, images that belong
        together, those of an entry of the first axis, have the key of the first of them.

    Returns:
      keys [len(names), n] of the n = B x ... images.
    """
    if views[names[0]].shared:
        first = positions.reshape(len(positions), -1)[:, :1]
        positions = jnp.broadcast_to(first, (len(positions), math.prod(positions.shape[1:])))
    numbers = jnp.array([streams.view(views, views[name].like or name) for name in names])
    own = jax.vmap(lambda stream: jax.random.fold_in(rng, stream))(numbers)
    return jax.vmap(dist.example_keys, (0, None))(own, positions.reshape(-1))


def render_views(
    views: Mapping[str, View], rng: jax.Array, positions: jax.Array, images: jax.Array | dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Draws all views of a batch.

    Views of one recipe are drawn by one program, so that many crops cost no more to compile than one.

    Args:
      views: name to recipe.
      rng: a key that all replicas share.
      positions: positions [B, ...] of the images in the global batch; what lies along further axes belongs together,
        such as the frames of a clip.
      images: uint8 [B, ..., H, W, C], or name to what the view's crop is already, uint8 [B, ..., size, size, C].

    Returns:
      name to view [B, ..., size, size, C].
    """
    recipes: dict[View, list[str]] = {}
    for name, view in views.items():
        recipes.setdefault(view, []).append(name)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[positions.ndim :]), images)
    batch: dict[str, jax.Array] = {}
    for view, members in recipes.items():
        keys = view_keys(views, members, rng, positions)
        if isinstance(flat, dict):
            crops = jnp.stack([flat[name] for name in members])
            drawn = jax.vmap(lambda k, x, view=view: render_batch(view, k, x, cropped=True))(keys, crops)
        else:
            drawn = jax.vmap(lambda k, view=view: render_batch(view, k, flat))(keys)
        drawn = drawn.reshape(len(members), *positions.shape, *drawn.shape[2:])
        batch |= dict(zip(members, drawn, strict=True))
    return batch


def _unit(image: jax.Array) -> jax.Array:
    return image.astype(jnp.float32) / 255.0 if image.dtype == jnp.uint8 else image


def _levels(view: View, image: jax.Array) -> jax.Array:
    return ops.nearest_level(image) if view.pillow else image


def _sometimes(probability: float, draw: Draws, changed: jax.Array, image: jax.Array) -> jax.Array:
    return changed if probability >= 1 else jnp.where(draw() < probability, changed, image)


def _crop(view: View, box: boxes.Box, image: jax.Array, flip: jax.Array | bool) -> jax.Array:
    height, width, _ = image.shape
    if view.crop == "shift":
        return geometry.window(image, *box[:2], view.size, flip=flip)
    if view.crop == "centre" and box == (0, 0, view.size, view.size) and height == width:
        return _mirrored(image, flip)
    options: dict[str, Any] = {"interpolation": view.interpolation, "antialias": view.antialias, "pillow": view.pillow}
    return geometry.resized_crop(image, box, view.size, flip=flip, **options)


def _ready(view: View, crop: jax.Array, flip: jax.Array | bool) -> jax.Array:
    """A crop that is cut already; of another size where the update shows a variant of the method with smaller views."""
    if len(crop) == view.size:
        return _mirrored(crop, flip)
    options: dict[str, Any] = {"interpolation": view.interpolation, "antialias": view.antialias, "pillow": view.pillow}
    return geometry.resized_crop(_unit(crop), (0, 0, *crop.shape[:2]), view.size, flip=flip, **options)


def _mirrored(image: jax.Array, flip: jax.Array | bool) -> jax.Array:
    return image if flip is False else jnp.where(flip, image[:, ::-1], image)


def _strength(draw: Draws, strength: float) -> jax.Array:
    return draw.between(max(0.0, 1.0 - strength), 1.0 + strength)


def _jitter(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    """Brightness, contrast, saturation and hue in a fresh random order, clipped after each."""
    shift = draw.between(-view.brightness, view.brightness)
    given = {name: _strength(draw, getattr(view, name)) for name in ("brightness", "contrast", "saturation")}
    if view.additive_brightness:
        given["brightness"] = shift
    given["hue"] = draw.between(-view.hue, view.hue)
    names = draws.jittered(view)
    order = jnp.argsort(draw(len(names)))

    def pixelwise(channels, slots):
        """All ops of the slots but contrast, of the channels one by one."""
        for slot, wanted in slots:
            turn = {name: wanted & (order[slot] == number) for number, name in enumerate(names)}
            if view.additive_brightness and "brightness" in turn:
                # Nothing where it is another's turn; so hue and saturation see the same values, computed once.
                channels = _shifted(view, channels, jnp.where(turn["brightness"], given["brightness"], 0.0))
            blended = _blended(view, channels, given, turn)
            if "hue" in turn:
                turned = ops.hue(channels, given["hue"], pillow=view.pillow)
                channels = [jnp.where(turn["hue"], *pair) for pair in zip(turned, blended, strict=True)]
            else:
                channels = blended
        return channels

    count = len(names)
    if not view.contrast:
        return jnp.stack(pixelwise(ops.planes(image), [(slot, True) for slot in range(count)]), -1)
    # Contrast alone looks at the whole image. What comes before it and what behind are one pass each, and not one for
    # each place in the order with every op for the case that it is its turn: on a TPU that moved as many bytes as half
    # a ResNet-50.
    place = jnp.argmax(order == names.index("contrast"))
    image = jnp.stack(pixelwise(ops.planes(image), [(slot, slot < place) for slot in range(count - 1)]), -1)
    image = ops.contrast(image, given["contrast"], per_channel=view.channel_contrast, pillow=view.pillow)
    return jnp.stack(pixelwise(ops.planes(image), [(slot, slot > place) for slot in range(1, count)]), -1)


def _shifted(view: View, channels: list[jax.Array], by: jax.Array) -> list[jax.Array]:
    """An image as its channels [H, W] made brighter by an addend."""
    channels = [jnp.clip(x + by, 0.0, 1.0) for x in channels]
    return [ops.nearest_level(x) for x in channels] if view.pillow else channels


def _blended(
    view: View, channels: list[jax.Array], given: dict[str, jax.Array], turn: dict[str, jax.Array]
) -> list[jax.Array]:
    """An image as its channels [H, W] after brightness or saturation, or as it is where neither has its turn.

    Both are a blend, and so one op with a reference to pick; of two ops to pick from both would be computed.
    """
    factor, reference = jnp.ones(()), jnp.zeros(())
    if not view.additive_brightness and "brightness" in turn:
        factor = jnp.where(turn["brightness"], given["brightness"], factor)
    if "saturation" in turn:
        options = {"hsv": view.hsv_saturation, "pillow": view.pillow}
        toward, own = ops.saturation_blend(channels, given["saturation"], **options)
        factor = jnp.where(turn["saturation"], own, factor)
        reference = jnp.where(turn["saturation"], toward, reference)
    return [ops.blend(x, reference, factor, pillow=view.pillow) for x in channels]


def _blur(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    sigma = draw.between(*view.sigma)
    return _levels(view, ops.gaussian_blur(image, sigma, view.taps, padding=view.blur_padding))


def _photometric(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    """PIRL's photometric ops, all four in a row (VISSL, img_pil_random_photometric.py), of strengths drawn afresh."""
    image = ops.posterize(image, 4 + draw.below(5))  # 4 to 8 bits, both included
    image = ops.sharpness(image, draw.between(0.1, 1.9), pillow=view.pillow)
    image = ops.solarize(image, (draw.below(257) - 0.5) / 255.0)  # a byte from 0 to 256, and what is at or above it
    return ops.autocontrast(image, pillow=view.pillow)


def _colour_components(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    # Half a step of the generator away from zero, where the normal distribution has no quantile.
    normal = jax.scipy.special.ndtri(draw(3) + 2.0**-24)
    factor = jnp.exp2(jnp.array(view.pca_sigma) * normal).astype(image.dtype)
    return _levels(view, ops.colour_components(image, factor))


def _hsv_noise(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    power = jnp.exp2(draw.between(-view.hsv_power, view.hsv_power, 2))
    factor = jnp.exp2(draw.between(-view.hsv_factor, view.hsv_factor, 2))
    offset = draw.between(-view.hsv_offset, view.hsv_offset, 2)
    shift = draw.between(-view.hsv_hue, view.hsv_hue)
    return _levels(view, ops.hsv_noise(image, power, factor, offset, shift))


def _random_affine(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    angle = jnp.deg2rad(draw.between(-view.degrees, view.degrees))
    low, high = view.scale
    scale = jnp.exp(draw.between(math.log(low), math.log(high)))
    shear = jnp.tan(jnp.deg2rad(draw.between(-view.shear, view.shear)))
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    matrix = rotation @ jnp.array([[1.0, 0.0], [shear, 1.0]]) / scale
    side = jnp.array(image.shape[:2], image.dtype)
    shift = side * draw.between(-view.translate, view.translate, 2)
    return _levels(view, geometry.affine(image, matrix.astype(image.dtype), shift))


# The steps that change an image, by the name of their probability: (view, numbers, image) -> image.
_CHANGES: dict[str, Callable[[View, Draws, jax.Array], jax.Array]] = {
    "affine": _random_affine,
    "jitter": _jitter,
    "gray": lambda view, draw, image: ops.grayscale(image, pillow=view.pillow),
    "blur": _blur,
    "solarize": lambda view, draw, image: ops.solarize(image),
    "photometric": _photometric,
    "pca": _colour_components,
    "hsv": _hsv_noise,
}
