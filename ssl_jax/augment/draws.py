"""The random numbers of a view: how many each step takes, and in which order."""

import math
from typing import Any

import jax
import numpy as np

from ssl_jax.augment.view import View

# Of each way to draw a crop box: areas and ratios of all tries, then top and left.
_OF_CROP = {"torch": 22, "byol": 4, "tf": 202, "shift": 2, "centre": 0}
# Of each step for its strengths; jitter takes one more for each of its ops that is on, to draw their order.
_OF_STEP = {"affine": 5, "jitter": 5, "gray": 0, "blur": 1, "solarize": 0, "photometric": 3, "pca": 3, "hsv": 7}


class Draws:
    """Random numbers, uniform in [0, 1), taken from the front one after another.

    Args:
      numbers: [n], in JAX or in NumPy; what is computed from them stays there.
    """

    def __init__(self, numbers: jax.Array | np.ndarray) -> None:
        self._left: Any = numbers

    def __len__(self) -> int:
        return len(self._left)

    @property
    def xp(self) -> Any:
        """`jax.numpy` or `numpy`."""
        return self._left.__array_namespace__()

    def __call__(self, *shape: int) -> jax.Array:
        """The next numbers, uniform in [0, 1).

        Raises:
          ValueError: fewer are left.
        """
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


def count(view: View) -> int:
    """How many random numbers one view of one image takes."""
    return sum(_taken(view).values())


def split(view: View, numbers: jax.Array | np.ndarray) -> dict[str, Draws]:
    """Gives each step of a view its own random numbers.

    All numbers of a view come from one call of the generator, which is some hundred operations in the compiled
    program, however many numbers it gives; one call for each decision would make most of a step's program. What a step
    sees does not depend on whether the other steps run, so a crop is known without the colours drawn before it.

    Args:
      view: the recipe.
      numbers: [count(view)], uniform in [0, 1), in JAX or in NumPy.

    Returns:
      step to its numbers; 'flip' is there even where `view.order` lacks it.
    """
    shares, start = {}, 0
    for step, own in _taken(view).items():
        shares[step], start = Draws(numbers[start : start + own]), start + own
    return shares


def from_key(view: View, key: jax.Array) -> dict[str, Draws]:
    """Draws the numbers of one view of one image from its own key."""
    return split(view, jax.random.uniform(key, (count(view),)))


def _taken(view: View) -> dict[str, int]:
    """Numbers a step, in the order in which they lie."""
    # The flip comes first, and also where there is none, so that the crop of a key is the same with and without.
    return {"flip": 1} | {step: _of_step(view, step) for step in view.order if step != "flip"}


def _of_step(view: View, step: str) -> int:
    if step == "crop":
        return _OF_CROP[view.crop]
    probability = getattr(view, step)
    if not probability:
        return 0
    ops = len(jittered(view)) if step == "jitter" else 0
    return _OF_STEP[step] + ops + (probability < 1)  # the last number decides whether the step happens


def jittered(view: View) -> list[str]:
    """The ops of colour jitter that a view has on."""
    return [name for name in ("brightness", "contrast", "saturation", "hue") if getattr(view, name)]
