"""Linear segmentation: a 1x1 convolution on the map of the frozen backbone, for data with masks."""

from collections.abc import Mapping

import numpy as np

from ssl_jax.evals import pictures
from ssl_jax.evals.context import Context
from ssl_jax.evals.maps import cut, maps, names_of, needs_masks
from ssl_jax.metrics import segmentation
from ssl_jax.metrics.segmentation import IGNORE
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "linear segmentation", frozenset({"mask", "test images"}), True, False
FEATURES = False
OPTIONS = {"segmentation_epochs": 40}  # passes over the training images


def measure(context: Context) -> list[Result]:
    """mIoU, IoU of each class, and accuracy over the pixels of the test images, for each backbone."""
    needs_masks(context.images, "segmentation")
    names = names_of(context.images)
    (train_x, train_y), (test_x, test_y) = (cut(d, len(names)) for d in context.images)
    options = {"classes": len(names), "epochs": context.config.eval.segmentation_epochs, "seed": context.config.seed}
    found, masks = [], {}
    for of, network in context.networks.items():
        probe = segmentation.Probe(maps(network, train_x), train_y, **options)
        masks[of] = probe(maps(network, test_x), test_y.shape[1:])
        found += results("segmentation", of, masks[of], test_y, train_y, names)
    show(context, "Test images, their masks, and those that a linear layer found.", test_x, test_y, masks, len(names))
    return found


def show(
    context: Context, title: str, images: np.ndarray, truth: np.ndarray, masks: Mapping[str, np.ndarray], classes: int
) -> None:
    """Shows some images beside their masks [N, H, W] and those that were found, by a name."""
    rows = pictures.shown(len(images))
    columns = {"image": images[rows], "truth": pictures.coloured(truth[rows], classes)}
    columns |= {name: pictures.coloured(found[rows], classes) for name, found in masks.items()}
    context.pictures.append(pictures.beside(title, columns))


def results(
    name: str, of: str, predicted: np.ndarray, test_y: np.ndarray, train_y: np.ndarray, names: list[str]
) -> list[Result]:
    """What predicted masks of the test images come to.

    Args:
      name: of the evaluation.
      of: the backbone.
      predicted: masks [M, H, W].
      test_y: the true ones.
      train_y: masks of the training images: by chance every pixel is of their most frequent class.
      names: of the classes.
    """
    most = np.bincount(train_y[train_y != IGNORE]).argmax()
    chance = segmentation.scores(segmentation.confusion(test_y, np.full_like(test_y, most), len(names)))
    s = segmentation.scores(segmentation.confusion(test_y, predicted, len(names)))
    found = [
        Result(f"{name}/{measure}", getattr(s, measure), of, chance=getattr(chance, measure))
        for measure in ("miou", "pixel_accuracy", "mean_accuracy")
    ]
    present = [(kind, x) for kind, x in zip(names, s.iou, strict=True) if not np.isnan(x)]
    return found + [Result(f"{name}/iou/{kind}", float(x), of) for kind, x in present]
