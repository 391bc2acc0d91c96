"""CAPI: patches that a student does not see are predicted as the clusters that a slow copy of it finds them in.

Darcet et al. 2025 (arXiv 2502.08769). Follows the authors' code (facebookresearch/capi). The teacher, an exponential
moving average of the encoder, sees the whole image. A linear layer assigns each of its patches to a cluster; Sinkhorn's
iterations spread the assignments evenly over the clusters, for each place of the image by itself, so that a cluster
cannot stand for a place. The layer learns to predict its own balanced assignments at a higher temperature (the
clustering loss, which reaches nothing else). The student sees one rectangle of patches, and a decoder that attends to
them is asked for the clusters of some of the others.

Sinkhorn runs on logarithms here, without the authors' constant of 1e-8 in the sums: each assignment adds up to 1.
Which rows skip a residual branch is drawn in groups of the global batch, and not on each device.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.joint.dino import entropy
from ssl_jax.methods.joint.ibot import cross_entropy
from ssl_jax.methods.joint.swav import sinkhorn
from ssl_jax.methods.ranges import BelowOne, Positive, Several, Share
from ssl_jax.methods.shared import masks
from ssl_jax.methods.shared.masked_teacher import spread_of
from ssl_jax.models.heads import Prototypes
from ssl_jax.models.parts import initialise
from ssl_jax.models.transformer import subset_gates
from ssl_jax.models.vit import SIZES
from ssl_jax.models.vit_capi import CAPIViT, CrossDecoder
from ssl_jax.runtime.errors import UserError


def assignments(logits: jax.Array, temperature: float, by_place: bool = True, axis_name: str | None = None) -> Any:
    """Balanced soft assignments of patches to clusters, without gradient.

    Args:
      logits: [n, L, K] of this replica's images, their patches and the clusters.
      temperature: that the logits are divided by.
      by_place: the patches at each of the L places are spread over the clusters by themselves; else all together.
      axis_name: mapped axis over which the batch is spread; None for this replica alone.

    Returns:
      probabilities [n, L, K], float32 or wider.
    """
    if not by_place:
        flat = logits.reshape(-1, logits.shape[-1])
        return sinkhorn(flat, epsilon=temperature, axis_name=axis_name).reshape(logits.shape)
    return jax.vmap(lambda rows: sinkhorn(rows, epsilon=temperature, axis_name=axis_name), 1, 1)(logits)


def asked_patches(key: jax.Array, hidden: jax.Array, count: int) -> jax.Array:
    """Indices [count] of patches that are drawn from those that a mask [L] hides, each once."""
    return jnp.argsort(jnp.where(hidden, jax.random.uniform(key, hidden.shape), 2.0))[:count]


def opening(step: jax.Array, warmup: float, total: int) -> jax.Array:
    """Share that the teacher takes over of what it may at most: linearly from 0 to 1, then a cosine to 0.1.

    The cosine stops at four fifths of its half wave, as that of the learning rate does.

    Args:
      step: updates done.
      warmup: updates until the share is 1.
      total: updates of the run.
    """
    progress = jnp.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * 4 / 5 * progress))
    return jnp.where(step < warmup, step / max(warmup, 1), falling)


@dataclasses.dataclass(frozen=True)
class CAPI(Method):
    """Cluster and predict latent patches; defaults are the authors' for ViT-L/14."""

    compares = True

    view: View = recipes.CAPI
    hidden_share: BelowOne = 0.65  # of the patches, which the student does not see
    asked_share: Share = 0.05  # of the hidden patches, which are predicted
    depth: int = 12  # blocks of the decoder
    out: Several = 16384  # K, clusters
    student_temp: Positive = 0.12
    cluster_temp: Positive = 0.12  # of the clustering layer's own predictions
    target_temp: Positive = 0.06  # of what is balanced
    by_place: bool = True  # balance the assignments at each place of the image by itself
    tau: Share = 0.999  # weight of the old teacher, which falls to it from 1 and then rises again
    tau_warmup_epochs: float = 0.0  # epochs of the fall; the authors' are a tenth of the run
    drop_path: BelowOne = 0.2  # of student and decoder, the same at every depth
    drop_path_group: int = 64  # images of which a fixed number skips each branch

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not isinstance(self.backbone, CAPIViT):
            raise UserError(
                "CAPI's decoder asks for places of an image: set config.model.name to vit_micro_capi, or tiny, small, "
                "base, large, huge or giant in the place of micro."
            )
        if self.view.size % self.backbone.patch:
            raise UserError(
                f"config.method.view.size is {self.view.size}: make it a multiple of config.model.patch, "
                f"{self.backbone.patch}."
            )
        hidden, asked = self._counts()
        if not asked:
            raise UserError(
                f"config.method.asked_share is {self.asked_share:g}, of {hidden} hidden patches: raise it, or "
                "config.method.hidden_share, so that at least one is predicted."
            )

    def _grid(self) -> tuple[int, int]:
        return (self.view.size // self.backbone.patch,) * 2  # type: ignore[attr-defined]

    def _counts(self) -> tuple[int, int]:
        """Patches that are hidden, and that are asked for."""
        rows, columns = self._grid()
        hidden = int(rows * columns * self.hidden_share + 1e-4)  # rounding does not take one away
        return hidden, int(hidden * self.asked_share + 1e-4)

    def _heads(self) -> int:
        net: Any = self.backbone
        return net.heads or SIZES[net.size][2]

    def _decoder(self) -> CrossDecoder:
        net: Any = self.backbone
        return CrossDecoder(self.depth, self._heads(), net.vit_init, net.dtype, net.scan)

    def _head(self) -> Prototypes:
        return Prototypes(self.out, False)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        keys = jax.random.split(rng, 4)
        params, stats = initialise({"backbone": self.backbone}, keys[0], batch["view"])
        width = params["backbone"]["patch"]["kernel"].shape[-1]
        place, token = jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, width))
        more, _ = initialise({"decoder": self._decoder()}, keys[1], token, asked=place, known=place)
        head = self._head().init(keys[2], jnp.zeros((1, width)))["params"]
        clusters = {"kernel": jax.random.normal(keys[3], (width, self.out)), "bias": jnp.zeros(self.out)}
        target = {"backbone": params["backbone"]}
        return params | more | {"head": head, "clusters": clusters}, {"stats": stats, "target": target}

    def _draw(self, rng: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Indices of the patches that the student sees [n, k], in the order of rows, and that are asked for [n, m]."""
        hidden, asked = self._counts()
        count = math.prod(self._grid())
        found = masks.inverse_blocks(
            dist.example_keys(jax.random.fold_in(rng, 0), positions), count - hidden, self._grid()
        )
        seen = jnp.argsort(found, 1, stable=True)[:, : count - hidden]
        keys = dist.example_keys(jax.random.fold_in(rng, 1), positions)
        return seen, jax.vmap(lambda key, mask: asked_patches(key, mask, asked))(keys, found)

    def _gates(self, rng: jax.Array, stream: int, positions: jax.Array, depth: int, train: bool) -> jax.Array | None:
        """Factors of residual branches; None: all are open."""
        if not train or not self.drop_path:
            return None
        return subset_gates(jax.random.fold_in(rng, stream), positions, self.drop_path_group, self.drop_path, depth)

    def _student(self, params: Any, x: jax.Array, positions: jax.Array, rng: jax.Array, train: bool) -> Any:
        """Logits [n, m, K] of the patches that are asked for, and their indices [n, m]."""
        net: Any = self.backbone
        seen, asked = self._draw(rng, positions)
        gates = self._gates(rng, 2, positions, SIZES[net.size][1], train)
        h = net.apply({"params": params["backbone"]}, x, train=train, visible=seen, gates=gates)
        places = net.places(self._grid(), None)[0, net.registers :]
        where = {"asked": places[asked], "known": net.places(self._grid(), seen)}
        gates = self._gates(rng, 3, positions, self.depth, train)
        y: Any = self._decoder().apply({"params": params["decoder"]}, h, train=train, gates=gates, **where)
        z = losses.l2_normalize(y).reshape(-1, y.shape[-1])
        logits: Any = self._head().apply({"params": params["head"]}, z)
        return logits.reshape(*y.shape[:2], -1), asked

    def _clusters(self, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The teacher's patches [n, L, D], without gradient, and their logits [n, L, K]."""
        net: Any = self.backbone
        found = net.apply({"params": state["target"]["backbone"]}, x, train=False, pool=False)
        patches = jax.lax.stop_gradient(found).reshape(len(x), -1, found.shape[-1])
        u = losses.l2_normalize(patches, 1e-7)
        own = params["clusters"]
        return patches, jnp.einsum("nld,dk->nlk", u, own["kernel"], precision="highest") + own["bias"]

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        state = jax.lax.stop_gradient(state)
        x = batch["view"]
        patches, logits = self._clusters(params, state, x)
        p = assignments(logits, self.target_temp, self.by_place, dist.AXIS)
        clustering = cross_entropy(p, logits, self.cluster_temp).mean()
        s, asked = self._student(params, x, batch["position"], rng, train)
        wanted = jnp.take_along_axis(p, asked[..., None], 1)
        prediction = cross_entropy(wanted, s, self.student_temp).mean()
        flat = p.reshape(-1, p.shape[-1])
        metrics = {
            "prediction_loss": Metric(prediction, math.log(self.out), "loss"),
            "clustering_loss": Metric(clustering, math.log(self.out), "loss"),
            "target_entropy": entropy(flat).mean(),
            "mean_entropy": spread_of(flat),
        }
        aux = Aux(jax.lax.stop_gradient(metrics), patches.mean(1).astype(jnp.float32))
        return prediction + clustering, (state, aux)

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        share = (1 - self.tau) * opening(step, self.tau_warmup_epochs * info.steps_per_epoch, info.total_steps)
        own = {"backbone": params["backbone"]}
        return params, {**state, "target": optax.incremental_update(own, state["target"], share)}

    def variables(self, params: Any, state: Any) -> dict[str, Any]:
        """The teacher's."""
        return super().variables(state["target"], state)

    def groups(self, params: Any) -> Any:
        """The clustering layer has an optimiser of its own, and norms a decay of their own."""

        def of(path: Any, label: str) -> str:
            return "norms" if path[-1].key == "scale" else label

        labels = jax.tree_util.tree_map_with_path(of, super().groups(params))
        return labels | {"clusters": jax.tree.map(lambda _: "clusters", params["clusters"])}

    def chance(self, info: Info) -> float:
        """Uniform answers of both losses."""
        return 2 * math.log(self.out)
