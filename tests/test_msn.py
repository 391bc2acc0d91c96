"""MSN against reference numbers and closed forms; its statistics over replicas; what anchors see."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, models
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.msn import MSN, assignments, msn_loss
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

UNIFORM = jnp.full(5, -np.log(5))


@pytest.fixture(scope="module")
def given(golden):
    with np.load(golden.parent / "golden_modern" / "msn.npz") as found:
        return dict(found)


def total(anchors, prototypes, targets, **options):
    p = assignments(anchors, prototypes, 0.1).reshape(2, 3, -1)
    fixed = assignments(targets, jax.lax.stop_gradient(prototypes), 0.1)
    cross, apart, y = msn_loss(p, fixed, UNIFORM.astype(p.dtype), **options)
    return cross + apart, (cross, apart, y)


def test_agrees_with_the_reference(given):
    with jax.enable_x64(True):
        arrays = [jnp.asarray(given[name]) for name in ("anchors", "prototypes", "targets")]
        (value, (cross, apart, y)), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(*arrays)
        np.testing.assert_allclose([cross, value], [given["loss_ce"], given["total"]], rtol=1e-6)
        np.testing.assert_allclose(apart, given["me_max"], rtol=1e-5)
        np.testing.assert_allclose(y, given["target_probs"], atol=1e-7)
        for grad, name in zip(grads, ("grad_anchors", "grad_prototypes"), strict=True):
            np.testing.assert_allclose(grad, given[name], atol=1e-6 * np.abs(given[name]).max())
        _, (cross, _, y) = total(*arrays, balance=False)
        np.testing.assert_allclose(cross, given["loss_ce_no_sinkhorn"], rtol=1e-6)
        np.testing.assert_allclose(y, given["target_probs_no_sinkhorn"], atol=1e-7)


@pytest.mark.fast
@pytest.mark.parametrize("devices", [2, 4])
def test_replicas_give_the_numbers_of_the_whole_batch(devices):
    draw = np.random.default_rng(0)
    anchors = jax.nn.log_softmax(jnp.asarray(3 * draw.normal(size=(2, 8, 5)), jnp.float32))
    targets = jax.nn.log_softmax(jnp.asarray(3 * draw.normal(size=(8, 5)), jnp.float32))

    def replica(anchors, targets):
        cross, apart, y = msn_loss(anchors, targets, UNIFORM, axis_name=dist.AXIS)
        return dist.mean(cross), apart, y

    mesh = dist.make_mesh(jax.devices()[:devices])
    specs = (P(None, dist.AXIS), P(dist.AXIS))
    found = dist.map_replicas(replica, mesh, specs, (P(), P(), P(dist.AXIS)))(anchors, targets)
    for ours, wanted in zip(found, msn_loss(anchors, targets, UNIFORM), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.fast
def test_the_divergence_is_zero_at_the_prior_and_log_k_at_one_prototype():
    method = MSN(None, prototypes=5, power=0.25)
    prior = method._prior()
    wanted = np.arange(1, 6.0) ** -0.25
    np.testing.assert_allclose(np.exp(prior), wanted / wanted.sum(), rtol=1e-6)
    spread = jnp.broadcast_to(prior, (1, 4, 5))
    assert abs(msn_loss(spread, spread[0], prior)[1]) < 1e-6
    one = jnp.log(jnp.eye(5)[:1] + 1e-12)[None]
    np.testing.assert_allclose(msn_loss(one, one[0], UNIFORM)[1], np.log(5), rtol=1e-5)
    assert method.chance(Info(1, 1, 1, 1)) == pytest.approx(np.log(5))


@pytest.mark.fast
def test_anchors_lack_the_same_patches_of_every_image():
    config = get_config("msn", "cifar10_small")
    method = build.method(config.method, models.from_config(config.model))
    seen = np.asarray(method._seen(jax.random.key(0), 3, 32))
    assert seen.shape == (3, round(64 * 0.85)) and (seen == seen[0]).all() and (np.diff(seen[0]) > 0).all()
    assert (seen != np.asarray(method._seen(jax.random.key(1), 3, 32))).any()


@pytest.mark.fast
def test_the_target_does_not_stop_before_the_end():
    method = MSN(None, tau=0.9)
    params = {"backbone": {"w": jnp.ones(1)}, "projector": {"w": jnp.ones(1)}, "prototypes": {"kernel": jnp.ones(1)}}
    state = {"target": {"params": {name: {"w": jnp.zeros(1)} for name in ("backbone", "projector")}}}
    for step, share in ((0, 0.1), (100, 0.1 * 0.2)):
        _, moved = method.after_update(params, state, jnp.asarray(step), Info(1, 1, 10, 100))
        np.testing.assert_allclose(moved["target"]["params"]["backbone"]["w"], share, rtol=1e-5)


@pytest.mark.fast
def test_a_convolutional_network_cannot_leave_patches_out():
    config = tiny.config("msn", **{"model.name": "resnet18"})
    method = build.method(config.method, models.from_config(config.model))
    with pytest.raises(UserError, match="only a vision transformer with a class token"):
        method.check(32, 32, 3)
    config.method.patch_drop = 0.0
    build.method(config.method, models.from_config(config.model)).check(32, 32, 3)
    config.method.update(anchors=0, focals=0)
    with pytest.raises(UserError, match="anchors and focals are 0"):
        build.method(config.method, models.from_config(config.model)).check(32, 32, 3)
