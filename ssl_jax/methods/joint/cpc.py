"""CPC: contrastive predictive coding of images, versions 1 and 2.

van den Oord, Li, Vinyals 2018 (arXiv 1807.03748, sec. 3.3); Henaff et al. 2019 (arXiv 1905.09272). An image is a grid
of overlapping patches, each encoded on its own; from what a masked network has seen of the rows above, the vectors of
rows further below are told from all others. The authors published no code; context network, the projections to 64
dimensions and the factor of a tenth are those of v2's appendix, as Lightning Bolts' CPCTask has them, for both
versions. Decisions:

- negatives are all other patch vectors of the global batch: so the loss does not depend on the number of devices. The
  gather is differentiable;
- rows that share pixels with what the context has seen are skipped (`skip`), which v1 does not say;
- the loss is the mean over rows ahead and directions, where the code sums;
- the backbone has no BatchNorm, which would let a patch know of the others (v2, sec. 3), and is used whole, where the
  authors stop at the third stage;
- v1 turns images gray: here the luma of all three channels, after normalisation with one mean and deviation;
- v2's colour dropping leaves one channel of a patch and sets the others to the mean.

The features of an image are the mean over its patches of the backbone's vectors; evaluation cuts the same grid,
and takes the middle of each patch where training takes a crop.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import ops
from ssl_jax.augment.patches import grid, render_patches, side
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Share
from ssl_jax.models.backbone import Encoded
from ssl_jax.models.parts import apply, initialise
from ssl_jax.models.pixelcnn import Predictor
from ssl_jax.runtime.errors import UserError

# Values in [0, 1]: a patch's own view normalises.
CROP = View(size=256, crop="shift", pad=0, flip=0.5, order=("crop", "flip"), mean=(0.0,), std=(1.0,))
PATCH = View(size=60, crop="shift", pad=0, order=("crop",), mean=(0.449,), std=(0.226,))


def info_nce(
    predictions: jax.Array, targets: jax.Array, ahead: int, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Tells the patch vector `ahead` rows below from all others of the batch (v1 eq. 4), the mean over positions.

    Args:
      predictions: [n, R, C, d]; of row r, about row r + `ahead` of the same column. The last rows have no target.
      targets: [n, R, C, d], the patch vectors of the same images.
      ahead: rows, 1 to R - 1.
      axis_name: mapped axis over which candidates are gathered; None for this replica's alone.

    Returns:
      loss, and the share of predictions whose own target scores highest.
    """
    n, rows, columns, width = targets.shape
    number = jnp.arange(n * rows * columns).reshape(n, rows, columns)
    own = number[:, ahead:].reshape(-1)
    kind = jnp.promote_types(targets.dtype, jnp.float32)
    p, z = (x.astype(kind).reshape(-1, width) for x in (predictions[:, : rows - ahead], targets))
    return losses.in_batch_softmax(p, z, own, axis_name=axis_name)  # no normalisation


def turned(z: jax.Array, direction: int) -> jax.Array:
    """The grid [B, R, C, D] seen so that 'below' is below, above, right or left (`direction` 0 to 3)."""
    if direction >= 2:
        z = z.swapaxes(1, 2)
    return z[:, ::-1] if direction % 2 else z


@dataclasses.dataclass(frozen=True)
class CPC(Method):
    """Contrastive predictive coding; the defaults are v1's."""

    view: View = CROP  # sec. 3.3: out of 300 pixels
    patch: View = PATCH  # of each patch on its own; what it lacks of `patch_size` is padded with the mean
    patch_size: int = 64  # pixels, sec. 3.3; v2: 80
    stride: int = 32  # from patch to patch, pixels, sec. 3.3; v2: 36
    gray: bool = True  # turn colour images gray, sec. 3.3; v2: no
    colour_drop: Share = 0.0  # probability that a patch keeps one channel only; v2: 1
    directions: int = 1  # downwards; v2: 4, upwards, rightwards and leftwards too
    skip: int = 1  # rows ahead that are not predicted: with half overlap the next one shares pixels
    steps: int = 5  # the furthest row ahead that is predicted, sec. 3.3
    blocks: int = 5  # of the context network
    hidden: int = 256  # channels inside its blocks
    out: int = 64  # width of predictions and targets

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.backbone.norm == "batch":
            raise UserError(
                "config.model.norm is 'batch', with which a patch would know of the others (CPC v2, sec. 3): set it "
                "to 'layer', 'group' or 'none'."
            )
        rows = side(self.view.size, self.patch_size, self.stride)
        if rows < self.skip + 2:
            raise UserError(
                f"config.method.view.size of {self.view.size} pixels holds {rows} row(s) of patches, but with "
                f"config.method.skip={self.skip} at least {self.skip + 2} are needed: lower patch_size or stride."
            )
        if self.patch.size > self.patch_size:
            raise UserError(
                f"config.method.patch.size is {self.patch.size}, more than the {self.patch_size} pixels of "
                "config.method.patch_size: lower it."
            )
        self.patch.check("patch", self.patch_size, self.patch_size, channels)
        if channels != 3 and self.colour_drop:
            raise UserError(f"config.method.colour_drop drops colours, but the images have {channels}: set it to 0.")

    def views(self) -> dict[str, View]:
        return {"view": self.view}  # patches are drawn from it, in `loss`

    def _ahead(self) -> range:
        rows = side(self.view.size, self.patch_size, self.stride)
        return range(self.skip + 1, min(self.steps, rows - 1) + 1)

    def _predictors(self) -> dict[str, Predictor]:
        net = Predictor(self.blocks, self.hidden, self.out, len(self._ahead()), self.backbone.dtype)
        return {f"predictor{i + 1}": net for i in range(self.directions)}

    def _gray(self, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(ops.gray(x), x.shape) if self.gray and x.shape[-1] == 3 else x

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        patches = grid(batch["view"], self.patch_size, self.stride)
        rows = side(self.view.size, self.patch_size, self.stride)
        z, _ = jax.eval_shape(lambda: self.backbone.init_with_output(rng, patches[0], train=True))
        params, stats = initialise({"backbone": self.backbone}, rng, patches[0])
        for i, (name, net) in enumerate(self._predictors().items()):
            key = jax.random.fold_in(rng, i + 1)
            more, none = initialise({name: net}, key, jnp.zeros((1, rows, rows, z.shape[-1])))
            params, stats = params | more, stats | none
        return params, {"stats": stats}

    def _patches(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """[n, H, W, C] to the augmented patches [n, T, h, h, C]."""
        draw, drop, channel = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(3))
        x = self._gray(render_patches(self.patch, draw, grid(images, self.patch_size, self.stride)))
        if self.colour_drop:
            count = x.shape[1]
            kept = jax.vmap(lambda k: jax.random.randint(k, (count,), 0, 3))(channel)
            dropped = jax.vmap(lambda k: jax.random.bernoulli(k, self.colour_drop, (count,)))(drop)
            others = jnp.arange(3) != kept[..., None]
            x = jnp.where((dropped[..., None] & others)[:, :, None, None], 0.0, x)
        return self._framed(x)

    def _frame(self) -> tuple[int, int]:
        """Pixels around a patch's crop, before and after it."""
        before, rest = divmod(self.patch_size - self.patch.size, 2)
        return before, before + rest

    def _framed(self, crops: jax.Array) -> jax.Array:
        """Crops [n, T, s, s, C] in patches of zeros [n, T, h, h, C]."""
        return jnp.pad(crops, ((0, 0), (0, 0), self._frame(), self._frame(), (0, 0)))

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        patches = self._patches(batch["view"], dist.example_keys(rng, batch["position"]))
        n, count = patches.shape[:2]
        x = patches.reshape(-1, *patches.shape[2:])
        z, stats = apply(self.backbone, "backbone", params, state["stats"], x, train=train)
        z = z.reshape(n, math.isqrt(count), -1, z.shape[-1])  # [n, R, C, D]
        terms = []
        for i, (name, net) in enumerate(self._predictors().items()):
            out, stats = apply(net, name, params, stats, turned(z, i), train=train)
            targets, predictions = out
            terms += [info_nce(p, targets, k, dist.AXIS) for p, k in zip(predictions, self._ahead(), strict=True)]
        loss, accuracy = jnp.stack([jnp.stack(term) for term in terms]).mean(0)
        features = jax.lax.stop_gradient(z.mean((1, 2)))
        metrics = {"prediction_accuracy": Metric(accuracy), "feature_spread": losses.spread(features, dist.AXIS)}
        return loss, ({"stats": stats}, Aux(metrics, features))

    def encode(self, variables, images, *, train=False, stage=None, frozen=0):
        """The map is the grid of the patches' vectors."""
        start, stop = self._frame()[0], self._frame()[0] + self.patch.size
        x = (images - jnp.array(self.patch.mean)) / jnp.array(self.patch.std)  # as each patch in training
        patches = grid(self._gray(x), self.patch_size, self.stride)
        patches = self._framed(patches[:, :, start:stop, start:stop])
        n, count = patches.shape[:2]
        x = patches.reshape(-1, *patches.shape[2:])
        encoded, variables = super().encode(variables, x, train=train, stage=stage, frozen=frozen)
        z = encoded.pooled.reshape(n, count, -1)
        rows = side(images.shape[1], self.patch_size, self.stride)
        return Encoded(z.mean(1), z.reshape(n, rows, -1, z.shape[-1])), variables

    def chance(self, info: Info) -> float:
        """Each of the patch vectors of the batch is as likely."""
        return math.log(info.batch_size * side(self.view.size, self.patch_size, self.stride) ** 2)
