"""PIRL: an image and its jigsaw tiles have one embedding, contrasted with a memory bank.

Misra, van der Maaten 2020 (arXiv 1912.01991). The image, and its patches in a random order, shall both find the
image's row of a memory bank among noise. Follows the authors' VISSL (ImgPilToPatchesAndImage, ImgPatchesFromTensor,
losses/nce_loss.py): every patch gets its own colour and its own flip; patches are concatenated in the permuted order;
the bank starts normalised and moves with the image's embedding alone, after both terms; Z is estimated once, on the
patches of the first batch, and serves both. VISSL draws noise for each term, the paper once for both: here once. The
jigsaw branch has its trunk in common with the image branch, and passes through it separately; running statistics are
those of images alone, since at 32 pixels a patch is little but border.

NCE with a Z that stays wants many updates before a row of the bank is seen again, as on ImageNet; with few, all
embeddings drift off together (digits: kNN .48), where the cross-entropy is safe.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.patches import grid, permuted, render_patches
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.joint.npid import nce, nce_best, nce_chance, noise_index, normaliser, top1_of_noise
from ssl_jax.methods.ranges import OrZero, Positive, Several, Share
from ssl_jax.methods.shared import memory_bank
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

LARGE = View(size=255, area=(0.6, 1.0), pillow=True, order=("crop",), mean=(0.0,), std=(1.0,))
PATCH = dataclasses.replace(recipes.PIRL, size=64, crop="shift", pad=0)


def noise_cross_entropy(scores: jax.Array, itself: jax.Array, temperature: float) -> jax.Array:
    """Cross-entropy of the positive among the noise, VISSL's `NCELossWithMemory` with loss_type "cross_entropy".

    Args:
      scores: cosines [B, 1 + N] of an embedding with its row of the bank and with rows drawn as noise.
      itself: bool [B, 1 + N], true where noise is the positive's own row, which then is no candidate.
      temperature: tau.

    Returns:
      mean over the rows, float32 (float64 for float64 input).
    """
    logits = jnp.where(itself, -jnp.inf, scores / temperature)
    return losses.cross_entropy(logits, jnp.zeros(len(logits), int))


@dataclasses.dataclass(frozen=True)
class PIRL(Method):
    """Pretext-invariant representation learning: jigsaw."""

    needs = frozenset({"index"})

    view: View = recipes.PIRL  # the image I, sec. 3.3
    large: View = LARGE  # what is cut into patches: geometry alone, values in [0, 1]
    patch: View = PATCH  # of one cell of the grid: the smaller square that is cut out, and its colours
    grid: int = 3  # cells along a side, sec. 3.3
    out: Several = 128  # width of f(v_I), g(v_It) and the bank, sec. 3.3
    temperature: Positive = 0.07  # tau, sec. 3.3
    noise: OrZero = 32000  # N, sec. 3.3
    criterion: str = "nce"  # or 'cross_entropy' of the positive among the noise, VISSL's other one
    weight: float = 0.5  # lambda of the patches' term (eq. 5)
    momentum: Share = 0.5  # of a row of the bank, sec. 3.3

    def views(self) -> dict[str, View]:
        return {"view": self.view, "large": self.large}  # patches are drawn from `large`, in `loss`

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.criterion not in ("nce", "cross_entropy"):
            raise UserError(f"config.method.criterion is '{self.criterion}': use 'nce' or 'cross_entropy'.")
        if self.grid < 2 or self.large.size < self.grid:
            raise UserError(
                f"config.method.grid is {self.grid} and config.method.large.size {self.large.size}: a jigsaw needs "
                "at least 2 cells a side and 1 pixel a cell; change one of them."
            )
        cell = self.large.size // self.grid
        self.patch.check("patch", cell, cell, channels)

    def _heads(self) -> dict[str, MLP]:
        """F for the image; for the jigsaw g, one layer for each patch and one for all together."""
        return {name: MLP((), self.out, dtype=self.backbone.dtype) for name in ("image", "patch", "jigsaw")}

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        weights, rows, *keys = jax.random.split(rng, 4)
        heads = self._heads()
        params, stats = initialise({"backbone": self.backbone, "image": heads["image"]}, weights, batch["view"])
        width = params["image"]["out"]["kernel"].shape[0]
        for key, name, size in zip(keys, ("patch", "jigsaw"), (width, self.grid**2 * self.out), strict=True):
            more, none = initialise({name: heads[name]}, key, jnp.zeros((1, size)))
            params, stats = params | more, stats | none
        bank = memory_bank.new(rows, info.num_examples, self.out, normalised=True)
        return params, {"stats": stats, "bank": bank, "z": jnp.zeros(())}  # Z = 0: not estimated yet

    def _jigsaw(self, large: jax.Array, keys: jax.Array) -> jax.Array:
        """Patches [n, T, h, w, C] of each image, each with its own colours, in a random order."""
        cell = self.large.size // self.grid
        colour, order = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
        patches = grid(large[:, : cell * self.grid, : cell * self.grid], cell, cell)
        return permuted(order, render_patches(self.patch, colour, patches))

    def _term(self, scores: jax.Array, itself: jax.Array, z: jax.Array, info: Info) -> jax.Array:
        if self.criterion == "nce":
            return nce(scores, z, info.num_examples, self.temperature)
        return noise_cross_entropy(scores, itself, self.temperature)

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        heads, n = self._heads(), len(batch["view"])
        drawing, sampling = jax.random.split(rng)
        patches = self._jigsaw(batch["large"], dist.example_keys(drawing, batch["position"]))

        h, stats = apply(self.backbone, "backbone", params, state["stats"], batch["view"], train=train)
        v, stats = apply(heads["image"], "image", params, stats, h, train=train)
        x = patches.reshape(-1, *patches.shape[2:])
        x, _ = apply(self.backbone, "backbone", params, stats, x, train=train)  # evaluation sees whole images
        x, stats = apply(heads["patch"], "patch", params, stats, x, train=train)
        t, stats = apply(heads["jigsaw"], "jigsaw", params, stats, x.reshape(n, -1), train=train)
        v, t = losses.l2_normalize(v), losses.l2_normalize(t)

        bank, z = state["bank"], state["z"]
        index = noise_index(sampling, batch, self.noise, info.num_examples)
        itself = index.at[:, 0].set(-1) == index[:, :1]  # drawn as noise
        image, jigsaw = (memory_bank.lookup(e, bank, index, dist.AXIS) for e in (v, t))
        z = jnp.where(z > 0, z, normaliser(jigsaw, info.num_examples, self.temperature, dist.AXIS))
        terms = [self._term(s, itself, z, info) for s in (jigsaw, image)]
        loss = self.weight * terms[0] + (1 - self.weight) * terms[1]  # eq. 5
        bank = memory_bank.update(bank, batch["index"], v, self.momentum, dist.AXIS)
        each = {"image": image, "jigsaw": jigsaw}
        metrics = {f"{name}_top1": Metric(top1_of_noise(s, index)) for name, s in each.items()}
        aux = Aux(
            metrics=metrics | {"projection_std": Metric(losses.spread(v, dist.AXIS), kind="std")},
            features=jax.lax.stop_gradient(h),
        )
        return loss, ({"stats": stats, "bank": bank, "z": z}, aux)

    def specs(self) -> Any:
        return {"stats": P(), "bank": P(dist.AXIS), "z": P()}

    def chance(self, info: Info) -> float:
        """Every image is as likely, in both terms."""
        return nce_chance(self.noise) if self.criterion == "nce" else math.log(1 + self.noise)

    def best(self, info: Info) -> float:
        """Only the image itself is likely, in both terms."""
        return nce_best(self.noise, info.num_examples) if self.criterion == "nce" else 0.0
