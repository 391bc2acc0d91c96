"""BiGAN: its losses, who moves by which of them, and that the discriminator sees pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import dist, models, optim, recipes
from ssl_jax.augment.view import pixels
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info
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


DENSE = {"method.dense": True, "method.widths": (16, 16), "method.judge": (16, 16), "model.name": "mlp"}


@pytest.fixture(scope="module", params=[{}, DENSE], ids=["convolutional", "dense"])
def run(request):
    return tiny.run("bigan", **request.param)


def gradients(run, params, state, batch):
    return jax.grad(lambda params: tiny.loss_function(run)(params, state, batch)[0])(params)


def moves(tree):
    return any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(tree))


def begun(run):
    """Parameters, state and a batch; logits must not be all zero, as those of the dense discriminator at the start."""
    ts = run.init()
    out = jax.random.normal(jax.random.key(1), ts.params["discriminator"]["out"]["kernel"].shape)
    discriminator = ts.params["discriminator"] | {"out": ts.params["discriminator"]["out"] | {"kernel": out}}
    return dataclasses.replace(ts, params=ts.params | {"discriminator": discriminator}), tiny.batch_of(run, 16)


def test_each_network_moves_by_its_own_loss(run, monkeypatch):
    ts, batch = begun(run)
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
    ts, batch = begun(run)
    params = dict(ts.params)
    params["discriminator"] = {
        name: jax.tree.map(jnp.zeros_like, part) if name.startswith("code") else part
        for name, part in params["discriminator"].items()
    }
    grads = gradients(run, params, ts.state, batch)
    assert not moves(grads["backbone"]) and moves(grads["generator"])


def test_what_is_made_is_bounded(run):
    """Codes of images lie where drawn ones do, and images where pixels do: by their range none is told apart."""
    ts, batch = begun(run)
    loud = jax.tree.map(lambda leaf: 1e4 * leaf, ts.params)
    keys = dist.example_keys(jax.random.key(0), batch["position"])
    _, code, _, _ = run.method._encode(loud, ts.state["stats"], batch["view"], keys, False)
    made, _ = run.method._generate(loud, ts.state["stats"], code, 1, False)
    shown = pixels(run.method.view, made)
    for values, low in ((code, -1.0), (shown, 0.0)):
        assert float(values.min()) == pytest.approx(low, abs=1e-3) and float(values.max()) == pytest.approx(1, abs=1e-3)


def test_the_authors_networks_of_digits():
    """Two layers of 1,024 without biases (net.py); the code is added to all but a network's first."""
    config = recipes.get_config("bigan", "mnist")
    method = build.method(config.method, models.from_config(config.model))
    info = Info(60_000, 128, 468, 187_200)
    params, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), {"view": jnp.zeros((2, 28, 28, 1))}, info))
    w, flat = 1024, jax.tree_util.tree_leaves_with_path(params)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in flat}
    assert shapes == {
        "backbone/stage1/kernel": (28, 28, 1, w),
        "backbone/stage2/kernel": (w, w),
        "encoder/linear/kernel": (w, 50),
        "generator/dense1/kernel": (50, w),
        "generator/dense2/kernel": (w, w),
        "generator/code2/kernel": (50, w),
        "generator/out/kernel": (w, 784),
        "discriminator/dense1/kernel": (784, w),
        "discriminator/dense2/kernel": (w, w),
        "discriminator/code2/kernel": (50, w),
        "discriminator/out/kernel": (w, 1),
    }


def test_the_rate_falls_to_a_hundredth_in_the_second_half():
    """Of the digits' networks, train_gan.py, `set_lr`: a twentieth of it at a time."""
    config = recipes.get_config("bigan", "mnist")
    for group in ("default", "discriminator"):
        rate = optim.learning_rate(config.optim[group], 128, 10, 4000)
        found = [float(rate(jnp.asarray(step))) for step in (0, 1999, 2500, 3000, 3999)]
        np.testing.assert_allclose(found, [2e-4, 2e-4, 2e-4 * 10**-0.6, 2e-4 * 10**-1.1, 2e-6], rtol=1e-4)


@pytest.mark.fast
def test_reconstructions_are_compared_with_the_next_image():
    """Of the global batch, so that the number does not depend on the devices."""
    made, truth = (np.random.default_rng(i).normal(size=(8, 4, 4, 1)).astype(np.float32) for i in range(2))
    mesh = dist.make_mesh(jax.devices()[:4])
    spec = jax.sharding.PartitionSpec

    def measured(made, truth):
        return dist.mean(bigan.distance(made, bigan._next(truth)))

    found = dist.map_replicas(measured, mesh, (spec(dist.AXIS), spec(dist.AXIS)), spec())(made, truth)
    wanted = np.mean(np.linalg.norm((made - np.roll(truth, -1, 0)).reshape(8, -1), axis=1))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_ali_draws_its_codes():
    run = tiny.run("bigan", **{"method.stochastic": True})
    ts, batch = run.init(), tiny.batch_of(run, 16)
    keys = dist.example_keys(jax.random.key(0), batch["position"])
    _, code, mean, _ = run.method._encode(ts.params, ts.state["stats"], batch["view"], keys, False)
    assert code.shape == mean.shape == (16, run.method.code)
    assert 0.8 < float(jnp.std(code - mean)) < 1.2  # log variance about 0 at the start
    assert moves(gradients(run, ts.params, ts.state, batch)["encoder"])
