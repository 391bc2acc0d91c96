"""SimDINO: DINO without prototypes, temperatures and centre; a coding rate keeps features from collapsing.

Wu et al. 2025 (arXiv 2502.10385). Features of length one are compared directly: views of an image are pulled together
(compression) and the coding rate of the large crops is raised (expansion). The covariance is of the global batch. The
authors' code has one for each device, scaled as if it were of all images, unless `reduce_cov` is set: `covariances`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Info, Metric
from ssl_jax.methods.shared.masked_teacher import MaskedTeacher, rows_of_head


def compression(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean cosine of the teacher's views and the other views of the student.

    Args:
      student: features of length one [V, n, p], the teacher's views first.
      teacher: likewise [A, n, p].
    """
    pairs = jnp.einsum("anp,vnp->av", teacher, student, precision="highest") / student.shape[1]
    return (pairs.sum() - jnp.trace(pairs)) / (pairs.size - len(teacher))


def expansion(
    student: jax.Array,
    teacher: jax.Array,
    positions: jax.Array,
    epsilon: float,
    groups: int = 1,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean over the teacher's views of the coding rate of student's and teacher's mean; arguments as of `compression`.

    Args:
      student: features.
      teacher: features.
      positions: of the images in the global batch [n].
      epsilon: squared distortion.
      groups: parts of the batch with a covariance of their own.
      axis_name: mapped axis over which the batch is spread.
    """
    both = (student[: len(teacher)] + teacher) / 2
    rates = [losses.coding_rate(x, positions, epsilon, groups, axis_name) for x in both]
    return sum(rates[1:], rates[0]) / len(rates)


@dataclasses.dataclass(frozen=True)
class SimDINO(MaskedTeacher):
    """DINO by coding rates; defaults are the authors' for ViT-B/16."""

    locals: int = 10
    epsilon: float = 0.05  # of the coding rate
    covariances: int = 1  # parts of the batch with a covariance of their own

    def _masks(self, rng: jax.Array, positions: jax.Array) -> jax.Array | None:
        return None

    def _compare(self, params, state, tokens, masks, *, positions, step, info):
        head, teacher = self._head(), state["teacher"]["params"]["head"]
        s = rows_of_head(head, params["head"], tokens[0].classes).swapaxes(0, 1)
        t = rows_of_head(head, teacher, tokens[1].classes).swapaxes(0, 1)
        near = compression(s, t)
        wide = expansion(s, t, positions, self.epsilon, self.covariances, dist.AXIS)
        metrics: dict[str, Any] = {"compression": near, "expansion": wide}
        metrics["feature_std"] = Metric(losses.spread(s[0], dist.AXIS), 1 / math.sqrt(self.bottleneck), "value")
        return -near - wide, metrics, {}

    def _rate(self, info: Info, rank: int) -> float:
        """The coding rate of features spread over so many directions."""
        p, n = self.bottleneck, info.batch_size
        part = 1 / self.covariances
        return (p + n) / (p * n) * rank / 2 * math.log1p(part * p / (rank * self.epsilon))

    def chance(self, info: Info) -> float:
        """Equal features."""
        return -1.0 - self._rate(info, 1)

    def best(self, info: Info) -> float:
        """Equal features of an image's views, spread over all directions."""
        return -1.0 - self._rate(info, min(self.bottleneck, max(info.batch_size // self.covariances, 1)))
