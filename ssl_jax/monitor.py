"""Online evaluation: kNN accuracy and health of the frozen backbone while a run trains."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssl_jax.data import Dataset, loader
from ssl_jax.evals.features import extractor
from ssl_jax.metrics import health, knn
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.run import Run
from ssl_jax.state import TrainState
from ssl_jax.workdir.log import Log


class Monitor:
    """Measures the frozen backbone as the run goes: kNN accuracy where there are labels, and health.

    Queries are the test split, and the bank the training images; without a test split there is no kNN accuracy.

    Args:
      run: from `prepare`.
      between: called after each block of images; may raise, to end a measurement early.
    """

    def __init__(self, run: Run, between: Callable[[], None] = lambda: None) -> None:
        self._run = run
        workers = loader.workers(run.config.data.workers)
        self._extract = extractor(run.method, run.eval_view, run.mesh, workers=workers, between=between)
        limit = run.config.run.eval_images
        queries = run.train[:0] if run.test is None else run.test
        self._bank, self._queries = (_some(d, limit) for d in (run.train, queries))
        self._classes = len(run.train.classes)
        # A single class tells nothing: any answer is right.
        self._scored = self._classes > 1 and bool((self._bank[1] >= 0).any() and (self._queries[1] >= 0).any())

    def __call__(
        self, ts: TrainState, done: int, log: Log, metrics: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Measures, records and returns the values after `done` updates, the last of which had these metrics."""
        bank = self._extract(ts.params, ts.state, self._bank[0])
        values = health.summary(bank)
        show = {"std": f"{values['feature_std']:.3f}"}
        if self._scored:
            k = min(self._run.config.eval.knn_k, int((self._bank[1] >= 0).sum()))
            values["knn/top1"] = knn.top1(
                bank,
                self._bank[1],
                self._extract(ts.params, ts.state, self._queries[0]),
                self._queries[1],
                num_classes=self._classes,
                k=k,
                temperature=self._run.config.eval.knn_temperature,
            )
            show = {"kNN": f"{100 * values['knn/top1']:.1f}%", **show}
        log.write(done, values, show=show)
        method, info = self._run.method, self._run.info
        chance = method.chance(info)
        task = {}
        if metrics and chance is not None:
            task = {"loss": metrics["loss"], "chance": chance, "best": method.best(info)}
        trouble = health.diagnose(values | task)
        reading = method.reading(metrics, info) if metrics else ""
        for words in (reading, trouble if done else None):
            if words:
                log.say(words)
        return values


def _some(d: Dataset, limit: int) -> tuple[Any, np.ndarray]:
    """At most `limit` images with their labels, evenly spaced, since images come sorted by class."""
    rows = evenly_spaced(np.arange(len(d)), limit)
    return d.images[rows], d.labels[rows]
