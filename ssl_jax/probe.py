"""The online linear probe: linear evaluation of the features while they are learned."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist
from ssl_jax.data import Dataset
from ssl_jax.methods.contract import Method


def optimizer(config: Any) -> optax.GradientTransformation:
    """What moves the probe: Adam, whose rate suits features of any kind once they are standardised."""
    return optax.adam(config.probe.learning_rate)


def init(config: Any, method: Method, params: Any, state: Any, train: Dataset) -> dict[str, Any]:
    """The probe's parameters, which start at zero, and its optimiser's state; empty where no image has a label."""
    if not (train.labels >= 0).any():
        return {}
    side = method.primary_view().size
    one = jax.ShapeDtypeStruct((1, side, side, train.image_shape[-1]), jnp.float32)
    width = jax.eval_shape(method.encode, method.variables(params, state), one)[0].pooled.shape[-1]
    head = {"kernel": jnp.zeros((width, len(train.classes))), "bias": jnp.zeros(len(train.classes))}
    return {"params": head, "opt_state": optimizer(config).init(head)}


def update(config: Any, probe: Any, grads: Any) -> Any:
    """The probe after one update."""
    moves, opt_state = optimizer(config).update(grads, probe["opt_state"])
    return {"params": optax.apply_updates(probe["params"], moves), "opt_state": opt_state}


def gradient(params: Any, features: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
    """Gradient and accuracy of the online linear probe over the labelled rows of the global batch."""
    known = labels >= 0
    count = jnp.maximum(dist.total(known.sum()), 1)

    x = _standardised(features.astype(jnp.float32))

    def loss_of(params):
        logits = x @ params["kernel"] + params["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        correct = jnp.argmax(logits, -1) == labels
        share = dist.total(jnp.sum(correct, where=known)) / count
        return dist.total(jnp.sum(losses, where=known)) / count, share

    (_, top1), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return dist.mean(grads), top1


def _standardised(x: jax.Array) -> jax.Array:
    """Features [n, D] with the mean and the variance of the global batch taken out, channel by channel.

    Their scale differs between methods by orders of magnitude, and one learning rate has to suit them all. The probe
    only ever judges the batch it is given, so that there are no running statistics to keep.
    """
    x -= dist.mean(x.mean(0))
    variance = dist.mean(jnp.square(x).mean(0))
    # Relative, so that features of any scale are treated alike; the rest is for features that are all constant.
    return x * jax.lax.rsqrt(variance + 1e-5 * variance.mean() + 1e-30)
