"""Equivariance: a motion of the image is a linear map of the features.

Jayaraman, Grauman 2015 (arXiv 1505.02206), eq. 4: motions are grouped, and each group g has a matrix M_g. For a pair
of images that moved by g, M_g z of the first should be the features z of the second; for every other pair it should be
at least a margin away from them. The loss is the sum over the groups of the mean over pairs. Decisions:

- a pair is an image and what a motion makes of it, by turn, shift and magnification, where the authors have frames of a
  car's camera and their groups of yaw and speed;
- the first image is moved a little as well, so that only the motion tells the two apart;
- their classification loss needs labels, and is not part of this method.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment import geometry
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Euclidean distances of rows [..., D], with a gradient also where they are equal."""
    return jnp.sqrt(jnp.sum(jnp.square(x - y), -1) + 1e-12)


def equivariance_loss(
    z: jax.Array, moved: jax.Array, motion: jax.Array, maps: jax.Array, margin: float = 1.0
) -> jax.Array:
    """Sum over the motions of the contrastive loss of M_g z and z', the mean over all pairs (eq. 4).

    Args:
      z: features before the motion [n, D].
      moved: after it [n, D].
      motion: its group [n].
      maps: M_g [G, D, D].
      margin: delta, of the pairs that moved otherwise.
    """
    gap = distance(jnp.einsum("gij,nj->gni", maps, z, precision="highest"), moved)  # [G, n]
    own = motion == jnp.arange(len(maps))[:, None]
    return jnp.sum(jnp.mean(jnp.where(own, gap, jnp.maximum(margin - gap, 0.0)), 1))


def equivariance_error(
    z: jax.Array, moved: jax.Array, motion: jax.Array, maps: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """How far M_g z is from z', compared with how far z is: 0 perfect, 1 no better than invariance (sec. 4.2)."""
    there = jnp.einsum("nij,nj->ni", maps[motion], z, precision="highest")
    gaps = jnp.stack([jnp.mean(distance(x, moved)) for x in (there, z)])
    gaps = gaps if axis_name is None else jax.lax.pmean(gaps, axis_name)
    return gaps[0] / jnp.maximum(gaps[1], 1e-6)


class Motion(NamedTuple):
    """A turn, with y downwards, a shift in shares of the side, and a magnification about the centre."""

    degrees: float = 0.0
    right: float = 0.0
    down: float = 0.0
    zoom: float = 1.0

    def __str__(self) -> str:
        return f"{self.degrees:.0f} degrees, {self.right:.2f} right, {self.down:.2f} down, {self.zoom:.1f} times"


def motion_maps(motions: Sequence[Motion], size: int) -> np.ndarray:
    """Maps [G, 3, 3] of pixels, moved to original, of motions."""
    centre, maps = np.array([[1, 0, size / 2], [0, 1, size / 2], [0, 0, 1]]), []
    for degrees, right, down, zoom in motions:
        a = np.deg2rad(degrees)
        turn = zoom * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        forward = np.eye(3)
        forward[:2, :2], forward[:2, 2] = turn, [right * size, down * size]
        maps.append(centre @ np.linalg.inv(forward) @ np.linalg.inv(centre))
    return np.array(maps, np.float32)


@dataclasses.dataclass(frozen=True)
class Equivariance(Method):
    """Features that motions move linearly."""

    view: View = View(size=96, area=(0.2, 1.0), flip=0.5)  # noqa: RUF009
    degrees: float = 30.0  # of the turns, one group each way
    shift: float = 0.15  # of the groups that move to the right and down, share of the side
    zoom: float = 1.3  # magnification of the last group
    jitter: float = 10.0  # degrees by which the first image is turned at most
    margin: float = 1.0  # delta
    fill: float = 0.5  # outside the image, of the range of values
    out: int = 64  # width D of z, and of the maps, sec. 4.1

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not 0 < self.shift < 0.5 or not 0 < self.degrees < 180 or self.zoom == 1 or self.zoom <= 0:
            raise UserError(
                f"config.method.degrees is {self.degrees}, .shift {self.shift} and .zoom {self.zoom}: a turn below "
                "180 degrees, a shift below half of the side and a magnification other than 1 are needed."
            )

    @property
    def motions(self) -> tuple[Motion, ...]:
        """The groups: two turns, two shifts and a magnification."""
        turns = (Motion(degrees=self.degrees), Motion(degrees=-self.degrees))
        return (*turns, Motion(right=self.shift), Motion(down=self.shift), Motion(zoom=self.zoom))

    def _pairs(self, images: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Images before and after a motion, [n, S, S, C] each, and its group [n]."""

        def draw(key):
            which, turn = jax.random.split(key)
            angle = jax.random.uniform(turn, minval=-self.jitter, maxval=self.jitter)
            return jax.random.randint(which, (), 0, len(self.motions)), angle

        motion, angle = jax.vmap(draw)(keys)
        size = images.shape[1]
        half, a = size / 2, jnp.deg2rad(angle)
        zero = jnp.zeros_like(a)
        rows = jnp.stack([jnp.cos(a), jnp.sin(a), zero, -jnp.sin(a), jnp.cos(a), zero, zero, zero, zero + 1], -1)
        centre = jnp.array([[1.0, 0, half], [0, 1, half], [0, 0, 1]])
        back = jnp.array([[1.0, 0, -half], [0, 1, -half], [0, 0, 1]])
        start = centre @ rows.reshape(-1, 3, 3) @ back
        ground = (self.fill - jnp.array(self.view.mean)) / jnp.array(self.view.std)
        warp = jax.vmap(geometry.projective, (0, 0, None))
        # From the moved image to the one before it, and on to the original.
        after = start @ jnp.asarray(motion_maps(self.motions, size))[motion]
        return warp(images, start, ground), warp(images, after, ground), motion

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        body, head = jax.random.split(rng)
        parts = {"backbone": self.backbone, "projector": self._head()}
        params, stats = initialise(parts, body, batch["view"])
        near = 0.01 * jax.random.normal(head, (len(self.motions), self.out, self.out))
        return params | {"motions": jnp.eye(self.out) + near}, {"stats": stats}

    def _head(self) -> MLP:
        return MLP((), self.out, dtype=self.backbone.dtype)

    def _embed(self, params, stats, x, train):
        h, stats = apply(self.backbone, "backbone", params, stats, x, train=train)
        z, stats = apply(self._head(), "projector", params, stats, h, train=train)
        return h, z.astype(jnp.float32), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        before, after, motion = self._pairs(batch["view"], dist.example_keys(rng, batch["position"]))
        h, z, stats = self._embed(params, state["stats"], before, train)
        _, moved, stats = self._embed(params, stats, after, train)
        loss = equivariance_loss(z, moved, motion, params["motions"], self.margin)
        error = equivariance_error(*jax.lax.stop_gradient((z, moved, motion, params["motions"])), dist.AXIS)
        metrics = {"equivariance_error": Metric(error, chance=1.0, kind="loss")}
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Pairs, and which motion the features say that it was."""
        x = batch["view"][:8]
        before, after, motion = self._pairs(x, dist.example_keys(rng, batch["position"][: len(x)]))
        z, moved = (self._embed(params, state["stats"], image, False)[1] for image in (before, after))
        gaps = distance(jnp.einsum("gij,nj->gni", params["motions"], z, precision="highest"), moved)
        shown = np.stack([np.asarray(pixels(self.view, image).clip(0, 1)) for image in (before, after)], 1)
        named = [str(motion) for motion in self.motions]
        said = np.argmin(gaps, 0)
        captions = tuple(("", f"{named[g]}; nearest: {named[s]}") for g, s in zip(motion, said, strict=True))
        return [Picture("Images before and after a motion", ("before", "after"), shown, captions)]

    def chance(self, info: Info) -> float:
        """All features alike: every pair that moved otherwise costs the margin."""
        del info
        return (len(self.motions) - 1) * self.margin
