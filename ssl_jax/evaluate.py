"""Measures what a pretrained backbone is worth: `python -m ssl_jax.evaluate --workdir=runs/a`.

Reads the newest checkpoint of a finished or a running run, extracts the features of its data set once, from the
trained backbone and from the same one untrained, and prints and stores a table. Results go to results.json in the
workdir, under flat names such as knn/top1, knn/top1_untrained and few_label/1/pretrained. On several machines it is
started on each of them, like ssl_jax.main; the first one prints and writes.
"""

import argparse
from collections.abc import Mapping
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
from typing import Any

from etils import epath
import jax
import numpy as np

import ssl_jax
from ssl_jax import feed, processes, train
from ssl_jax.checkpoint import Checkpoints
from ssl_jax.errors import UserError, nearest
from ssl_jax.evals import few_label, health, knn, linear
from ssl_jax.evals.features import extractor, spread
from ssl_jax.log import speak_plainly
from ssl_jax.stored_config import load as load_config

EVALS = ("knn", "linear", "few_label")
_PACKAGES = ("jax", "flax", "optax", "scikit-learn", "numpy")


@dataclasses.dataclass(frozen=True)
class Features:
    """Frozen features of one data set, (training [N, D], test [M, D]) by representation, with labels."""

    pretrained: tuple[np.ndarray, np.ndarray]
    untrained: tuple[np.ndarray, np.ndarray]
    pixels: tuple[np.ndarray, np.ndarray] | None  # None for streamed images, which are no vectors of one length
    labels: tuple[np.ndarray, np.ndarray]
    classes: int


def restore(run: train.Run, workdir: str) -> train.TrainState:
    """Restores the newest checkpoint of a run, leaving its files as they are.

    Raises:
      UserError: if there is none that can be read.
    """
    checkpoints = Checkpoints(workdir)
    try:
        found = checkpoints.restore(run.init())
    finally:
        checkpoints.close()
    if found is None:
        raise UserError(f"There is no checkpoint in {workdir}/checkpoints: let the run write one first.")
    return found[1]


def extract(run: train.Run, ts: train.TrainState) -> Features:
    """Extracts all representations of the run's training and test images.

    Raises:
      UserError: if the data set has no labels or no test split.
    """
    if run.test is None or not run.train.classes:
        raise UserError(
            f"Evaluation needs labels and a test split, which {run.config.data.source} lacks: add class folders "
            "under train/ and test/."
        )
    frozen = extractor(run.method, run.eval_view, run.mesh, workers=feed.workers(run.config.data.workers))
    fresh = run.init()
    known = [(d.images[d.labels >= 0], d.labels[d.labels >= 0]) for d in (run.train, run.test)]
    if not all(len(labels) for _, labels in known):
        raise UserError(f"Evaluation needs labelled images in both train and test of {run.config.data.source}.")
    (train_x, train_y), (test_x, test_y) = known

    def pair(state: train.TrainState) -> tuple[np.ndarray, np.ndarray]:
        return frozen(state.params, state.state, train_x), frozen(state.params, state.state, test_x)

    return Features(
        pretrained=pair(ts),
        untrained=pair(fresh),
        pixels=None if run.train.streamed else tuple(x.reshape(len(x), -1) for x in (train_x, test_x)),
        labels=(train_y, test_y),
        classes=len(run.train.classes),
    )


def measure(features: Features, config: Any, evals: tuple[str, ...]) -> dict[str, Any]:
    """Runs the evaluations on extracted features.

    Args:
      features: from `extract`.
      config: the whole config of the run.
      evals: some of `EVALS`.

    Returns:
      flat names to values; accuracies in [0, 1].
    """
    results: dict[str, Any] = dict(health.summary(spread(features.pretrained[0], config.run.eval_images)))
    backbones = {"": features.pretrained, "_untrained": features.untrained}
    if "knn" in evals:
        for suffix, (bank, queries) in backbones.items():
            results[f"knn/top1{suffix}"] = _knn(bank, queries, features, config.eval)
    if "linear" in evals:
        for suffix, (x, y) in backbones.items():
            for name, value in _linear(x, y, features, config).items():
                results[f"linear/{name}{suffix}"] = value
    if "few_label" in evals:
        results |= _few_label(features, config)
    return results


def _knn(bank: np.ndarray, queries: np.ndarray, features: Features, config: Any) -> float:
    k = min(config.knn_k, len(bank))
    return knn.top1(
        bank,
        features.labels[0],
        queries,
        features.labels[1],
        num_classes=features.classes,
        k=k,
        temperature=config.knn_temperature,
    )


def _linear(x: np.ndarray, y: np.ndarray, features: Features, config: Any) -> Mapping[str, Any]:
    return linear.probe(
        x,
        features.labels[0],
        y,
        features.labels[1],
        num_classes=features.classes,
        epochs=config.eval.linear_epochs,
        batch_size=config.eval.linear_batch,
        seed=config.seed,
    )


def _few_label(features: Features, config: Any) -> dict[str, Any]:
    representations = {"untrained": features.untrained, "pretrained": features.pretrained}
    if features.pixels is not None:
        # Half as many components as tiny images have pixels: all of them would be the pixels again.
        pca = few_label.pca(*features.pixels, components=min(64, features.pixels[0].shape[1] // 2))
        representations = {"pixels": features.pixels, "pca": pca, **representations}
    found = few_label.few_label(representations, *features.labels, draws=config.eval.draws, seed=config.seed)
    print(few_label.table(found))
    flat: dict[str, Any] = {}
    for count, row in found.items():
        for name, cell in row.items():
            if isinstance(cell, dict) and "mean" in cell:
                flat[f"few_label/{count}/{name}"] = cell["mean"]
                flat[f"few_label/{count}/{name}_std"] = cell["std"]
            else:
                flat[f"few_label/{count}/{name}"] = cell
    return flat


def evaluate(workdir: str, evals: tuple[str, ...] = EVALS) -> dict[str, Any]:
    """Evaluates a run, prints the tables and stores the results in `workdir/results.json`.

    Args:
      workdir: of the run.
      evals: some of `EVALS`; results of others that are stored already are kept.

    Returns:
      what was stored.

    Raises:
      UserError: for a workdir without a run or a checkpoint, or an unknown evaluation.
    """
    for name in evals:
        if name not in EVALS:
            raise UserError(f"There is no evaluation '{name}'. {nearest(name, EVALS)}")
    began = time.time()
    config = load_config(workdir)
    run = train.prepare(config)
    ts = restore(run, workdir)
    features = extract(run, ts)
    values = measure(features, config, evals)
    for name in ("knn", "linear"):
        if name in evals:
            _print_row(name, values)
    path = epath.Path(workdir) / "results.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    if stored.get("step") != int(ts.step):
        stored = {}
    stored |= values | {
        "step": int(ts.step),
        "epoch": int(ts.step) / run.info.steps_per_epoch,
        "seed": config.seed,
        "config": config.to_dict(),
        "versions": _versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "evaluation_seconds": time.time() - began,
    }
    if processes.first():
        path.write_text(json.dumps(stored, indent=2) + "\n")
    print(f"Results are in {path}.")
    return stored


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"ssl_jax": ssl_jax.__version__, "python": platform.python_version(), **found}


def _print_row(name: str, values: dict[str, Any]) -> None:
    title = {"knn": "kNN", "linear": "linear probe"}[name]
    pretrained, untrained = values[f"{name}/top1"], values[f"{name}/top1_untrained"]
    print(f"{title}: {100 * pretrained:.1f} % of the test images (untrained backbone {100 * untrained:.1f} %)")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    parser = argparse.ArgumentParser(
        prog="python -m ssl_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--evals", default=",".join(EVALS), help=f"some of {','.join(EVALS)} (default: all)")
    args = parser.parse_args(argv)
    try:
        processes.start()
        if not processes.first():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the end of the process)
        evaluate(args.workdir, tuple(args.evals.split(",")))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    processes.run(lambda argv: main(argv[1:]))
