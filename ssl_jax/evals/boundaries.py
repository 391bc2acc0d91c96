"""Boundaries of things: a head on the maps of all stages, of a frozen or a fine-tuned backbone."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.evals import dense, heads
from ssl_jax.evals.context import Context
from ssl_jax.metrics import boundaries
from ssl_jax.metrics.segmentation import upsampled
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "boundaries", frozenset({"boundary", "test images"}), False, False
FEATURES = False
OPTIONS: dict[str, object] = {}


def measure(context: Context) -> list[Result]:
    """Average precision of the pixels, two pixels tolerated, for each backbone and head."""
    train, test = dense.parts(context, "boundaries", {"boundary": np.float32})
    stages = context.run.method.backbone.stages

    def all_stages(encode: heads.Encode, x: jax.Array) -> jax.Array:
        """The maps of all stages, brought to the size of the largest [B, h, w, D]."""
        found = [heads.last_map(lambda x, s=s: encode(x, s), x) for s in (*range(1, stages), None)]
        height, width = (max(m.shape[axis] for m in found) for axis in (1, 2))
        return jnp.concatenate([upsampled(m.astype(jnp.float32), (height, width)) for m in found], -1)

    field = Field("boundary", "view", "nearest")
    problem = dense.Problem(1, lambda x, truth: boundaries.balanced_loss(x[..., 0], truth), field, all_stages)
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
