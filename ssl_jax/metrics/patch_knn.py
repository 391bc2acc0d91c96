"""Segmentation without training: patches take the pixel labels of the training patches most like them (CAPI)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.metrics.segmentation import IGNORE

NEIGHBOURS = (1, 3, 10, 30)
DISTANCES = ("cosine", "l2")
_BLOCK = 256  # queries at a time


class Bank(NamedTuple):
    """Patches whose pixels are known."""

    features: np.ndarray  # [n, D]
    labels: np.ndarray  # uint8 [n, p]


def patch_labels(masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The pixels [N, h * w, p] of each patch of masks [N, H, W] under a map of h x w places.

    Args:
      masks: H and W are multiples of the grid's.
      grid: h and w.
    """
    n, height, width = masks.shape
    h, w = grid
    cut = masks.reshape(n, h, height // h, w, width // w).transpose(0, 1, 3, 2, 4)
    return cut.reshape(n, h * w, -1)


def whole(labels: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Masks [N, H, W] of the pixels [N, h * w, p] of patches."""
    (h, w), (height, width) = grid, size
    cut = labels.reshape(-1, h, w, height // h, width // w).transpose(0, 1, 3, 2, 4)
    return cut.reshape(-1, height, width)


def bank(maps: np.ndarray, masks: np.ndarray, limit: int, seed: int) -> Bank:
    """Patches of training images; those of which most pixels are of no class are left out.

    Args:
      maps: [N, h, w, D].
      masks: uint8 [N, H, W], `IGNORE` where a pixel is of no class.
      limit: most patches, drawn at random.
      seed: of the draw.
    """
    labels = patch_labels(masks, maps.shape[1:3]).reshape(len(masks) * maps.shape[1] * maps.shape[2], -1)
    rows = np.flatnonzero((labels == IGNORE).mean(1) < 0.5)
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:limit])
    return Bank(maps.reshape(-1, maps.shape[-1])[rows], labels[rows])


def segmented(bank: Bank, queries: np.ndarray, classes: int, distance: str, ks: tuple[int, ...]) -> list[np.ndarray]:
    """Pixels uint8 [m, p] of query patches: of each the most frequent label among the k nearest, one array a k.

    Args:
      bank: of known patches.
      queries: [m, D].
      classes: C; of equally frequent ones the first is taken.
      distance: one of `DISTANCES`.
      ks: numbers of neighbours.
    """
    known = np.asarray(bank.features, np.float32)
    if distance == "cosine":
        known, queries = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (known, queries))
    most = min(max(ks), len(known))
    offset = np.zeros(len(known)) if distance == "cosine" else np.square(known).sum(1) / 2

    @jax.jit
    def answer(x: jax.Array) -> list[jax.Array]:
        like = jnp.matmul(x, known.T, precision="highest") - offset  # falls with the distance
        votes = jax.nn.one_hot(jnp.asarray(bank.labels)[jax.lax.top_k(like, most)[1]], classes, dtype=jnp.int8)
        counts = jnp.cumsum(votes, 1, dtype=jnp.int32)  # [q, k, p, C]
        return [counts[:, min(k, most) - 1].argmax(-1).astype(jnp.uint8) for k in ks]

    found = []
    for start in range(0, len(queries), _BLOCK):
        part = queries[start : start + _BLOCK]
        padded = np.pad(part, ((0, _BLOCK - len(part)), (0, 0)))
        found.append([np.asarray(x)[: len(part)] for x in answer(padded)])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]
