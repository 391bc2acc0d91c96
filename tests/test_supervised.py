"""The supervised baseline: what every method must pass is in test_methods.py."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import tiny

from ssl_jax import dist
from ssl_jax.methods.combine.supervised import known_cross_entropy
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def loss_of(classes):
    run = tiny.run("supervised", **{"method.classes": classes})
    return run, jax.jit(jax.value_and_grad(tiny.loss_function(run), has_aux=True))


def test_unknown_rows_weigh_nothing_and_replicas_agree():
    """Rows are spread unevenly: the first of four replicas knows none of its labels."""
    logits = tiny.generator(8, 3, 0.1)
    labels = np.array([-1, -1, 0, 2, 1, -1, 2, 2])
    known = labels >= 0
    wanted = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits[known]), labels[known]).mean()
    share = np.mean(logits[known].argmax(1) == labels[known])
    for devices in (1, 4):
        mapped = jax.shard_map(
            lambda x, y: dist.mean(known_cross_entropy(x, y)),
            mesh=dist.make_mesh(jax.devices()[:devices]),
            in_specs=(P(dist.AXIS), P(dist.AXIS)),
            out_specs=P(),
        )
        loss, top1 = mapped(jnp.asarray(logits), jnp.asarray(labels))
        np.testing.assert_allclose(loss, wanted, rtol=1e-6)
        np.testing.assert_allclose(top1, share, rtol=1e-6)
        assert mapped(jnp.asarray(logits), jnp.full(8, -1))[0] == 0


def test_classes_outside_the_task_teach_nothing():
    run, loss = loss_of((0, 1, 2))
    assert run.method.chance(run.info) == pytest.approx(np.log(3))
    ts = tiny.fresh(tiny.run("supervised"))
    batch = tiny.batch_of(run, 10) | {"label": jnp.arange(10)}
    (value, (_, _)), grads = loss(ts.params, ts.state, batch)
    masked = batch | {"label": jnp.where(jnp.arange(10) < 3, jnp.arange(10), -1)}
    (same, _), same_grads = loss(ts.params, ts.state, masked)
    assert value == same
    tiny.assert_same(grads, same_grads)
    kernel = grads["classifier"]["linear"]["kernel"]
    assert not np.any(kernel[:, 3:]) and np.all(np.any(kernel[:, :3], axis=0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_a_task_without_any_row_of_the_batch_moves_nothing():
    run, loss = loss_of((0, 1, 2))
    ts = tiny.fresh(tiny.run("supervised"))
    (value, _), grads = loss(ts.params, ts.state, tiny.batch_of(run, 10) | {"label": jnp.full(10, 7)})
    assert value == 0
    assert not any(np.any(x) for x in jax.tree.leaves(grads))


@pytest.mark.fast
def test_mistakes_are_explained():
    with pytest.raises(UserError, match="classes from 0 to 9"):
        tiny.run("supervised", **{"method.classes": (3, 10)})
