"""Where the crop of a view lies and whether it is mirrored, alike on the device and on the host.

The numbers that decide it may be JAX's, on the device, or NumPy's, where images are decoded; in the latter case
roundings of exp and the like may rarely fall the other way and move a side by a pixel.
"""

import math
from typing import Any, NamedTuple

from ssl_jax.augment.draws import Draws
from ssl_jax.augment.view import View

Box = tuple[Any, Any, Any, Any]  # top, left, height and width, pixels, whole


class Placed(NamedTuple):
    """The geometry of one view of one image."""

    box: Box
    flip: Any  # bool: the crop is mirrored left to right


def placed(view: View, draws: dict[str, Draws], height: int, width: int) -> Placed:
    """Draws the crop box and the flip of a view.

    Args:
      view: the recipe.
      draws: the random numbers of each step, from `draws.split`; those of the crop and the flip are taken.
      height: of the image, pixels.
      width: of the image, pixels.
    """
    toss = draws["flip"]()
    flip = toss < view.flip if view.flip > 0 and "flip" in view.order else False
    return Placed(_crop_box(view, draws["crop"], height, width), flip)


def _crop_box(view: View, draw: Draws, height: int, width: int) -> Box:
    """Draws a box the way `view.crop` names.

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


def _torch_box(view: View, draw: Draws, height: int, width: int) -> Box:
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


def _tf_box(view: View, draw: Draws, height: int, width: int) -> Box:
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
