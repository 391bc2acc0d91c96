"""Boundaries of things: a head on the maps of all stages, of a frozen or a fine-tuned backbone."""

import jax
import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.evals import dense
from ssl_jax.evals.context import Context
from ssl_jax.metrics import boundaries
from ssl_jax.weights.answers import Boundary
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "boundaries", frozenset({"boundary", "test images"}), False, False
FEATURES = False
OPTIONS: dict[str, object] = {}


def measure(context: Context) -> list[Result]:
    """Average precision of the pixels, two pixels tolerated, for each backbone and head."""
    train, test = dense.parts(context, "boundaries", {"boundary": np.float32})
    stages = tuple(range(1, context.run.method.backbone.stages + 1))
    field = Field("boundary", "view", "nearest")
    problem = dense.Problem("boundaries", Boundary(), _loss, field, stages)
    truth = test.fields["boundary"]
    chance = boundaries.average_precision(np.zeros_like(truth), truth)
    found, shades = [], {}
    for of, kind, answers in dense.predictions(context, problem, train, test):
        score = dense.enlarged(answers, truth.shape[1:3], lambda x: x[..., 0])
        shades[f"{of}, {kind}"] = 1 / (1 + np.exp(-score[..., None].astype(np.float64)))
        value = boundaries.average_precision(score, truth)
        found.append(Result(f"boundaries/{kind}/average_precision", value, of, chance=chance))
    dense.show(context, "Test images, their boundaries, and how sure each head is.", test, truth[..., None], shades)
    return found


def _loss(x: jax.Array, truth: jax.Array) -> jax.Array:
    return boundaries.balanced_loss(x[..., 0], truth)
