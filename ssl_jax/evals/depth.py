"""Depth of every pixel from one image: a head on a frozen or a fine-tuned backbone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.evals import dense
from ssl_jax.evals.context import Context
from ssl_jax.metrics import depth
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "depth", frozenset({"depth", "test images"}), False, False
FEATURES = False
OPTIONS = {"depth_answer": "log"}  # 'log': the logarithm, with Eigen's loss; 'bins': of depths, as DINOv2 has it

SHARES = ("delta1", "delta2", "delta3")


def measure(context: Context) -> list[Result]:
    """The usual measures of each backbone and head, with the true scale; crops are at the images' own scale."""
    train, test = dense.parts(context, "depth", {"depth": np.float32})
    known = train.fields["depth"][train.fields["depth"] > 0]
    problem, depth_of = _problem(context.config.eval.depth_answer, known)
    truth = test.fields["depth"]
    chance = depth.scores(np.full_like(truth, np.median(known)), truth)
    found, shades = [], {}
    for of, kind, answers in dense.predictions(context, problem, train, test):
        answer = dense.enlarged(answers, truth.shape[1:3], depth_of)
        shades[f"{of}, {kind}"] = _shade(answer, known)
        scores = depth.scores(answer, truth)
        found += [
            Result(
                f"depth/{kind}/{name}",
                value,
                of,
                "share" if name in SHARES else "value",
                chance=getattr(chance, name),
                detail=name not in ("delta1", "abs_rel", "rmse"),
            )
            for name, value in scores._asdict().items()
        ]
    title = "Test images, their depth (near is bright, black unknown), and that which each head found."
    dense.show(context, title, test, _shade(truth, known), shades)
    return found


def _shade(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Depths [N, H, W] as greys [N, H, W, 1] on a scale of logarithms, the nearest white; 0 is black."""
    nearest, furthest = np.log(known.min()), np.log(known.max())
    share = (furthest - np.log(np.maximum(found, 1e-6))) / max(furthest - nearest, 1e-6)
    return np.where(found > 0, 0.1 + 0.9 * share.clip(0, 1), 0.0)[..., None]


def _problem(answer: str, known: np.ndarray) -> tuple[dense.Problem, Any]:
    """What is predicted, and the depth that it says; `known` are those of the training images."""
    field = Field("depth", "view", "nearest")
    nearest, furthest, middle = float(known.min()), float(known.max()), float(np.log(known).mean())
    if answer == "log":
        # A head that says nothing says the middle.
        return (
            dense.Problem(1, lambda x, truth: depth.eigen_loss(x[..., 0] + middle, truth), field),
            lambda x: jnp.exp(x[..., 0] + middle),
        )
    if answer != "bins":
        raise UserError(f"config.eval.depth_answer is '{answer}': use 'log' or 'bins'.")

    def depth_of(x: jax.Array) -> jax.Array:
        return depth.from_bins(x, nearest, furthest)

    return dense.Problem(depth.BINS, lambda x, truth: depth.sig_loss(depth_of(x), truth), field), depth_of
