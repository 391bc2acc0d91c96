"""Multi-task self-supervised visual learning: any set of methods on one backbone.

Doersch, Zisserman 2017 (arXiv 1708.07860), whose code is not public. Every task keeps its views, heads, state and loss;
the gradient of the weighted sum of the losses moves the backbone. Decisions:

- harmonised inputs (sec. 3.4): every task sees the luma of an image as it normalised it, in three copies, so that
  features of the one serve the other. Its scale stays the task's own, which BatchNorm takes out. Colours are then not
  dropped before, where a task would (`drop_colours`): their noise would be mixed into the luma;
- BatchNorm's scale and offset are shared, its running statistics are each task's own, since tasks feed patches as
  well as whole images; evaluation sees an image as the task `lead` does, with its statistics;
- all tasks take their turn on the same images in each update, where the authors' tasks have machines of their own;
- losses are weighed by hand, 1 each as in the paper; how large each one's gradient is, is not logged;
- left out: the separate combination of layers for each task ("lasso", sec. 3.3; features are the last ones), motion
  segmentation, which needs videos, and their ResNet-101 without its last stage.
"""

from collections.abc import Mapping
import dataclasses
import itertools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.augment import ops
from ssl_jax.augment.targets import Field
from ssl_jax.augment.view import View
from ssl_jax.data import Dataset
from ssl_jax.data.samplers import Sampler
from ssl_jax.methods.contract import Aux, Batch, Embed, Info, Method, Metric, Picture
from ssl_jax.methods.pretext.split_brain import SplitBrain
from ssl_jax.runtime.errors import UserError, nearest


def harmonised(images: jax.Array) -> jax.Array:
    """The luma of images [B, H, W, 1 or 3], or their one channel, in three copies [B, H, W, 3]."""
    x = ops.gray(images) if images.shape[-1] == 3 else images
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))


class Harmonised(nn.Module):
    """A backbone in front of which inputs are harmonised; its parameters are named as the backbone's own."""

    backbone: nn.Module

    options: ClassVar[frozenset[str]] = frozenset()  # no task needs any

    def setup(self) -> None:
        nn.share_scope(self, self.backbone)

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        return self.backbone(harmonised(x), **options)

    def __getattr__(self, name: str) -> Any:
        """What tasks want to know of a backbone: its type, its norm, its stages."""
        if name in ("dtype", "norm", "bn_groups", "stages", "frozen"):
            return getattr(self.backbone, name)
        return super().__getattr__(name)


@dataclasses.dataclass(frozen=True)
class Multitask(Method):
    """Several tasks on one backbone."""

    tasks: Any = ()  # name to method
    weights: Any = ()  # name to weight of its loss; the paper's tasks have 1
    lead: str = ""  # the task as which evaluation sees an image
    harmonise: bool = True  # sec. 3.4; without, all tasks must feed images of as many channels

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What any of the tasks does; the index only if all do, since for other images the rest have a meaning."""
        each = [task.needs for task in dict(self.tasks).values()]
        free = {"index"} if any("index" not in needs for needs in each) else set()
        return frozenset().union(*each) - free

    @property
    def lead_view(self) -> str:  # type: ignore[override]
        """That of the task `lead`."""
        task = dict(self.tasks)[self.lead]
        return f"{self.lead}/{task.lead_view or next(iter(task.views()))}"

    def _tasks(self) -> dict[str, Method]:
        backbone = Harmonised(self.backbone) if self.harmonise else self.backbone

        def own(task: Method) -> Method:
            changes: dict[str, Any] = {"backbone": backbone}
            if self.harmonise and hasattr(task, "drop_colours"):
                changes["drop_colours"] = False  # sec. 3.4 is in its place
            return dataclasses.replace(task, **changes)

        return {name: own(task) for name, task in dict(self.tasks).items()}

    def views(self) -> dict[str, View]:
        return {
            f"{task}/{name}": view for task, method in self._tasks().items() for name, view in method.views().items()
        }

    def variants(self) -> list[tuple[Method, float]]:
        names, found = list(dict(self.tasks)), list[tuple[Method, float]]()
        for chosen in itertools.product(*(task.variants() for task in dict(self.tasks).values())):
            methods, shares = zip(*chosen, strict=True)
            found.append((dataclasses.replace(self, tasks=dict(zip(names, methods, strict=True))), math.prod(shares)))
        return found

    def targets(self) -> dict[str, Field]:
        return {
            f"{task}/{name}": dataclasses.replace(field, like=f"{task}/{field.like}")
            for task, method in self._tasks().items()
            for name, field in method.targets().items()
        }

    def check(self, height: int, width: int, channels: int) -> None:
        if not self.tasks or set(self.tasks) != set(self.weights):
            raise UserError(
                f"config.method.tasks names {sorted(self.tasks)} and config.method.weights {sorted(self.weights)}: "
                "give at least one task, and each its weight."
            )
        if self.lead not in self.tasks:
            raise UserError(f"config.method.lead is '{self.lead}', which is no task. {nearest(self.lead, self.tasks)}")
        for name, task in self._tasks().items():
            if "labels" in task.needs:
                raise UserError(f"config.method.tasks has '{name}', which uses labels: leave it out, or use s4l.")
            if isinstance(task, SplitBrain):
                raise UserError(
                    f"config.method.tasks has '{name}', whose backbone is two halves for inputs of their own, which no "
                    "other task can share: leave it out."
                )
            task.check(height, width, channels)

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        """Every image once an epoch: all tasks take their turn on the same rows."""
        for name, task in self._tasks().items():
            if type(task).sampler is not Method.sampler:
                raise UserError(
                    f"config.method.tasks has '{name}', which wants batches of its own, and all tasks see the same "
                    "images: leave it out."
                )
        return super().sampler(data, info)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        for i, (name, task) in enumerate(self._tasks().items()):
            own, state[name] = task.init(jax.random.fold_in(rng, i), _views_of(name, batch), info)
            backbone = own.pop("backbone")
            shared = params.setdefault("backbone", backbone)
            if jax.tree.map(jnp.shape, backbone) != jax.tree.map(jnp.shape, shared):
                raise UserError(
                    f"config.method.tasks has '{name}' beside '{next(iter(self.tasks))}', whose backbone has other "
                    "parameters, so that they cannot share one: leave one of them out, or set "
                    "config.method.harmonise=True, which gives all of them inputs of as many channels."
                )
            if name == self.lead:
                params["backbone"] = backbone
            params[name] = own
        return params, state

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        """The weighted sum; of images that are no training images (without 'index') the tasks that can do without."""
        total, states, features = 0.0, dict(state), None
        chance: float | None = 0.0
        metrics: dict[str, Any] = {}
        for i, (name, task) in enumerate(self._tasks().items()):
            if "index" in task.needs and "index" not in batch:
                continue
            loss, (states[name], aux) = task.loss(
                _params_of(name, params),
                state[name],
                _views_of(name, batch),
                rng=jax.random.fold_in(rng, i),
                step=step,
                info=info,
                train=train,
            )
            total += self.weights[name] * loss
            with jax.ensure_compile_time_eval():
                chance = _sum(chance, task.chance(info), self.weights[name])
            metrics |= {
                f"{name}/{key}": value for key, value in {"loss": Metric(loss, kind="loss"), **aux.metrics}.items()
            }
            features = aux.features if name == self.lead else features
        if "index" not in batch:  # of fewer tasks than `chance` counts
            metrics["loss"] = Metric(total, chance, "loss")
        return total, (states, Aux(metrics, features))

    def variables(self, params: Any, state: Any) -> dict[str, Any]:
        return self._tasks()[self.lead].variables(_params_of(self.lead, params), state[self.lead])

    def encode(self, variables, images, **options):
        """As the task `lead` does."""
        return self._tasks()[self.lead].encode(variables, images, **options)

    def predict(self, params: Any, state: Any, images: jax.Array) -> jax.Array | None:
        """The answer of the task `lead`."""
        return self._tasks()[self.lead].predict(_params_of(self.lead, params), state[self.lead], images)

    def segment(self, params: Any, state: Any, images: jax.Array) -> jax.Array | None:
        """The answer of the task `lead`."""
        return self._tasks()[self.lead].segment(_params_of(self.lead, params), state[self.lead], images)

    def reading(self, metrics: Mapping[str, float], info: Info) -> str:
        """What the tasks say of their own metrics."""
        said = []
        for name, task in self._tasks().items():
            own = {key.removeprefix(f"{name}/"): value for key, value in metrics.items() if key.startswith(f"{name}/")}
            said.append(task.reading(own, info))
        return " ".join(filter(None, said))

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Those of all tasks."""
        found = []
        for i, (name, task) in enumerate(self._tasks().items()):
            own, key = _params_of(name, params), jax.random.fold_in(rng, i)
            pictures = task.pictures(own, state[name], _views_of(name, batch), rng=key)
            found += [picture._replace(title=f"{name}: {picture.title}") for picture in pictures]
        return found

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        states = {}
        for name, task in self._tasks().items():
            own, states[name] = task.after_update(_params_of(name, params), state[name], step, info)
            backbone = own.pop("backbone")
            params = {**params, "backbone": backbone, name: own}
        return params, states

    def on_epoch(self, params: Any, state: Any, *, rng: jax.Array, step: int, info: Info, embed: Embed) -> Any:
        states = {}
        for i, (name, task) in enumerate(self._tasks().items()):

            def own_embed(fn, views=None, name=name):
                shown = () if views is None else ({f"{name}/{view}": recipe for view, recipe in views.items()},)
                return embed(lambda p, s, batch: fn(_params_of(name, p), s[name], _views_of(name, batch)), *shown)

            own, key = _params_of(name, params), jax.random.fold_in(rng, i)
            states[name] = task.on_epoch(own, state[name], rng=key, step=step, info=info, embed=own_embed)
        unchanged = all(states[name] is state[name] for name in states)
        return state if unchanged else states

    def groups(self, params: Any) -> Any:
        labels: dict[str, Any] = {}
        for name, task in self._tasks().items():
            own = dict(task.groups(_params_of(name, params)))
            labels.setdefault("backbone", own.pop("backbone"))
            labels[name] = own
        return labels

    def specs(self) -> Any:
        return {name: task.specs() for name, task in self._tasks().items()}

    @property
    def pools_map(self) -> bool:  # type: ignore[override]
        """Whether the task `lead` does."""
        return dict(self.tasks)[self.lead].pools_map

    @property
    def compares(self) -> bool:  # type: ignore[override]
        """Whether no task's loss would move for a single image."""
        tasks = self._tasks().values()
        return all(task.compares or type(task).embed is not Method.embed for task in tasks)

    def chance(self, info: Info) -> float | None:
        """The weighted sum of the tasks', where each is known."""
        total: float | None = 0.0
        for name, task in self._tasks().items():
            total = _sum(total, task.chance(info), self.weights[name])
        return total

    def best(self, info: Info) -> float:
        """The weighted sum of the tasks'."""
        return sum(self.weights[name] * task.best(info) for name, task in self._tasks().items())


def _sum(total: float | None, more: float | None, weight: float) -> float | None:
    """Adds a term with its weight; what has an unknown term is unknown."""
    return None if total is None or more is None else total + weight * more


def _params_of(name: str, params: Any) -> Any:
    """A task's parameters as it knows them: the backbone's and its heads'."""
    return {"backbone": params["backbone"], **params[name]}


def _views_of(name: str, batch: Batch) -> Batch:
    """A task's part of the batch: its own views, and what is known of the rows."""
    own = {key.removeprefix(f"{name}/"): value for key, value in batch.items() if key.startswith(f"{name}/")}
    return {key: value for key, value in batch.items() if "/" not in key} | own
