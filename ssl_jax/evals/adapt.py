"""Adaptation of frozen features to another domain: nearest neighbours after each of the closed forms.

The labelled training images are the source. The target is `config.eval.adapt_to`, another data set of the same
classes, or the target of a run that has one; its test images are adapted to without their labels and then measured.
The rows of a few labels are given those of three images a class of the target, and are measured on the others.
"""

import dataclasses
import math

import numpy as np

from ssl_jax.data import Dataset, loader, loading
from ssl_jax.evals import context as given
from ssl_jax.evals.context import LABELLED, Context, Network
from ssl_jax.evals.features import extractor
from ssl_jax.metrics import adaptation
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "adaptation", LABELLED, False, False
OPTIONS = {"adapt_to": "", "adapt_images": 1000}  # a source, found where config.data.path says; most images a domain


def measure(context: Context) -> list[Result]:
    """Accuracy on the target of each representation, pixels included, by each way of adapting."""
    most, chance = context.config.eval.adapt_images, 1 / context.features.classes
    labels, theirs = context.features.labels[0], target(context)
    rows, kept = (evenly_spaced(np.arange(len(y)), most) for y in (labels, theirs.labels))
    theirs, found = theirs[kept], []
    for of, (train, _) in context.features.with_pixels().items():
        features = _features(context, of, theirs)
        shares = adaptation.accuracies(train[rows], labels[rows], features, theirs.labels, seed=context.config.seed)
        found += [Result(f"adapt/{name}", value, of, chance=chance) for name, value in shares.items()]
    return found


def target(context: Context) -> Dataset:
    """The labelled images that are adapted to: of `config.eval.adapt_to`, or of the run's own target.

    Raises:
      UserError: there is neither, or its classes are not those of the run's images.
    """
    if name := context.config.eval.adapt_to:
        return _other(context, name)
    test = context.images[1]
    if not context.config.data.get("target") or test.card.domains != context.run.train.card.domains:
        raise UserError(
            "Adaptation needs two domains, and the run has no target: name another data set of the same classes with "
            "--config.eval.adapt_to=SOURCE."
        )
    return test[np.flatnonzero(np.asarray(test.fields["domain"]) == len(test.card.domains) - 1)]


def _other(context: Context, source: str) -> Dataset:
    """Labelled test images of a source, or its training images where it has no others; classes as the run's images."""
    path = context.config.data.path if loading.takes_path(source) else None
    train, test = given.load_images(context.run, source, path)
    found, classes = test if len(test) else train, context.images[0].classes
    found = found[np.flatnonzero(found.labels >= 0)]
    if set(found.classes) != set(classes) or not len(found):
        strange = ", ".join(sorted(set(found.classes) ^ set(classes))[:5])
        raise UserError(
            f"--config.eval.adapt_to is '{source}', whose classes are not those of {context.images[0].name} "
            f"({strange or 'no image has a label'}): choose a data set of the same classes."
        )
    number = np.array([classes.index(name) for name in found.classes], np.int32)
    return dataclasses.replace(found, labels=number[found.labels], classes=classes)


def _features(context: Context, of: str, images: Dataset) -> np.ndarray:
    """A representation of some images [N, D]."""
    if of == "pixels":
        pixels = given.in_memory(images, len(images), context.run.eval_side)[0]
        return pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))
    network: Network = context.networks[of]
    run = network.run
    workers = loader.workers(run.config.data.workers)
    extract = extractor(run.method, run.eval_view, run.mesh, workers=workers)
    return extract(network.ts.params, network.ts.state, images.images)
