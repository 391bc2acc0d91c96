"""Segmentation without training: each patch takes the labels of the nearest patches of training images (CAPI)."""

from collections.abc import Iterator

import numpy as np

from ssl_jax.evals.context import Context, Network
from ssl_jax.evals.maps import cut, maps, names_of, needs_masks
from ssl_jax.evals.segmentation import show
from ssl_jax.metrics import patch_knn, segmentation
from ssl_jax.metrics.segmentation import IGNORE
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "segmentation by nearest patches", frozenset({"mask", "test images"}), False, False
FEATURES = False
OPTIONS = {"knn_patches": 20_000}  # of the training images that a patch is compared with

_HELD_OUT = 0.1  # share of the training images that chooses the distance and the neighbours


def measure(context: Context) -> list[Result]:
    """MIoU of each backbone, with the distance and neighbours that are best on held-out training images."""
    needs_masks(context.images, "knn_segmentation")
    names = names_of(context.images)
    train, test = (cut(d, len(names)) for d in context.images)
    found, masks = [], {}
    for of, network in context.networks.items():
        results, masks[of] = _measured(context, network, of, train, test)
        found += results
    show(context, "Test images, their masks, and those of the nearest patches.", *test, masks, len(names))
    return found


def _measured(
    context: Context,
    network: Network,
    of: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> tuple[list[Result], np.ndarray]:
    """What was found of a backbone, and the masks of the test images."""
    classes = len(names_of(context.images))
    limit, seed = context.config.eval.knn_patches, context.config.seed
    known, queries = maps(network, train[0]), maps(network, test[0])
    held = np.zeros(len(known), bool)
    held[np.random.default_rng(seed).permutation(len(known))[: max(1, round(_HELD_OUT * len(known)))]] = True

    def masks(
        rows: np.ndarray, x: np.ndarray, y: np.ndarray, distance: str, ks: tuple[int, ...]
    ) -> Iterator[np.ndarray]:
        found = patch_knn.segmented(
            patch_knn.bank(known[rows], train[1][rows], limit, seed), x.reshape(-1, x.shape[-1]), classes, distance, ks
        )
        return (patch_knn.whole(pixels, x.shape[1:3], y.shape[1:]) for pixels in found)

    def miou(y: np.ndarray, mask: np.ndarray) -> float:
        return segmentation.scores(segmentation.confusion(y, mask, classes)).miou

    choices = {
        (distance, k): miou(train[1][held], mask)
        for distance in patch_knn.DISTANCES
        for k, mask in zip(
            patch_knn.NEIGHBOURS,
            masks(~held, known[held], train[1][held], distance, patch_knn.NEIGHBOURS),
            strict=True,
        )
    }
    distance, k = max(choices, key=lambda choice: choices[choice])
    best = next(masks(np.ones(len(known), bool), queries, test[1], distance, (k,)))
    most = np.bincount(train[1][train[1] != IGNORE]).argmax()
    found = [
        Result("knn_segmentation/miou", miou(test[1], best), of, chance=miou(test[1], np.full_like(test[1], most))),
        Result("knn_segmentation/choice", f"{k} neighbours, {distance}", of, detail=True),
    ]
    return found, best
