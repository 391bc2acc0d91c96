"""Average precision of detected boxes, as COCO and PASCAL VOC have it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))  # of the overlap: COCO's
MOST = 100  # detections of an image and class that count
RECALLS = np.linspace(0, 1, 101)


class Boxes(NamedTuple):
    """Boxes of many images."""

    image: np.ndarray  # [n] number of the image
    kind: np.ndarray  # [n] class
    box: np.ndarray  # [n, 4] top, left, bottom, right
    score: np.ndarray  # [n] confidence; of true boxes 1


class Scores(NamedTuple):
    """How right detections are, mean over the classes that are there."""

    ap: float  # mean over the ten thresholds
    ap50: float
    ap75: float
    voc07: float  # at an overlap of .5, mean of the precision at eleven recalls
    voc: float  # at an overlap of .5, area below the precision


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4]: top, left, bottom, right."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-12)


def _matched(found: np.ndarray, true: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which detections [T, n], the most confident first, are right: each takes the free true box it overlaps most."""
    right = np.zeros((len(thresholds), len(found)), bool)
    if not len(true):
        return right
    shared = overlaps(found, true)
    for number, threshold in enumerate(thresholds):
        free = np.ones(len(true), bool)
        for i, row in enumerate(shared):
            open_to = np.where(free, row, -1)
            best = len(open_to) - 1 - int(open_to[::-1].argmax())  # of equals the last, as pycocotools
            if open_to[best] >= min(threshold, 1 - 1e-10):
                right[number, i], free[best] = True, False
    return right


def _ranked(found: Boxes, true: Boxes, kind: int, thresholds: np.ndarray) -> tuple[np.ndarray, int]:
    """Which detections [T, n] of a class are right, by falling confidence, and the number of true boxes."""
    right, scores = [np.zeros((len(thresholds), 0), bool)], [np.zeros(0)]
    for image in np.unique(found.image[found.kind == kind]):
        rows = np.flatnonzero((found.kind == kind) & (found.image == image))
        rows = rows[np.argsort(-found.score[rows], kind="stable")][:MOST]
        truth = true.box[(true.kind == kind) & (true.image == image)]
        right.append(_matched(found.box[rows], truth, thresholds))
        scores.append(found.score[rows])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return np.concatenate(right, 1)[:, order], int((true.kind == kind).sum())


def _curve(right: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision [n] after each detection, the latter made to fall."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    return hits / count, np.maximum.accumulate(precision[::-1])[::-1]


def _at(recall: np.ndarray, precision: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    places = np.searchsorted(recall, wanted, side="left")
    return np.append(precision, 0.0)[places]


def average_precisions(right: np.ndarray, count: int) -> tuple[float, float, float]:
    """Average precision at 101 recalls (COCO), at eleven (VOC 2007) and as an area (VOC 2010).

    Args:
      right: bool [n], by falling confidence.
      count: of true boxes, above 0.
    """
    recall, precision = _curve(right, count)
    eleven = np.linspace(0, 1, 11)
    steps = np.diff(np.concatenate([[0.0], recall]))
    area = float((steps * precision).sum())
    return float(_at(recall, precision, RECALLS).mean()), float(_at(recall, precision, eleven).mean()), area


def scores(found: Boxes, true: Boxes, thresholds: Sequence[float] = THRESHOLDS) -> Scores:
    """Average precision of detections, mean over the classes of the true boxes.

    There are no crowds and no ranges of size, and no box is difficult.

    Args:
      found: detections; the `MOST` most confident of each image and class count.
      true: what is there.
      thresholds: of the overlap; .5 and .75 among them.
    """
    limits = np.asarray(thresholds)
    half, three = (int(np.argmin(np.abs(limits - x))) for x in (0.5, 0.75))
    by_class = []
    for kind in np.unique(true.kind):
        right, count = _ranked(found, true, int(kind), limits)
        by_class.append([average_precisions(row, count) for row in right])
    if not by_class:
        return Scores(*[float("nan")] * 5)
    table = np.array(by_class).mean(0)  # [thresholds, 3]
    return Scores(*(float(x) for x in (table[:, 0].mean(), table[half, 0], table[three, 0], *table[half, 1:])))
