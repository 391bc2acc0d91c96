"""What the notebooks show: the machine, recorded curves, nearest neighbours, and accuracy against labels.

from ssl_jax import notebook

notebook.runtime()
notebook.curves("runs/a", "loss", "knn/top1")
notebook.neighbours("runs/a")
notebook.label_efficiency("runs/a")
"""

import pathlib

import jax
from matplotlib import pyplot as plt
import numpy as np

from ssl_jax import data
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.report import neighbours as features
from ssl_jax.report import network, runs
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import log, results, words

_COUNTS = ("1", "5", "10", "all")
_COLOURS = {"pixels": "#9a9a9a", "pca": "#c8c8c8", "untrained": "#d55e00", "pretrained": "#0072b2"}


def runtime() -> str:
    """Says which devices there are, and how to get faster ones in Colab; returns "cpu", "gpu" or "tpu"."""
    log.speak_plainly()
    kind, devices = jax.default_backend(), jax.devices()
    print(f"Runtime: {len(devices)} x {devices[0].device_kind}.")
    if kind == "cpu":
        print("This notebook runs on a CPU too. Faster, in Colab: Runtime > Change runtime type > GPU or TPU.")
    return kind


def source(wanted: str, otherwise: str = "digits") -> str:
    """Returns a data source if it is here or can be downloaded, else another one, and says so.

    Args:
      wanted: as `config.data.source`.
      otherwise: a source that needs no network.
    """
    try:
        data.load(wanted, "train", per_class=1)
    except UserError as error:
        print(f"{wanted} is not to be had, so {otherwise} stands in, and the numbers differ from the text. {error}")
        return otherwise
    print(f"Data: {wanted}.")
    return wanted


def curves(workdir: str, *names: str) -> None:
    """Draws recorded numbers against the epoch, a chart each.

    Args:
      workdir: of the run.
      *names: as in `metrics.jsonl`: loss, knn/top1, feature_std, ...
    """
    entries = log.read(pathlib.Path(workdir) / "metrics.jsonl")
    _, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        points = [(entry["epoch"], entry[name]) for entry in entries if name in entry]
        axis.plot(*zip(*points, strict=True), marker="o" if len(points) < 30 else None)
        axis.set(title=words.of(name).title, xlabel="epoch")
        axis.grid(alpha=0.3)
    plt.show()


def neighbours(workdir: str, count: int = 6, nearest: int = 5) -> None:
    """Draws images that training did not see, each with the training images whose features are nearest by cosine.

    Args:
      workdir: of the run.
      count: images, a row each.
      nearest: neighbours of each.

    Raises:
      UserError: if there is no run, or no checkpoint yet.
    """
    (files,) = runs.read([workdir])
    sample = features.sample(network.restored(files))
    chosen = evenly_spaced(np.arange(len(sample.queries)), count)
    similarity = features.unit(sample.queries[chosen]) @ features.unit(sample.bank).T
    found = np.argsort(-similarity, axis=1, kind="stable")[:, :nearest]
    _, axes = plt.subplots(len(chosen), nearest + 1, figsize=(nearest + 1.5, len(chosen)), layout="constrained")
    for line, query, rows in zip(axes, chosen, found, strict=True):
        images = [sample.images[query], *sample.bank_images[rows]]
        names = [sample.class_of(sample.labels[query]), *(sample.class_of(sample.bank_labels[row]) for row in rows)]
        for axis, image, name in zip(line, images, names, strict=True):
            axis.imshow(image.squeeze(), cmap="gray")
            axis.set_title(name, fontsize=7)
            axis.axis("off")
    plt.show()


def label_efficiency(workdir: str) -> None:
    """Draws accuracy against labels per class, of the pretrained backbone and of what it is compared with.

    Args:
      workdir: of a run that was evaluated with few_label.
    """
    stored = results.read(pathlib.Path(workdir) / "results.json") or {}
    found = {(r.measure, r.of): r for r in results.numbers(stored)}
    plt.figure(figsize=(6, 4), layout="constrained")
    for of, colour in _COLOURS.items():
        lines = [found[f"few_label/{count}", of] for count in _COUNTS if (f"few_label/{count}", of) in found]
        if lines:
            values, spreads = (
                [100 * (x or 0) for x in column] for column in zip(*((r.value, r.spread) for r in lines), strict=True)
            )
            width = 2.5 if of == "pretrained" else 1.5
            plt.errorbar(
                _COUNTS[: len(lines)], values, spreads, marker="o", capsize=3, lw=width, color=colour, label=of
            )
    plt.xlabel("labels per class")
    plt.ylabel("accuracy, %")
    plt.legend()
    plt.grid(alpha=0.3)
    plt.show()
