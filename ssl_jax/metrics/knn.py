"""Weighted nearest-neighbour classification of frozen features.

The protocol of NPID (Wu et al. 2018, section 3.4), used as the standard monitor since MoCo: no training, no
choice of learning rate, so it measures the features and little else.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError

# Below this length a feature counts as zero and keeps similarity 0 to everything, rather than becoming NaN.
_TINY = 1e-12
# Differences of similarities divided by anything colder could be 0 / 0 in float32.
_COLDEST = 1e-30
_SIMILARITIES = 2**28  # in memory at a time: 1 GiB


def predict(
    bank: ArrayLike,
    bank_labels: ArrayLike,
    queries: ArrayLike,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.1,
    block: int = 1024,
) -> np.ndarray:
    """Predicts a class for each query by the weighted vote of its k nearest neighbours in the bank.

    Features are L2-normalised; a neighbour of cosine similarity s votes for its class with weight
    exp(s / temperature); the class with the largest sum wins.

    Ties: equally similar neighbours are ranked by position in the bank, earlier first, so that is also who
    gets the k-th place; of classes with equal sums the lowest class number wins. (Sums are float32: classes
    whose sums differ by less than its rounding may come out either way.)

    Args:
      bank: [N, D] features of the labelled images, extracted with the test transform.
      bank_labels: [N] integers in [0, num_classes), or -1 for unknown; entries with -1 take no part.
      queries: [M, D] features to classify. An image that is also in the bank finds itself.
      num_classes: number of classes; not read from the labels, as a class may be absent from them.
      k: number of neighbours.
      temperature: divisor of the similarities; towards 0 the vote becomes that of the nearest neighbour.
      block: most queries handled at a time; memory is block * (N + num_classes) floats. Fewer are where their
        similarities to the bank would take more than a GiB.

    Returns:
      [M] int32 classes.

    Raises:
      UserError: shapes or labels do not fit, the temperature is not positive, a feature is not finite, or
        the bank has fewer than k labelled entries.
    """
    bank, bank_labels, queries = np.asarray(bank), np.asarray(bank_labels), np.asarray(queries)
    _check(bank, bank_labels, queries, num_classes, k, temperature, block)
    known = bank_labels >= 0
    if not known.all():  # a copy, of what may be most of the memory
        bank, bank_labels = bank[known], bank_labels[known]
    if len(bank) < k:
        raise UserError(
            f"kNN with k={k} needs at least {k} labelled bank entries, but only {len(bank)} were "
            "given; lower k or label more images."
        )
    bank, bank_labels = _unit(bank), jnp.asarray(bank_labels, jnp.int32)
    block = max(1, min(block, len(queries), _SIMILARITIES // len(bank)))
    out = []
    with progress.counted(len(queries), "images"):
        for start in range(0, len(queries), block):
            part = queries[start : start + block]
            # The last block is padded to the size of the others, so that one compilation serves all.
            padded = np.pad(part, ((0, block - len(part)), (0, 0)))
            voted = _vote(bank, bank_labels, _unit(padded), temperature, num_classes=num_classes, k=k)
            out.append(np.asarray(voted)[: len(part)])
            progress.tick(len(part))
    return np.concatenate(out) if out else np.zeros(0, np.int32)


def top1(
    bank: ArrayLike,
    bank_labels: ArrayLike,
    queries: ArrayLike,
    query_labels: ArrayLike,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.1,
    block: int = 1024,
) -> float:
    """Returns the share of queries that `predict` gets right.

    Args:
      bank: see `predict`.
      bank_labels: see `predict`.
      queries: see `predict`.
      query_labels: [M] integers; queries with label -1 are left out of the count.
      num_classes: see `predict`.
      k: see `predict`.
      temperature: see `predict`.
      block: see `predict`.

    Returns:
      Accuracy in [0, 1].

    Raises:
      UserError: as `predict`, or if no query has a label.
    """
    queries, query_labels = np.asarray(queries), np.asarray(query_labels)
    if query_labels.shape != queries.shape[:1]:
        raise UserError(
            f"kNN got {len(queries)} queries but query labels of shape {query_labels.shape}; give "
            "one label for each query."
        )
    known = query_labels >= 0
    if not known.any():
        raise UserError("kNN accuracy needs labelled queries, but every query label is -1; label some images.")
    if not known.all():
        queries, query_labels = queries[known], query_labels[known]
    predicted = predict(bank, bank_labels, queries, num_classes=num_classes, k=k, temperature=temperature, block=block)
    return float(np.mean(predicted == query_labels))


def _check(bank, bank_labels, queries, num_classes, k, temperature, block) -> None:
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise UserError(
            f"kNN needs bank [N, D] and queries [M, D] of one width D, but got {bank.shape} and "
            f"{queries.shape}; flatten the features, and extract both with the same model."
        )
    if bank_labels.shape != bank.shape[:1]:
        raise UserError(
            f"kNN got {len(bank)} bank entries but bank labels of shape {bank_labels.shape}; give "
            "one label for each entry."
        )
    if len(bank_labels) and not -1 <= bank_labels.min() <= bank_labels.max() < num_classes:
        raise UserError(
            f"kNN bank labels lie in [{bank_labels.min()}, {bank_labels.max()}], outside "
            f"[-1, {num_classes}); set num_classes to the largest label plus one."
        )
    if k < 1 or block < 1 or not temperature > _COLDEST:
        raise UserError(f"kNN got k={k}, block={block}, temperature={temperature}; make all three positive.")
    if not (np.isfinite(bank).all() and np.isfinite(queries).all()):
        raise UserError("kNN features contain NaN or infinity; look at the model that extracted them.")


def _unit(x: np.ndarray) -> jax.Array:
    # Normalised in the input's own precision (at least float32), so that float16 lengths do not overflow.
    x = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    return jnp.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY), jnp.float32)


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def _vote(bank, bank_labels, queries, temperature, *, num_classes, k):
    similarity = jnp.matmul(queries, bank.T, precision="highest")  # [B, N]; TPUs would use bfloat16
    nearest, index = jax.lax.top_k(similarity, k)  # [B, k], ties: lower index first
    # A common factor does not change who wins, and with it the largest weight is 1: small temperatures
    # cannot overflow. (Not nearest[:, :1]: on a CPU, XLA would then sort all N instead, ten times slower.)
    weight = jnp.exp((nearest - nearest.max(axis=1, keepdims=True)) / temperature)
    votes = jax.vmap(lambda w, c: jnp.zeros(num_classes).at[c].add(w))(weight, bank_labels[index])
    return jnp.argmax(votes, axis=1).astype(jnp.int32)  # ties: lowest class
