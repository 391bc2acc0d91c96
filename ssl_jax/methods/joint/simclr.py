"""SimCLR: two views of an image are contrasted with the other images of the batch (NT-Xent).

Chen, Kornblith, Norouzi, Hinton 2020 (arXiv 2002.05709); v2: arXiv 2006.10029. Where paper and code differ this
follows the authors' code (google-research/simclr, tf2/): the scalar is the sum of the two directions, twice the
paper's mean over 2N anchors; the head has BatchNorm in every layer, the last without offset; both views go through
the network as one batch, so that BatchNorm sees 2N samples.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Positive, Several
from ssl_jax.models.heads import MLP, torch_uniform
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def nt_xent(
    z1: jax.Array, z2: jax.Array, *, temperature: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Normalised temperature-scaled cross-entropy (eq. 1), the mean over the 2n anchors of this replica.

    Each anchor has one positive (the other view of its image) and 2N - 2 negatives (both views of all other images
    of the global batch); its own similarity is left out. The gather is differentiable, so that averaging over the
    replicas gives the gradient of the global loss.

    Args:
      z1: projections [n, D] of the first views; normalised inside.
      z2: projections [n, D] of the second views.
      temperature: T, divides the cosine similarities.
      axis_name: mapped axis over which negatives are gathered; None for this replica's alone.

    Returns:
      loss, and the share of first-view anchors whose positive is the nearest.
    """
    z1, z2 = losses.l2_normalize(z1), losses.l2_normalize(z2)
    n = len(z1)
    labels = jnp.arange(n)
    all1, all2 = z1, z2
    if axis_name is not None:
        all1, all2 = (jax.lax.all_gather(z, axis_name, tiled=True) for z in (z1, z2))
        labels += jax.lax.axis_index(axis_name) * n
    self_mask = jax.nn.one_hot(labels, len(all1), dtype=bool)

    def logits(z, positives, own):
        own = jnp.where(self_mask, -jnp.inf, losses.similarity(z, own))
        return jnp.concatenate([losses.similarity(z, positives), own], 1) / temperature  # [n, 2N]

    logits1, logits2 = logits(z1, all2, all1), logits(z2, all1, all2)
    loss = (losses.cross_entropy(logits1, labels) + losses.cross_entropy(logits2, labels)) / 2
    return loss, losses.accuracy(logits1, labels)


@dataclasses.dataclass(frozen=True)
class SimCLR(Method):
    """SimCLR v1, and v2's deeper head."""

    view1: View = recipes.SIMCLR  # App. A
    view2: View = recipes.SIMCLR
    temperature: Positive = 0.1  # T, sec. 5.1
    hidden: tuple[int, ...] = (2048,)  # widths of the head's hidden layers; v2: (2048, 2048)
    out: Several = 128  # width of z, sec. 4.2
    out_offset: bool = False  # an offset in the last BatchNorm (model.py has none)
    dense_std: float = 0.01  # of the head's normal initialisation (model.py); 0: torch's uniform
    concat_views: bool = True  # one forward pass for both views (tf2/run.py); else BatchNorm sees each alone
    scale: float = 2.0  # of the loss: 2 is the code's sum of both directions, 1 the paper's mean over 2N

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.concat_views and self.view1.size != self.view2.size:
            raise UserError(
                f"config.method.view1.size is {self.view1.size} and view2.size {self.view2.size}, which cannot share a "
                "forward pass: make them equal, or set config.method.concat_views=False."
            )

    def _head(self) -> MLP:
        init = nn.initializers.normal(self.dense_std) if self.dense_std else torch_uniform
        norm = "affine" if self.out_offset else "scale"
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP(self.hidden, self.out, False, False, norm, bn_groups, init, dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["view1"])
        return params, {"stats": stats}

    def embed(self, params, state, batch, *, rng, step, info, train=True):
        def project(x, stats):  # f, then g
            h, stats = apply(self.backbone, "backbone", params, stats, x, train=train)
            z, stats = apply(self._head(), "projector", params, stats, h, train=train)
            return h, z, stats

        stats = state["stats"]
        if self.concat_views:
            # Views of an image are neighbours, so that BatchNorm groups of the global batch hold whole images.
            x = jnp.stack([batch["view1"], batch["view2"]], 1)
            h, z, stats = project(x.reshape(-1, *x.shape[2:]), stats)
            h1, z1, z2 = h[::2], z[::2], z[1::2]
        else:
            h1, z1, stats = project(batch["view1"], stats)
            _, z2, stats = project(batch["view2"], stats)
        return (z1, z2), ({"stats": stats}, Aux({}, jax.lax.stop_gradient(h1)))

    def compare(self, embeddings: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, dict[str, Any]]:
        z1, z2 = embeddings
        loss, top1 = self._contrast(z1, z2)
        spread = losses.spread(z1, dist.AXIS)
        return self.scale * loss, {"contrastive_top1": Metric(top1), "projection_std": Metric(spread, kind="std")}

    def _contrast(self, z1: jax.Array, z2: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nt_xent(z1, z2, temperature=self.temperature, axis_name=dist.AXIS)

    def chance(self, info: Info) -> float:
        """All projections equal: each of the 2N - 1 candidates is as likely."""
        return self.scale * math.log(2 * info.batch_size - 1)
