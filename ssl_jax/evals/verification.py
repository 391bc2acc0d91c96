"""Verification: whether two test images are of one class, on pairs in ten folds that share no class."""

import numpy as np

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import verification
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "verification", LABELLED, False, True

FAR = 1e-3
RATES = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)  # false accept rates of the curve in the report


def measure(context: Context) -> list[Result]:
    """Accuracy, VAL at a FAR of one in a thousand, and area under the ROC, of each representation and of pixels."""
    pairs = verification.draw_pairs(context.features.labels[1], seed=context.config.seed)
    found = []
    for of, (_, x) in context.features.with_pixels().items():
        x = np.asarray(x, np.float32)
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        distance = np.square(unit[pairs.rows[:, 0]] - unit[pairs.rows[:, 1]]).sum(1)
        scores = verification.verify(distance, pairs.same, pairs.folds, far=FAR)
        found += [
            Result("verification/accuracy", scores.accuracy.mean(), of, chance=0.5, spread=scores.accuracy.std()),
            Result("verification/val", scores.val.mean(), of, spread=scores.val.std()),
            Result("verification/far", scores.far.mean(), of, detail=True),
            Result("verification/auc", scores.auc, of, chance=0.5),
        ]
        accepted = verification.accepted(distance, pairs.same, RATES)
        found += [
            Result(f"verification/roc/{rate:g}", share, of, chance=rate, detail=True)
            for rate, share in zip(RATES, accepted, strict=True)
        ]
    return found
