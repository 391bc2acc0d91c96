"""Losses that several methods share. Each is usable without the rest of the package."""

import jax
import jax.numpy as jnp
import optax


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Divides rows [..., D] by their length, in float32 or wider; shorter than `epsilon` counts as `epsilon`."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), epsilon**2))


def spread(z: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Mean over channels of the standard deviation over the batch of normalised embeddings, without gradient.

    About 1 / sqrt(D) when healthy, 0 when collapsed (SimSiam, sec. 4.1).

    Args:
      z: embeddings [N, D].
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.
    """
    u = l2_normalize(jax.lax.stop_gradient(z))
    moments = jnp.stack([u.mean(0), jnp.square(u).mean(0)])
    if axis_name is not None:
        moments = jax.lax.pmean(moments, axis_name)
    return jnp.sqrt(jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)).mean()


def reverse_gradient(x: jax.Array, weight: float | jax.Array) -> jax.Array:
    """`x` itself, whose gradient comes back times `-weight` (the gradient reversal layer of Ganin & Lempitsky 2015)."""
    still = jax.lax.stop_gradient(x)
    return still - weight * (x - still)


def similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Inner products [N, M] of rows [N, D] and [M, D] at full precision (the TPU's default is bfloat16)."""
    return jnp.matmul(x, y.T, precision="highest")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy (natural log) of logits [N, K] and integer labels [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of rows whose largest logit [N, K] is at the label [N]."""
    return jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)


def mean_where(values: jax.Array, counted: jax.Array, axis_name: str | None = None) -> jax.Array:
    """This replica's share of a mean over what counts in the global batch: the mean over the replicas is that mean.

    Args:
      values: on this replica, of any shape.
      counted: bool of the same shape; 0 is returned where nothing counts anywhere.
      axis_name: mapped axis that the batch is spread over, or None.
    """
    count = counted.sum().astype(values.dtype)
    if axis_name is not None:
        count = jax.lax.pmean(count, axis_name)
    return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(count, 1e-9)


def guess_accuracy(labels: jax.Array, positions: jax.Array, count: int, axis_name: str | None = None) -> jax.Array:
    """Accuracy of an answer by chance: the label that is most frequent in the other half of the batch.

    The most frequent one of the same rows would look better than a guess can be, the more so the fewer rows there are.

    Args:
      labels: 0 to `count` - 1, or -1 for unknown, [n, ...].
      positions: of the rows in the global batch [n]; the halves are the even ones and the odd ones.
      count: K, labels that there are.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      the share of known labels that are so guessed; 0 without any.
    """
    half = jnp.broadcast_to(positions.reshape(-1, *[1] * (labels.ndim - 1)) % 2, labels.shape)
    where = jnp.where(labels < 0, count, labels)  # negative numbers would count from the end
    counts = jnp.zeros((2, count)).at[half, where].add(1.0, mode="drop")
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    found = counts[0, counts[1].argmax()] + counts[1, counts[0].argmax()]
    return found / jnp.maximum(counts.sum(), 1.0)


def in_batch_softmax(
    x: jax.Array, candidates: jax.Array, own: jax.Array, *, temperature: float = 1.0, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy of telling each row's own candidate from those of the batch, by inner products.

    The gather is differentiable, so that averaging over the replicas gives the gradient of the global loss.

    Args:
      x: rows [n, D].
      candidates: [m, D], of this replica.
      own: row number [n] in this replica's candidates.
      temperature: divides the inner products.
      axis_name: mapped axis over which candidates are gathered; None for this replica's alone.

    Returns:
      mean over rows in nats, and the share of rows whose own candidate scores highest.
    """
    if axis_name is not None:
        own = own + jax.lax.axis_index(axis_name) * len(candidates)
        candidates = jax.lax.all_gather(candidates, axis_name, tiled=True)

    @jax.checkpoint  # [n, M] logits are made again sooner than kept while the backbone needs the memory
    def compare(x, candidates):
        logits = similarity(x, candidates) / temperature
        return cross_entropy(logits, own), accuracy(logits, own)

    return compare(x, candidates)


def koleo(x: jax.Array, positions: jax.Array, group: int, axis_name: str | None = None) -> jax.Array:
    """Kozachenko-Leonenko estimate of minus the entropy: rows are pushed from their nearest neighbour (DINOv2).

    Neighbours are among the images of the same group of the global batch, so that the value does not depend on the
    number of devices; the authors take the images of the same device. A row that is alone in its group, or nearer than
    1e-5 to its neighbour (the same image twice), counts as 0: there the gradient would be of the order of 1e6.

    Args:
      x: rows [n, D] of one crop of each image; the gradient goes through a row and its neighbour.
      positions: of the images in the global batch [n].
      group: images a group.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      the mean over this replica's rows.
    """
    u = l2_normalize(x, 1e-8)
    others, places = u, positions
    if axis_name is not None:
        others = jax.lax.all_gather(u, axis_name, tiled=True)
        places = jax.lax.all_gather(positions, axis_name, tiled=True)
    near = (positions[:, None] // group == places // group) & (positions[:, None] != places)
    cosines = jnp.where(near, jax.lax.stop_gradient(similarity(u, others)), -jnp.inf)
    square = jnp.sum(jnp.square(u - others[jnp.argmax(cosines, 1)] + 1e-8), -1)
    counted = near.any(1) & (square > 1e-10)
    return -jnp.where(counted, jnp.log(jnp.sqrt(jnp.where(counted, square, 1.0)) + 1e-8), 0.0).mean()


def coding_rate(
    x: jax.Array, positions: jax.Array, epsilon: float, groups: int = 1, axis_name: str | None = None
) -> jax.Array:
    """Rate-distortion of rows: large where they spread over all directions (SimDINO's expansion, with its gamma).

    gamma / 2 logdet(I + p / (N epsilon) F^T F), with gamma = (p + N) / (p N).

    Args:
      x: F, this replica's rows [n, p] of the N of the global batch.
      positions: of the rows in the global batch [n].
      epsilon: squared distortion.
      groups: the batch is split into so many parts, each with a covariance of its own, scaled as if it were of all
        rows; the authors' code has one a device unless `reduce_cov` is set.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      the mean over groups, the same on all replicas.
    """
    rows, width = len(x) * (1 if axis_name is None else jax.lax.axis_size(axis_name)), x.shape[1]
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    part = jax.nn.one_hot(positions * groups // rows, groups, dtype=x.dtype)
    products = jnp.einsum("ng,np,nq->gpq", part, x, x, precision="highest")
    if axis_name is not None:
        products = jax.lax.psum(products, axis_name)
    factor = jnp.linalg.cholesky(jnp.eye(width, dtype=x.dtype) + width / (rows * epsilon) * products)
    logs = jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(-1)
    return (width + rows) / (width * rows) * logs.mean()
