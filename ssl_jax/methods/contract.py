"""The contract of a method. One file a method, in the folder of its family; a name is a path.

`config.method.name = 'byol'` is `ssl_jax/methods/joint/byol.py`, which defines one subclass of `Method`. Nothing else
has to know it.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.augment.view import View, evaluation
from ssl_jax.data import Dataset
from ssl_jax.data.samplers import Sampler, Shuffled
from ssl_jax.models.backbone import Backbone, Encoded
from ssl_jax.models.parts import encode
from ssl_jax.runtime.errors import UserError

Variables = dict[str, Any]  # of a network: 'params', and 'batch_stats', empty without running statistics
Batch = dict[str, Any]  # name to array, or name of a part to such a dict
Embed = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Info:
    """What a method may know of the run: banks are sized and schedules computed from it."""

    num_examples: int  # training images
    batch_size: int  # global batch of images (views not counted) that one update sees
    steps_per_epoch: int  # updates
    total_steps: int  # updates
    num_classes: int = 0  # of the training labels; 0: none are known
    target_labels: int = 0  # images of each class of the target that have a label


@flax.struct.dataclass
class Metric:
    """A number that a method or an evaluation reports, and what it is to be compared with."""

    value: Any
    chance: Any = None  # what an answer by chance would have; None: not known
    kind: str = flax.struct.field(pytree_node=False, default="share")  # or 'loss', 'std' (of embeddings), 'value'


class Aux(NamedTuple):
    """What a loss returns in addition to its value."""

    metrics: dict[str, Any]  # name to a `Metric` or a plain number, means over this replica's rows
    # Stopped backbone output [B, D] of one view, for the online probe; None: no probe.
    features: jax.Array | None = None
    labels: jax.Array | None = None  # of the rows of `features`; by default the batch's


def measured(metrics: Mapping[str, Any]) -> dict[str, Metric]:
    """Metrics as records of arrays; a plain number is of the kind 'value'."""

    def one(metric: Any) -> Metric:
        if not isinstance(metric, Metric):
            return Metric(metric, kind="value")
        # From the value, so that chance varies between the replicas as the value does.
        chance = None if metric.chance is None else jnp.full_like(metric.value, metric.chance)
        return Metric(metric.value, chance, metric.kind)

    return {name: one(metric) for name, metric in metrics.items()}


def flat(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as plain numbers: NAME, and NAME/chance where that is known."""
    found: dict[str, Any] = {}
    for name, metric in measured(metrics).items():
        found[name] = metric.value
        if metric.chance is not None:
            found[f"{name}/chance"] = metric.chance
    return found


class Picture(NamedTuple):
    """What a method's network sees and answers, for the report: a grid of images with a line of text under each."""

    title: str  # a sentence
    columns: tuple[str, ...]  # what each column shows
    images: np.ndarray  # [rows, columns, H, W, 1 or 3], 0 to 1
    captions: tuple[tuple[str, ...], ...] = ()  # one a row and column, or none


@dataclasses.dataclass(frozen=True)
class Method:
    """A self-supervised method; its fields are the hyper-parameters, with the paper's values as defaults.

    `params` are what the optimiser moves and `state` is everything else that changes (running statistics, targets,
    queues). `params['backbone']` holds the backbone and nothing else. `loss` runs on each replica's share of the
    batch; what it needs of the others goes through `ssl_jax.dist`.
    """

    backbone: Backbone

    # What it needs beyond images, of 'labels', 'index' (its loss is about the training images themselves, and has no
    # meaning for others), 'colour', 'domains', 'masks' and 'clips'.
    needs: ClassVar[frozenset[str]] = frozenset()
    lead_view: ClassVar[str] = ""  # evaluation and fine-tuning see images as this view does; '': the first
    compares: ClassVar[bool] = False  # the loss of a single image is constant; so it is where there is `embed`
    pools_map: ClassVar[bool] = False  # features are the mean of the map, also of a backbone with a class token

    def views(self) -> dict[str, View]:
        """View name to recipe; by default every field that is a `View`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, View)}

    def variants(self) -> list[tuple["Method", float]]:
        """Of which one, drawn with these probabilities, makes an update; by default this one does all.

        Their views have this one's names and at most its sizes; parameters and state are the same.
        """
        return [(self, 1.0)]

    def targets(self) -> dict[str, Field]:
        """Target name to the field of the data set that it shows, cropped and flipped as a view; by default none.

        The batch has each under its name, beside the views.
        """
        return {}

    def check(self, height: int, width: int, channels: int) -> None:
        """Refuses, with a `UserError`, images on which the method has no meaning."""
        if "colour" in self.needs and channels != 3:
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(
                f"config.method.name is '{name}', which predicts colours, but the images of config.data.source have "
                f"{channels} channel(s): use colour images, or another method."
            )
        for name, view in self.views().items():
            view.check(name if hasattr(self, name) else name.rstrip("0123456789"), height, width, channels)  # its field
        for name, target in self.targets().items():
            target.check(name, self.views())

    def primary_view(self) -> View:
        """The view named by `lead_view`, or the first: how far an image may be moved, and how it is normalised."""
        views = self.views()
        return views[self.lead_view or next(iter(views))]

    def eval_view(self, centre: float) -> View:
        """How evaluation sees an image: centre crop of that share of the short side, normalised as in training."""
        return evaluation(self.primary_view(), centre)

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        """Which rows make a batch; by default every image once an epoch, shuffled.

        Args:
          data: the training images; their labels and fields may be read.
          info: of the run, with `batch_size`; its steps are replaced by those of the sampler.

        Raises:
          UserError: if the data has no such batch.
        """
        return Shuffled(len(data.images), info.batch_size)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        """Returns fresh `(params, state)` for a batch of views."""
        raise NotImplementedError

    def loss(
        self, params: Any, state: Any, batch: Batch, *, rng: jax.Array, step: jax.Array, info: Info, train: bool = True
    ) -> tuple[jax.Array, tuple[Any, Aux]]:
        """The loss on this replica's rows.

        Args:
          params: what is differentiated.
          state: everything else.
          batch: `{view name: [B, H, W, C], 'index': [B], 'label': [B] (-1 unknown), 'position': [B]}`, and the
            targets by their names.
          rng: the step's key, the same on all replicas; for randomness of an example use `dist.example_keys`.
          step: updates done so far.
          info: of the run.
          train: use the batch's statistics.

        Returns:
          `(loss, (state, aux))`: the mean over this replica's rows, and an `Aux`.
        """
        embeddings, (state, aux) = self.embed(params, state, batch, rng=rng, step=step, info=info, train=train)
        loss, metrics = self.compare(embeddings)
        return loss, (state, aux._replace(metrics=metrics))

    def embed(self, params, state, batch, *, rng, step, info, train=True):  # type: ignore[no-untyped-def]
        """The part of a loss that sees images, for a method whose loss compares embeddings; arguments as of `loss`.

        A method that has `embed` and `compare` instead of `loss` can compare the embeddings of a whole batch although
        it only ever sees a micro-batch of images (`config.accumulate_loss`).

        Returns:
          `(embeddings, (state, aux))`: a tree of arrays [B, ...], and an `Aux` without metrics.
        """
        raise NotImplementedError

    def compare(self, embeddings: Any) -> tuple[jax.Array, dict[str, Any]]:
        """The loss of this replica's embeddings among those of all, and metrics."""
        raise NotImplementedError

    def variables(self, params: Any, state: Any) -> Variables:
        """The backbone that is evaluated and taken away: its 'params', and 'batch_stats' where it has any."""
        return {"params": params["backbone"], "batch_stats": state["stats"].get("backbone", {})}

    def encode(
        self,
        variables: Variables,
        images: jax.Array,
        *,
        train: bool = False,
        stage: float | None = None,
        frozen: int = 0,
    ) -> tuple[Encoded, Variables]:
        """What the network makes of whole images: the way in for evaluation, fine-tuning, dense tasks and export.

        Args:
          variables: as `variables` returns them.
          images: [B, H, W, C], normalised as `primary_view` does.
          train: use the batch's statistics and move the running ones, as fine-tuning does.
          stage: whose output is wanted, from 1; default the last.
          frozen: so many stages get no gradient and keep their running statistics.

        Returns:
          `(Encoded(pooled, map), variables)`, the latter moved on if `train`.
        """
        encoded, variables = encode(self.backbone, variables, images, train=train, stage=stage, frozen=frozen)
        if self.pools_map and encoded.map is not None:
            encoded = Encoded(encoded.map.mean((1, 2)).astype(jnp.float32), encoded.map)
        return encoded, variables

    def predict(self, params: Any, state: Any, images: jax.Array) -> jax.Array | None:
        """Class logits [B, classes] of normalised images; None without a classifier of the labels."""
        del params, state, images
        return None

    def segment(self, params: Any, state: Any, images: jax.Array) -> jax.Array | None:
        """Logits [B, H, W, classes] of the pixels of normalised images; None without a segmentation of its own."""
        del params, state, images
        return None

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """What the network sees and answers on a few rows; `batch` is as for `loss`. Not compiled, on one device."""
        del params, state, batch, rng
        return []

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        """`(params, state)` after the optimiser moved the parameters; `step` counts the updates before it."""
        del step, info
        return params, state

    def on_epoch(self, params: Any, state: Any, *, rng: jax.Array, step: int, info: Info, embed: Embed) -> Any:
        """The state with which an epoch begins; called outside the mapped step, before the epoch's first update.

        A run that is resumed at that update calls it again, so it must depend on its arguments alone.

        Args:
          params: incoming parameters.
          state: incoming state.
          rng: the epoch's key.
          step: updates done so far.
          info: of the run.
          embed: `embed(fn)` maps `fn(params, state, batch) -> [n, ...]`, a function of one replica's rows like
            `loss`, over every training image once, in fresh training views, and returns the rows of all images,
            [num_examples, ...], in the order of the data set. `embed(fn, views)` shows other views, name to recipe.
        """
        del params, rng, step, info, embed
        return state

    def groups(self, params: Any) -> Any:
        """A tree of labels like `params`; `config.optim.<label>` is the optimiser of each group.

        The label 'frozen' needs no entry there: such parameters never move. A backbone names its own in `frozen`.
        """
        labels = jax.tree.map(lambda _: "default", params)
        for name in self.backbone.frozen:
            labels["backbone"][name] = jax.tree.map(lambda _: "frozen", params["backbone"][name])
        return labels

    def specs(self) -> Any:
        """How `state` lies over the devices: a pytree prefix of `PartitionSpec`; by default each has all of it."""
        return P()

    def reading(self, metrics: Mapping[str, float], info: Info) -> str:
        """A sentence for the log on the metrics of the last update, beside what they should be; by default none."""
        del metrics, info
        return ""

    def chance(self, info: Info) -> float | None:
        """The loss of an answer by chance; None: not known."""
        del info
        return None

    def best(self, info: Info) -> float:
        """The loss of a perfect answer."""
        del info
        return 0.0
