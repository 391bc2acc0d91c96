"""A view is data: what is drawn at random for one image, in which order it is applied, and its output size."""

import dataclasses

import jax
import jax.numpy as jnp

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
    interpolation: str = "bilinear"  # or 'bicubic'
    antialias: bool = True  # of a crop that shrinks; TensorFlow's resize does not (SimCLR, BYOL)
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
    hsv_saturation: bool = False  # scale the S of HSV, not blend with the luma (TensorFlow, BYOL)
    gray: float = 0.0  # probability of grayscale
    blur: float = 0.0  # probability of Gaussian blur
    sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, pixels
    taps: int = 23  # length of the blur kernel, pixels, odd
    blur_padding: str = "reflect"  # or 'zero' (SimCLR's TensorFlow code, BYOL)
    solarize: float = 0.0  # probability of solarization above 0.5
    photometric: float = 0.0  # probability of posterize, sharpness, solarize and autocontrast in a row (PIRL)
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
    shared: bool = False  # drawn alike for images that belong together, such as the frames of a clip
    like: str = ""  # name of a view of the method whose crop and mirroring this one has, at its own size
    mean: tuple[float, ...] = IMAGENET_MEAN  # subtracted at the end, per channel
    std: tuple[float, ...] = IMAGENET_STD  # divided by at the end, per channel

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
        self._check_ranges(where)
        self._check_order(where)
        self._check_channels(where, channels)
        self._check_shape(where, height, width)

    def _check_ranges(self, where: str) -> None:
        for field in ("area", "ratio", "sigma", "scale"):
            ends = getattr(self, field)
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                raise UserError(f"{where}.{field} is {ends}: give the two ends of a range above 0, as LOW,HIGH.")
        for step in STEPS:
            if step != "crop" and not 0 <= getattr(self, step) <= 1:
                raise UserError(f"{where}.{step} is {getattr(self, step)}: a probability is from 0 to 1.")
        if self.area[1] > 1:
            raise UserError(f"{where}.area is {self.area}: a crop covers at most the whole image, 1.")

    def _check_order(self, where: str) -> None:
        for step in self.order:
            if step not in STEPS:
                raise UserError(f"{where}.order has '{step}', which is no step of a view. {nearest(step, STEPS)}")
            if self.order.count(step) > 1:
                raise UserError(f"{where}.order has '{step}' more than once: a step happens once.")
        if "crop" not in self.order:
            raise UserError(f"{where}.order has no 'crop', the step that gives a view its size: add it.")
        for step in STEPS:
            if step not in self.order and getattr(self, step):
                raise UserError(
                    f"{where}.{step} is {getattr(self, step)}, but {where}.order has no '{step}': add it there, or "
                    f"set {where}.{step} to 0."
                )

    def _check_channels(self, where: str, channels: int) -> None:
        colour = [f for f in ("saturation", "hue") if self.jitter and getattr(self, f)]
        colour += [step for step in ("gray", "pca") if getattr(self, step)]
        colour += ["hsv"] if self.hsv and channels != 1 else []
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

    def _check_shape(self, where: str, height: int, width: int) -> None:
        if self.size < 1:
            raise UserError(f"{where}.size is {self.size}: it must be at least 1.")
        if self.crop not in CROPS:
            raise UserError(f"{where}.crop is '{self.crop}', which is not known. {nearest(self.crop, CROPS)}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UserError(f"{where}.interpolation is '{self.interpolation}': use 'bilinear' or 'bicubic'.")
        if self.crop == "shift" and self.size > min(height, width) + 2 * self.pad:
            raise UserError(
                f"{where}.size is {self.size}, more than the {height}x{width} images with {self.pad} pixels of "
                f"padding: lower it or raise {where}.pad."
            )
        if self.blur_padding not in ("reflect", "zero"):
            raise UserError(f"{where}.blur_padding is '{self.blur_padding}': use 'reflect' or 'zero'.")
        if self.blur and self.taps % 2 == 0:
            raise UserError(f"{where}.taps is {self.taps}: a blur kernel has an odd length.")
        if self.blur and self.blur_padding == "reflect" and self.taps // 2 >= self.size:
            raise UserError(f"{where}.taps is {self.taps}, too long for a {self.size}-pixel view: use a shorter one.")


def evaluation(view: View, centre: float) -> View:
    """The preprocessing of evaluation: a centre crop of `centre` of the short side, normalised like `view`."""
    return View(
        size=view.size,
        crop="centre",
        centre=centre,
        interpolation=view.interpolation,
        antialias=view.antialias,
        order=("crop",),
        mean=view.mean,
        std=view.std,
    )


def pixels(view: View, images: jax.Array) -> jax.Array:
    """Values in [0, 1] of images [..., C] that a view normalised."""
    return images * jnp.asarray(view.std, images.dtype) + jnp.asarray(view.mean, images.dtype)
