"""The linear probe by L-BFGS on the pooled features after every stage."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import logistic
from ssl_jax.runtime import progress
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "probe of each stage", LABELLED, True, False


def measure(context: Context) -> list[Result]:
    """Accuracy of each stage of each backbone, and what was chosen on the way."""
    labels = context.features.labels
    probes = [(of, *numbered) for of, stages in context.features.stages.items() for numbered in enumerate(stages, 1)]
    found = []
    with progress.counted(len(probes) * logistic.fits(), "fits"):
        for of, number, (x, y) in probes:
            values = logistic.probe(x, labels[0], y, labels[1], **context.common)
            found += [
                Result(f"layers/{number}/{name}", value, of, detail=name != "top1") for name, value in values.items()
            ]
    return found
