"""Jigsaw: the permutation of an image's shuffled tiles is predicted.

Noroozi, Favaro 2016 (arXiv 1603.09246). Nine tiles of an image in a shuffled order: which of P permutations is it?
Follows the authors' code (MehdiNoroozi/JigsawPuzzleSolver) against the shortcuts: a tile lies anywhere in its cell, so
that edges do not run on; it is normalised on its own, channel by channel, so that brightness does not; its colours are
cut some pixels apart, and some images are grey, so that the fringes of a lens do not. Decisions:

- P permutations far from each other are chosen greedily, as theirs, but by no chance: from the identity on, always
  the first in dictionary order of those whose nearest chosen one is furthest, and of these furthest on average;
- the number of outputs is the number of permutations (their prototxt has 1000 for 100);
- any backbone replaces their tower, with `tile_width` and `hidden` for fc6 and fc7, BatchNorm for dropout in fc7,
  and no dropout in fc6;
- a tile does not know its place, so tiles are encoded once and their features shuffled, `orders` times an image;
- BatchNorm's statistics are of the tiles of all images of a group of the batch; groups of few images, with which a
  tile would know of the others of its image, are refused;
- features are of whole images, each normalised on its own as tiles are.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.patches import check_mixed, check_size, cut, grid
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import OrZero, Several
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

# Values in [0, 1]: a tile is normalised on its own. The share of grey images is the paper's 30 %.
VIEW = View(size=255, crop="shift", pad=0, gray=0.3, order=("crop", "gray"), mean=(0.0,), std=(1.0,))


@functools.cache
def permutations(count: int, tiles: int) -> np.ndarray:
    """Chooses permutations that differ in as many places as possible (sec. 3.3, Algorithm 1).

    Args:
      count: P, at most the factorial of `tiles`.
      tiles: length of a permutation, at most 9.

    Returns:
      [P, tiles], the identity first; entry i of a permutation is the tile that comes at place i.
    """
    every = np.array(list(itertools.permutations(range(tiles))), np.uint8).T.copy()  # [tiles, all], quicker to compare
    nearest, total = np.full(every.shape[1], tiles, np.int64), np.zeros(every.shape[1], np.int64)
    chosen, least = [0], tiles
    for _ in range(count - 1):
        distance = (every != every[:, chosen[-1], None]).sum(0, dtype=np.uint8)
        nearest, total = np.minimum(nearest, distance), total + distance
        chosen.append(int(np.argmax(nearest * (tiles * count + 1) + total)))
        least = min(least, int(nearest[chosen[-1]]))  # it can only fall
    result = every[:, chosen].T.astype(np.int64)
    if least < 2:
        raise ValueError(f"{count} permutations of {tiles} tiles are not all different")
    apart = (result[:, None] != result).sum(-1, dtype=np.uint8)
    if apart[~np.eye(count, dtype=bool)].min(initial=tiles) != least:
        raise AssertionError(f"permutations that should be {least} places apart are not")
    return result


def normalised(images: jax.Array) -> jax.Array:
    """Each channel of each image [..., H, W, C] in [0, 1] less its mean and over its standard deviation."""
    centred = images - images.mean((-3, -2), keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean((-3, -2), keepdims=True) + 1e-4)


@dataclasses.dataclass(frozen=True)
class Jigsaw(Method):
    """Classification of the permutation in which tiles come."""

    view: View = VIEW  # what tiles are cut from, sec. 4
    grid: int = 3  # cells along a side, sec. 3.3
    tile: int = 64  # side, pixels, out of a cell of 85, sec. 3.3
    aberration: OrZero = 2  # pixels by which colours are cut apart at most, the authors' code
    permutations: Several = 100  # P, the authors' file; the paper's best is 1000
    orders: int = 1  # shuffled orders of each image in a batch
    tile_width: int = 1024  # of a tile's vector (fc6), fig. 3
    tile_norm: bool = False  # BatchNorm before that vector's ReLU (VISSL's ResNet-50)
    hidden: tuple[int, ...] = (4096,)  # widths between all tiles' vectors and the answer (fc7), fig. 3

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.grid not in (2, 3):
            raise UserError(f"config.method.grid is {self.grid}: use 2 or 3 tiles along a side.")
        check_size(height, width, self.grid)
        cell = self.view.size // self.grid
        if self.tile < 2 or self.tile + self.aberration > cell:
            raise UserError(
                f"config.method.tile is {self.tile}, and with an aberration of {self.aberration} does not fit the "
                f"{cell} pixels of a cell (config.method.view.size / grid): use 2 to {cell - self.aberration}."
            )
        most = math.factorial(self.grid**2)
        if not 2 <= self.permutations <= most or self.orders < 1:
            raise UserError(
                f"config.method.permutations is {self.permutations} and orders {self.orders}: use 2 to {most} and at "
                "least 1."
            )

    def _heads(self) -> dict[str, MLP]:
        options = {"bn_groups": self.backbone.bn_groups, "dtype": self.backbone.dtype}
        norm = "affine" if self.tile_norm else "none"
        return {
            "tile": MLP((), self.tile_width, out_bias=not self.tile_norm, out_norm=norm, **options),
            "puzzle": MLP(self.hidden, self.permutations, **options),
        }

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        check_mixed(self.backbone, info.batch_size)
        body, head = jax.random.split(rng)
        heads = self._heads()
        tile = batch["view"][:, : self.tile, : self.tile]
        params, stats = initialise({"backbone": self.backbone, "tile": heads["tile"]}, body, tile)
        puzzle = jnp.zeros((1, self.grid**2 * self.tile_width))
        more, none = initialise({"puzzle": heads["puzzle"]}, head, puzzle)
        return params | more, {"stats": stats | none}

    def _puzzles(self, images: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[n, S, S, C] to tiles [n, T, h, h, C] in their own order, and K permutations [n, K] for them."""
        place, order = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
        cell = self.view.size // self.grid
        cells = grid(images[:, : cell * self.grid, : cell * self.grid], cell, cell)
        tiles = normalised(cut(place, cells, self.tile, self.aberration))
        draw = jax.vmap(lambda key: jax.random.randint(key, (self.orders,), 0, self.permutations))
        return tiles, draw(order)

    def _solve(self, params, stats, tiles, orders, *, train):
        """Tiles [n, T, h, h, C] in orders [n, K] to logits [n, K, P], and the tiles' features [n, T, D]."""
        heads, (n, count) = self._heads(), tiles.shape[:2]
        x = tiles.reshape(-1, *tiles.shape[2:])
        h, stats = apply(self.backbone, "backbone", params, stats, x, train=train)
        z, stats = apply(heads["tile"], "tile", params, stats, h, train=train)
        z = jax.nn.relu(z).reshape(n, count, -1)
        places = jnp.asarray(permutations(self.permutations, count))[orders]  # [n, K, T]
        shuffled = jax.vmap(lambda vectors, order: vectors[order])(z, places)
        x = shuffled.reshape(n * self.orders, -1)
        logits, stats = apply(heads["puzzle"], "puzzle", params, stats, x, train=train)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return logits.reshape(n, self.orders, -1), h.reshape(n, count, -1), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        tiles, orders = self._puzzles(batch["view"], dist.example_keys(rng, batch["position"]))
        logits, h, stats = self._solve(params, state["stats"], tiles, orders, train=train)
        logits, labels = logits.reshape(-1, self.permutations), orders.reshape(-1)
        top1 = losses.accuracy(logits, labels)
        metrics = {"jigsaw_top1": Metric(top1, 1 / self.permutations)}
        aux = Aux(metrics, jax.lax.stop_gradient(h.mean(1)))
        return losses.cross_entropy(logits, labels), ({"stats": stats}, aux)

    def encode(self, variables, images, **options):
        return super().encode(variables, normalised(images), **options)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Puzzles as the network sees them, as it solves them, and solved."""
        images, keys = batch["view"][:8], dist.example_keys(rng, batch["position"][:8])
        tiles, orders = self._puzzles(images, keys)
        logits, _, _ = self._solve(params, state["stats"], tiles, orders, train=False)
        table = permutations(self.permutations, self.grid**2)
        truth, answers = np.asarray(orders)[:, 0], np.argmax(logits[:, 0], -1)
        shown = np.clip(np.asarray(tiles) / 5 + 0.5, 0, 1)
        rows, captions = [], []
        for own, true, answer in zip(shown, truth, answers, strict=True):
            puzzle = own[table[true]]
            solved = puzzle[np.argsort(table[answer])]
            rows.append([_board(x, self.grid) for x in (puzzle, solved, own)])
            captions.append(("", f"{(table[true] == table[answer]).sum()} of {self.grid**2} tiles right", ""))
        title = "Puzzles as the network sees them, put back by its answer, and solved"
        return [Picture(title, ("puzzle", "answer", "solution"), np.array(rows), tuple(captions))]

    def chance(self, info: Info) -> float:
        """Ln P."""
        return math.log(self.permutations)


def _board(tiles: np.ndarray, side: int) -> np.ndarray:
    """Tiles [T, h, h, C] side by side with a white pixel around each."""
    framed = np.pad(tiles, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
    height = framed.shape[1]
    return framed.reshape(side, side, height, height, -1).swapaxes(1, 2).reshape(side * height, side * height, -1)
