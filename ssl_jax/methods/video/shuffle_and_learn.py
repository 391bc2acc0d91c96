"""Shuffle and learn: are three frames of a video in the order of time?

Misra, Zitnick, Hebert 2016 (arXiv 1603.08561). Of five frames a < b < c < d < e of a clip, (b, c, d) is in order, and
(b, a, d) and (b, e, d) are not: the frames at both ends are the same, so that the middle one decides (sec. 3.1). Either
may run backwards. Three copies of the network share their weights, and one layer reads their features joined
(fig. 2). Decisions:

- every clip makes all three tuples, weighed so that a quarter is in order, as the authors draw them: the loss is the
  mean of what they sample;
- `fusion='differences'` gives the head how far each two of the three features are apart, in each channel, instead of
  the features themselves, as odd-one-out networks join clips (Fernando et al. 2017, arXiv 1611.06646, sec. 3.3): from a
  few videos the head otherwise learns which scene has its frames in which order, and nothing that is true of others;
- frames of a clip are equally far apart (`stride`), where the authors draw their distances;
- the frames of a clip are seen in one and the same crop and flip, and no clips are left out for lack of motion.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import dist
from ssl_jax.augment.view import View, pixels
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Clips, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

TUPLES = np.array([[1, 2, 3], [1, 0, 3], [1, 4, 3]])  # of the five frames; the first is in order
IN_ORDER = np.array([1, 0, 0])
WEIGHTS = np.array([0.25, 0.375, 0.375])  # a quarter of the tuples is in order, sec. 3.2
FRAMES = 5


def reversed_at(rng: jax.Array, positions: jax.Array, tuples: jax.Array) -> jax.Array:
    """Tuples [n, 3, 3] of frame numbers, each turned round with probability one half.

    Args:
      rng: a key that all replicas share.
      positions: of the clips in the global batch [n].
      tuples: frame numbers [3, 3].
    """
    turned = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (len(tuples),)))(dist.example_keys(rng, positions))
    return jnp.where(turned[:, :, None], tuples[:, ::-1], tuples)


@dataclasses.dataclass(frozen=True)
class ShuffleAndLearn(Method):
    """Temporal order verification."""

    needs = frozenset({"clips"})

    view: View = View(area=(0.5, 1.0), flip=0.5, shared=True)  # noqa: RUF009
    stride: int = 15  # frames from one of the five to the next: b and d are 30 apart, sec. 3.2 has 15 to 60
    hidden: tuple[int, ...] = ()  # of the layers that read the three features; the authors have the last one alone
    fusion: str = "concatenation"  # of the three features: that, as the authors, or 'differences'

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.fusion not in ("concatenation", "differences"):
            raise UserError(f"config.method.fusion is '{self.fusion}': use 'concatenation' or 'differences'.")

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        return Clips.of(data, "shuffle_and_learn", info.batch_size, FRAMES, self.stride)

    def _head(self) -> nn.Module:
        return MLP(self.hidden, 2, dtype=self.backbone.dtype)

    def _fused(self, frames: jax.Array) -> jax.Array:
        """What the head reads of tuples of three features: [..., 3, D] to [..., 3 D]."""
        if self.fusion == "differences":
            frames = jnp.abs(frames - jnp.roll(frames, -1, -2))
        return frames.reshape(*frames.shape[:-2], -1)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        params, stats = initialise({"backbone": self.backbone}, rng, batch["view"])
        h = jax.eval_shape(lambda: self.backbone.init_with_output(rng, batch["view"], train=True)[0])
        joined = jnp.zeros((len(h), 3 * h.shape[-1]))
        more, also = initialise({"head": self._head()}, jax.random.fold_in(rng, 1), joined)
        return params | more, {"stats": stats | also}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del step, info
        x = batch["view"]  # [n, 5, H, W, C]
        flat = x.reshape(-1, *x.shape[2:])
        h, stats = apply(self.backbone, "backbone", params, state["stats"], flat, train=train)
        frames = h.reshape(len(x), FRAMES, -1)
        clips = batch["position"][:, 0] // FRAMES
        chosen = reversed_at(rng, clips, jnp.asarray(TUPLES))
        joined = self._fused(jax.vmap(lambda f, index: f[index])(frames, chosen))
        logits, stats = apply(self._head(), "head", params, stats, joined.reshape(-1, joined.shape[-1]), train=train)
        logits = logits.astype(jnp.float32).reshape(len(x), len(TUPLES), 2)
        answers = jnp.broadcast_to(jnp.asarray(IN_ORDER), logits.shape[:2])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
        correct = jnp.argmax(logits, -1) == answers
        top1 = jnp.mean(correct @ jnp.asarray(WEIGHTS, jnp.float32))
        aux = Aux({"order_top1": Metric(top1, chance=WEIGHTS[1:].sum())}, jax.lax.stop_gradient(h))
        return jnp.mean(losses @ jnp.asarray(WEIGHTS, jnp.float32)), ({"stats": stats}, aux)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """The three tuples of some clips, forwards, and how sure the network is that each is in order."""
        del rng
        x = batch["view"][:2]
        flat = x.reshape(-1, *x.shape[2:])
        h, stats = apply(self.backbone, "backbone", params, state["stats"], flat, train=False)
        frames = h.reshape(len(x), FRAMES, -1)
        joined = self._fused(frames[:, TUPLES]).reshape(len(x) * len(TUPLES), -1)
        logits, _ = apply(self._head(), "head", params, stats, joined, train=False)
        sure = np.asarray(jax.nn.softmax(logits.astype(jnp.float32))[:, 1])
        shown = np.asarray(pixels(self.view, x).clip(0, 1))[:, TUPLES].reshape(-1, 3, *x.shape[2:])
        words = ("in order", "not in order", "not in order") * len(x)
        captions = tuple(
            ("", f"{word}; network: {100 * s:.0f} % in order", "") for word, s in zip(words, sure, strict=True)
        )
        return [
            Picture(
                "Three frames each, and whether time runs through them", ("first", "middle", "last"), shown, captions
            )
        ]

    def chance(self, info: Info) -> float:
        """The entropy of one quarter in order: an answer that does not look."""
        del info
        return -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
