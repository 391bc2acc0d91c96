"""A view is data: what is drawn at random for one image, in which order it is applied, and its output size."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment import ops
from ssl_jax.runtime.errors import UserError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = ("affine", "crop", "flip", "photometric", "jitter", "gray", "blur", "solarize", "pca", "hsv")
CROPS = ("torch", "byol", "tf", "shift", "centre")


@dataclasses.dataclass(frozen=True)
class View:
    """One way to look at an image. Probabilities are per image; a zero switches the op off.

    The recipes of the papers are values of this class, in `recipes.py`.
    """

    size: int = 224  # side of the square output, pixels
    crop: str = "torch"  # 'torch', 'byol' or 'tf' (how a resized crop is drawn), 'shift' (pad, cut) or 'centre'
    area: tuple[float, float] = (0.08, 1.0)  # share of the image's area that a resized crop covers
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of a resized crop
    interpolation: str = "bilinear"  # or 'bicubic'; antialiased both
    pad: int = 4  # zeros around the image for crop='shift', pixels
    centre: float = 1.0  # share of the short side that crop='centre' keeps
    flip: float = 0.0  # probability of a left-right flip
    jitter: float = 0.0  # probability of colour jitter, all four ops or none
    brightness: float = 0.0  # strength b: factor in [max(0, 1 - b), 1 + b]
    contrast: float = 0.0  # strength, likewise
    saturation: float = 0.0  # strength, likewise
    hue: float = 0.0  # shift in [-hue, hue], turns of the colour circle
    additive_brightness: bool = False  # add U(-b, b) instead (SimCLR v1, BYOL): another distribution
    channel_contrast: bool = False  # blend with each channel's mean, not the luma's (TensorFlow, BYOL)
    gray: float = 0.0  # probability of grayscale
    blur: float = 0.0  # probability of Gaussian blur
    sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, pixels
    taps: int = 23  # length of the blur kernel, pixels, odd
    blur_padding: str = "reflect"  # or 'zero' (SimCLR's TensorFlow code, BYOL)
    solarize: float = 0.0  # probability of solarization above 0.5
    photometric: float = 0.0  # probability of one of posterize, sharpness, solarize, autocontrast (PIRL)
    pca: float = 0.0  # probability of scaled colour components (Exemplar-CNN)
    pca_sigma: tuple[float, ...] = (1.0, 1.0, 0.5)  # component i times 2^N(0, sigma_i)
    hsv: float = 0.0  # probability of noise on hue, saturation and value (Exemplar-CNN, S4L)
    hsv_power: float = 2.0  # of it, S and V to the power 2^U(-p, p)
    hsv_factor: float = 0.5  # then times 2^U(-f, f)
    hsv_offset: float = 0.1  # then plus U(-o, o)
    hsv_hue: float = 0.1  # and the hue turned by U(-h, h) turns
    affine: float = 0.0  # probability of a random affine map
    degrees: float = 0.0  # of its rotation, U(-degrees, degrees)
    translate: float = 0.0  # of its shift, share of the side, U(-translate, translate)
    scale: tuple[float, float] = (1.0, 1.0)  # of its magnification, log-uniform
    shear: float = 0.0  # of its shear, degrees, U(-shear, shear)
    # Round to bytes after each op, as Pillow does and TensorFlow does not. The blur is a true Gaussian all the same,
    # and crops that are cut while images are streamed are bytes whatever this says; evaluation does not round.
    pillow: bool = False
    order: tuple[str, ...] = ("affine", "crop", "flip", "jitter", "gray", "blur", "solarize")  # of the steps
    mean: tuple[float, ...] = IMAGENET_MEAN  # subtracted at the end, per channel
    std: tuple[float, ...] = IMAGENET_STD  # divided by at the end, per channel

    @property
    def draws(self) -> int:
        """How many random numbers one view of one image takes at most."""
        return 320 if self.crop == "tf" else 64

    def check(self, name: str, height: int, width: int, channels: int) -> None:
        """Refuses what has no meaning for images of this size.

        Args:
          name: of the view, for the message.
          height: of the images, pixels.
          width: of the images, pixels.
          channels: of the images.

        Raises:
          UserError: with the field to change.
        """
        where = f"config.method.{name}"
        for field in ("area", "ratio", "sigma", "scale"):
            ends = getattr(self, field)
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                raise UserError(f"{where}.{field} is {ends}: give the two ends of a range above 0, as LOW,HIGH.")
        for step in STEPS:
            if step != "crop" and not 0 <= getattr(self, step) <= 1:
                raise UserError(f"{where}.{step} is {getattr(self, step)}: a probability is from 0 to 1.")
        if self.area[1] > 1:
            raise UserError(f"{where}.area is {self.area}: a crop covers at most the whole image, 1.")
        for step in self.order:
            if step not in STEPS:
                raise UserError(f"{where}.order has '{step}', which is no step of a view. {nearest(step, STEPS)}")
        if "crop" not in self.order:
            raise UserError(f"{where}.order has no 'crop', the step that gives a view its size: add it.")
        for step in STEPS:
            if step not in self.order and getattr(self, step):
                raise UserError(
                    f"{where}.{step} is {getattr(self, step)}, but {where}.order has no '{step}': add it there, or "
                    f"set {where}.{step} to 0."
                )
        if self.crop not in CROPS:
            raise UserError(f"{where}.crop is '{self.crop}', which is not known. {nearest(self.crop, CROPS)}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UserError(f"{where}.interpolation is '{self.interpolation}': use 'bilinear' or 'bicubic'.")
        colour = [f for f in ("saturation", "hue") if self.jitter and getattr(self, f)]
        colour += [step for step in ("gray", "pca") if getattr(self, step)]
        if channels != 3 and colour:
            raise UserError(
                f"{where} changes colour ({', '.join(colour)}), which has no meaning on images of {channels} "
                f"channel(s): set {' and '.join(f'{where}.{f}' for f in colour)} to 0."
            )
        if len(self.mean) not in (1, channels) or len(self.std) not in (1, channels):
            raise UserError(
                f"{where}.mean and .std have {len(self.mean)} and {len(self.std)} values, but the images have "
                f"{channels} channel(s): give one value, or one a channel."
            )
        if self.blur_padding not in ("reflect", "zero"):
            raise UserError(f"{where}.blur_padding is '{self.blur_padding}': use 'reflect' or 'zero'.")
        if self.crop == "shift" and self.size > min(height, width) + 2 * self.pad:
            raise UserError(
                f"{where}.size is {self.size}, more than the {height}x{width} images with {self.pad} pixels of "
                f"padding: lower it or raise {where}.pad."
            )
        if self.blur and self.taps % 2 == 0:
            raise UserError(f"{where}.taps is {self.taps}: a blur kernel has an odd length.")
        if self.blur and self.blur_padding == "reflect" and self.taps // 2 >= self.size:
            raise UserError(f"{where}.taps is {self.taps}, too long for a {self.size}-pixel view: use a shorter one.")


def evaluation(view: View, centre: float) -> View:
    """The view that evaluation uses: a centre crop of `centre` of the short side, normalised like `view`."""
    return View(
        size=view.size,
        crop="centre",
        centre=centre,
        interpolation=view.interpolation,
        order=("crop",),
        mean=view.mean,
        std=view.std,
    )


def pixels(view: View, images: jax.Array) -> jax.Array:
    """Values in [0, 1] of images [..., C] that a view normalised."""
    return images * jnp.asarray(view.std, images.dtype) + jnp.asarray(view.mean, images.dtype)


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
    rounded = ops.nearest_level if view.pillow else lambda x: x
    if not cropped:
        image = _unit(image) if image.dtype == jnp.uint8 else rounded(image)
    draw = Draws(key, view.draws)
    toss = draw()  # also without a flip, so that the crop of a key is the same with and without
    flip = toss < view.flip if view.flip > 0 and "flip" in view.order else False
    for step in view.order:
        if step == "affine" and view.affine:
            image = rounded(_random_affine(view, draw, image))
        elif step == "crop":
            # A flip commutes with every later step, so it rides on the crop's resampling where there is one.
            image = _unit(_crop(view, draw, image, flip, cropped))  # a ready crop is mirrored while it is bytes
        elif step == "jitter" and view.jitter:
            image = _sometimes(view.jitter, draw, _jitter(view, draw, image), image)
        elif step == "gray" and view.gray:
            image = _sometimes(view.gray, draw, ops.grayscale(image, pillow=view.pillow), image)
        elif step == "blur" and view.blur:
            image = _sometimes(view.blur, draw, rounded(_blur(view, draw, image)), image)
        elif step == "solarize" and view.solarize:
            image = _sometimes(view.solarize, draw, ops.solarize(image), image)
        elif step == "photometric" and view.photometric:
            image = _sometimes(view.photometric, draw, _photometric(view, draw, image), image)
        elif step == "pca" and view.pca:
            image = _sometimes(view.pca, draw, rounded(_colour_components(view, draw, image)), image)
        elif step == "hsv" and view.hsv:
            image = _sometimes(view.hsv, draw, rounded(_hsv_noise(view, draw, image)), image)
    mean, std = jnp.asarray(view.mean, image.dtype), jnp.asarray(view.std, image.dtype)
    return (image - mean) / std


def render_batch(view: View, keys: jax.Array, images: jax.Array, *, cropped: bool = False) -> jax.Array:
    """`render` over a batch: keys [B], images [B, H, W, C] to [B, size, size, C]."""
    return jax.vmap(lambda key, image: render(view, key, image, cropped=cropped))(keys, images)


def render_views(
    views: dict[str, View], rng: jax.Array, positions: jax.Array, images: jax.Array | dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Draws all views of a batch.

    An example's randomness is known by its position and the number of the view, whatever the devices. Views of one
    recipe are drawn by one program, so that many crops cost no more to compile than one.

    Args:
      views: name to recipe.
      rng: a key that all replicas share.
      positions: positions [B] of the images in the global batch.
      images: uint8 [B, H, W, C], or name to what the view's crop is already, uint8 [B, size, size, C].

    Returns:
      name to view [B, size, size, C].
    """
    recipes: dict[View, dict[str, int]] = {}
    for stream, (name, view) in enumerate(views.items()):
        recipes.setdefault(view, {})[name] = stream
    batch: dict[str, jax.Array] = {}
    for view, members in recipes.items():
        streams = jax.vmap(lambda s: jax.random.fold_in(rng, s))(jnp.array(list(members.values())))
        keys = jax.vmap(dist.example_keys, (0, None))(streams, positions)
        if isinstance(images, dict):
            crops = jnp.stack([images[name] for name in members])
            drawn = jax.vmap(lambda k, x, view=view: render_batch(view, k, x, cropped=True))(keys, crops)
        else:
            drawn = jax.vmap(lambda k, view=view: render_batch(view, k, images))(keys)
        batch |= dict(zip(members, drawn, strict=True))
    return batch


class Draws:
    """Random numbers of one view of one image, all from one call of the generator.

    A call of the generator is some hundred operations in the compiled program, however many numbers it gives; one a
    decision would make most of a step's program.

    Args:
      key: the view's own key.
      count: how many numbers are drawn; asking for more fails while tracing.
    """

    def __init__(self, key: jax.Array, count: int) -> None:
        self._left = jax.random.uniform(key, (count,))

    @classmethod
    def of(cls, numbers: jax.Array | np.ndarray) -> "Draws":
        """Numbers [n] that are drawn already, in JAX or in NumPy; what is computed from them stays there."""
        draws = cls.__new__(cls)
        draws._left = numbers  # type: ignore[assignment]
        return draws

    @property
    def xp(self) -> Any:
        """`jax.numpy` or `numpy`."""
        return self._left.__array_namespace__()

    def __call__(self, *shape: int) -> jax.Array:
        """The next numbers, uniform in [0, 1)."""
        count = math.prod(shape)
        if count > len(self._left):
            raise ValueError(f"a view wants {count} random numbers and has {len(self._left)} left")
        values, self._left = self._left[:count], self._left[count:]
        return values.reshape(shape)

    def between(self, low: float | jax.Array, high: float | jax.Array, *shape: int) -> jax.Array:
        """The next numbers, uniform in [low, high)."""
        return low + (high - low) * self(*shape)

    def below(self, count: int | jax.Array) -> jax.Array:
        """A whole number, uniform over 0 to `count` - 1, in floating point."""
        # The product may round up to `count` itself.
        return self.xp.minimum(self.xp.floor(self() * count), count - 1)


def _unit(image: jax.Array) -> jax.Array:
    return image.astype(jnp.float32) / 255.0 if image.dtype == jnp.uint8 else image


def _sometimes(probability: float, draw: Draws, changed: jax.Array, image: jax.Array) -> jax.Array:
    return changed if probability >= 1 else jnp.where(draw() < probability, changed, image)


def _crop(view: View, draw: Draws, image: jax.Array, flip: jax.Array | bool, cropped: bool) -> jax.Array:
    height, width, _ = image.shape
    box = crop_box(view, draw, height, width)  # also of what is cropped, so that later steps draw the same numbers
    if cropped:
        return _mirrored(image, flip)
    if view.crop == "shift":
        return ops.window(image, *box[:2], view.size, flip=flip)
    if view.crop == "centre" and box == (0, 0, view.size, view.size) and height == width:
        return _mirrored(image, flip)
    return ops.resized_crop(image, box, view.size, interpolation=view.interpolation, flip=flip, pillow=view.pillow)


def _mirrored(image: jax.Array, flip: jax.Array | bool) -> jax.Array:
    return image if flip is False else jnp.where(flip, image[:, ::-1], image)


def crop_box(view: View, draw: Draws, height: int, width: int) -> tuple[Any, Any, Any, Any]:
    """Draws top, left, height and width of a crop, in pixels, the way `view.crop` names.

    The numbers of `draw` may be JAX's, on the device, or NumPy's, where images are decoded; in the latter case
    roundings of exp and the like may rarely fall the other way and move a side by a pixel.

    'torch': torchvision's ten tries (uniform area, log-uniform ratio), then a centred crop within the ratio limits.
    'byol': no tries; what is too large is clipped to the image (byol/utils/augmentations.py).
    'tf': TensorFlow's sample_distorted_bounding_box over the whole image, up to 100 tries (uniform ratio, uniform
    height within the area limits), then the whole image, as SimCLR's data_util.py uses it. There a crop also has to
    cover a tenth of the object, which is the whole image: no area below 0.1 is seen.
    'shift': a square of the view's size that may reach `view.pad` pixels beyond the image, where there are zeros.
    'centre': the square in the middle; nothing is drawn.
    """
    if view.crop == "centre":
        side = round(min(height, width) * view.centre)
        return (height - side) // 2, (width - side) // 2, side, side
    if view.crop == "shift":
        top, left = (draw.below(length + 2 * view.pad - view.size + 1) - view.pad for length in (height, width))
        return top, left, view.size, view.size
    return _tf_box(view, draw, height, width) if view.crop == "tf" else _torch_box(view, draw, height, width)


def _torch_box(view: View, draw: Draws, height: int, width: int) -> tuple[Any, Any, Any, Any]:
    xp = draw.xp
    tries = 10 if view.crop == "torch" else 1
    area = height * width * draw.between(*view.area, tries)
    low, high = view.ratio
    ratio = xp.exp(draw.between(math.log(low), math.log(high), tries))
    w, h = xp.round(xp.sqrt(area * ratio)), xp.round(xp.sqrt(area / ratio))
    if view.crop == "byol":
        w, h = xp.clip(w[0], 1, width), xp.clip(h[0], 1, height)
        return draw.below(height - h + 1), draw.below(width - w + 1), h, w
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = xp.argmax(fits)
    fallback_h, fallback_w = _fallback(view.ratio, height, width)
    w = xp.where(fits.any(), w[first], fallback_w)
    h = xp.where(fits.any(), h[first], fallback_h)
    top, left = draw.below(height - h + 1), draw.below(width - w + 1)
    top = xp.where(fits.any(), top, (height - fallback_h) // 2)
    left = xp.where(fits.any(), left, (width - fallback_w) // 2)
    return top, left, h, w


def _fallback(ratio: tuple[float, float], height: int, width: int) -> tuple[int, int]:
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def _tf_box(view: View, draw: Draws, height: int, width: int) -> tuple[Any, Any, Any, Any]:
    xp = draw.xp
    ratio = draw.between(*view.ratio, 100)
    low, high = (xp.round(xp.sqrt(a * height * width / ratio)) for a in view.area)
    high = xp.minimum(xp.where(xp.round(high * ratio) > width, xp.floor(width / ratio), high), height)
    low = xp.minimum(low, high)
    h = xp.minimum(low + xp.floor(draw(100) * (high - low + 1)), high)
    w = xp.round(h * ratio)
    share = h * w / (height * width)
    fits = (share >= max(view.area[0], 0.1)) & (share <= view.area[1]) & (w <= width) & (w > 0)
    first = xp.argmax(fits)
    h, w = xp.where(fits.any(), h[first], height), xp.where(fits.any(), w[first], width)
    return draw.below(height - h + 1), draw.below(width - w + 1), h, w


def _strength(draw: Draws, strength: float) -> jax.Array:
    return draw.between(max(0.0, 1.0 - strength), 1.0 + strength)


def _jitter(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    """Brightness, contrast, saturation and hue in a fresh random order, clipped after each."""
    shift = draw.between(-view.brightness, view.brightness)
    given = {name: _strength(draw, getattr(view, name)) for name in ("brightness", "contrast", "saturation")}
    if view.additive_brightness:
        given["brightness"] = shift
    given["hue"] = draw.between(-view.hue, view.hue)
    names = [name for name in ("brightness", "contrast", "saturation", "hue") if getattr(view, name)]
    order = jnp.argsort(draw(len(names)))

    def pixelwise(channels, slots):
        """All ops of the slots but contrast, of the channels one by one."""
        for slot, wanted in slots:
            turn = {name: wanted & (order[slot] == number) for number, name in enumerate(names)}
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


def _blended(
    view: View, channels: list[jax.Array], given: dict[str, jax.Array], turn: dict[str, jax.Array]
) -> list[jax.Array]:
    """An image as its channels [H, W] after brightness or saturation, or as it is where neither has its turn.

    Both are a blend, and so one op with a reference to pick; of two ops to pick from both would be computed.
    """
    if view.additive_brightness and "brightness" in turn:
        shifted = [jnp.clip(x + jnp.where(turn["brightness"], given["brightness"], 0.0), 0.0, 1.0) for x in channels]
        channels = [ops.nearest_level(x) for x in shifted] if view.pillow else shifted
    factor, reference = jnp.ones(()), jnp.zeros(())
    if not view.additive_brightness and "brightness" in turn:
        factor = jnp.where(turn["brightness"], given["brightness"], factor)
    if "saturation" in turn:
        factor = jnp.where(turn["saturation"], given["saturation"], factor)
        reference = jnp.where(turn["saturation"], ops.luma(channels, pillow=view.pillow), reference)
    return [ops.blend(x, reference, factor, pillow=view.pillow) for x in channels]


def _blur(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    sigma = draw.between(*view.sigma)
    return ops.gaussian_blur(image, sigma, view.taps, padding=view.blur_padding)


def _photometric(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    """One of PIRL's four photometric ops (VISSL's image branch), its strength drawn from the middle of its range."""
    u = draw()
    options = (
        ops.posterize(image, jnp.floor(4 + 4 * u)),
        ops.sharpness(image, 0.1 + 1.8 * u, pillow=view.pillow),
        ops.solarize(image),
        ops.autocontrast(image, pillow=view.pillow),
    )
    chosen = draw.below(len(options))
    # Selected one by one: a stack to pick from would be laid out in tiles that are mostly padding.
    return functools.reduce(lambda x, option: jnp.where(chosen == option[0], option[1], x), enumerate(options), image)


def _colour_components(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    # Half a step of the generator away from zero, where the normal distribution has no quantile.
    normal = jax.scipy.special.ndtri(draw(3) + 2.0**-24)
    return ops.colour_components(image, jnp.exp2(jnp.array(view.pca_sigma) * normal).astype(image.dtype))


def _hsv_noise(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    power = jnp.exp2(draw.between(-view.hsv_power, view.hsv_power, 2))
    factor = jnp.exp2(draw.between(-view.hsv_factor, view.hsv_factor, 2))
    offset = draw.between(-view.hsv_offset, view.hsv_offset, 2)
    return ops.hsv_noise(image, power, factor, offset, draw.between(-view.hsv_hue, view.hsv_hue))


def _random_affine(view: View, draw: Draws, image: jax.Array) -> jax.Array:
    angle = jnp.deg2rad(draw.between(-view.degrees, view.degrees))
    low, high = view.scale
    scale = jnp.exp(draw.between(math.log(low), math.log(high)))
    shear = jnp.tan(jnp.deg2rad(draw.between(-view.shear, view.shear)))
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    matrix = rotation @ jnp.array([[1.0, 0.0], [shear, 1.0]]) / scale
    side = jnp.array(image.shape[:2], image.dtype)
    shift = side * draw.between(-view.translate, view.translate, 2)
    moved = ops.affine(image, matrix.astype(image.dtype), shift)
    return _sometimes(view.affine, draw, moved, image)
