"""Depth of every pixel from one image: a head on a frozen or a fine-tuned backbone."""

import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.evals import dense
from ssl_jax.evals.context import Context
from ssl_jax.metrics import depth
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights.answers import BinnedDepth, LogDepth
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "depth", frozenset({"depth", "test images"}), False, False
FEATURES = False
OPTIONS = {"depth_answer": "log"}  # 'log': the logarithm, with Eigen's loss; 'bins': of depths, as DINOv2 has it

SHARES = ("delta1", "delta2", "delta3")


def measure(context: Context) -> list[Result]:
    """The usual measures of each backbone and head, with the true scale; crops are at the images' own scale."""
    train, test = dense.parts(context, "depth", {"depth": np.float32})
    known = train.fields["depth"][train.fields["depth"] > 0]
    problem = _problem(context.config.eval.depth_answer, known)
    truth = test.fields["depth"]
    chance = depth.scores(np.full_like(truth, np.median(known)), truth)
    found, shades = [], {}
    for of, kind, answers in dense.predictions(context, problem, train, test):
        answer = dense.enlarged(answers, truth.shape[1:3], problem.answer)
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


def _problem(kind: str, known: np.ndarray) -> dense.Problem:
    """What is predicted; `known` are the depths of the training images."""
    field = Field("depth", "view", "nearest")
    if kind == "log":
        log = LogDepth(float(np.log(known).mean()))
        return dense.Problem("depth", log, lambda x, truth: depth.eigen_loss(log.logarithm(x), truth), field)
    if kind != "bins":
        raise UserError(f"config.eval.depth_answer is '{kind}': use 'log' or 'bins'.")
    bins = BinnedDepth(float(known.min()), float(known.max()))
    return dense.Problem("depth", bins, lambda x, truth: depth.sig_loss(bins(x), truth), field)
