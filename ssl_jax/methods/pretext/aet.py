"""AET: the transformation between two images is predicted from their features (auto-encoding transformations).

Zhang, Qi, Wang, Luo 2019 (arXiv 1901.04596). From an image and its transformed copy, which transformation was it?
Follows the authors' code (maple-research-lab/AET): parameters are normalised, what lies outside the image is mid-grey,
both images pass through one encoder one after the other, and a linear layer sees both. A transformation is its vector
of parameters, from which the map of the pixels is made, so that what is predicted is what was applied. Decisions:

- maps go from the transformed image to the original one, in pixels, as Pillow's coefficients do;
- the projective map is that of the moved corners in closed form, which float32 is good enough for;
- shifts of the image and of its corners are any number of pixels, theirs whole ones; the centre is that of the pixels'
  area, theirs half a pixel off; CIFAR's standard deviations are those of its pixels, theirs smaller.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

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

CROP = View(crop="shift", pad=0, flip=0.5)  # x: 224 of the 256 pixels that the short side has, the authors' code


def affine_map(parameters: jax.Array, size: int, translate: float, scale: float, shear: float) -> jax.Array:
    """The map of pixels of an affine transformation about the centre.

    The image is sheared and turned (its y axis by angle + shear, its x axis by angle), magnified and then shifted.

    Args:
      parameters: [6]: cosine and sine of the angle (of any length), shift along x and y over `translate`,
        magnification less 1 over `scale`, shear over `shear`.
      size: side of the image, pixels.
      translate: largest shift, share of the side.
      scale: largest change of the magnification.
      shear: largest shear, degrees.

    Returns:
      [3, 3], output to input, for `geometry.projective`.
    """
    angle, lean = jnp.arctan2(parameters[1], parameters[0]), jnp.deg2rad(shear * parameters[5])
    x_axis = jnp.array([jnp.cos(angle), jnp.sin(angle)])
    y_axis = jnp.array([-jnp.sin(angle + lean), jnp.cos(angle + lean)])
    forward = (1 + scale * parameters[4]) * jnp.stack([x_axis, y_axis], 1)
    determinant = forward[0, 0] * forward[1, 1] - forward[0, 1] * forward[1, 0]
    back = jnp.array([[forward[1, 1], -forward[0, 1]], [-forward[1, 0], forward[0, 0]]]) / determinant
    centre = jnp.full(2, size / 2)
    offset = centre - back @ (centre + size * translate * parameters[2:4])
    return jnp.concatenate([jnp.concatenate([back, offset[:, None]], 1), jnp.array([[0.0, 0.0, 1.0]])])


def draw_affine(key: jax.Array) -> jax.Array:
    """Parameters [6] of a random affine transformation, all in [-1, 1]: any angle, the others uniform."""
    u = jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0)
    angle = jnp.pi * u[0]
    return jnp.concatenate([jnp.array([jnp.cos(angle), jnp.sin(angle)]), u[1:]])


def draw_corners(key: jax.Array, size: int, shift: float, scale: tuple[float, float]) -> jax.Array:
    """Corners [4, 2] of a square that was magnified about its centre, shifted at each and turned by quarter turns."""
    moves, zoom, turn = jax.random.split(key, 3)
    square = size * jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    factor = jax.random.uniform(zoom, minval=scale[0], maxval=scale[1])
    moved = factor * (square - size / 2) + size / 2 + jax.random.uniform(moves, (4, 2), minval=-shift, maxval=shift)
    return jnp.roll(moved, -jax.random.randint(turn, (), 0, 4), axis=0)


@dataclasses.dataclass(frozen=True)
class AET(Method):
    """Auto-encoding transformations; the defaults are the authors' projective ones on ImageNet."""

    view: View = CROP
    kind: str = "projective"  # or 'affine'
    translate: float = 0.2  # affine: largest shift, share of the side, sec. 4.1
    magnify: float = 0.3  # affine: 0.7 to 1.3 times, sec. 4.1
    shear: float = 30.0  # affine: largest shear, degrees, sec. 4.1
    shift: float = 28.0  # projective: of a corner along each axis, pixels; 0.125 of the side, sec. 4.1
    scale: tuple[float, float] = (0.8, 1.2)  # projective: magnification, sec. 4.1
    # Of the eight coefficients, which they normalise, the authors' code.
    mean: tuple[float, ...] = (0.0, 0.0, 112.0, 0.0, 0.0, 112.0, 6.4e-5, 6.4e-5)
    std: tuple[float, ...] = (0.75, 0.75, 118.0, 0.75, 0.75, 118.0, 7.75e-4, 7.75e-4)
    fill: float = 128 / 255  # outside the image, of the range of values: mid-grey, the authors' code

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.kind not in ("affine", "projective"):
            raise UserError(f"config.method.kind is '{self.kind}': use 'affine' or 'projective'.")
        if len(self.mean) != 8 or len(self.std) != 8:
            raise UserError("config.method.mean and .std are of the eight coefficients of a projective map: give 8.")
        if not 0 <= self.shift < self.view.size / 4:
            raise UserError(
                f"config.method.shift is {self.shift}: from 0 to below a quarter of the {self.view.size} pixels of "
                "the view, else corners could change sides."
            )

    def draw(self, key: jax.Array) -> jax.Array:
        """Normalised parameters [6] or [8] of a random transformation."""
        if self.kind == "affine":
            return draw_affine(key)
        corners = draw_corners(key, self.view.size, self.shift, self.scale)
        return (geometry.quadrilateral_map(corners, self.view.size) - jnp.array(self.mean)) / jnp.array(self.std)

    def map_of(self, parameters: jax.Array) -> jax.Array:
        """The map [3, 3] of pixels, transformed to original, of normalised parameters."""
        if self.kind == "affine":
            return affine_map(parameters, self.view.size, self.translate, self.magnify, self.shear)
        coefficients = parameters * jnp.array(self.std) + jnp.array(self.mean)
        return jnp.concatenate([coefficients, jnp.ones(1)]).reshape(3, 3)

    def _transformed(self, images: jax.Array, maps: jax.Array) -> jax.Array:
        fill = (self.fill - jnp.array(self.view.mean)) / jnp.array(self.view.std)
        return jax.vmap(geometry.projective, (0, 0, None))(images, maps, fill)

    def _decoder(self) -> MLP:
        return MLP((), 6 if self.kind == "affine" else 8, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        body, head = jax.random.split(rng)
        h = jax.eval_shape(lambda: self.backbone.init_with_output(body, batch["view"], train=True)[0])
        params, stats = initialise({"backbone": self.backbone}, body, batch["view"])
        more, none = initialise({"decoder": self._decoder()}, head, jnp.zeros((1, 2 * h.shape[-1])))
        return params | more, {"stats": stats | none}

    def _pairs(self, images: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Transformed images t(x) [n, S, S, C] and their parameters [n, 6 or 8]."""
        parameters = jax.vmap(self.draw)(keys)
        return self._transformed(images, jax.vmap(self.map_of)(parameters)), parameters

    def _predict(self, params, stats, x, moved, *, train):
        """Predicted parameters of x to t(x), the features of x, and the statistics."""
        h, stats = apply(self.backbone, "backbone", params, stats, x, train=train)
        h_moved, stats = apply(self.backbone, "backbone", params, stats, moved, train=train)
        both = jnp.concatenate([h, h_moved], -1)
        out, stats = apply(self._decoder(), "decoder", params, stats, both, train=train)
        out = out.astype(jnp.float32)
        return jnp.tanh(out) if self.kind == "affine" else out, h, stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        moved, wanted = self._pairs(batch["view"], dist.example_keys(rng, batch["position"]))
        found, h, stats = self._predict(params, state["stats"], batch["view"], moved, train=train)
        loss = jnp.mean(jnp.square(found - wanted))
        metrics = {"transformation_error": Metric(loss, jnp.mean(jnp.square(wanted)), "loss")}
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Images, transformed, and with the predicted transformation undone."""
        x = batch["view"][:8]
        moved, wanted = self._pairs(x, dist.example_keys(rng, batch["position"][: len(x)]))
        found, _, _ = self._predict(params, state["stats"], x, moved, train=False)
        undone = self._transformed(moved, jnp.linalg.inv(jax.vmap(self.map_of)(found)))
        grid = np.stack([x, moved, undone], 1)
        errors = np.mean(np.square(found - wanted), -1)
        captions = tuple(("", "", f"squared error {error:.2f}") for error in errors)
        title = "Images, their transformed copies, and these with the predicted transformation undone"
        return [
            Picture(
                title,
                ("image", "transformed", "undone"),
                np.asarray(pixels(self.view, jnp.asarray(grid)).clip(0, 1)),
                captions,
            )
        ]

    def chance(self, info: Info) -> float:
        """The mean square of the normalised parameters: zeros are predicted."""
        draw: Callable[[jax.Array], jax.Array] = jax.vmap(self.draw)
        return float(jnp.mean(jnp.square(draw(jax.random.split(jax.random.key(0), 4096)))))
