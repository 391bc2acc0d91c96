"""Mean teacher: answers are to agree with those of the moving average of the network.

Tarvainen and Valpola 2017 (arXiv 1703.01780). The student sees one view of an unlabelled image, the teacher another;
the teacher's weights are a moving average of the student's. Follows the authors' code (CuriousAI/mean-teacher,
PyTorch): both networks are in training mode, the teacher's BatchNorm has statistics of its own from its own forward
passes, the squared difference of probabilities is a mean over classes, and the average moves after the optimiser with a
decay of min(1 - 1 / (step + 1), average). The teacher is what is evaluated. Decisions:

- one head, where the authors' larger networks have two with a cost of their distance;
- the cross-entropy is a mean over labelled images; their code divides by the whole batch, a weight of a quarter;
- the authors compare labelled images too, here they are among the unlabelled ones.
"""

import dataclasses

import jax

from ssl_jax import losses
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Metric
from ssl_jax.methods.shared.few_labels import SemiSupervised, consistency
from ssl_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class MeanTeacher(SemiSupervised):
    """Consistency with a teacher that is the student's average."""

    weight: float = 100.0  # authors' code, of a mean over classes
    ramp: float = 5 / 300  # 5 of 300 epochs
    cost: str = "mse"  # mean over classes; 'sum' over them, K times as much; or 'kl'

    def views(self) -> dict[str, View]:
        return {"view1": self.view, "view2": self.view}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.cost not in ("mse", "sum", "kl"):
            raise UserError(f"config.method.cost is '{self.cost}': use 'mse', 'sum' or 'kl'.")
        if not self.average:
            raise UserError("config.method.average is 0, and the average is mean_teacher's teacher: set it above 0.")

    def init(self, rng, batch, info):
        params, state = super().init(rng, batch, info)
        return params, {**state, "teacher_stats": state["stats"]} if self.weight else state

    def _unlabelled_images(self, part, rng):
        del rng
        return [part["view1"]]

    def _unlabelled_loss(self, answers, state, part, info, train):
        teacher = jax.lax.stop_gradient(state["average"])
        target, _, stats = self._answer(teacher, state["teacher_stats"], part["view2"], info, train)
        loss = consistency(answers[0], jax.lax.stop_gradient(target), self.cost)
        metrics = {"unlabelled_top1": Metric(losses.accuracy(target, part["label"]), kind="value")}
        return loss, {**state, "teacher_stats": stats}, metrics

    def _early(self, step):
        return 1 - 1 / (step + 1)

    def variables(self, params, state):
        return super().variables(params, {**state, "stats": state.get("teacher_stats", state["stats"])})
