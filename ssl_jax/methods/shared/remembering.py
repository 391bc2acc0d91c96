"""Losses against forgetting: distillation of a frozen network, and penalties on weights that mattered."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.methods.ranges import Positive


def contrastive_distillation(
    p1: jax.Array,
    p2: jax.Array,
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: Positive = 0.2,
    axis_name: str | None = None,
) -> jax.Array:
    """CaSSLe's loss for contrastive methods: a prediction finds the frozen projection of its own view, and vice versa.

    Every pair of the 2N views is in the denominator (DonkeyShot21/cassle, losses). The gather is differentiable.

    Args:
      p1: predictions of the first views [n, D]; normalised inside.
      p2: of the second views.
      z1: frozen projections of the first views [n, D]; no gradient flows into them.
      z2: of the second views.
      temperature: T.
      axis_name: mapped axis over which views are gathered; None for this replica's alone.

    Returns:
      the mean over this replica's rows and both directions.
    """
    p, z = jnp.concatenate([p1, p2]), jax.lax.stop_gradient(jnp.concatenate([z1, z2]))
    p, z = losses.l2_normalize(p), losses.l2_normalize(z)
    own = jnp.arange(len(p))
    there, _ = losses.in_batch_softmax(p, z, own, temperature=temperature, axis_name=axis_name)
    back, _ = losses.in_batch_softmax(z, p, own, temperature=temperature, axis_name=axis_name)
    return (there + back) / 2


def predictive_distillation(p1: jax.Array, p2: jax.Array, z1: jax.Array, z2: jax.Array) -> jax.Array:
    """CaSSLe's loss for methods without negatives: 2 - 2 cos of prediction and frozen projection, mean of both views.

    Args:
      p1: predictions of the first views [n, D].
      p2: of the second views.
      z1: frozen projections of the first views [n, D]; no gradient flows into them.
      z2: of the second views.
    """

    def gap(p: jax.Array, z: jax.Array) -> jax.Array:
        z = jax.lax.stop_gradient(z)
        return jnp.mean(2 - 2 * jnp.sum(losses.l2_normalize(p) * losses.l2_normalize(z), -1))

    return (gap(p1, z1) + gap(p2, z2)) / 2


def logit_distillation(new: jax.Array, old: jax.Array, temperature: float = 2.0) -> jax.Array:
    """Learning without forgetting (Li and Hoiem 2016): cross-entropy with the old answers, both at a temperature.

    Without the factor T^2, as mammoth has it.

    Args:
      new: logits [n, K].
      old: logits [n, K] of the network before the task; no gradient flows into them.
      temperature: T.
    """
    wanted = jax.nn.softmax(jax.lax.stop_gradient(old) / temperature)
    return -jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(new / temperature), -1))


def fisher(log_likelihood: Callable[[Any, Any], jax.Array], params: Any, rows: Any) -> Any:
    """The empirical Fisher information of each weight: the mean over rows of the squared gradient of one row.

    The square of the gradient of a batch would be another thing.

    Args:
      log_likelihood: `(params, row) -> scalar`, of the label that was observed.
      params: weights.
      rows: a tree of arrays [n, ...].
    """
    each = jax.vmap(jax.grad(log_likelihood), (None, 0))(params, rows)
    return jax.tree.map(lambda g: jnp.mean(g * g, 0), each)


def elastic_penalty(params: Any, old: Any, importance: Any, strength: float) -> jax.Array:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3): strength / 2 * sum F (theta - theta*)^2.

    Args:
      params: weights.
      old: those after the task before, of the same tree.
      importance: F of each.
      strength: lambda.
    """
    terms = jax.tree.map(lambda x, y, f: jnp.sum(f * (x - y) ** 2), params, old, importance)
    return strength / 2 * sum(jax.tree.leaves(terms), start=jnp.zeros(()))
