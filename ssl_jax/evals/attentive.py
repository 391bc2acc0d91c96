"""Attentive probes: a query that is learnt pools the patches, as CAPI and as V-JEPA have it, beside linear heads.

A grid of learning rates and weight decays is trained at once on random crops and flips, with CAPI's optimiser for all
kinds. The best head of each kind is chosen on a held-out tenth of each class of the training set.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.evals import heads
from ssl_jax.evals.context import LABELLED, Context, Network
from ssl_jax.evals.linear_layers import cross_entropies, of_each, top1s
from ssl_jax.evals.linear_published import crops
from ssl_jax.metrics.linear import held_out_part
from ssl_jax.models.dense_heads import AttentivePool, CrossAttentionPool, truncated
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "attentive probe", LABELLED, False, True
FEATURES = False
OPTIONS = {
    "attentive_iterations": 12_500,  # updates of the attentive probes
    "attentive_batch": 1024,  # images an update of them
}
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)  # for 256 images
DECAYS = (5e-4, 1e-3, 5e-2)
GRID = np.array([(rate, decay) for rate in RATES for decay in DECAYS])
_WARMUP = 0.1  # share of the updates


class _Linear(nn.Module):
    """A linear layer on one vector an image."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        return nn.Dense(self.classes, kernel_init=truncated, name="linear")(x)


class Probes(nn.Module):
    """One head of each kind for each point of the grid.

    Attributes:
      classes: K.
    """

    classes: int

    @nn.compact
    def __call__(self, x: dict[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """The vector [B, D] and the patches [B, n, D] of images to logits [B, heads, K] by kind of head."""
        del train
        kinds: dict[str, tuple[Any, jax.Array]] = {
            "linear": (_Linear, x["vector"]),
            "linear_patches": (_Linear, x["patches"].mean(1)),
            "capi": (AttentivePool, x["patches"]),
            "vjepa": (CrossAttentionPool, x["patches"]),
        }
        found = {}
        for name, (kind, given) in kinds.items():
            many = nn.vmap(
                kind,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=None,
                out_axes=1,
                axis_size=len(GRID),
            )
            found[name] = many(self.classes, name=name)(given)
        return found


def inputs(encode: heads.Encode, x: jax.Array) -> dict[str, jax.Array]:
    """The vector and the patches of images."""
    encoded, places = encode(x), heads.last_map(encode, x)
    return {"vector": encoded.pooled, "patches": places.reshape(len(x), -1, places.shape[-1]).astype(jnp.float32)}


def rule(iterations: int, batch: int) -> heads.Optimizer:
    """AdamW with a rate and a decay for each head; biases are not decayed, the query is."""
    warmup = max(round(_WARMUP * iterations), 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, batch / 256, warmup, iterations)

    def decayed(updates: Any, params: Any) -> Any:
        def one(path: Any, u: jax.Array, p: jax.Array) -> jax.Array:
            if path[-1].key in ("bias", "scale"):
                return u
            return u + p * jnp.asarray(GRID[:, 1], p.dtype).reshape(-1, *[1] * (p.ndim - 1))

        return jax.tree_util.tree_map_with_path(one, updates, params)

    def make(params: Any) -> optax.GradientTransformation:
        del params
        return optax.chain(
            optax.scale_by_adam(0.9, 0.95),
            optax.stateless(decayed),
            of_each(GRID[:, 0]),
            optax.scale_by_learning_rate(schedule),
        )

    return make


def measure(context: Context) -> list[Result]:
    """Accuracy of the chosen head of each kind, for each backbone."""
    heads.in_memory(context.images, "attentive", frozenset())
    train = context.images[0]
    held = held_out_part(train.labels, context.config.seed)
    return [result for of, network in context.networks.items() for result in _probed(context, network, of, held)]


def _probed(context: Context, network: Network, of: str, held: np.ndarray) -> list[Result]:
    train, test = context.images
    options, view = context.config.eval, network.run.eval_view
    batch = min(options.attentive_batch, int((~held).sum()))
    task = heads.Task(Probes(context.features.classes), cross_entropies, inputs)
    optimizer = rule(options.attentive_iterations, batch)
    trainer = heads.Trainer(network, task, crops(network, "bicubic"), optimizer, batch=batch)
    rows = {"label": train.labels[~held]}
    trained = trainer(train.images[~held], rows, options.attentive_iterations, context.config.seed)
    chosen = top1s(trainer.answers(trained, train.images[held], view), train.labels[held])
    other = top1s(trainer.answers(trained, test.images, view), test.labels)
    found = []
    for kind in dict.fromkeys(kind for kind, _ in chosen):
        best = max((head for head in chosen if head[0] == kind), key=lambda head: chosen[head])
        rate, decay = GRID[best[1]]
        found += [
            Result(f"attentive/{kind}/top1", other[best], of),
            Result(f"attentive/{kind}/head", f"learning rate {rate:g}, decay {decay:g}", of, detail=True),
        ]
    return found
