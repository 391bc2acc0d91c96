"""DINO: self-distillation from an EMA teacher, whose outputs are centred and sharpened, without labels.

Caron et al. 2021 (arXiv 2104.14294). Follows the authors' code (facebookresearch/dino): the loss uses the old centre,
which then moves with the mean of the teacher's raw logits; a pair of views is left out where both are the same view;
the teacher starts as a copy of the student, moves after the optimiser, runs in training mode without drop path, and is
what is evaluated; crops of equal size go through the student as one batch. The cosine of the weight decay, the clipping
of each parameter's gradient and the last layer's first epoch at rest are the optimiser's (config.optim; the last layer
is a group of its own).
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist, streams
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method
from ssl_jax.methods.joint.byol import target_decay
from ssl_jax.methods.ranges import BelowOne, OrZero, Positive, Several, Share
from ssl_jax.models.heads import DINOHead, torch_uniform
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def distillation_loss(
    student: jax.Array, teacher: jax.Array, centre: jax.Array, *, student_temp: float, teacher_temp: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy H(P_t, P_s) over pairs of different views (eq. 2 and 3), the mean over pairs and images.

    Args:
      student: logits [V, B, K] of all views, the teacher's first.
      teacher: logits [A, B, K] of the first A views, raw; no gradient flows into them.
      centre: c [K], subtracted from the teacher's logits: the one from before this batch.
      student_temp: T_s.
      teacher_temp: T_t.

    Returns:
      loss, and the teacher's probabilities P_t [A, B, K].
    """
    student, teacher = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (student, teacher))
    p_t = jax.lax.stop_gradient(jax.nn.softmax((teacher - centre) / teacher_temp))
    return paired_cross_entropy(p_t, student, student_temp), p_t


def paired_cross_entropy(p_t: jax.Array, student: jax.Array, student_temp: float) -> jax.Array:
    """Mean over images and pairs of different views of H(P_t, P_s), for P_t [A, B, K] and logits [V, B, K]."""
    cross = cross_entropies(p_t, student, student_temp)
    return (cross.sum() - jnp.trace(cross)) / (cross.size - len(p_t))


def cross_entropies(p_t: jax.Array, student: jax.Array, student_temp: float) -> jax.Array:
    """H(P_t, P_s) of every pair of views [A, V], the mean over images, for P_t [A, B, K] and logits [V, B, K]."""
    log_p_s = jax.nn.log_softmax(student / student_temp)
    return -jnp.einsum("abk,vbk->av", p_t, log_p_s, precision="highest") / student.shape[1]


def moved_centre(centre: jax.Array, teacher: jax.Array, momentum: float, axis_name: str | None = None) -> jax.Array:
    """The centre [K] after a batch (eq. 4): m c + (1 - m) times the mean of raw teacher logits [A, B, K].

    Args:
      centre: c.
      teacher: logits of this replica's rows.
      momentum: m.
      axis_name: mapped axis whose replicas are averaged.
    """
    mean = jax.lax.stop_gradient(teacher).mean((0, 1))
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    return momentum * centre + (1 - momentum) * mean


def teacher_temperature(epoch: jax.Array, start: float, final: float, warmup_epochs: int) -> jax.Array:
    """T_t: `warmup_epochs` values evenly spaced from `start` to `final`, one an epoch, then `final`."""
    warming = start + (final - start) * epoch / max(warmup_epochs - 1, 1)
    return jnp.where(epoch < warmup_epochs, warming, final)


@dataclasses.dataclass(frozen=True)
class DINO(Method):
    """Self-distillation with no labels; defaults are the code's for ViT-S/16."""

    global1: View = recipes.DINO_GLOBAL[0]  # sec. 3.2 and the code
    global2: View = recipes.DINO_GLOBAL[1]
    local: View = recipes.DINO_LOCAL
    locals: OrZero = 8  # local crops, of which the student sees all and the teacher none
    hidden: tuple[int, ...] = (2048, 2048)  # widths of the head's hidden layers, sec. 3.1
    bottleneck: int = 256
    out: Several = 65536  # K, prototypes
    head_norm: bool = False  # BatchNorm in the head's hidden layers
    unit_prototypes: bool = True  # norm_last_layer: False trains better on small ViTs, and less stably
    dense_std: float = 0.02  # of the head's normal initialisation; 0: torch's uniform
    student_temp: Positive = 0.1  # T_s, sec. 3.1
    teacher_temp: Positive = 0.04  # T_t; .07 in the best runs
    warmup_teacher_temp: Positive = 0.04  # its value in the first epoch
    warmup_teacher_epochs: int = 0  # epochs until teacher_temp; 30 in the best runs
    centre_momentum: Share = 0.9  # m of eq. 4
    tau: Share = 0.996  # lambda, base teacher decay; .9995 for batches of 256
    tau_schedule: str = "cosine"  # to 1, or 'constant'
    concat_views: bool = True  # views of one size in one forward pass; else BatchNorm sees each alone (lightly)
    evaluate_teacher: bool = True  # sec. 5.2; False: the student (lightly)
    drop_path: BelowOne = 0.1  # of the student, where the backbone has it, as ViTs do

    def views(self) -> dict[str, View]:
        return {
            "global1": self.global1,
            "global2": self.global2,
            **{f"local{i + 1}": self.local for i in range(self.locals)},
        }

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.global1.size != self.global2.size:
            raise UserError(
                f"config.method.global1.size is {self.global1.size} and global2.size {self.global2.size}: the teacher "
                "sees both as one batch, so make them equal."
            )

    def _head(self) -> DINOHead:
        return DINOHead(
            self.hidden,
            self.bottleneck,
            self.out,
            self.head_norm,
            self.unit_prototypes,
            self.backbone.bn_groups,
            nn.initializers.normal(self.dense_std) if self.dense_std else torch_uniform,
            self.backbone.dtype,
        )

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "head": self._head()}, rng, batch["global1"])
        teacher = {"params": params, "stats": stats}
        return params, {"stats": stats, "teacher": teacher, "centre": jnp.zeros(self.out)}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        views = self.views()

        def encode(params, stats, names, drop_path):  # views of one size; an image's are neighbours
            x = jnp.stack([batch[name] for name in names], 1)
            x = x.reshape(-1, *x.shape[2:])
            if not (train and drop_path and "drop_path" in self.backbone.options):
                return apply(self.backbone, "backbone", params, stats, x, train=train)
            keys = dist.example_keys(jax.random.fold_in(rng, streams.view(views, names[0])), batch["position"])
            keys = jax.vmap(lambda key: jax.random.split(key, len(names)))(keys).reshape(-1)
            variables = {"params": params["backbone"]}
            return self.backbone.apply(variables, x, train=True, drop_path=drop_path, keys=keys), stats

        def network(params, stats, names, drop_path=0.0):  # features [B, V, D], logits [V, B, K]
            h, logits = [], []
            for together in [names] if self.concat_views else [[name] for name in names]:
                crops = []
                for size in dict.fromkeys(views[name].size for name in together):
                    same = [name for name in together if views[name].size == size]
                    each, stats = encode(params, stats, same, drop_path)
                    crops.append(each.reshape(-1, len(same), each.shape[-1]))
                x = jnp.concatenate(crops, 1)  # global views come first, so that the order is that of `names`
                s, stats = apply(self._head(), "head", params, stats, x.reshape(-1, x.shape[-1]), train=train)
                logits.append(s.reshape(*x.shape[:2], -1).swapaxes(0, 1))
                h.append(x)
            return jnp.concatenate(h, 1), jnp.concatenate(logits), stats

        teacher = jax.lax.stop_gradient(state["teacher"])
        y, t, xi_stats = network(teacher["params"], teacher["stats"], ["global1", "global2"])
        _, s, stats = network(params, state["stats"], list(views), self.drop_path)

        warmup = self.warmup_teacher_temp, self.teacher_temp, self.warmup_teacher_epochs
        t_t = teacher_temperature(step // info.steps_per_epoch, *warmup)
        loss, p_t = distillation_loss(s, t, state["centre"], student_temp=self.student_temp, teacher_temp=t_t)
        state = {
            "stats": stats,
            "teacher": {"params": teacher["params"], "stats": xi_stats},
            "centre": moved_centre(state["centre"], t, self.centre_momentum, dist.AXIS),
        }
        h_t = entropy(p_t).mean()
        metrics = {
            "teacher_entropy": h_t,  # ln K if it collapsed to the uniform distribution
            "kl": loss - h_t,  # 0 in either collapse
            "mean_entropy": entropy(dist.mean(p_t.mean((0, 1)))),  # of the mean: 0 if one prototype takes all
        }
        return loss, (state, Aux(jax.lax.stop_gradient(metrics), jax.lax.stop_gradient(y[:, 0])))

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        tau = self.tau if self.tau_schedule == "constant" else target_decay(self.tau, step, info.total_steps)
        teacher = state["teacher"]
        moved = optax.incremental_update(params, teacher["params"], 1 - tau)
        return params, {**state, "teacher": {**teacher, "params": moved}}

    def variables(self, params: Any, state: Any) -> dict[str, Any]:
        """The teacher's, which is the better of the two throughout training (sec. 5.2), or the student's."""
        if not self.evaluate_teacher:
            return super().variables(params, state)
        return super().variables(state["teacher"]["params"], state["teacher"])

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        labels["head"]["last_layer"] = jax.tree.map(lambda _: "last_layer", params["head"]["last_layer"])
        return labels

    def chance(self, info: Info) -> float:
        """A uniform student."""
        return math.log(self.out)


def entropy(p: jax.Array) -> jax.Array:
    """Entropy of distributions [..., K], in nats."""
    return jax.scipy.special.entr(p).sum(-1)
