"""NPID: instance discrimination against a memory bank of all images.

Wu, Xiong, Yu, Lin 2018 (arXiv 1805.01978). Every image is a class, and its row of a memory bank stands for the
class's weights. Where paper and code differ this follows the authors' code (zhirongw/lemniscate.pytorch): there is no
proximal term (eq. 10); the normaliser Z is estimated once, from the first batch, and stays (eq. 8); noise is drawn
with replacement from all images, the image itself included; the loss sums over the noise; the bank starts uniform and
not normalised, and its rows move before the optimiser does. With `noise = 0` the loss is the full softmax (eq. 2), as
the authors have it for CIFAR. NCE with a Z that stays wants many updates before a row of the bank is seen again (5000
an epoch on ImageNet); with few, the bank follows an untrained network, and all embeddings drift off together.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import OrZero, Positive, Several, Share
from ssl_jax.methods.shared import memory_bank
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise


def noise_index(rng: jax.Array, batch: Batch, count: int, num_examples: int) -> jax.Array:
    """Images [n, 1 + count] to score against: the image itself, then uniform noise with replacement."""
    keys = dist.example_keys(rng, batch["position"])
    noise = jax.vmap(lambda key: jax.random.randint(key, (count,), 0, num_examples))(keys)
    return jnp.concatenate([batch["index"][:, None], noise], 1)


def top1_of_noise(scores: jax.Array, index: jax.Array) -> jax.Array:
    """Share of rows whose own image, the first, has the highest of the cosines [n, 1 + m'] with images `index`."""
    others = jnp.where(index[:, 1:] == index[:, :1], -2.0, scores[:, 1:])  # drawn as noise, it is no other
    return jnp.mean(scores[:, 0] > others.max(1), dtype=jnp.float32)


def normaliser(scores: jax.Array, num_examples: int, temperature: float, axis_name: str | None = None) -> jax.Array:
    """Monte Carlo estimate of Z (eq. 8): n times the mean of exp(v m / T) over positives and noise [n, 1 + m']."""
    mean = jnp.exp(jax.lax.stop_gradient(scores) / temperature).mean()
    return num_examples * (mean if axis_name is None else jax.lax.pmean(mean, axis_name))


def nce(scores: jax.Array, z: jax.Array, num_examples: int, temperature: float) -> jax.Array:
    """Noise-contrastive estimation (eq. 7), the sum over the noise and the mean over rows (NCECriterion.py).

    Args:
      scores: inner products [n, 1 + m'], the positive first, then the noise.
      z: normaliser Z; no gradient flows into it.
      num_examples: n of the noise distribution 1 / n.
      temperature: T.
    """
    log_p = scores / temperature - jnp.log(jax.lax.stop_gradient(z))  # ln P(i | v)
    noise = (scores.shape[1] - 1) / num_examples  # m' Pn
    log_all = jnp.log(jnp.exp(log_p) + noise + 1e-7)
    return -jnp.mean(log_p[:, 0] - log_all[:, 0] + jnp.sum(math.log(noise) - log_all[:, 1:], 1))


def instance_softmax(
    v: jax.Array, bank: jax.Array, index: jax.Array, num_examples: int, temperature: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the non-parametric softmax over all images (eq. 2), the mean over rows.

    Args:
      v: normalised embeddings [n, D].
      bank: this replica's rows [R, D].
      index: images [n] of the embeddings.
      num_examples: n; the bank's rows from there on are left out.
      temperature: T.
      axis_name: mapped axis over which bank and batch lie.

    Returns:
      loss, and the share of embeddings whose own row is the nearest.
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(bank)
    logits = memory_bank.scores(v, bank, axis_name) / temperature  # [N, R]
    # Finite, since a replica may hold nothing but rows of no image.
    logits = jnp.where(first + jnp.arange(len(bank)) < num_examples, logits, -1e9)
    images = index if axis_name is None else jax.lax.all_gather(index, axis_name, tiled=True)
    others = jnp.where(first + jnp.arange(len(bank)) == images[:, None], -1e9, jax.lax.stop_gradient(logits))
    total, top = jax.nn.logsumexp(logits, 1)[None], others.max(1)[None]
    if axis_name is not None:
        total, top = (jax.lax.all_gather(x[0], axis_name) for x in (total, top))  # [W, N]
    own = slice(None) if axis_name is None else dist.positions(len(v))
    total, top = jax.nn.logsumexp(total, 0)[own], top.max(0)[own]
    positive = memory_bank.lookup(v, bank, index[:, None], axis_name)[:, 0] / temperature
    return jnp.mean(total - positive), jnp.mean(positive > top, dtype=jnp.float32)


def nce_chance(noise: int) -> float:
    """The NCE loss where every image is as likely: P = 1 / n."""
    return math.log(1 + noise) + noise * math.log(1 + 1 / noise)


def nce_best(noise: int, num_examples: int) -> float:
    """The NCE loss where P = 1 for the image itself, which is drawn as noise all the same, and 0 for others."""
    own = noise / num_examples
    return math.log1p(own) + own * math.log1p(1 / own)


@dataclasses.dataclass(frozen=True)
class NPID(Method):
    """Non-parametric instance discrimination."""

    needs = frozenset({"index"})

    view: View = recipes.NPID  # sec. 4, and the authors' main.py
    out: Several = 128  # width D of v and of the bank, sec. 4
    temperature: Positive = 0.07  # T, sec. 4
    noise: OrZero = 4096  # m', sec. 3.2; 0: full softmax
    momentum: Share = 0.5  # of a row of the bank (main.py)

    def _head(self) -> MLP:
        return MLP((), self.out, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        weights, rows = jax.random.split(rng)
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, weights, batch["view"])
        bank = memory_bank.new(rows, info.num_examples, self.out)
        return params, {"stats": stats, "bank": bank, "z": jnp.zeros(())}  # Z = 0: not estimated yet

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        h, stats = apply(self.backbone, "backbone", params, state["stats"], batch["view"], train=train)
        v, stats = apply(self._head(), "projector", params, stats, h, train=train)
        v, bank, z = losses.l2_normalize(v), state["bank"], state["z"]
        if self.noise:
            index = noise_index(rng, batch, self.noise, info.num_examples)
            scores = memory_bank.lookup(v, bank, index, dist.AXIS)
            z = jnp.where(z > 0, z, normaliser(scores, info.num_examples, self.temperature, dist.AXIS))
            loss = nce(scores, z, info.num_examples, self.temperature)
            top1 = top1_of_noise(scores, index)
        else:
            loss, top1 = instance_softmax(v, bank, batch["index"], info.num_examples, self.temperature, dist.AXIS)
        bank = memory_bank.update(bank, batch["index"], v, self.momentum, dist.AXIS)
        aux = Aux(
            metrics={"instance_top1": Metric(top1), "projection_std": Metric(losses.spread(v, dist.AXIS), kind="std")},
            features=jax.lax.stop_gradient(h),
        )
        return loss, ({"stats": stats, "bank": bank, "z": z}, aux)

    def specs(self) -> Any:
        return {"stats": P(), "bank": P(dist.AXIS), "z": P()}

    def chance(self, info: Info) -> float:
        """Every image is as likely."""
        return nce_chance(self.noise) if self.noise else math.log(info.num_examples)

    def best(self, info: Info) -> float:
        """Only the image itself is likely."""
        return nce_best(self.noise, info.num_examples) if self.noise else 0.0
