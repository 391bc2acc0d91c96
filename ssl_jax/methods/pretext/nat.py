"""NAT: noise as targets. Every image is told one fixed random vector, and which one it is told follows the features.

Bojanowski, Joulin 2017 (arXiv 1704.05310). Follows the authors' code (facebookresearch/noise-as-targets, main.lua):
as many random directions as images, one each; the loss is the squared distance of the normalised embedding from the
image's target; in every third epoch the targets of a batch are first given anew to its images, so that they are as
near as they can be (the Hungarian algorithm), and stay so. Decisions:

- the loss is the mean over the images, theirs the sum over the batch: `learning_rate` is theirs times their batch;
- a target is drawn from the number that names it, not stored: 2,048 numbers for each image of ImageNet are 10 GB;
- the assignment is exact, as theirs, and of the global batch, whatever the number of devices;
- images keep their colours, where theirs are two Sobel channels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Several
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise


def assignment(cost: jax.Array) -> jax.Array:
    """The column of each row, each column once, for which the sum of the costs is least.

    Rows are added one by one; each takes the cheapest way by which rows before it can move (shortest augmenting paths
    with potentials: Jonker, Volgenant 1987). Exact up to rounding; n^3 operations, of which n at a time are parallel.

    Args:
      cost: [n, n].

    Returns:
      int32 [n].
    """
    n = len(cost)
    # Column 0 holds the row that is being added; rows and columns count from 1.
    padded = jnp.pad(cost, ((1, 0), (1, 0)))
    columns = jnp.arange(n + 1, dtype=jnp.int32)

    def add(row, known):
        rows_of, u, v = known
        rows_of = rows_of.at[0].set(row)

        def look(search):
            at, used, least, way, u, v = search
            used = used.at[at].set(True)
            free = ~used
            reduced = padded[rows_of[at]] - u[rows_of[at]] - v
            better = free & (reduced < least)
            least, way = jnp.where(better, reduced, least), jnp.where(better, at, way)
            nearest = jnp.argmin(jnp.where(free, least, jnp.inf)).astype(jnp.int32)
            step = least[nearest]
            u = u.at[rows_of].add(jnp.where(used, step, 0.0))
            v = v - jnp.where(used, step, 0.0)
            return nearest, used, jnp.where(free, least - step, least), way, u, v

        none = jnp.zeros_like(columns, bool)
        start = (jnp.zeros((), jnp.int32), none, jnp.full_like(v, jnp.inf), jnp.zeros_like(columns), u, v)
        at, _, _, way, u, v = jax.lax.while_loop(lambda search: rows_of[search[0]] != 0, look, start)

        def move(state):
            at, rows_of = state
            return way[at], rows_of.at[at].set(rows_of[way[at]])

        _, rows_of = jax.lax.while_loop(lambda state: state[0] != 0, move, (at, rows_of))
        return rows_of, u, v

    zeros = jnp.zeros(n + 1, cost.dtype)
    rows_of, _, _ = jax.lax.fori_loop(1, n + 1, add, (jnp.zeros(n + 1, jnp.int32), zeros, zeros))
    return jnp.zeros(n, jnp.int32).at[rows_of[1:] - 1].set(jnp.arange(n, dtype=jnp.int32))


def directions(key: jax.Array, numbers: jax.Array, width: int) -> jax.Array:
    """Random vectors of length one [n, width], each a function of its number [n]."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return losses.l2_normalize(jax.vmap(lambda k: jax.random.normal(k, (width,)))(keys))


def squared_distance(z: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared distances of embeddings from their targets, both [n, D] of length one: the mean over rows."""
    return jnp.mean(jnp.sum(jnp.square(z - targets), -1))


@dataclasses.dataclass(frozen=True)
class NAT(Method):
    """Noise as targets."""

    needs = frozenset({"index"})

    view: View = recipes.ROTNET  # sec. 4: random crops and flips
    hidden: tuple[int, ...] = (4096, 4096)  # of the projector, main.lua
    out: Several = 2048  # width D of targets, sec. 4
    every: int = 3  # epochs from one in which targets are assigned anew to the next, sec. 4

    def _head(self) -> MLP:
        return MLP(self.hidden, self.out, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        weights, noise = jax.random.split(rng)
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, weights, batch["view"])
        return params, {
            "stats": stats,
            "noise": jax.random.key_data(noise),
            "target": jnp.arange(info.num_examples, dtype=jnp.int32),  # each image's number of its target
        }

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        h, stats = apply(self.backbone, "backbone", params, state["stats"], batch["view"], train=train)
        z, stats = apply(self._head(), "projector", params, stats, h, train=train)
        z, key = losses.l2_normalize(z), jax.random.wrap_key_data(state["noise"])
        target, images = state["target"], dist.gather(batch["index"])

        def again(all_z):
            held = target[images]
            # Nearest in total is largest in total of the cosines.
            return held[assignment(-losses.similarity(all_z, directions(key, held, self.out)))]

        held = jax.lax.cond(
            (step // info.steps_per_epoch) % self.every == 0, again, lambda _: target[images], dist.gather(z)
        )
        target = target.at[images].set(held)
        goals = directions(key, target[batch["index"]], self.out)
        loss = squared_distance(z, jax.lax.stop_gradient(goals))
        metrics = {
            "targets_moved": Metric(jnp.mean(held != state["target"][images], dtype=jnp.float32), kind="value"),
            "projection_std": Metric(losses.spread(z, dist.AXIS), kind="std"),
        }
        return loss, ({**state, "stats": stats, "target": target}, Aux(metrics, jax.lax.stop_gradient(h)))

    def chance(self, info: Info) -> float:
        """Embeddings at right angles to their targets, as those of an untrained network are on average."""
        del info
        return 2.0
