"""Tracking triplets: two patches of one track are nearer to each other than to patches of other videos.

Wang, Gupta 2015 (arXiv 1505.00687). A pair is the first and the last patch of a track; negatives are patches of other
videos, at first drawn at random, and after some epochs those of the batch that violate the margin most (sec. 4.2). The
loss is max(0, D(a, p) - D(a, n) + margin) with D = 1 - cosine (eq. 1). Follows the authors' code
(xiaolonw/caffe-video_triplet): both patches of a pair are anchors, each has four negatives. Decisions:

- the training images are patches of tracks already (`clip` says which track); who tracks is the data's business;
- patches of a pair are `stride` frames apart, where the authors take the ends of tracks of 30 frames;
- hard negatives come from the whole batch, whatever the number of devices, half of the four drawn at random still.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.view import View, pixels
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Clips, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

FARTHEST = 4.0  # more than any distance of unit vectors by cosine


def triplet_loss(z: jax.Array, negatives: jax.Array, margin: float, real: jax.Array | None = None) -> jax.Array:
    """The hinge of pairs and their negatives (eq. 1), the mean over pairs, negatives and both anchors.

    Args:
      z: unit vectors of pairs [n, 2, D].
      negatives: unit vectors [n, k, D] of each pair.
      margin: M.
      real: which negatives [n, k] are some, others cost nothing; None: all are.
    """
    near = 1 - jnp.sum(z[:, 0] * z[:, 1], -1)
    far = 1 - jnp.einsum("nad,nkd->nak", z, negatives, precision="highest")
    costs = jnp.maximum(near[:, None, None] - far + margin, 0.0)
    return jnp.mean(costs if real is None else jnp.where(real[:, None], costs, 0.0))


def choose(far: jax.Array, draws: jax.Array, count: int, hard: int) -> jax.Array:
    """Negatives [n, count] of each pair: `hard` nearest ones, then others at random.

    Args:
      far: distance [n, M] of a pair from each candidate; `FARTHEST` for those that are none.
      draws: a random number [n, M] for each.
      count: k, how many.
      hard: of these the nearest.
    """
    nearest = jnp.argsort(far, 1)[:, :hard]
    rows = jnp.arange(len(far))[:, None]
    order = jnp.where(far >= FARTHEST, 2.0, draws).at[rows, nearest].set(3.0)
    order = jnp.where((far >= FARTHEST) & (order > 2.5), 2.0, order)
    return jnp.concatenate([nearest, jnp.argsort(order, 1)[:, : count - hard]], 1)


@dataclasses.dataclass(frozen=True)
class TrackingTriplets(Method):
    """Triplets of tracked patches."""

    needs = frozenset({"clips"})

    view: View = View(size=227, area=(0.8, 1.0), flip=0.5)  # noqa: RUF009
    stride: int = 30  # frames from one patch of a pair to the other, sec. 3
    out: int = 1024  # width of z, sec. 4.1
    margin: float = 0.5  # M, sec. 5
    negatives: int = 4  # k of each pair, sec. 4.2
    hard_share: float = 0.5  # of these that are the hardest ones of the batch, later on (`hard_ratio` of the code)
    random_epochs: int = 10  # in which all are random, sec. 4.2

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.negatives < 1 or not 0 <= self.hard_share <= 1:
            raise UserError(
                f"config.method.negatives is {self.negatives} and .hard_share {self.hard_share}: at least one "
                "negative, and a share from 0 to 1, are needed."
            )

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        return Clips.of(data, "tracking_triplets", info.batch_size, 2, self.stride, such_as="davis_tracks")

    def _head(self) -> MLP:
        return MLP((), self.out, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["view"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        x = batch["view"]  # [n, 2, H, W, C]
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x.reshape(-1, *x.shape[2:]), train=train)
        z, stats = apply(self._head(), "projector", params, stats, h, train=train)
        z = losses.l2_normalize(z).reshape(len(x), 2, -1)
        video = batch["clip"][:, 0]
        everyone = jax.lax.all_gather(z, dist.AXIS, tiled=True).reshape(-1, z.shape[-1])  # [2 N, D]
        whose = jnp.repeat(dist.gather(video), 2)
        far = 1 - losses.similarity(jax.lax.stop_gradient(z[:, 0]), jax.lax.stop_gradient(everyone))
        other = whose != video[:, None]
        far = jnp.where(other, far, FARTHEST)
        keys = dist.example_keys(rng, batch["position"][:, 0] // 2)
        draws = jax.vmap(lambda key: jax.random.uniform(key, (len(everyone),)))(keys)
        # A draw belongs to a place of the global batch, not to where it lies.
        draws = draws[:, dist.gather(batch["position"].reshape(-1)) % len(everyone)]
        hard = round(self.hard_share * self.negatives)
        late = step >= self.random_epochs * info.steps_per_epoch
        chosen = jnp.where(
            late, choose(far, draws, self.negatives, hard), choose(far, draws, self.negatives, 0)
        )  # [n, k]
        # Where all of the batch are of one video, none is a negative.
        real = jnp.take_along_axis(other, chosen, 1)
        loss = triplet_loss(z, everyone[chosen], self.margin, real)
        near = 1 - jnp.sum(z[:, 0] * z[:, 1], -1)
        right = jnp.mean((near < far.min(1)).astype(jnp.float32))
        metrics = {
            "pair_top1": Metric(right),
            "projection_std": Metric(losses.spread(z[:, 0], dist.AXIS), kind="std"),
        }
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Pairs, and how near the network sees them."""
        del rng
        x = batch["view"][:8]
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x.reshape(-1, *x.shape[2:]), train=False)
        z, _ = apply(self._head(), "projector", params, stats, h, train=False)
        z = losses.l2_normalize(z).reshape(len(x), 2, -1)
        shown = np.asarray(pixels(self.view, x).clip(0, 1))
        near = 1 - jnp.sum(z[:, 0] * z[:, 1], -1)
        captions = tuple(("", f"distance {d:.2f}") for d in near)
        return [Picture("Two patches of each track", ("first", "last"), shown, captions)]

    def chance(self, info: Info) -> float:
        """All patches alike."""
        del info
        return self.margin
