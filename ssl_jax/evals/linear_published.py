"""The authors' own linear probe of a method, on random crops and flips: a number to hold against a published one.

`linear` and `linear_lbfgs` see each image in one centre crop, so that their accuracies are comparable among themselves
and not with published ones. This one trains as the authors of the run's method do: their optimiser, rate, schedule,
epochs and batch. A method whose authors published no such probe has SimCLR's. Nothing is chosen: the last epoch counts.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax import losses, optim
from ssl_jax.augment.view import View
from ssl_jax.evals import heads
from ssl_jax.evals.context import LABELLED, Context, Network
from ssl_jax.models.norm import BatchNorm
from ssl_jax.recipes.base import optimizer
from ssl_jax.workdir.results import Result

# It renders and encodes every training image in every epoch: for hours on a CPU.
TITLE, NEEDS, DEFAULT, LARGE = "the authors' linear probe", LABELLED, False, True
FEATURES = False
OPTIONS = {
    "published_epochs": 0,  # of the authors' linear probe; 0: as many as they have
    "published_batch": 0,  # images an update of it, with the rate in proportion; 0: as many as they have
}


@dataclasses.dataclass(frozen=True)
class Probe:
    """How a linear classifier is trained on a frozen backbone; `optim` is in units of 256 images."""

    source: str
    epochs: int
    batch: int
    optim: dict[str, Any]
    std: float = 0.0  # of the weights at the start
    norm: bool = False  # a BatchNorm without scale and offset before the layer
    interpolation: str = "bilinear"  # of the crops
    stages: bool = False  # DINO's features of a ViT: class tokens of the last four blocks, or of one and the mean patch


PROBES = {
    "simclr": Probe("SimCLR, appendix B.6", 90, 4096, {"learning_rate": 0.1, "nesterov": True}),
    "mocov1": Probe(
        "main_lincls.py of MoCo",
        100,
        256,
        {"learning_rate": 30.0, "schedule": "steps", "milestones": (60, 80), "factor": 0.1},
        std=0.01,
    ),
    "mocov3": Probe("main_lincls.py of MoCo v3", 90, 1024, {"learning_rate": 0.1, "per_epoch": True}, std=0.01),
    "byol": Probe(
        "byol_experiment.py, linear evaluation",
        80,
        1024,
        {"learning_rate": 0.2, "nesterov": True},
        0.0,
        False,
        "bicubic",
    ),
    "simsiam": Probe("main_lincls.py of SimSiam, LARC", 90, 4096, {"name": "larc", "learning_rate": 0.1}, std=0.01),
    "swav": Probe(
        "eval_linear.py of SwAV", 100, 256, {"learning_rate": 0.3, "nesterov": True, "weight_decay": 1e-6}, std=0.01
    ),
    "barlow_twins": Probe(
        "evaluate.py of Barlow Twins", 100, 256, {"learning_rate": 0.3, "weight_decay": 1e-6, "per_epoch": True}, 0.01
    ),
    "vicreg": Probe(
        "README of VICReg", 100, 256, {"learning_rate": 0.02, "weight_decay": 1e-6, "per_epoch": True}, std=0.01
    ),
    "dino": Probe(
        "eval_linear.py of DINO", 100, 1024, {"learning_rate": 0.001, "per_epoch": True}, std=0.01, stages=True
    ),
    "mae": Probe(
        "main_linprobe.py of MAE",
        90,
        16384,
        {"name": "lars", "learning_rate": 0.1, "warmup_epochs": 10.0, "exclude": "1d", "lars_order": "outside"},
        std=0.01,
        norm=True,
        interpolation="bicubic",
    ),
}
PROBES["mocov2"] = PROBES["mocov1"]


def probe_of(method: str, vit: bool) -> Probe:
    """The probe of a method's authors, or SimCLR's.

    Args:
      method: as `config.method.name`.
      vit: whether its backbone is a vision transformer, to which MoCo v3 gives thirty times the rate.
    """
    found = PROBES.get(method, PROBES["simclr"])
    if method == "mocov3" and vit:
        return dataclasses.replace(found, optim=found.optim | {"learning_rate": 3.0})
    return found


class Classifier(nn.Module):
    """A linear layer, behind a BatchNorm without scale and offset where the probe has one.

    Attributes:
      classes: K.
      probe: how it is trained.
    """

    classes: int
    probe: Probe

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, D] -> [B, K]
        if self.probe.norm:
            x = BatchNorm(epsilon=1e-6, use_scale=False, use_bias=False, name="norm")(x, train)
        init = nn.initializers.normal(self.probe.std) if self.probe.std else nn.initializers.zeros
        return nn.Dense(self.classes, kernel_init=init, precision="highest", name="linear")(x)


def crops(network: Network, interpolation: str) -> View:
    """Random crops of 8 to 100 % of an image, mirrored if the method's own views are."""
    seen, own = network.run.eval_view, network.run.method.primary_view()
    return View(
        size=seen.size,
        flip=0.5 * bool(own.flip),
        interpolation=interpolation,
        order=("crop", "flip"),
        mean=seen.mean,
        std=seen.std,
    )


def measure(context: Context) -> list[Result]:
    """Accuracy of each backbone under the probe of its method's authors."""
    heads.in_memory(context.images, "linear_published", frozenset())
    train, test = context.images
    found = []
    for of, network in context.networks.items():
        probe = probe_of(network.run.config.method.name, not network.run.method.backbone.pools_map)
        options = context.config.eval
        batch = min(options.published_batch or probe.batch, len(train))
        epochs = options.published_epochs or probe.epochs
        trainer = _trainer(network, probe, context.features.classes, batch, epochs, len(train))
        updates = epochs * max(len(train) // trainer.batch, 1)
        trained = trainer(train.images, {"label": train.labels}, updates, context.config.seed)
        logits = trainer.answers(trained, test.images, network.run.eval_view)
        found.append(Result("linear_published/top1", float((logits.argmax(1) == test.labels).mean()), of))
        how = f"{probe.source}; {epochs} epochs, {trainer.batch} images an update"
        found.append(Result("linear_published/probe", how, of, detail=True))
    return found


def _trainer(network: Network, probe: Probe, classes: int, batch: int, epochs: int, count: int) -> heads.Trainer:
    steps = max(count // batch, 1)

    def rule(params: Any) -> Any:
        group = ConfigDict({"default": optimizer(**probe.optim)})
        labels = jax.tree.map(lambda _: "default", params)
        return optim.build(group, labels, batch, steps, steps * epochs)[0]

    def loss(logits: jax.Array, fields: Any) -> jax.Array:
        return losses.cross_entropy(logits, fields["label"])

    task = heads.Task(Classifier(classes, probe), loss, _features(network, probe))
    return heads.Trainer(network, task, crops(network, probe.interpolation), rule, batch=batch)


def _features(network: Network, probe: Probe) -> Any:
    """What the layer sees: the backbone's vector, or DINO's choice for a vision transformer."""
    backbone = network.run.method.backbone
    if not probe.stages or backbone.pools_map:
        return heads.pooled

    def tokens(encode: heads.Encode, x: jax.Array) -> jax.Array:
        last = encode(x)
        if last.pooled.shape[-1] > 384:  # ViT-B: the class token and the mean patch
            return jnp.concatenate([last.pooled, heads.last_map(encode, x).mean((1, 2)).astype(jnp.float32)], -1)
        earlier = [encode(x, stage).pooled for stage in backbone.last_blocks(4)[:-1]]
        return jnp.concatenate([*earlier, last.pooled], -1)

    return tokens
