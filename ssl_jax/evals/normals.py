"""Surface normals of every pixel from one image: a head on a frozen or a fine-tuned backbone."""

import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.evals import dense
from ssl_jax.evals.context import Context
from ssl_jax.metrics import normals
from ssl_jax.weights.answers import Normals
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "surface normals", frozenset({"normals", "test images"}), False, False
FEATURES = False
OPTIONS: dict[str, object] = {}


def measure(context: Context) -> list[Result]:
    """Angles of each backbone and head; images are not mirrored, which would turn the normals round."""
    train, test = dense.parts(context, "normals", {"normals": np.float32})
    problem = dense.Problem("normals", Normals(), normals.loss, Field("normals", "view", "nearest"))
    truth = test.fields["normals"]
    mean = train.fields["normals"].reshape(-1, 3).mean(0)
    chance = normals.scores(np.broadcast_to(mean, truth.shape), truth)
    found, colours = [], {}
    for of, kind, answers in dense.predictions(context, problem, train, test, flip=0.0):
        answer = dense.enlarged(answers, truth.shape[1:3], lambda x: x)
        colours[f"{of}, {kind}"] = _colours(answer)
        scores = normals.scores(answer, truth)
        found += [
            Result(
                f"normals/{kind}/{name}",
                value,
                of,
                "share" if name.startswith("within") else "value",
                chance=getattr(chance, name),
                detail=name in ("within_22", "within_30"),
            )
            for name, value in scores._asdict().items()
        ]
    title = "Test images, their normals as colours, and those that each head found."
    dense.show(context, title, test, _colours(truth), colours)
    return found


def _colours(found: np.ndarray) -> np.ndarray:
    """Normals [N, H, W, 3] of any length as red, green and blue."""
    return 0.5 + 0.5 * found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
