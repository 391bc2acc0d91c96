"""Egomotion: how did the camera move between two images?

Agrawal, Carreira, Malik 2015 (arXiv 1505.01596), sec. 3 and their experiment on digits: two copies of the network see
an image after two random shifts and turns, and a head that reads both features tells the shift from one to the other
along each axis, of -3 to 3 pixels, and the turn in bins of 3 degrees: three classifications. `objective='slow'` is the
paper's baseline, slow feature analysis: features of a pair that hardly moved should be near, and those of others at
least a margin apart (sec. 3.3, Hadsell et al. 2006). Decisions:

- the first of the two images is moved as well, else only the second would show traces of having been resampled;
- a turn and a shift are one map of the pixels, about the centre, the turn first;
- what lies outside a digit is its ground. A photograph has none: a `window` smaller than the image cuts the borders
  off, so that a motion cannot be read from where the image ends;
- hidden layers of the head have BatchNorm, theirs dropout.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment import geometry
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def turn_class(degrees: jax.Array, largest: float, width: float) -> jax.Array:
    """The bin of `width` degrees that a turn of -largest to largest falls into; the largest is of the last one."""
    return jnp.clip(jnp.floor((degrees + largest) / width), 0, round(2 * largest / width) - 1).astype(jnp.int32)


def contrastive(distance: jax.Array, near: jax.Array, margin: float) -> jax.Array:
    """Hadsell's loss of pairs: half the squared distance [n] of those that are near, of others half the squared gap.

    Args:
      distance: Euclidean.
      near: which pairs are.
      margin: m, beyond which others cost nothing.

    Returns:
      the mean over pairs.
    """
    gap = jnp.maximum(margin - distance, 0.0)
    return jnp.mean(jnp.where(near, jnp.square(distance), jnp.square(gap))) / 2


def motion_map(degrees: jax.Array, shift: jax.Array, size: int) -> jax.Array:
    """The map [3, 3] of pixels, moved to original, of a turn about the centre followed by a shift [2] (x, y)."""
    angle = jnp.deg2rad(degrees)
    back = jnp.array([[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]])
    centre = jnp.full(2, size / 2)
    offset = centre - back @ (centre + shift)
    return jnp.concatenate([jnp.concatenate([back, offset[:, None]], 1), jnp.array([[0.0, 0.0, 1.0]])])


@dataclasses.dataclass(frozen=True)
class Egomotion(Method):
    """Classification of the motion between two images; the defaults are the paper's for digits."""

    view: View = View(size=28, crop="centre", order=("crop",), mean=(0.5,), std=(0.5,))  # noqa: RUF009
    shift: int = 3  # largest, of one image to the other and of the first, pixels
    degrees: float = 30.0  # largest turn, likewise
    bin: float = 3.0  # of the turn, degrees
    canvas: int = 36  # side of the ground on which the image is moved, pixels
    window: int = 36  # side of what is seen of it afterwards, the centre
    fill: float = 0.0  # of that ground, of the range of values
    hidden: tuple[int, ...] = (1000,)  # of the head
    objective: str = "motion"  # or 'slow', the baseline
    slow_margin: float = 10.0  # m of the baseline

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.objective not in ("motion", "slow"):
            raise UserError(f"config.method.objective is '{self.objective}': use 'motion' or 'slow'.")
        if self.shift < 1 or not 0 < self.bin <= self.degrees:
            raise UserError(
                f"config.method.shift is {self.shift}, .degrees {self.degrees} and .bin {self.bin}: shifts of at "
                "least 1 pixel and a bin of at most the largest turn are needed."
            )
        if not self.view.size <= self.canvas or not 4 <= self.window <= self.canvas:
            raise UserError(
                f"config.method.canvas is {self.canvas} and .window {self.window}: the canvas must be at least as "
                f"large as the view, {self.view.size} pixels, and the window 4 pixels at least and at most the canvas."
            )

    def _counts(self) -> tuple[int, int, int]:
        """Classes of the shift along x, along y, and of the turn."""
        return 2 * self.shift + 1, 2 * self.shift + 1, round(2 * self.degrees / self.bin)

    def _head(self) -> nn.Module:
        return MLP(self.hidden, sum(self._counts()), bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def _pairs(self, images: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Both images of each pair [n, S', S', C], the shift [n, 2] from one to the other and the turn [n], degrees."""

        def draw(key):
            first, then, turned, by = jax.random.split(key, 4)
            whole = lambda key: jax.random.randint(key, (2,), -self.shift, self.shift + 1).astype(jnp.float32)  # noqa: E731
            angle = lambda key: jax.random.uniform(key, minval=-self.degrees, maxval=self.degrees)  # noqa: E731
            return whole(first), whole(then), angle(turned), angle(by)

        start, shift, turned, turn = jax.vmap(draw)(keys)
        ground = (self.fill - jnp.array(self.view.mean)) / jnp.array(self.view.std)
        before = (self.canvas - self.view.size) // 2
        after = self.canvas - self.view.size - before
        framed = jnp.pad(images - ground, ((0, 0), (before, after), (before, after), (0, 0))) + ground
        start_at = (self.canvas - self.window) // 2
        seen_at = slice(start_at, start_at + self.window)

        def moved(degrees, shift):
            maps = jax.vmap(lambda a, t: motion_map(a, t, self.canvas))(degrees, shift)
            seen = jax.vmap(geometry.projective, (0, 0, None))(framed, maps, ground)
            return seen[:, seen_at, seen_at]

        return moved(turned, start), moved(turned + turn, start + shift), shift, turn

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        body, head = jax.random.split(rng)
        params, stats = initialise({"backbone": self.backbone}, body, batch["view"])
        if self.objective == "slow":
            return params, {"stats": stats}
        h = jax.eval_shape(lambda: self.backbone.init_with_output(body, batch["view"], train=True)[0])
        joined = jnp.zeros((len(h), 2 * h.shape[-1]))
        more, also = initialise({"head": self._head()}, head, joined)
        return params | more, {"stats": stats | also}

    def _answers(self, shift: jax.Array, turn: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        along = shift.astype(jnp.int32) + self.shift
        return along[:, 0], along[:, 1], turn_class(turn, self.degrees, self.bin)

    def _logits(self, params, stats, features, train):
        """Logits of the three answers, and the running statistics."""
        out, stats = apply(self._head(), "head", params, stats, features, train=train)
        places = np.cumsum(self._counts())[:-1].tolist()
        return jnp.split(out.astype(jnp.float32), places, -1), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        one, two, shift, turn = self._pairs(batch["view"], dist.example_keys(rng, batch["position"]))
        h1, stats = apply(self.backbone, "backbone", params, state["stats"], one, train=train)
        h2, stats = apply(self.backbone, "backbone", params, stats, two, train=train)
        if self.objective == "slow":
            gaps = jnp.sum(jnp.square((h1 - h2).astype(jnp.float32)), -1)
            distance = jnp.sqrt(jnp.maximum(gaps, 1e-12))
            near = self._hardly_moved(shift, turn)
            loss = contrastive(distance, near, self.slow_margin)
            metrics = {"pair_distance": Metric(jnp.mean(distance), kind="value")}
            return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h1)))
        logits, stats = self._logits(params, stats, jnp.concatenate([h1, h2], -1), train)
        answers = self._answers(shift, turn)
        terms = [losses.cross_entropy(z, y) for z, y in zip(logits, answers, strict=True)]
        loss = jnp.stack(terms).sum()
        metrics = {
            f"{name}_top1": Metric(losses.accuracy(z, y), chance=1 / z.shape[-1])
            for name, z, y in zip(("shift_x", "shift_y", "turn"), logits, answers, strict=True)
        }
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h1)))

    def _hardly_moved(self, shift: jax.Array, turn: jax.Array) -> jax.Array:
        """Pairs of at most a pixel along each axis and one bin of the turn, sec. 4.1."""
        return (jnp.abs(shift) <= 1).all(-1) & (jnp.abs(turn) <= self.bin)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Pairs, and how the network says that the second was moved."""
        x = batch["view"][:8]
        one, two, shift, turn = self._pairs(x, dist.example_keys(rng, batch["position"][: len(x)]))
        shown = np.stack([np.asarray(pixels(self.view, image).clip(0, 1)) for image in (one, two)], 1)
        words = [
            f"moved by {dx:.0f}, {dy:.0f} pixels, {a:.0f} degrees" for (dx, dy), a in zip(shift, turn, strict=True)
        ]
        if self.objective == "motion":
            h1, h2 = (
                apply(self.backbone, "backbone", params, state["stats"], image, train=False)[0] for image in (one, two)
            )
            logits, _ = self._logits(params, state["stats"], jnp.concatenate([h1, h2], -1), False)
            x_of, y_of, a_of = (np.argmax(z, -1) for z in logits)
            said = zip(x_of - self.shift, y_of - self.shift, (a_of + 0.5) * self.bin - self.degrees, strict=True)
            words = [f"{word}; network: {x}, {y}, {a:.0f}" for word, (x, y, a) in zip(words, said, strict=True)]
        captions = tuple(("", word) for word in words)
        return [Picture("Images before and after a motion", ("before", "after"), shown, captions)]

    def chance(self, info: Info) -> float:
        """All motions as likely; of the baseline, all features alike."""
        del info
        if self.objective == "motion":
            return sum(math.log(count) for count in self._counts())
        near = (3 / (2 * self.shift + 1)) ** 2 * self.bin / self.degrees
        return (1 - near) * self.slow_margin**2 / 2
