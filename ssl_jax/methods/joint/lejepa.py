"""LeJEPA: views of an image are predicted from their mean, while embeddings are held to a normal distribution.

Balestriero & LeCun 2025 (arXiv 2511.08544). There is no teacher, no predictor and no stopped gradient. SIGReg compares
the characteristic function of random one-dimensional projections with that of the standard normal distribution (the
test of Epps and Pulley); its statistics are those of the global batch, exactly and with gradient, so that its value
does not depend on the number of devices. Where the sources disagree there is a field:

- knots: the authors' package has 17 from 0 to 3, each counted on both sides; the paper 17 from -5 to 5; eb_jepa
  (facebookresearch/eb_jepa) 10 from -3 to 3, and no factor N;
- the views' centre is the mean of the large crops in the paper's algorithm 2, of all views in the authors' minimal
  example;
- the statistic is the mean over all views; lightly had it of the small crops alone until its pull request 2023.

`sigreg` in the log is 1.05 for embeddings that are normally distributed, and 0.4 N where all are the same.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import BelowOne, OrZero
from ssl_jax.methods.shared import crops
from ssl_jax.models.backbone import one_of
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import initialise
from ssl_jax.runtime.errors import UserError


def unit_slices(rng: jax.Array, width: int, count: int) -> jax.Array:
    """Random directions [width, count] of length one, evenly spread over the sphere."""
    return losses.l2_normalize(jax.random.normal(rng, (count, width))).T


def quadrature(limit: float = 3.0, knots: int = 17, mirrored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Knots t [T] and weights [T] of the trapezoidal rule from -limit to limit.

    Args:
      limit: of the integral.
      knots: T.
      mirrored: the knots lie between 0 and the limit and count for both sides, since the integrand is even.
    """
    t = np.linspace(0.0 if mirrored else -limit, limit, knots)
    weights = np.full(knots, t[1] - t[0])
    weights[[0, -1]] /= 2
    return t, weights * (2 if mirrored else 1)


def sigreg(
    z: jax.Array,
    slices: jax.Array,
    t: np.ndarray,
    weights: np.ndarray,
    *,
    times_n: bool = True,
    axis_name: str | None = None,
) -> jax.Array:
    """Sketched isotropic Gaussian regularisation: how far embeddings are from a standard normal distribution.

    Args:
      z: embeddings [V, n, D] of each view; the statistic is taken of one view at a time.
      slices: directions [D, K] of length one.
      t: knots [T].
      weights: of the knots, without the window exp(-t^2 / 2).
      times_n: multiply by the number of rows, so that the expectation at the normal distribution is a constant.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      mean over views and slices, the same on all replicas; in float32 or wider.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    scores = jnp.einsum("vnd,dk->vnk", z, slices.astype(z.dtype), precision="highest")
    normal = jnp.asarray(np.exp(-(t**2) / 2), z.dtype)
    places = jnp.asarray(t, z.dtype)

    @jax.checkpoint  # cosines [V, T, n, K] are made anew for the gradient, and never stored
    def moments(scores):
        angles = places[:, None, None] * scores[:, None]
        return jnp.cos(angles).mean(2), jnp.sin(angles).mean(2)

    real, imaginary = moments(scores)  # of the characteristic function [V, T, K]
    rows = scores.shape[1]
    if axis_name is not None:
        real, imaginary = jax.lax.pmean((real, imaginary), axis_name)
        rows *= jax.lax.axis_size(axis_name)
    error = jnp.square(real - normal[:, None]) + jnp.square(imaginary)
    value = jnp.einsum("t,vtk->vk", jnp.asarray(weights, z.dtype) * normal, error, precision="highest").mean()
    return value * rows if times_n else value


def invariance(z: jax.Array, centres: int) -> jax.Array:
    """Mean squared distance of embeddings [V, n, D] from the mean of the first `centres` views; no stopped gradient."""
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return jnp.mean(jnp.square(z - z[:centres].mean(0)))


@dataclasses.dataclass(frozen=True)
class LeJEPA(Method):
    """Latent-Euclidean joint-embedding prediction; defaults are the authors' for ImageNet."""

    view: View = recipes.LEJEPA  # of the large crops
    local: View = recipes.LEJEPA_LOCAL
    globals: int = 2  # large crops
    locals: OrZero = 6  # small crops
    hidden: tuple[int, ...] = (2048, 2048)  # widths of the projector's hidden layers
    out: int = 64  # D, width of z
    slices: int = 1024  # K, random directions, drawn anew for each update
    sigreg_weight: float = 0.05  # lambda
    invariance_weight: float = 0.95  # 1 - lambda
    limit: float = 3.0  # of the integral over t
    knots: int = 17  # T
    mirrored: bool = True  # knots from 0 count for both sides (the authors' package); False: from -limit (the paper)
    times_n: bool = True  # multiply SIGReg by the batch size; eb_jepa does not
    centre: str = "globals"  # the mean of which views is predicted: 'globals' (alg. 2), or 'all' (minimal example)
    sigreg_views: str = "all"  # views that SIGReg sees, or 'locals' (lightly before its pull request 2023)
    drop_path: BelowOne = 0.1  # where the backbone has it, as ViTs do

    def views(self) -> dict[str, View]:
        return crops.views(self.view, self.local, self.globals, self.locals)

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        one_of("config.method.centre", self.centre, ("globals", "all"))
        one_of("config.method.sigreg_views", self.sigreg_views, ("all", "locals"))
        if self.globals < 1 or self.globals + self.locals < 2:
            raise UserError(
                f"config.method.globals is {self.globals} and locals {self.locals}: LeJEPA compares views of an image, "
                "at least two, of which one is a large crop."
            )
        if self.knots < 2 or self.limit <= 0:
            raise UserError(
                f"config.method.knots is {self.knots} and limit {self.limit:g}: SIGReg is an integral by the "
                "trapezoidal rule, of at least two knots up to a limit above 0."
            )
        if self.sigreg_views == "locals" and not self.locals:
            raise UserError("config.method.sigreg_views is 'locals', but config.method.locals is 0: use 'all'.")

    def _head(self) -> MLP:
        groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP(self.hidden, self.out, True, True, bn_groups=groups, dtype=dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["global1"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        options = {"rng": rng, "train": train, "drop_path": self.drop_path}
        h, z, stats = crops.embed(self.backbone, self._head(), params, state["stats"], self.views(), batch, **options)
        slices = unit_slices(jax.random.fold_in(rng, len(self.views())), self.out, self.slices)
        seen = z[self.globals :] if self.sigreg_views == "locals" else z
        options = {"times_n": self.times_n, "axis_name": dist.AXIS}
        regular = sigreg(seen, slices, *self._quadrature(), **options)
        apart = invariance(z, self.globals if self.centre == "globals" else len(z))
        metrics = {
            "sigreg": Metric(regular, self.sigreg_levels(info)[1], kind="loss"),
            "invariance": Metric(apart, kind="loss"),
            "projection_std": Metric(losses.spread(z[0], dist.AXIS), kind="std"),
        }
        loss = self.sigreg_weight * regular + self.invariance_weight * apart
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h[0])))

    def _quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        return quadrature(self.limit, self.knots, self.mirrored)

    def sigreg_levels(self, info: Info) -> tuple[float, float]:
        """SIGReg expected of normally distributed embeddings (about 1.05), and of equal ones at zero (about 0.4 N)."""
        t, weights = self._quadrature()
        normal, rows = np.exp(-(t**2) / 2), info.batch_size
        healthy, collapsed = weights @ (normal * (1 - normal**2)), rows * (weights @ (normal * (1 - normal) ** 2))
        scale = 1.0 if self.times_n else 1 / rows
        return float(healthy * scale), float(collapsed * scale)

    def reading(self, metrics: Mapping[str, float], info: Info) -> str:
        healthy, collapsed = self.sigreg_levels(info)
        return f"SIGReg is {metrics['sigreg']:.3g}: {healthy:.3g} is healthy, {collapsed:.3g} collapsed."

    def chance(self, info: Info) -> float:
        """All embeddings at zero."""
        return self.sigreg_weight * self.sigreg_levels(info)[1]
