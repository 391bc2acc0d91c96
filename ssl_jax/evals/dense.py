"""What evaluations of dense prediction have in common: heads on a backbone that is frozen or trained with them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.augment.targets import Field
from ssl_jax.augment.view import View
from ssl_jax.evals import heads, pictures
from ssl_jax.evals.context import Context, Network
from ssl_jax.evals.maps import strided
from ssl_jax.metrics.segmentation import upsampled
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.models.dense_heads import FCNHead, LinearHead
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights.answers import Answer, Pixels
from ssl_jax.weights.dense_head import DenseHead, side_by_side
from ssl_jax.workdir.fingerprint import fingerprint

# Those of all dense evaluations.
OPTIONS = {
    "dense_heads": "linear,fcn,fcn_tuned",  # of dense evaluations: linear or fcn; _tuned trains the backbone with it
    "dense_iterations": 2000,  # updates of a head of dense prediction
    "dense_batch": 16,  # images an update of it
    "dense_side": 0,  # of the crops that it is trained on, pixels; 0: the largest multiple of 32 that images have
}
HEADS = {"linear": LinearHead, "fcn": FCNHead}
MAX_IMAGES = 2000  # of each split, evenly spaced
RATE, DECAY, POWER = 1e-3, 1e-3, 0.9  # of AdamW, and of the polynomial that the rate falls by
BODY = 0.1  # rate of a backbone that is trained with its head, as a share of the head's
_MULTIPLE = 32  # sides of images are cut to one, pixels
_BLOCK = 16  # images at a time


@dataclasses.dataclass(frozen=True)
class Part:
    """Images of a split with their fields, cut to sides that strides divide."""

    images: np.ndarray
    fields: Mapping[str, np.ndarray]


def parts(context: Context, name: str, fields: Mapping[str, type]) -> tuple[Part, Part]:
    """The training and test images with some fields of every pixel, cut from the middle.

    Args:
      context: what is evaluated.
      name: of the evaluation.
      fields: name to the type that it becomes.

    Raises:
      UserError: if the data has not got them in memory.
    """
    heads.in_memory(context.images, name, frozenset(fields))
    found = []
    for d in context.images:
        rows = evenly_spaced(np.arange(len(d)), MAX_IMAGES)
        height, width = _cut(d.images.shape[1:3])
        top, left = (d.images.shape[1] - height) // 2, (d.images.shape[2] - width) // 2
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        cut: dict[str, np.ndarray] = {
            field: np.asarray(d.fields[field][rows])[part].astype(kind) for field, kind in fields.items()
        }
        found.append(Part(d.images[rows][part], cut))
    return found[0], found[1]


def view(context: Context, network: Network, images: np.ndarray, **changes: Any) -> View:
    """Random square crops at the images' own scale, mirrored if the method's views are.

    Args:
      context: what is evaluated, for the side of the crops.
      network: whose normalisation it is.
      images: [N, H, W, C].
      **changes: fields of the view that are otherwise.
    """
    shortest = min(images.shape[1:3])
    side = context.config.eval.dense_side or max(shortest // _MULTIPLE * _MULTIPLE, min(shortest, _MULTIPLE))
    if side > shortest:
        raise UserError(f"config.eval.dense_side is {side}, but the images are {shortest} pixels: set it to 0.")
    own = network.run.method.primary_view()
    plain = View(
        size=side,
        crop="shift",
        pad=0,
        flip=0.5 * bool(own.flip),
        order=("crop", "flip"),
        mean=own.mean,
        std=own.std,
    )
    return dataclasses.replace(plain, **changes)


def optimizer(share: float, iterations: int) -> heads.Optimizer:
    """AdamW with a rate that falls by a power; `share` of the head's rate."""
    rate = optax.polynomial_schedule(RATE * share, 0.0, POWER, iterations)
    return lambda params: optax.adamw(rate, weight_decay=DECAY)


def trainer(context: Context, network: Network, task: heads.Task, look: View, tuned: bool) -> heads.Trainer:
    """What trains a head with the options of dense evaluations, and with `tuned` the backbone too."""
    options = context.config.eval
    body = optimizer(BODY, options.dense_iterations) if tuned else None
    head = optimizer(1.0, options.dense_iterations)
    return heads.Trainer(network, task, look, head, body=body, batch=options.dense_batch)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a head is to predict of every pixel.

    Attributes:
      name: of the evaluation.
      answer: what the head's numbers mean.
      loss: of numbers [B, H, W, channels] of the truth's size, and the truth [B, H, W, ...].
      field: of the data set, and how it is drawn.
      stages: of the backbone, whose maps the head sees side by side; (): the last alone.
    """

    name: str
    answer: Pixels
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    field: Field
    stages: tuple[int, ...] = ()

    def features(self, encode: heads.Encode, x: jax.Array) -> jax.Array:
        """What the head sees of normalised images."""
        if not self.stages:
            return heads.last_map(encode, x)
        return side_by_side([heads.last_map(lambda x, s=s: encode(x, s), x) for s in self.stages])


def predictions(
    context: Context, problem: Problem, train: Part, test: Part, **looks: Any
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Trains the heads that are asked for on each backbone, and answers the test images.

    Args:
      context: what is evaluated.
      problem: what is predicted.
      train: training images.
      test: test images.
      **looks: fields of the training view that are otherwise.

    Yields:
      backbone, head and answers float32 [M, h, w, out], in the size of the map.
    """
    for of, network in context.networks.items():
        network = strided(network, context.config.eval.output_stride)
        for kind in context.config.eval.dense_heads.split(","):
            name, _, tuned = kind.partition("_")
            if name not in HEADS or tuned not in ("", "tuned"):
                raise UserError(
                    f"config.eval.dense_heads has '{kind}': write some of linear, fcn, linear_tuned and fcn_tuned, "
                    "with commas between."
                )
            head = HEADS[name](problem.answer.channels)
            task = _task(head, problem)
            fit = trainer(context, network, task, view(context, network, train.images, **looks), bool(tuned))
            fields = {problem.field.name: train.fields[problem.field.name]}
            trained = fit(train.images, fields, context.config.eval.dense_iterations, context.config.seed)
            if of == "pretrained":
                name = f"{problem.name}/{kind}"
                keep(context, name, network, head, trained, problem.answer, tuned=bool(tuned), stages=problem.stages)
            yield of, kind, fit.answers(trained, test.images)


def keep(
    context: Context,
    name: str,
    network: Network,
    head: nn.Module,
    trained: heads.Trained,
    answer: Answer,
    *,
    tuned: bool,
    stages: tuple[int, ...] = (),
    size: tuple[int, int] | None = None,
) -> None:
    """Keeps a head for the workdir.

    Args:
      context: what is evaluated.
      name: of the evaluation and the head.
      network: that it was trained on.
      head: of `weights.dense_head`'s.
      trained: what came out.
      answer: what its numbers mean.
      tuned: whether the backbone was trained with it.
      stages: whose maps it sees; (): the last alone.
      size: of the images that it is tested on; None: those that `parts` cuts.
    """
    of_head, backbone = (
        {"params": trained.params[part], "batch_stats": trained.stats[part]} for part in ("head", "backbone")
    )
    test = context.images[1]
    context.heads.append(
        DenseHead(
            name,
            head,
            jax.device_get(of_head),
            answer,
            fingerprint(network.variables),
            jax.device_get(backbone) if tuned else None,
            size or _cut(test.images.shape[1:3]),
            test.name,
            stages,
            context.config.eval.output_stride,
        )
    )


def _cut(sides: Sequence[int]) -> tuple[int, int]:
    """Height and width without what is more than a multiple."""
    height, width = (side // _MULTIPLE * _MULTIPLE or side for side in sides)
    return height, width


def _task(head: nn.Module, problem: Problem) -> heads.Task:
    name = problem.field.name

    def loss(answers: jax.Array, fields: Mapping[str, jax.Array]) -> jax.Array:
        truth = fields[name]
        return problem.loss(upsampled(answers, (truth.shape[1], truth.shape[2])), truth)

    return heads.Task(head, loss, problem.features, {name: problem.field})


def show(context: Context, title: str, test: Part, truth: np.ndarray, answers: Mapping[str, np.ndarray]) -> None:
    """Shows some test images beside the truth and the answers, by a name, as images [N, H, W, 1 or 3]."""
    rows = pictures.shown(len(test.images))
    columns = {"image": test.images[rows], "truth": truth[rows]} | {name: x[rows] for name, x in answers.items()}
    context.pictures.append(pictures.beside(title, columns))


def enlarged(answers: np.ndarray, size: tuple[int, int], what: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """`what` of answers [N, h, w, C] brought to [N, *size, C], some images at a time."""
    compiled = jax.jit(lambda x: what(upsampled(x, size)))
    return np.concatenate(
        [np.asarray(compiled(jnp.asarray(answers[i : i + _BLOCK]))) for i in range(0, len(answers), _BLOCK)]
    )
