"""Continual learning: any method on one task after the other, with what helps it not to forget.

The training images are divided into tasks, by class, by domain or at random; a run sees the first, then the second,
and never goes back. `learner` is the method that learns them, `strategy` what is done against forgetting:

- 'finetune': nothing; 'joint': all images at once, which is no sequence but what one is compared with;
- 'replay': a part of each batch is drawn from images kept of every earlier task;
- 'distill': CaSSLe (Fini et al. 2022, arXiv 2112.04215): a predictor of the projections of the network as it was
  before the task, under the loss of its family, contrastive or predictive; for methods whose loss compares the
  embeddings of two views;
- 'lwf': learning without forgetting (Li and Hoiem 2016): the answers of the network before the task at a temperature;
- 'ewc': elastic weight consolidation (Kirkpatrick et al. 2017). The last two are for methods with a classifier.

Follows DonkeyShot21/cassle and aimagelab/mammoth. Decisions:

- all tasks have as many updates, on one schedule over all of them; a constant rate is that of the recipes here;
- the network before a task uses its running statistics (the authors of CaSSLe leave it in training mode);
- the predictor starts each task with the weights that it began with;
- EWC has the empirical Fisher information of the last tenth of a task's updates, summed over the tasks, with
  lambda / 2, and its gradients of single images are those of the running statistics;
- the state keeps the network after each task, which the evaluation `forgetting` measures on all tasks.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.targets import Field
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Sampler, Shuffled, TaskSequence, task_end
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Positive
from ssl_jax.methods.shared import remembering
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError, nearest

STRATEGIES = ("finetune", "joint", "replay", "distill", "lwf", "ewc")
_BY = ("class", "domain", "data")


@dataclasses.dataclass(frozen=True)
class Sequence(Method):
    """A method on one task after the other."""

    learner: Any = None  # the method that learns
    task_count: int = 5  # tasks one after the other
    by: str = "class"  # what divides the images: their 'class', their 'domain', or chance ('data')
    strategy: str = "distill"  # finetune, joint, replay, distill, lwf or ewc
    weight: float = 1.0  # of what is done against forgetting; EWC's lambda
    family: str = "contrastive"  # of the distillation, or 'predictive'
    hidden: int = 2048  # width of the distillation's predictor
    distill_temperature: Positive = 0.2  # of the contrastive distillation; the authors' code
    answer_temperature: Positive = 2.0  # of lwf
    memory: int = 0  # images of a batch that are remembered ones, with replay
    kept: int = 200  # images remembered of each task, with replay

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the learner does."""
        needs = Method.needs if self.learner is None else self.learner.needs
        return needs | {"class": {"labels"}, "domain": {"domains"}}.get(self.by, set())

    @property
    def lead_view(self) -> str:  # type: ignore[override]
        """The learner's."""
        return self.learner.lead_view

    def views(self) -> dict[str, View]:
        return self.learner.views()

    def variants(self) -> list[tuple[Method, float]]:
        return [(dataclasses.replace(self, learner=method), share) for method, share in self.learner.variants()]

    def targets(self) -> dict[str, Field]:
        return self.learner.targets()

    def check(self, height: int, width: int, channels: int) -> None:
        for field, known in (("strategy", STRATEGIES), ("by", _BY), ("family", ("contrastive", "predictive"))):
            value = getattr(self, field)
            if value not in known:
                raise UserError(f"config.method.{field} is '{value}'. {nearest(value, known)}")
        self.learner.check(height, width, channels)
        name = type(self.learner).__name__
        own = [
            part for part in ("sampler", "on_epoch") if getattr(type(self.learner), part) is not getattr(Method, part)
        ]
        if own:
            raise UserError(
                f"{name} sees the images of all tasks (its {own[0]}): choose another config.method.learner."
            )
        if self.strategy == "distill" and type(self.learner).embed is Method.embed:
            raise UserError(
                f"config.method.strategy is 'distill', which is for losses that compare embeddings, and {name} has no "
                "`embed`: choose another strategy, or a learner such as simclr, barlow_twins or vicreg."
            )
        if self.strategy in ("lwf", "ewc") and type(self.learner).predict is Method.predict:
            raise UserError(
                f"config.method.strategy is '{self.strategy}', which is for classifiers, and {name} has none: choose "
                "another strategy, or the learner supervised."
            )
        if self.task_count < 2:
            raise UserError(f"config.method.task_count is {self.task_count}: a sequence has two or more.")
        if (self.memory > 0) != (self.strategy == "replay"):
            raise UserError(
                f"config.method.memory is {self.memory} and strategy '{self.strategy}': replay, and it alone, has "
                "remembered images in a batch."
            )

    def task_of(self, data: Dataset) -> np.ndarray:
        """The task of each image, int [N]; -1 of an image without a label, where classes divide.

        Raises:
          UserError: the data cannot be divided so.
        """
        if self.by == "data":
            found = np.arange(len(data)) * self.task_count // len(data)
            return np.random.default_rng(0).permutation(found)
        if self.by == "domain":
            domain = np.asarray(data.fields.get("domain", np.zeros(len(data), int)))
            count = domain.max(initial=0) + 1
            if count == 1 or (len(np.unique(domain)) > 1 and count != self.task_count):
                raise UserError(
                    f"config.method.task_count is {self.task_count}, and the images have {count} domains: give "
                    "config.data.source several sources with commas between, and as many tasks."
                )
            return domain
        count = len(data.classes)
        if count < self.task_count:
            raise UserError(f"{data.name} has {count} classes, too few for {self.task_count} tasks: lower task_count.")
        return np.where(data.labels < 0, -1, data.labels * self.task_count // count)

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if self.strategy == "joint":
            return Shuffled(len(data.images), info.batch_size)
        of = self.task_of(data)
        rows = tuple(np.flatnonzero(of == number) for number in range(self.task_count))
        kept = self.kept if self.memory else 0
        return TaskSequence(
            rows, info.batch_size, info.total_steps // info.steps_per_epoch, self.memory, kept, even=True
        )

    def _predictor(self) -> MLP:
        return MLP((self.hidden,), self.out, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    @property
    def out(self) -> int:
        """Width of the learner's embeddings."""
        width: int = self.learner.out
        return width

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, own = self.learner.init(rng, batch, info)
        state = {"learner": own}
        kept = {"params": params, "stats": own["stats"]}
        state["after"] = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.task_count, *x.shape)).copy(), kept)
        if self.strategy == "distill":
            more, stats = initialise(
                {"predictor": self._predictor()}, jax.random.fold_in(rng, 11), jnp.zeros((2, self.out))
            )
            state |= {"stats": stats, "fresh": jax.tree.map(jnp.copy, more)}
            params = params | more
        if self.strategy == "ewc":
            zero = jax.tree.map(jnp.zeros_like, params)
            state |= {"now": zero, "importance": jax.tree.map(jnp.copy, zero)}
        return params, state

    def specs(self) -> Any:
        """The learner's for its own state; all else is on every device."""
        specs = {"learner": self.learner.specs(), "after": jax.sharding.PartitionSpec()}
        more = {"distill": ("stats", "fresh"), "ewc": ("now", "importance")}.get(self.strategy, ())
        return specs | {name: jax.sharding.PartitionSpec() for name in more}

    def variables(self, params: Any, state: Any) -> Any:
        return self.learner.variables(params, state["learner"])

    def encode(self, variables, images, **options):
        return self.learner.encode(variables, images, **options)

    def groups(self, params: Any) -> Any:
        """The learner's; the predictor is of the default group."""
        labels = self.learner.groups({name: x for name, x in params.items() if name != "predictor"})
        if "predictor" in params:
            labels["predictor"] = jax.tree.map(lambda _: "default", params["predictor"])
        return labels

    def _ends(self, info: Info) -> jax.Array:
        return jnp.array([task_end(number, self.task_count, info.total_steps) for number in range(self.task_count)])

    def _task(self, step: jax.Array, info: Info) -> jax.Array:
        return jnp.sum(step >= self._ends(info)[:-1])

    def _before(self, state: Any, task: jax.Array) -> Any:
        """The network as it was before a task, without a gradient; before the first there is no such thing."""
        previous = jnp.maximum(task - 1, 0)
        return jax.lax.stop_gradient(jax.tree.map(lambda x: x[previous], state["after"]))

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        if "memory" in batch:
            batch = jax.tree.map(lambda *x: jnp.concatenate(x), batch["new"], batch["memory"])
        task = self._task(step, info)
        options = {"rng": rng, "step": step, "info": info}
        own = {name: x for name, x in params.items() if name != "predictor"}
        if self.strategy == "distill":
            z, (learned, aux) = self.learner.embed(own, state["learner"], batch, **options, train=train)
            loss, metrics = self.learner.compare(z)
            aux = aux._replace(metrics=metrics)
            extra, state = self._distilled(params, state, batch, z, task, options, train)
        else:
            loss, (learned, aux) = self.learner.loss(own, state["learner"], batch, **options, train=train)
            extra, state = jnp.zeros(()), dict(state)
        if self.strategy == "lwf":
            extra = self._answers_kept(own, state, batch, task)
        if self.strategy == "ewc":
            extra, state = self._weights_kept(own, state, batch, task, step, info)
        extra = jnp.where(task > 0, extra, 0.0)
        metrics = {**aux.metrics, "task": Metric(task.astype(jnp.float32), kind="value")}
        if self.strategy in ("distill", "lwf", "ewc"):
            metrics["forgetting_loss"] = Metric(extra, kind="value")
        return loss + self.weight * extra, ({**state, "learner": learned}, Aux(metrics, aux.features, aux.labels))

    def _distilled(self, params, state, batch, z, task, options, train):  # type: ignore[no-untyped-def]
        """CaSSLe's loss, and the state."""
        before = self._before(state, task)
        frozen = {**jax.lax.stop_gradient(state["learner"]), "stats": before["stats"]}
        old, _ = self.learner.embed(before["params"], frozen, batch, **options, train=False)
        stats, p = state["stats"], []
        for each in z:
            found, stats = apply(self._predictor(), "predictor", params, stats, each, train=train)
            p.append(found)
        if self.family == "predictive":
            extra = remembering.predictive_distillation(*p, *old)
        else:
            extra = remembering.contrastive_distillation(
                *p, *old, temperature=self.distill_temperature, axis_name=dist.AXIS
            )
        return extra, {**state, "stats": stats}

    def _answers_kept(self, params, state, batch, task):  # type: ignore[no-untyped-def]
        """The loss of learning without forgetting."""
        images = batch[next(iter(self.views()))]
        before = self._before(state, task)
        frozen = {**jax.lax.stop_gradient(state["learner"]), "stats": before["stats"]}
        old = self.learner.predict(before["params"], frozen, images)
        new = self.learner.predict(params, jax.lax.stop_gradient(state["learner"]), images)
        return remembering.logit_distillation(new, old, self.answer_temperature)

    def _weights_kept(self, params, state, batch, task, step, info):  # type: ignore[no-untyped-def]
        """The penalty of elastic weight consolidation, and the state with this batch's share of the information."""
        old = self._before(state, task)["params"]
        extra = remembering.elastic_penalty(params, old, jax.lax.stop_gradient(state["importance"]), 1.0)
        images, labels = batch[next(iter(self.views()))], batch["label"]
        learned = jax.lax.stop_gradient(state["learner"])

        def log_likelihood(params: Any, row: Any) -> jax.Array:
            image, label = row
            logits = self.learner.predict(params, learned, image[None])
            return jax.nn.log_softmax(logits[0])[jnp.maximum(label, 0)]

        fixed = dist.local(jax.lax.stop_gradient(params))
        found = dist.mean(remembering.fisher(log_likelihood, fixed, (images, labels)))
        length = info.total_steps // self.task_count
        last = max(1, length // 10)
        share = jnp.where(self._ends(info)[task] - step <= last, 1 / last, 0.0)
        return extra, {**state, "now": jax.tree.map(lambda x, f: x + share * f, state["now"], found)}

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        """Keeps the network after the last update of a task."""
        own = {name: x for name, x in params.items() if name != "predictor"}
        own, learned = self.learner.after_update(own, state["learner"], step, info)
        task, kept = self._task(step, info), {"params": own, "stats": learned["stats"]}
        ends = step + 1 == self._ends(info)[task]
        store = functools.partial(jnp.where, ends)
        after = jax.tree.map(lambda x, new: x.at[task].set(store(new, x[task])), state["after"], kept)
        state = {**state, "learner": learned, "after": after}
        if self.strategy == "distill":
            params = {**own, "predictor": jax.tree.map(store, state["fresh"]["predictor"], params["predictor"])}
        else:
            params = own
        if self.strategy == "ewc":
            total = jax.tree.map(lambda x, new: store(x + new, x), state["importance"], state["now"])
            state |= {"importance": total, "now": jax.tree.map(lambda x: store(0 * x, x), state["now"])}
        return params, state

    def predict(self, params: Any, state: Any, images: jax.Array) -> jax.Array | None:
        """The learner's answers."""
        return self.learner.predict(params, state["learner"], images)

    def chance(self, info: Info) -> float | None:
        """Of the first task, which has nothing to remember; `best` likewise."""
        return self.learner.chance(info)

    def best(self, info: Info) -> float:
        return self.learner.best(info)
