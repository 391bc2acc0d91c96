"""Self-training: rounds of pseudo-labels for the images of the target that the network is sure of.

Yarowsky 1995; Lee 2013; with classes balanced as Zou et al. 2018 (CBST) have them. The first round trains on the labels
of the source. Before each further one the network answers for all images of the target; of each class that it answers
with, the share `kept` of its surest answers become labels, a larger share in every round. Decisions:

- a run is divided into rounds of equal length, and the weights go on from one to the next;
- answers are those of the running statistics, without augmentation beyond the view's;
- labels of the target are never read, and how many pseudo-labels are right is not reported.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import dist
from ssl_jax.methods.contract import Aux, Batch, Embed, Info, Metric
from ssl_jax.methods.shared.two_domains import TwoDomains
from ssl_jax.models.parts import apply
from ssl_jax.runtime.errors import UserError


def surest(confidence: np.ndarray, answers: np.ndarray, share: float) -> np.ndarray:
    """Pseudo-labels [N]: the answers among the surest share of their class, rounded up; -1 for all others.

    Args:
      confidence: probability of the answer [N].
      answers: class [N].
      share: of the images of each class that are kept.
    """
    labels = np.full(len(answers), -1, np.int32)
    for c in np.unique(answers):
        rows = np.flatnonzero(answers == c)
        order = rows[np.argsort(-confidence[rows], kind="stable")]
        kept = order[: math.ceil(share * len(rows))]
        labels[kept] = c
    return labels


@dataclasses.dataclass(frozen=True)
class SelfTraining(TwoDomains):
    """Labels of the source, and from the second round on those that the network gives the target."""

    # The state has the pseudo-label of every image, and which images have been drawn as the target's.
    kept: tuple[float, ...] = (0.2, 0.5, 0.8)  # share of each class that is labelled in the second round, the third ...
    weight: float = 1.0  # of the cross-entropy on the target

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not self.kept or not all(0 < share <= 1 for share in self.kept):
            raise UserError(f"config.method.kept is {self.kept}: name shares above 0 and at most 1.")

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        pseudo = jnp.full(info.num_examples, -1, jnp.int32)
        return params, {**state, "pseudo": pseudo, "seen": jnp.zeros(info.num_examples, bool)}

    def on_epoch(self, params: Any, state: Any, *, rng: jax.Array, step: int, info: Info, embed: Embed) -> Any:
        del params, rng
        epochs, epoch = info.total_steps // info.steps_per_epoch, step // info.steps_per_epoch
        rounds = len(self.kept) + 1
        now, before = (number * rounds // epochs for number in (epoch, epoch - 1))
        if not epoch or now == before:
            return state
        answers = np.asarray(embed(self._answers))
        target = np.asarray(state["seen"])  # of the source the answers are surer
        pseudo = np.full(len(target), -1, np.int32)
        pseudo[target] = surest(answers[target, 1], answers[target, 0].astype(np.int64), self.kept[now - 1])
        return {**state, "pseudo": jnp.asarray(pseudo)}

    def _answers(self, params: Any, state: Any, batch: Batch) -> jax.Array:
        probabilities = jax.nn.softmax(self.predict(params, state, batch["view"]))
        return jnp.stack([probabilities.argmax(-1).astype(jnp.float32), probabilities.max(-1)], -1)

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step
        h, count, stats = self.features(params, state["stats"], batch, train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, h, train=train)
        logits, labels = logits.astype(jnp.float32), batch["source"]["label"]
        label_loss, metrics = self.label_metrics(logits[:count], labels, info)
        index = batch["target"]["index"]
        pseudo, seen = state["pseudo"][index], state["seen"].at[dist.gather(index)].set(True)
        known = pseudo >= 0
        each = optax.softmax_cross_entropy_with_integer_labels(logits[count:], jnp.maximum(pseudo, 0))
        # Over all rows, so that the mean over the replicas is that of the batch.
        target_loss = jnp.mean(jnp.where(known, each, 0.0))
        metrics |= {
            "target_loss": Metric(target_loss, kind="value"),
            "pseudo_labelled": Metric(jnp.mean(known, dtype=jnp.float32), kind="value"),
        }
        aux = Aux(metrics, jax.lax.stop_gradient(h[:count]), labels)
        return label_loss + self.weight * target_loss, ({**state, "stats": stats, "seen": seen}, aux)
