"""W-MSE: two views' embeddings are whitened and brought together.

Ermolov, Siarohin, Sangineto, Sebe 2021 (arXiv 2007.06346). Follows the authors' code (htdt/self-supervised,
methods/w_mse.py and whitening.py): the global batch is cut at random into sub-batches, which all views share; each
sub-batch of each view is whitened by the Cholesky factor of its own covariance (divided by n - 1), then normalised
(sec. 3); the loss is 2 - 2 cos, the mean over all pairs of views. The backbone sees the views one by one,
the head sees them as one batch.

Left out are the biases of the head: BatchNorm and whitening cancel them, so that all Adam would see of them is
rounding. A row's sub-batch follows from its position, hence not from the number of devices; every replica gathers
the embeddings and whitens all sub-batches, which costs N D^2 multiplications.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Several
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def whiten(z: jax.Array, epsilon: float = 0.0) -> jax.Array:
    """Moves samples to mean 0 and covariance I (sec. 3): W (z - mean) with W the inverse Cholesky factor.

    Args:
      z: sub-batches [..., n, D], each whitened by itself; n > D.
      epsilon: shrinks the covariance to (1 - epsilon) covariance + epsilon I; with 0, samples that span less than
        D dimensions give NaN.

    Returns:
      [..., n, D], float32 or wider.

    Raises:
      UserError: if there are too few samples.
    """
    *_, n, d = z.shape
    if n <= d:
        raise UserError(
            f"W-MSE cannot whiten {d} dimensions with {n} samples: config.method.out must be smaller than the "
            "sub-batch, the least of config.method.sub_batch and the images of a (micro-)batch."
        )
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    z = z - z.mean(-2, keepdims=True)
    z_t = jnp.swapaxes(z, -1, -2)
    covariance = jnp.matmul(z_t, z, precision="highest") / (n - 1)
    factor = jnp.linalg.cholesky((1 - epsilon) * covariance + epsilon * jnp.eye(d, dtype=z.dtype))
    return jnp.swapaxes(jax.scipy.linalg.solve_triangular(factor, z_t, lower=True), -1, -2)


def wmse_loss(
    z: jax.Array,
    position: jax.Array,
    rng: jax.Array,
    *,
    sub_batch: int = 128,
    iterations: int = 1,
    epsilon: float = 0.0,
    axis_name: str | None = None,
) -> jax.Array:
    """Squared distance of whitened, normalised embeddings of an image, the mean over images and pairs of views.

    The gather is differentiable, so that averaging over the replicas gives the gradient of the global loss.

    Args:
      z: embeddings [V, n, D] of V views of this replica's images.
      position: of the images in the global batch [n].
      rng: draws the sub-batches; the same on all replicas.
      sub_batch: images that are whitened together, each view by itself; at most those there are.
      iterations: partitions into sub-batches over which the loss is averaged.
      epsilon: of `whiten`.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      scalar between 0 and 4 (2 - 2 cos), the same on all replicas.

    Raises:
      UserError: if sub-batches do not fill the batch, or have too few images to whiten.
    """
    if axis_name is not None:
        z = jax.lax.all_gather(z, axis_name, axis=1, tiled=True)
        position = jax.lax.all_gather(position, axis_name, tiled=True)
    views, n, d = z.shape
    size = min(sub_batch, n)
    if n % size:
        raise UserError(
            f"W-MSE cannot cut {n} images into sub-batches of {size}: make config.batch_size / config.accumulate a "
            "multiple of config.method.sub_batch."
        )
    distances = []
    for i in range(iterations):
        order = dist.random_order(jax.random.fold_in(rng, i), position)
        v = losses.l2_normalize(whiten(z[:, order].reshape(views, n // size, size, d), epsilon))
        distances += [jnp.sum(jnp.square(a - b), -1).mean() for a, b in itertools.combinations(v, 2)]
    return jnp.stack(distances).mean()


@dataclasses.dataclass(frozen=True)
class WMSE(Method):
    """Whitening MSE."""

    compares = True

    view: View = recipes.WMSE_CIFAR  # of all views; the authors' code, with the paper's CIFAR-10 as its default
    num_views: int = 2  # views an image: 2 or 4, sec. 4
    hidden: int = 1024  # of the head, sec. 4
    out: Several = 64  # D, width of z
    sub_batch: int = 128  # samples that are whitened together (at most those there are), sec. 3
    iterations: int = 1  # partitions into sub-batches an update; more are less noisy (w_iter)
    epsilon: float = 0.0  # shrinkage of the covariance towards I (w_eps)

    def views(self) -> dict[str, View]:
        return {f"view{i + 1}": self.view for i in range(self.num_views)}

    def check(self, height: int, width: int, channels: int) -> None:
        if self.num_views < 2:
            raise UserError(f"config.method.num_views is {self.num_views}: W-MSE compares views, use 2 or more.")
        super().check(height, width, channels)

    def _head(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP((self.hidden,), self.out, False, False, bn_groups=bn_groups, dtype=dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "head": self._head()}, rng, batch["view1"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        stats, h = state["stats"], []
        for v in self.views():
            features, stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            h.append(features)
        # Views of an image are neighbours, so that BatchNorm groups of the global batch hold whole images.
        rows = jnp.stack(h, 1).reshape(-1, h[0].shape[-1])
        z, stats = apply(self._head(), "head", params, stats, rows, train=train)
        z = jnp.swapaxes(z.reshape(-1, self.num_views, self.out), 0, 1)  # [V, n, D]
        loss = wmse_loss(
            z,
            batch["position"],
            rng,
            sub_batch=self.sub_batch,
            iterations=self.iterations,
            epsilon=self.epsilon,
            axis_name=dist.AXIS,
        )
        spread = losses.spread(z[0], dist.AXIS)
        aux = Aux(
            metrics={"cosine": Metric(1 - loss / 2, kind="value"), "projection_std": Metric(spread, kind="std")},
            features=jax.lax.stop_gradient(h[0]),
        )
        return loss, ({"stats": stats}, aux)

    def chance(self, info: Info) -> float:
        """Whitened embeddings at right angles."""
        return 2.0
