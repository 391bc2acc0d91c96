"""MAML: a start from which a few gradient steps on a few images learn a new task.

Finn, Abbeel, Levine 2017 (arXiv 1703.03400). The inner loop takes gradient steps on the labelled images of an episode,
the support; the outer loss is that of its queries after the last step, differentiated through the inner steps (second
order). `first_order` leaves out the derivative of the inner gradient (sec. 5.2), and `adapt="head"` moves the
classifier alone: ANIL (Raghu et al. 2020, arXiv 1909.09157). Decisions:

- the inner loss is a mean over images, as in learn2learn; the authors' sum over classes makes their step size of 0.4
  one of 2.0 here (5 ways, 1 shot);
- BatchNorm uses the statistics of the images at hand, one task at a time, while training (support and queries apart);
  running ones are kept for evaluation;
- tasks run one after the other on a device: weights of their own would make grouped convolutions, which are slow;
- ANIL's support and queries have statistics of their own as well, where learn2learn's share those of both.

When it is measured, running statistics make queries independent of one another. `transductive_top1` is the accuracy
with the statistics of the support and of all queries instead, as the authors measure. `prototypes_top1` has no inner
loop at all: each query gets the class of the nearest mean of the support's features, which tells learning of features
from learning to learn (Raghu et al., sec. 5). `unadapted_top1` is the classifier before the inner loop.

Which class has which place of the classifier is drawn for each episode by the sampler.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Episodes, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.meta.protonet import prototype_logits
from ssl_jax.methods.ranges import OrZero, Several
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def adapted(loss: Any, params: Any, *, steps: int, rate: float, first_order: bool) -> Any:
    """Parameters after some gradient steps.

    Args:
      loss: of parameters, a scalar.
      params: to start from, this device's own (`dist.local`).
      steps: of the inner loop.
      rate: size of a step.
      first_order: take the inner gradient as a constant.
    """

    def one(params: Any, _: None) -> tuple[Any, None]:
        grads = jax.grad(loss)(params)
        grads = jax.lax.stop_gradient(grads) if first_order else grads
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), None

    # Rematerialised: otherwise what each step keeps for its second derivative stays until the outer gradient. Of ten
    # steps on 25 images of 28 pixels by a Conv-4 of 64 channels that is 611 MB, and this way 51 (XLA's count).
    return jax.lax.scan(jax.checkpoint(one), params, None, length=steps)[0]


@dataclasses.dataclass(frozen=True)
class MAML(Method):
    """The loss of an episode's queries after gradient steps on its support."""

    needs = frozenset({"labels"})

    view: View = View(crop="centre")  # noqa: RUF009  (images as they are)
    ways: Several = 5  # classes of an episode
    shots: int = 1  # images of each class to adapt to
    queries: int = 15  # images of each class that the outer loss is of
    inner_steps: OrZero = 1  # sec. 5.2, Omniglot
    test_steps: int = 3  # likewise when it is measured, appendix A.1
    inner_rate: float = 0.5  # on a mean over images, learn2learn's for Omniglot
    adapt: str = "all"  # or 'head': ANIL
    first_order: bool = False  # sec. 5.2

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.adapt not in ("all", "head"):
            raise UserError(f"config.method.adapt is '{self.adapt}': use 'all' (MAML) or 'head' (ANIL).")
        if min(self.inner_steps, self.test_steps) < 1:
            raise UserError(
                f"config.method.inner_steps is {self.inner_steps} and test_steps {self.test_steps}: the inner loop "
                "takes at least one step."
            )

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        return Episodes(data.labels, info.batch_size, self.ways, self.shots, self.queries)

    def _head(self) -> nn.Module:
        return Linear(self.ways)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        params, stats = initialise({"backbone": self.backbone, "head": self._head()}, rng, batch["view"])
        return params, {"stats": stats}

    def _features(self, params: Any, stats: Any, x: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        """Features and running statistics for the images [N, H, W, C] of one task."""
        backbone: Any = self.backbone
        if train and getattr(backbone, "bn_groups", None):
            # As many groups as devices: each has the statistics of the one task that it is at.
            backbone = backbone.clone(bn_groups=jax.lax.axis_size(dist.AXIS))
        return apply(backbone, "backbone", params, stats, x, train=train)

    def _answer(self, params: Any, h: jax.Array) -> jax.Array:
        return jnp.asarray(self._head().apply({"params": params["head"]}, h))

    def _adapted(self, params: Any, stats: Any, support: jax.Array, queries: jax.Array, train: bool, steps: int) -> Any:
        """Logits of the queries after the inner loop, their features, and running statistics.

        Args:
          params: to start from, this device's own.
          stats: running statistics.
          support: images [ways shots, H, W, C], those of a class together.
          queries: images [N, H, W, C].
          train: use the statistics of the images at hand.
          steps: of the inner loop.
        """
        answers = jnp.repeat(jnp.arange(self.ways), self.shots)
        options: dict[str, Any] = {"steps": steps, "rate": self.inner_rate, "first_order": self.first_order}
        if self.adapt == "head":  # the features do not change, so that they are computed once
            known, _ = self._features(params, stats, support, train)
            inner = lambda head: losses.cross_entropy(self._answer({"head": head}, known), answers)  # noqa: E731
            params = {**params, "head": adapted(inner, params["head"], **options)}
        else:

            def inner(params: Any) -> jax.Array:
                return losses.cross_entropy(
                    self._answer(params, self._features(params, stats, support, train)[0]), answers
                )

            params = adapted(inner, params, **options)
        h, moved = self._features(params, stats, queries, train)
        return self._answer(params, h), h, moved

    def _task(self, params: Any, stats: Any, x: jax.Array, train: bool) -> dict[str, Any]:
        """Loss, metrics, features and statistics of one episode [ways, shots + queries, H, W, C]."""
        shape = x.shape[2:]
        support, queries = (part.reshape(-1, *shape) for part in (x[:, : self.shots], x[:, self.shots :]))
        answers = jnp.repeat(jnp.arange(self.ways), self.queries)
        steps = self.inner_steps if train else self.test_steps
        logits, h, moved = self._adapted(params, stats, support, queries, train, steps)
        found = {"loss": losses.cross_entropy(logits, answers), "features": h, "stats": moved}
        shares = {"episode_top1": losses.accuracy(logits, answers)}
        if not train:
            known, asked = (self._features(params, stats, part, False)[0] for part in (support, queries))
            prototypes = prototype_logits(known.reshape(self.ways, self.shots, -1), asked)
            together, *_ = self._adapted(params, stats, support, queries, True, steps)
            shares |= {
                "unadapted_top1": losses.accuracy(self._answer(params, asked), answers),
                "prototypes_top1": losses.accuracy(prototypes, answers),
                "transductive_top1": losses.accuracy(together, answers),
            }
        return found | {"metrics": shares}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step, info
        # The inner gradient is this device's own; of replicated parameters it would be the sum over all devices.
        own, stats = dist.local(params), dist.local(state["stats"])
        found = jax.lax.map(lambda x: self._task(own, stats, x, train), batch["view"])
        features = jax.lax.stop_gradient(found["features"])
        labels = batch["label"][:, :, self.shots :].reshape(-1)
        stats = jax.tree.map(lambda x: dist.mean(x.mean(0)), found["stats"])
        metrics = {name: Metric(value.mean(), chance=1 / self.ways) for name, value in found["metrics"].items()}
        aux = Aux(metrics, features.reshape(-1, features.shape[-1]), labels)
        return found["loss"].mean(), ({"stats": jax.lax.stop_gradient(stats)}, aux)

    def chance(self, info: Info) -> float:
        """Every class is as likely."""
        del info
        return math.log(self.ways)


class Linear(nn.Module):
    """The classifier, which the inner loop adapts most; it starts at zero, so that no class is preferred."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        zeros = nn.initializers.zeros
        return nn.Dense(self.classes, kernel_init=zeros, name="linear")(x.astype(jnp.float32))
