"""k-means of a bank of rows, on the devices that they lie on."""

import functools

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.methods.shared.memory_bank import BLOCK

SPLIT = 1 / 1024  # by which the halves of a cluster are moved apart, a share of its centroid (faiss, Clustering.cpp)


@functools.partial(jax.jit, static_argnames=("count", "clusters", "iterations", "spherical"))
def kmeans(
    x: jax.Array, rng: jax.Array, *, count: int, clusters: int, iterations: int, spherical: bool
) -> tuple[jax.Array, jax.Array]:
    """Clusters rows, from centroids that are rows drawn at random.

    Rows are taken `BLOCK` at a time, a part from each device that they lie on; sums are products with one-hot
    matrices, which are added in a fixed order on every device, as a scatter would not be on a GPU.

    Args:
      x: rows [M, D], M a multiple of `BLOCK`; of length one if `spherical`.
      rng: a key, for the rows that the centroids start from.
      count: the first rows, which are clustered; the rest is padding.
      clusters: K, at most `count`.
      iterations: of moving the centroids.
      spherical: rows are compared by cosine, a centroid is the direction of its rows' sum, and a cluster that loses
        all its rows keeps it (`cluster_memory` of DeepCluster-v2). Else rows are compared by Euclidean distance, a
        centroid is its rows' mean, and a cluster without rows takes half of the largest one (as `split` does).

    Returns:
      centroids [K, D], and the nearest centroid's number for each row, int32 [count].
    """
    real = jnp.arange(len(x)) < count
    x_blocks, real_blocks = (a.reshape(BLOCK, -1, *a.shape[1:]).swapaxes(0, 1) for a in (x, real))

    def nearest(centroids, block):  # [BLOCK, D] -> [BLOCK]
        scores = losses.similarity(block, centroids)
        if not spherical:
            scores -= jnp.sum(jnp.square(centroids), -1) / 2
        return jnp.argmax(scores, -1).astype(jnp.int32)

    def move(_, centroids):
        def add(totals, block):
            rows, real = block
            members = jax.nn.one_hot(nearest(centroids, rows), clusters, axis=0, dtype=x.dtype) * real  # [K, BLOCK]
            counted = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], 1)  # its sum is the number of rows
            return totals + jnp.matmul(members, counted, precision="highest"), None

        zeros = jnp.zeros((clusters, x.shape[1] + 1), x.dtype)
        totals, _ = jax.lax.scan(add, zeros, (x_blocks, real_blocks))
        sums, counts = totals[:, :-1], totals[:, -1:]
        if spherical:
            return jnp.where(counts > 0, losses.l2_normalize(sums), centroids)
        return split(sums / jnp.maximum(counts, 1), counts[:, 0])

    first = x[jax.random.permutation(rng, count)[:clusters]]
    centroids = jax.lax.fori_loop(0, iterations, move, first)
    assignments = jax.lax.map(lambda block: nearest(centroids, block), x_blocks)
    return centroids, assignments.swapaxes(0, 1).reshape(-1)[:count]


def split(centroids: jax.Array, counts: jax.Array) -> jax.Array:
    """Gives each cluster without rows half of the largest one; of equal ones, the first.

    Both centroids are moved by `SPLIT`, in opposite directions that change sign from one number to the next. (faiss
    draws the cluster that is split, the likelier the larger it is.)

    Args:
      centroids: [K, D]; those of empty clusters are without meaning.
      counts: rows of each [K], as numbers with a fraction.

    Returns:
      [K, D].
    """
    shift = jnp.where(jnp.arange(centroids.shape[1]) % 2 == 0, SPLIT, -SPLIT).astype(centroids.dtype)

    def one(k, known):
        centroids, counts = known
        largest, empty = jnp.argmax(counts), counts[k] == 0
        half = jnp.where(empty, jnp.floor(counts[largest] / 2), 0.0)
        mine = jnp.where(empty, centroids[largest] * (1 + shift), centroids[k])
        other = jnp.where(empty, centroids[largest] * (1 - shift), centroids[largest])
        return centroids.at[largest].set(other).at[k].set(mine), counts.at[largest].add(-half).at[k].add(half)

    return jax.lax.fori_loop(0, len(centroids), one, (centroids, counts))[0]
