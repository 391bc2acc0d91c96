"""Self-distillation of masked crops: what iBOT, DINOv2 and SimDINO have in common.

The student sees large crops, some of whose patches are replaced by a learned token, and small crops; the teacher, its
exponential moving average, sees the large crops as they are. Class tokens of different crops of an image are compared,
and the patches that are masked with those that the teacher sees in their place. Backbones are vision transformers, so
that there is no BatchNorm, and it is the same whether the teacher is in training mode (DINO, iBOT) or not (DINOv2).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method
from ssl_jax.methods.joint.byol import target_decay
from ssl_jax.methods.ranges import Several
from ssl_jax.methods.shared import crops
from ssl_jax.models.heads import DINOHead
from ssl_jax.models.parts import initialise
from ssl_jax.models.transformer import subset_gates
from ssl_jax.runtime.errors import UserError

GLOBALS = ("global1", "global2")
_GATES, _MASKS = 1001, 1002  # what the step's key is folded with, beside the numbers of views


class Tokens(NamedTuple):
    """What a network makes of an image's crops, behind its last norm."""

    classes: jax.Array  # [n, V, D]
    patches: jax.Array  # of the large crops [n, 2, L, D]


@dataclasses.dataclass(frozen=True)
class MaskedTeacher(Method):
    """A student and its teacher; what they are compared by is a subclass's."""

    global1: View = recipes.DINO_GLOBAL[0]
    global2: View = recipes.DINO_GLOBAL[1]
    local: View = recipes.DINO_LOCAL
    locals: int = 8  # small crops, of which the student sees all and the teacher none
    hidden: tuple[int, ...] = (2048, 2048)  # widths of the head's hidden layers
    bottleneck: int = 256  # width of the sphere
    tau: float = 0.996  # weight of the old teacher; a cosine to 1
    drop_path: float = 0.1  # of the student
    drop_path_group: int = 0  # crops of which a fixed number skips each branch, the same share at every depth; 0: each
    roll_masks: bool = False  # shift masks around the edges, so that all patches are masked equally often

    def views(self) -> dict[str, View]:
        small = {f"local{i + 1}": self.local for i in range(self.locals)}
        return {"global1": self.global1, "global2": self.global2, **small}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        name = type(self).__name__
        if "masked" not in self.backbone.options:
            raise UserError(
                f"{name} masks patches, which only a vision transformer can: set config.model.name to one (vit_micro, "
                "tiny, small, base, large)."
            )
        if self.global1.size != self.global2.size:
            raise UserError(
                f"config.method.global1.size is {self.global1.size} and global2.size {self.global2.size}: the teacher "
                "sees both as one batch, so make them equal."
            )
        for view, size in {"global1": self.global1.size, "local": self.local.size * bool(self.locals)}.items():
            if size % self.backbone.patch:
                raise UserError(
                    f"config.method.{view}.size is {size}: make it a multiple of config.model.patch, "
                    f"{self.backbone.patch}."
                )

    def _grid(self) -> tuple[int, int]:
        return (self.global1.size // self.backbone.patch,) * 2

    def _head(self) -> DINOHead:
        return DINOHead(self.hidden, self.bottleneck, 0, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "head": self._head()}, rng, batch["global1"])
        teacher = {"params": params, "stats": stats}
        width = params["backbone"]["token"].shape[-1]
        return {**params, "mask_token": jnp.zeros((1, 1, width))}, {"stats": stats, "teacher": teacher}

    def _masks(self, rng: jax.Array, positions: jax.Array) -> jax.Array | None:
        """Which patches of the large crops are hidden from the student: bool [n, 2, L]; None: all are seen."""
        raise NotImplementedError

    def _compare(
        self,
        params: Any,
        state: Any,
        tokens: tuple[Tokens, Tokens],
        masks: jax.Array | None,
        *,
        positions: jax.Array,
        step: jax.Array,
        info: Info,
    ) -> tuple[jax.Array, dict[str, Any], dict[str, Any]]:
        """The loss, metrics, and what moves of the state.

        Args:
          params: of the student.
          state: of the method, without gradient.
          tokens: the student's and the teacher's.
          masks: as `_masks` returns them.
          positions: of the images in the global batch [n].
          step: updates done so far.
          info: of the run.
        """
        raise NotImplementedError

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        state = jax.lax.stop_gradient(state)
        masks = self._masks(jax.random.fold_in(rng, _MASKS), batch["position"])
        student = self._student(params, batch, masks, rng, train)
        classes, patches = self._encode(state["teacher"]["params"], batch, GLOBALS)
        options = {"positions": batch["position"], "step": step, "info": info}
        loss, metrics, moved = self._compare(params, state, (student, Tokens(classes, patches)), masks, **options)
        more, further = self._beside(state, batch, student, step, info)
        loss, metrics = loss + more, metrics | further
        aux = Aux(jax.lax.stop_gradient(metrics), jax.lax.stop_gradient(classes[:, 0]))
        return loss, ({**state, **jax.lax.stop_gradient(moved)}, aux)

    def _beside(
        self, state: Any, batch: Batch, student: Tokens, step: jax.Array, info: Info
    ) -> tuple[jax.Array | float, dict[str, Any]]:
        """What is added to the loss, and its metrics; arguments as of `_compare`."""
        del state, batch, student, step, info
        return 0.0, {}

    def _of_small(self, params: Any) -> Any:
        """The student's parameters for small crops."""
        return params

    def _encode(self, params: Any, batch: Batch, names: Any, **options: Any) -> tuple[jax.Array, jax.Array]:
        """Class tokens [n, V, D] and patches [n, V, L, D] of crops of one size."""
        x = crops.stacked(batch, names)
        found = self.backbone.apply({"params": params["backbone"]}, x, train=True, pool=None, **options)
        n = len(x) // len(names)
        patches = found.map.reshape(n, len(names), -1, found.map.shape[-1])  # type: ignore[union-attr]
        return found.pooled.reshape(n, len(names), -1), patches  # type: ignore[union-attr]

    def _student(self, params: Any, batch: Batch, masks: jax.Array | None, rng: jax.Array, train: bool) -> Tokens:
        recipes, options = self.views(), {}
        if masks is not None:
            options["masked"] = (masks.reshape(-1, masks.shape[-1]), params["mask_token"])
        options |= self._gates(GLOBALS, batch, rng, params, train)
        classes, patches = self._encode(params, batch, GLOBALS, **options)
        small = {name: view.size for name, view in recipes.items() if name.startswith("local")}
        for size in dict.fromkeys(small.values()):
            names = [name for name in small if small[name] == size]
            more, _ = self._encode(
                self._of_small(params), batch, names, **self._gates(names, batch, rng, params, train)
            )
            classes = jnp.concatenate([classes, more], 1)
        return Tokens(classes, patches)

    def _gates(self, names: Any, batch: Batch, rng: jax.Array, params: Any, train: bool) -> dict[str, Any]:
        """Options of the backbone that say which residual branches are skipped."""
        if not train or not self.drop_path:
            return {}
        keys = crops.keys(rng, self.views(), names, batch["position"])
        if not self.drop_path_group:
            return {"drop_path": self.drop_path, "keys": keys}
        numbers = (batch["position"][:, None] * len(names) + jnp.arange(len(names))).reshape(-1)
        rng = jax.random.fold_in(jax.random.fold_in(rng, _GATES), list(self.views()).index(names[0]))
        depth = sum(name.startswith("block") for name in params["backbone"])
        return {"gates": subset_gates(rng, numbers, self.drop_path_group, self.drop_path, depth)}

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        teacher = state["teacher"]
        own = {name: params[name] for name in teacher["params"]}  # all but the token of masked patches
        share = 1 - target_decay(self.tau, step, info.total_steps)
        moved = optax.incremental_update(own, teacher["params"], share)
        return params, {**state, "teacher": {**teacher, "params": moved}}

    def variables(self, params: Any, state: Any) -> dict[str, Any]:
        """The teacher's."""
        return super().variables(state["teacher"]["params"], state["teacher"])


@dataclasses.dataclass(frozen=True)
class PrototypeTeacher(MaskedTeacher):
    """One whose head ends in prototypes."""

    out: Several = 65536  # K, prototypes
    unit_prototypes: bool = False  # of length one; False: each has a gain that is learned, and decayed

    def _head(self) -> DINOHead:
        head = DINOHead(self.hidden, self.bottleneck, self.out, unit_prototypes=self.unit_prototypes)
        return head.clone(dtype=self.backbone.dtype)

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        for head in ("head", "patch_head"):
            if "last_layer" in params.get(head, {}):
                labels[head]["last_layer"] = jax.tree.map(lambda _: "last_layer", params[head]["last_layer"])
        return labels


def rows_of_head(head: DINOHead, params: Any, x: jax.Array) -> jax.Array:
    """A head's output [..., K] of tokens [..., D]."""
    y = head.apply({"params": params}, x.reshape(-1, x.shape[-1]), train=False)
    return y.reshape(*x.shape[:-1], -1)  # type: ignore[union-attr]


def masked_mean(values: jax.Array, masks: jax.Array) -> jax.Array:
    """Mean over crops of the mean over their masked patches; a crop without any counts as 0.

    Args:
      values: one a patch [n, 2, L].
      masks: bool, likewise.
    """
    shares = masks / jnp.maximum(masks.sum(-1, keepdims=True), 1)
    return jnp.sum(values * shares) / (masks.shape[0] * masks.shape[1])


def teacher_temperature(step: jax.Array, info: Info, start: float, final: float, epochs: float) -> jax.Array:
    """T_t: rises linearly from `start`, reaches `final` after so many epochs, and stays."""
    progress = jnp.clip(step / max(epochs * info.steps_per_epoch, 1), 0.0, 1.0) if epochs else jnp.ones(())
    return start + (final - start) * progress


def spread_of(p: jax.Array) -> jax.Array:
    """Entropy of the mean over all replicas of distributions [n, K]: 0 if one prototype takes all."""
    mean = dist.mean(p.mean(0))
    return jax.scipy.special.entr(mean).sum(-1)
