"""Context prediction: where one patch of an image lies relative to another.

Doersch, Gupta, Efros 2015 (arXiv 1505.05192). Of two neighbouring patches of an image: where does the second lie, seen
from the first? Follows the authors' train.py (cdoersch/deepcontext): gaps and jitter between patches, so that no edge
runs on from one into the other (on ImageNet, where gap and jitter are Kolesnikov et al.'s, patches may touch); two of
three colours replaced by noise, so that the colour fringes of a lens do not tell where a patch was (there: two of three
images grey); some patches shrunk and enlarged; less its mean and by its root mean square. Decisions:

- an image gives one grid of 3 x 3 patches, whose centre is paired with its 8 neighbours (as Kolesnikov et al. 2019,
  arXiv 1901.09005, on ResNets, who have the centre always first), in both orders as the authors, who pair all
  neighbours in larger grids;
- any backbone replaces their tower, with the last features in place of fc6; fc7 and fc8 both have BatchNorm, with
  scale and offset (theirs has neither in the tower, for fear of features that die early);
- the loss is the mean over pairs, theirs the sum; their factor 50 on the patches is left to the first BatchNorm;
- BatchNorm's statistics are of the patches of all images of a group of the batch; groups of few images, with which a
  patch would know of the others of its image, are refused;
- the mean is taken off every channel of a patch, also where all are kept (theirs: off the one that is);
- features are of whole images in colour, normalised as patches are.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.patches import check_mixed, check_size, cut, grid, sometimes_shrunk
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import OrZero
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

CENTRE = 4  # of the 3 x 3 patches, row by row
NEIGHBOURS = np.delete(np.arange(9), CENTRE)
# Label k of the neighbour seen from the centre: upper left, above, upper right, left, right, lower left, ... The other
# way round it is 7 - k.
FIRST = np.concatenate([np.full(8, CENTRE), NEIGHBOURS])
SECOND = np.concatenate([NEIGHBOURS, np.full(8, CENTRE)])
LABELS = np.concatenate([np.arange(8), 7 - np.arange(8)])
NAMES = ("upper left", "above", "upper right", "left", "right", "lower left", "below", "lower right")

# In [0, 1] less a mean; three patches of 96, two gaps of 48 and the jitter.
VIEW = View(size=398, area=(0.33, 1.0), ratio=(1.0, 1.0), order=("crop",), mean=(0.449,), std=(1.0,))


def one_colour(keys: jax.Array, patches: jax.Array) -> jax.Array:
    """Keeps one random channel of every patch [B, T, h, h, 3], and in the others leaves noise.

    The noise is uniform over one of the 256 steps of a pixel, and patches are in [0, 1] or differences of such.
    """

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        which, noise = jax.random.split(key)
        kept = jax.random.randint(which, (len(x), 1, 1, 1), 0, 3) == jnp.arange(3)
        return jnp.where(kept, x, jax.random.uniform(noise, x.shape, minval=-0.5, maxval=0.5) / 255)

    return jax.vmap(one)(keys, patches)


def centred(images: jax.Array) -> jax.Array:
    """Images [..., H, W, C] less the mean of each of their channels."""
    return images - images.mean((-3, -2), keepdims=True)


def unit_power(images: jax.Array) -> jax.Array:
    """Divides images [..., H, W, C] by their root mean square."""
    return images * jax.lax.rsqrt(jnp.mean(jnp.square(images), (-3, -2, -1), keepdims=True) + 1e-6)


@dataclasses.dataclass(frozen=True)
class ContextPrediction(Method):
    """Eight-way classification of a neighbour's place."""

    view: View = VIEW  # what patches are cut from; the authors resize to 150,000 to 450,000 pixels
    patch: int = 96  # side, pixels, sec. 3
    gap: OrZero = 48  # between patches without jitter, pixels, sec. 3.1
    jitter: OrZero = 14  # places along a side that a patch may move: +-7 pixels, sec. 3.1
    drop_colours: bool = True  # keep one, noise for the others (sec. 3.1, "color dropping")
    shrink: float = 0.33  # probability that a patch is shrunk and enlarged, train.py
    smallest: OrZero = 10  # side of a shrunk patch at least, pixels, sec. 3.2
    hidden: tuple[int, ...] = (4096, 4096)  # fc7 and fc8, fig. 3

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        check_size(height, width, 3)
        needed = 3 * self.patch + 2 * self.gap + self.jitter
        if self.patch < 2 or not 0 <= self.jitter <= self.gap or self.view.size < needed:
            raise UserError(
                f"config.method.view.size is {self.view.size}, but 3 patches of {self.patch} pixels, 2 gaps of "
                f"{self.gap} and a jitter of {self.jitter} need {needed} (patch at least 2, jitter at most the gap, "
                "else patches overlap): change view.size, patch, gap or jitter."
            )
        if self.shrink and not 0 < self.smallest < self.patch:
            raise UserError(
                f"config.method.smallest is {self.smallest}: a shrunk patch has at least 1 pixel and fewer than "
                f"config.method.patch={self.patch}; change it, or set config.method.shrink to 0."
            )
        if channels != 3 and self.drop_colours:
            raise UserError(
                f"config.method.drop_colours has no meaning on images of {channels} channel(s): set it to False."
            )

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        check_mixed(self.backbone, info.batch_size)
        body, head = jax.random.split(rng)
        patch = batch["view"][:, : self.patch, : self.patch]
        h = jax.eval_shape(lambda: self.backbone.init_with_output(body, patch, train=True)[0])
        params, stats = initialise({"backbone": self.backbone}, body, patch)
        more, none = initialise({"pair": self._head()}, head, jnp.zeros((1, 2 * h.shape[-1])))
        return params | more, {"stats": stats | none}

    def _head(self) -> MLP:
        return MLP(self.hidden, 8, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def _patches(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """[n, S, S, C] to the nine patches [n, 9, p, p, C] as the network sees them."""
        place, shrink, colour = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(3))
        needed = 3 * self.patch + 2 * self.gap + self.jitter
        cells = grid(images[:, :needed, :needed], self.patch + self.jitter, self.patch + self.gap)
        x = cut(place, cells, self.patch)
        if self.shrink:
            x = sometimes_shrunk(shrink, x, self.shrink, self.smallest)
        x = centred(x)
        if self.drop_colours:
            x = one_colour(colour, x)
        return unit_power(x)

    def _predict(self, params, stats, patches, *, train):
        """Patches [n, 9, p, p, C] to logits [n, 16, 8] of the pairs, and the patches' features [n, 9, D]."""
        n, count = patches.shape[:2]
        x = patches.reshape(-1, *patches.shape[2:])
        h, stats = apply(self.backbone, "backbone", params, stats, x, train=train)
        h = h.reshape(n, count, -1)
        pairs = jnp.concatenate([h[:, FIRST], h[:, SECOND]], -1).reshape(n * len(LABELS), -1)
        logits, stats = apply(self._head(), "pair", params, stats, pairs, train=train)
        return logits.astype(jnp.float32).reshape(n, len(LABELS), 8), h, stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        patches = self._patches(batch["view"], dist.example_keys(rng, batch["position"]))
        logits, h, stats = self._predict(params, state["stats"], patches, train=train)
        logits, labels = logits.reshape(-1, 8), jnp.tile(LABELS, len(patches))
        top1 = losses.accuracy(logits, labels)
        metrics = {"neighbour_top1": Metric(top1, 1 / 8)}
        aux = Aux(metrics, jax.lax.stop_gradient(h.mean(1)))
        return losses.cross_entropy(logits, labels), ({"stats": stats}, aux)

    def encode(self, variables, images, **options):
        return super().encode(variables, unit_power(centred(images)), **options)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """A patch and one of its neighbours, row by row another one, at its place and where the network puts it."""
        rows = range(min(8, len(batch["view"])))
        keys = dist.example_keys(rng, batch["position"][: len(rows)])
        patches = self._patches(batch["view"][: len(rows)], keys)
        logits, _, _ = self._predict(params, state["stats"], patches, train=False)
        shown = np.clip(np.asarray(patches) / 5 + 0.5, 0, 1)
        answers = [int(np.argmax(logits[i, i])) for i in rows]
        images = [
            [_laid_out(shown[i, CENTRE], shown[i, NEIGHBOURS[i]], place) for place in (i, answers[i])] for i in rows
        ]
        captions = tuple((NAMES[i], f"network: {NAMES[answers[i]]}") for i in rows)
        title = "Patches as the network sees them, where they lie and where it puts the second"
        return [Picture(title, ("place", "answer"), np.array(images), captions)]

    def chance(self, info: Info) -> float:
        """Ln 8."""
        return math.log(8)


def _laid_out(centre: np.ndarray, neighbour: np.ndarray, label: int) -> np.ndarray:
    """Both patches on a white 3 x 3 board."""
    p, gap = len(centre), max(1, len(centre) // 8)
    board = np.ones((3 * p + 2 * gap, 3 * p + 2 * gap, centre.shape[-1]))
    for patch, cell in ((centre, CENTRE), (neighbour, NEIGHBOURS[label])):
        y, x = (p + gap) * (cell // 3), (p + gap) * (cell % 3)
        board[y : y + p, x : x + p] = patch
    return board
