"""Segmentation with heads that are trained on random crops: linear and FCN, on a frozen or a fine-tuned backbone."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.evals import dense
from ssl_jax.evals.context import Context
from ssl_jax.evals.maps import names_of, needs_masks
from ssl_jax.evals.segmentation import results, show
from ssl_jax.metrics import segmentation
from ssl_jax.metrics.segmentation import IGNORE
from ssl_jax.weights.answers import Classes
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "segmentation heads", frozenset({"mask", "test images"}), False, False
FEATURES = False
OPTIONS = dense.OPTIONS

AREA = (0.25, 1.0)  # share of the image's area that a crop covers: scales from 1 to 2


def measure(context: Context) -> list[Result]:
    """mIoU, IoU of each class, and accuracy over the pixels of the test images, for each backbone and head."""
    needs_masks(context.images, "segmentation_heads")
    names = names_of(context.images)
    train, test = dense.parts(context, "segmentation_heads", {"mask": np.uint8})
    for part in (train, test):
        part.fields["mask"][part.fields["mask"] >= len(names)] = IGNORE
    problem = dense.Problem("segmentation_heads", Classes(tuple(names)), _loss, Field("mask", "view"))
    looks = {"crop": "torch", "area": AREA, "ratio": (1.0, 1.0)}
    truth = test.fields["mask"]
    found, answers = [], {}
    for of, kind, logits in dense.predictions(context, problem, train, test, **looks):
        masks = dense.enlarged(logits, truth.shape[1:3], lambda x: x.argmax(-1).astype(jnp.uint8))
        found += results(f"segmentation_heads/{kind}", of, masks, truth, train.fields["mask"], names)
        answers[f"{of}, {kind}"] = masks
    show(context, "Test images, their masks, and those that each head found.", test.images, truth, answers, len(names))
    return found


def _loss(logits: jax.Array, masks: jax.Array) -> jax.Array:
    return segmentation.cross_entropy(logits, jnp.where(masks < 0, IGNORE, masks))
