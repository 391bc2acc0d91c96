"""BiGAN: its losses, who moves by which of them, and that the discriminator sees pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import dist
from ssl_jax.methods.pretext import bigan

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_losses_have_the_reference_values_and_gradients(golden):
    with np.load(golden.parent / "golden_wave2" / "bigan.npz") as file, jax.enable_x64(True):
        real, made = jnp.asarray(file["d_real"]), jnp.asarray(file["d_fake"])
        for loss, name in ((bigan.discriminator_loss, "d"), (bigan.encoder_generator_loss, "eg")):
            value, grads = jax.value_and_grad(loss, (0, 1))(real, made)
            np.testing.assert_allclose(value, file[f"{name}_loss_half"], rtol=1e-9)
            np.testing.assert_allclose(grads[0], file[f"grad_real_{name}"], rtol=1e-7)
            np.testing.assert_allclose(grads[1], file[f"grad_fake_{name}"], rtol=1e-7)
        np.testing.assert_allclose(2 * bigan.discriminator_loss(real, made), file["d_loss_sum"], rtol=1e-9)


@pytest.fixture(scope="module")
def run():
    return tiny.run("bigan")


def gradients(run, params, state, batch):
    return jax.grad(lambda params: tiny.loss_function(run)(params, state, batch)[0])(params)


def moves(tree):
    return any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(tree))


def test_each_network_moves_by_its_own_loss(run, monkeypatch):
    ts, batch = run.init(), tiny.batch_of(run, 16)
    monkeypatch.setattr(bigan, "encoder_generator_loss", lambda real, made: jnp.zeros(()))
    grads = gradients(run, ts.params, ts.state, batch)
    assert moves(grads["discriminator"])
    assert not any(moves(grads[name]) for name in ("backbone", "encoder", "generator"))
    monkeypatch.undo()
    monkeypatch.setattr(bigan, "discriminator_loss", lambda real, made: jnp.zeros(()))
    monkeypatch.setattr(
        bigan, "encoder_generator_loss", lambda real, made: jnp.mean(jax.nn.softplus(real) + jax.nn.softplus(-made)) / 2
    )
    grads = gradients(run, ts.params, ts.state, batch)
    assert not moves(grads["discriminator"])
    assert all(moves(grads[name]) for name in ("backbone", "encoder", "generator"))


def test_without_codes_the_encoder_learns_nothing(run):
    """What makes it more than a GAN: the discriminator sees the code."""
    ts, batch = run.init(), tiny.batch_of(run, 16)
    params = dict(ts.params)
    params["discriminator"] = {
        name: jax.tree.map(jnp.zeros_like, part) if name.startswith("code") else part
        for name, part in params["discriminator"].items()
    }
    grads = gradients(run, params, ts.state, batch)
    assert not moves(grads["backbone"]) and moves(grads["generator"])


@pytest.mark.fast
def test_the_error_of_others_is_that_of_all_pairs():
    made, truth = (jnp.asarray(np.random.default_rng(i).normal(size=(8, 4, 4, 1))) for i in range(2))
    mesh = dist.make_mesh(jax.devices()[:4])
    spec = jax.sharding.PartitionSpec
    found = dist.map_replicas(bigan._of_others, mesh, (spec(dist.AXIS), spec(dist.AXIS)), spec())(made, truth)
    wanted = np.mean(np.square(np.asarray(made)[:, None] - np.asarray(truth)[None]))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_ali_draws_its_codes():
    run = tiny.run("bigan", **{"method.stochastic": True})
    ts, batch = run.init(), tiny.batch_of(run, 16)
    keys = dist.example_keys(jax.random.key(0), batch["position"])
    _, code, mean, _ = run.method._encode(ts.params, ts.state["stats"], batch["view"], keys, False)
    assert code.shape == mean.shape == (16, run.method.code)
    assert 0.8 < float(jnp.std(code - mean)) < 1.2  # log variance about 0 at the start
    assert moves(gradients(run, ts.params, ts.state, batch)["encoder"])
