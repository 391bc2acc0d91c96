"""DINOv2's linear probe: many heads at once, on the last one and four blocks, with and without the mean patch.

Every head sees the same random crops and flips. The best head is chosen on a held-out tenth of each class of the
training set. DINOv2 itself reports the best one on the images that it is measured on, which is too high by what the
choice gains; that figure stands beside, as `linear_layers/best_of_test`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.evals import heads
from ssl_jax.evals.context import LABELLED, Context, Network
from ssl_jax.evals.linear_published import crops
from ssl_jax.metrics.linear import held_out_part
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "linear probe over layers", LABELLED, False, True
FEATURES = False
OPTIONS = {
    "layers_iterations": 12_500,  # updates of DINOv2's linear probe
    "layers_batch": 1024,  # images an update of it
}
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)  # for 256 images


class Heads(nn.Module):
    """Linear layers, so many of each input.

    Attributes:
      classes: K.
      each: layers of one input.
    """

    classes: int
    each: int

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Inputs [B, D] by name to logits [B, each, K]."""
        del train
        found = {}
        for name, x in inputs.items():
            shape = (self.each, x.shape[-1], self.classes)
            kernel = self.param(f"{name}_kernel", nn.initializers.normal(0.01), shape)
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (self.each, self.classes))
            found[name] = jnp.einsum("bd,ldk->blk", x, kernel, precision="highest") + bias
        return found


def cross_entropies(logits: dict[str, jax.Array], fields: Any) -> jax.Array:
    """Sum over heads [B, heads, K] of their mean cross-entropies: each learns as if it were alone."""
    labels = fields["label"][:, None]
    losses = (
        optax.softmax_cross_entropy_with_integer_labels(x, jnp.repeat(labels, x.shape[1], 1)) for x in logits.values()
    )
    return sum((x.mean(0).sum() for x in losses), jnp.zeros(()))


def of_each(values: np.ndarray) -> optax.GradientTransformation:
    """Multiplies the updates of the heads, the first axis of all parameters, by a value each."""

    def scaled(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda u: u * jnp.asarray(values, u.dtype).reshape(-1, *[1] * (u.ndim - 1)), updates)

    return optax.stateless(scaled)


def inputs_of(network: Network) -> Any:
    """What the heads see by name: class tokens of the last one and four blocks, with and without the mean patch."""
    backbone = network.run.method.backbone
    last = backbone.last_blocks(4)

    def inputs(encode: heads.Encode, x: jax.Array) -> dict[str, jax.Array]:
        whole = encode(x)
        tokens = [encode(x, stage).pooled for stage in last[:-1]] + [whole.pooled]
        found = {"1": whole.pooled, "4": jnp.concatenate(tokens, -1)}
        if whole.map is not None and not network.run.method.pools_map and not backbone.pools_map:
            mean = whole.map.mean((1, 2)).astype(jnp.float32)
            found |= {f"{name}_patches": jnp.concatenate([x, mean], -1) for name, x in found.items()}
        return found

    return inputs


def measure(context: Context) -> list[Result]:
    """Accuracy of the head that is best on held-out training images, for each backbone."""
    heads.in_memory(context.images, "linear_layers", frozenset())
    train, test = context.images
    options, seed = context.config.eval, context.config.seed
    held = held_out_part(train.labels, seed)
    batch = min(options.layers_batch, int((~held).sum()))
    schedule = optax.cosine_decay_schedule(batch / 256, options.layers_iterations)
    found = []
    for of, network in context.networks.items():
        task = heads.Task(Heads(context.features.classes, len(RATES)), cross_entropies, inputs_of(network))

        def rule(params: Any) -> optax.GradientTransformation:
            del params
            return optax.chain(optax.sgd(schedule, momentum=0.9), of_each(np.array(RATES)))

        trainer = heads.Trainer(network, task, crops(network, "bicubic"), rule, batch=batch)
        rows = {"label": train.labels[~held]}
        trained = trainer(train.images[~held], rows, options.layers_iterations, seed)
        view = network.run.eval_view
        chosen, other = (
            top1s(trainer.answers(trained, images, view), labels)
            for images, labels in ((train.images[held], train.labels[held]), (test.images, test.labels))
        )
        best = max(chosen, key=lambda head: chosen[head])
        found += [
            Result("linear_layers/top1", other[best], of),
            Result("linear_layers/held_out_top1", chosen[best], of, detail=True),
            Result("linear_layers/head", f"last {best[0]}, learning rate {RATES[best[1]]:g}", of, detail=True),
            Result("linear_layers/best_of_test", max(other.values()), of, detail=True),
        ]
    return found


def top1s(logits: dict[str, np.ndarray], labels: np.ndarray) -> dict[tuple[str, int], float]:
    """Accuracy of each head, by its input's name and its number, of logits [B, heads, K]."""
    right = {name: (x.argmax(-1) == labels[:, None]).mean(0) for name, x in logits.items()}
    return {(name, i): float(share) for name, shares in right.items() for i, share in enumerate(shares)}
