"""Pi-model: the network's answers to two views of an unlabelled image are to agree.

Laine and Aila 2017 (Temporal ensembling for semi-supervised learning, arXiv 1610.02242), sec. 2.1. The squared
difference of the two probability vectors, the mean over classes and images, with a weight of 100 times the share of
labelled images that rises over the first part of training. Follows the authors' code (smlaine2/tempens), whose gradient
goes through both branches; google-research/fixmatch stops one (`stop=True`) and has a weight of 10. Decisions:

- views differ by what is drawn for them; the authors add dropout and noise, on another network;
- images are unlabelled ones, the labelled ones among them, where the authors' batches are of both;
- the cross-entropy is a mean over labelled images, theirs over the whole batch.
"""

import dataclasses

import jax

from ssl_jax import losses
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Metric
from ssl_jax.methods.shared.few_labels import SemiSupervised, consistency
from ssl_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class PiModel(SemiSupervised):
    """Consistency of the answers to two views."""

    weight: float = 10.0  # google-research/fixmatch; the authors' is 100 times the share of labelled images
    stop: bool = False  # take the second answer as a constant
    over: str = "mse"  # mean over classes, or 'sum': as many times the weight as there are classes

    def views(self) -> dict[str, View]:
        return {"view1": self.view, "view2": self.view}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.over not in ("mse", "sum"):
            raise UserError(f"config.method.over is '{self.over}': use 'mse' or 'sum'.")

    def _unlabelled_loss(self, answers, state, part, info, train):
        del info, train
        one, other = answers
        loss = consistency(one, jax.lax.stop_gradient(other) if self.stop else other, self.over)
        return loss, state, {"unlabelled_top1": Metric(losses.accuracy(one, part["label"]), kind="value")}
