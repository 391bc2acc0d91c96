"""Losses that several methods share. Each is usable without the rest of the package."""

import jax
import jax.numpy as jnp
import optax


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Divides rows [..., D] by their length, in float32 or wider; shorter than `epsilon` counts as `epsilon`."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), epsilon**2))


def similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Inner products [N, M] of rows [N, D] and [M, D] at full precision (the TPU's default is bfloat16)."""
    return jnp.matmul(x, y.T, precision="highest")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy (natural log) of logits [N, K] and integer labels [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of rows whose largest logit [N, K] is at the label [N]."""
    return jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
