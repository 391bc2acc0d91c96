"""How each protocol of `ssl_jax/evals` is applied to a run: from a subject to flat names and values.

Every function here takes a `Subject` and returns its part of results.json. Suffixes name the representation: none for
the pretrained backbone, and _untrained, _supervised and _pixels for what it is compared with.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data import Dataset
from ssl_jax.evals import fine_tune, pretext
from ssl_jax.evals.context import Features, Network, Subject, in_memory
from ssl_jax.evals.features import extractor, spread
from ssl_jax.metrics import cluster, few_label, few_shot, health, knn, label_curve, linear, logistic
from ssl_jax.metrics import retrieval as neighbours
from ssl_jax.runtime.errors import UserError

Values = dict[str, Any]

_LIDAR_IMAGES, _LIDAR_VIEWS = 1000, 5  # the paper's 50 views each would take as long as all other protocols


def representation_health(s: Subject) -> Values:
    """Health beside the untrained backbone's: rank of each stage, and what two views of one image have in common."""
    values: Values = {}
    limit = s.config.run.eval_images
    for suffix, network in s.networks.items():
        last, stages = s.features.backbones()[suffix][0], s.features.stages[suffix]
        measured = {name.removeprefix("health/"): v for name, v in health.summary(spread(last, limit)).items()}
        values |= {f"health/{name}{suffix}": value for name, value in measured.items()}
        for number, (x, _) in enumerate(stages, 1):
            values[f"health/rank/{number}{suffix}"] = health.rankme(spread(x, limit))
        views = _views(network, s.images[0])
        values[f"health/alignment{suffix}"] = health.alignment(views[:, 0], views[:, 1])
        values[f"health/lidar{suffix}"] = health.lidar(views)
    return values


def _views(network: Network, images: Dataset) -> np.ndarray:
    """Features [N, views, D] of some training images in several views, drawn as a view of training is."""
    seen = network.run.eval_view
    recipe = dataclasses.replace(network.run.method.primary_view(), size=seen.size, mean=seen.mean, std=seen.std)
    extract = extractor(network.run.method, recipe, network.run.mesh)
    some = spread(in_memory(images, _LIDAR_IMAGES, network.run.eval_side)[0], _LIDAR_IMAGES)
    ts = network.ts
    return np.stack([extract(ts.params, ts.state, some, draw=i) for i in range(_LIDAR_VIEWS)], 1)


def nearest_neighbours(s: Subject) -> Values:
    """Weighted kNN, with k and temperature as the run's monitor has them."""
    labels, config = s.features.labels, s.config.eval
    values: Values = {}
    for suffix, (bank, queries) in s.features.with_pixels().items():
        values[f"knn/top1{suffix}"] = knn.top1(
            bank,
            labels[0],
            queries,
            labels[1],
            num_classes=s.features.classes,
            k=min(config.knn_k, len(bank)),
            temperature=config.knn_temperature,
        )
    return values


def linear_probe(s: Subject) -> Values:
    """The linear probe by SGD. On pixels a linear classifier is in the few-label table, under all labels."""
    options = _common(s) | {"epochs": s.config.eval.linear_epochs, "batch_size": s.config.eval.linear_batch}
    return _each(s.features, "linear", lambda *sets: linear.probe(*sets, **options))


def logistic_probe(s: Subject) -> Values:
    """The linear probe by L-BFGS."""
    return _each(s.features, "linear_lbfgs", lambda *sets: logistic.probe(*sets, **_common(s)))


def layers(s: Subject) -> Values:
    """The probe by L-BFGS on the pooled features after every stage."""
    labels = s.features.labels
    values: Values = {}
    for suffix, stages in s.features.stages.items():
        for number, (x, y) in enumerate(stages, 1):
            found = logistic.probe(x, labels[0], y, labels[1], **_common(s))
            values |= {f"layers/{number}/{name}{suffix}": value for name, value in found.items()}
    return values


def few_labels(s: Subject) -> Values:
    """The few-label table."""
    f = s.features
    representations = {}
    if f.pixels is not None:
        # Half as many components as tiny images have pixels: all of them would be the pixels again.
        pca = few_label.pca(*f.pixels, components=min(64, f.pixels[0].shape[1] // 2))
        representations = {"pixels": f.pixels, "pca": pca}
    representations |= {"untrained": f.untrained, "pretrained": f.pretrained}
    if f.supervised is not None:
        representations["supervised"] = f.supervised
    found = few_label.few_label(representations, *f.labels, draws=s.config.eval.draws, seed=s.config.seed)
    print(few_label.table(found))
    flat: Values = {}
    for count, row in found.items():
        if "skipped" not in row:  # the images are the same for all representations
            flat.setdefault("few_label/images", {})[count] = row["pretrained"]["images"]
        for name, cell in row.items():
            if isinstance(cell, dict) and "mean" in cell:
                flat[f"few_label/{count}/{name}"] = cell["mean"]
                flat[f"few_label/{count}/{name}_std"] = cell["std"]
            else:
                flat[f"few_label/{count}/{name}"] = cell
    return flat


def curve(s: Subject) -> Values:
    """Accuracy at 1 to 100 % of the labels, as far as the shares are of not too many images, and their numbers."""
    images = {str(percent): count for percent, count in label_curve.sizes(s.features.labels[0]).items()}
    if left := [f"{percent} %" for percent in label_curve.PERCENTS if str(percent) not in images]:
        print(f"label_curve: without {', '.join(left)}, which are more than {label_curve.MAX_IMAGES} images")
    found = _each(
        s.features, "label_curve", lambda *sets: label_curve.label_curve(*sets, seed=s.config.seed), pixels=True
    )
    return found | {"label_curve/images": images}


def episodes(s: Subject) -> Values:
    """Five classes with one and with five labelled images each, drawn from the test images."""
    values: Values = {}
    labels = s.features.labels[1]
    for shots in (1, 5):
        ways = min(5, len(few_shot.classes_with(labels, shots + few_shot.QUERIES)))
        if ways < 2:
            print(f"few_shot: {shots} shots skipped, too few classes have {shots + few_shot.QUERIES} test images")
            continue
        for suffix, (x, y) in s.features.with_pixels().items():
            centre = x.mean(0, dtype=np.float64)
            found = few_shot.few_shot(y, labels, ways=ways, shots=shots, centre=centre, seed=s.config.seed)
            values |= {f"few_shot/{ways}way_{shots}shot/{name}{suffix}": v for name, v in found.items()}
    return values


def retrieval(s: Subject) -> Values:
    """Each test image among all others."""

    def among_test_images(train_x, train_y, test_x, test_y):
        del train_x, train_y
        return neighbours.retrieval(test_x, test_y)

    return _each(s.features, "retrieval", among_test_images, pixels=True)


def clusters(s: Subject) -> Values:
    """k-means with as many clusters as classes."""
    return _each(s.features, "cluster", lambda *sets: cluster.cluster(*sets, **_common(s)), pixels=True)


def own_task(s: Subject) -> Values:
    """The method's loss and metrics on the test images, beside those of the untrained network."""
    values: Values = {}
    run = s.networks[""].run
    if "index" in run.method.needs:
        print(f"pretext: skipped, the loss of {run.config.method.name} is about the training images themselves")
        return values
    if not len(s.images[1].images):
        raise UserError(f"pretext needs test images, which {s.images[0].name} lacks: leave it out of --evals.")
    known, these = ((d.name, d.classes) for d in (run.train, s.images[0]))
    if "labels" in run.method.needs and known != these:  # its head would be asked for classes that it never saw
        print(f"pretext: skipped, {run.config.method.name} answers with the labels of {run.train.name}, not with these")
        return values
    images, labels = in_memory(s.images[1], s.config.run.eval_images, run.eval_side)
    measure = pretext.measurer(run.method, run.info, run.mesh, run.info.batch_size // run.config.accumulate)
    for suffix in ("", "_untrained"):
        ts = s.networks[suffix].ts
        found = measure(ts.params, ts.state, ts.step, images, labels)
        # A baseline is a number of the task, whatever the network.
        values |= {
            f"pretext/{name}{suffix}".replace("/chance", "_baseline"): v
            for name, v in found.items()
            if not (suffix and name.endswith(("_baseline", "/chance")))
        }
    return values


def fine_tuning(s: Subject) -> Values:
    """The whole backbone with 1, 10 and 100 % of the labels, and copies of its first stages where asked for."""
    values: Values = {}
    if any(d.streamed for d in s.images):
        raise UserError(
            f"Fine-tuning keeps its images in memory, and those of {s.images[0].name} are streamed: give it fewer with "
            "--data, raise config.data.max_gib, or leave fine_tune out of --evals."
        )
    train_x, train_y = s.images[0].images, s.images[0].labels
    test_x, test_y = (spread(a, fine_tune.MAX_TEST) for a in (s.images[1].images, s.images[1].labels))
    starts = {suffix: n.run.method.variables(n.ts.params, n.ts.state) for suffix, n in s.networks.items()}

    def tuner(network: Network, frozen: int = 0) -> fine_tune.Tuner:
        run = network.run
        return fine_tune.Tuner(run.method, run.eval_view, run.mesh, s.features.classes, frozen)

    def top1(tune: fine_tune.Tuner, start: Any, percent: int) -> float:
        rows = label_curve.subset(train_y, percent, [s.config.seed, 0])
        epochs = s.tune_epochs or fine_tune.EPOCHS[percent]
        return tune.top1(tune(start, train_x[rows], train_y[rows], epochs, s.config.seed), test_x, test_y)

    whole = tuner(s.networks[""])  # the untrained one is the same network
    tuners = {suffix: tuner(n) if suffix == "_supervised" else whole for suffix, n in s.networks.items()}
    for percent in fine_tune.EPOCHS:
        for suffix, start in starts.items():
            values[f"fine_tune/{percent}/top1{suffix}"] = top1(tuners[suffix], start, percent)
    backbone: Any = s.networks[""].run.method.backbone
    for count in s.frozen:
        if not 0 < count <= backbone.stages:
            raise UserError(f"--frozen has {count}, but the backbone has {backbone.stages} stages: use 1 to that.")
        start = fine_tune.transplant(backbone, starts[""], starts["_untrained"], count)
        values[f"fine_tune/frozen{count}/top1"] = top1(tuner(s.networks[""], count), start, 100)
        values[f"fine_tune/tuned{count}/top1"] = top1(whole, start, 100)
    return values


def _common(s: Subject) -> dict[str, Any]:
    return {"num_classes": s.features.classes, "seed": s.config.seed}


def _each(features: Features, name: str, measure: Callable[..., Mapping[str, Any]], *, pixels: bool = False) -> Values:
    """`measure(train_x, train_y, test_x, test_y)` of every representation, under its suffix."""
    train_y, test_y = features.labels
    representations = features.with_pixels() if pixels else features.backbones()
    return {
        f"{name}/{key}{suffix}": value
        for suffix, (x, y) in representations.items()
        for key, value in measure(x, train_y, y, test_y).items()
    }


class Protocol(NamedTuple):
    """One name of `--evals`."""

    title: str  # of its table; empty: it prints one of its own
    measure: Callable[[Subject], Values]
    percent: bool = True  # its values are shares
    needs: frozenset[str] = frozenset(("labels", "test images"))  # it cannot do without
    large: bool = True  # it is measured unasked on more than LARGE training images as well


PROTOCOLS = {
    "health": Protocol("health of the features", representation_health, percent=False, needs=frozenset()),
    "pretext": Protocol("own task on test images", own_task, percent=False, needs=frozenset(("test images",))),
    "knn": Protocol("kNN", nearest_neighbours),
    "linear": Protocol("linear probe", linear_probe),
    "linear_lbfgs": Protocol("linear probe by L-BFGS", logistic_probe, large=False),
    "layers": Protocol("probe of each stage", layers, large=False),
    "few_label": Protocol("", few_labels),
    "label_curve": Protocol("% of the labels", curve),
    "few_shot": Protocol("few-shot episodes", episodes),
    "retrieval": Protocol("retrieval", retrieval),
    "cluster": Protocol("clustering", clusters),
    "fine_tune": Protocol("fine-tuning", fine_tuning),
}
LARGE = 200_000  # training images, whose logistic regression by L-BFGS takes hours and many times their memory
# Fine-tuning trains the backbone again, for minutes or for hours: only on request.
DEFAULT = tuple(name for name in PROTOCOLS if name != "fine_tune")
