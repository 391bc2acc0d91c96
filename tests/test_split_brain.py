"""Split-brain autoencoder: two halves that never exchange anything, and their loss."""

import grids
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import models
from ssl_jax.augment import lab
from ssl_jax.methods import build
from ssl_jax.methods.pretext import split_brain
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.split import Split
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_fifty_bins_of_lightness():
    lightness = jnp.array([0.0, 1.99, 2.0, 53.24, 99.99, 100.0])
    np.testing.assert_array_equal(split_brain.lightness_bins(lightness), [0, 0, 1, 26, 49, 49])


class Mixed(Split):
    """What it must not be: halves that both see everything."""

    def __call__(self, x, **rest):
        return jnp.concatenate([half(x, **rest) for half in (self.first, self.second)], -1)


@pytest.mark.parametrize(("kind", "apart"), [(Split, True), (Mixed, False)])
def test_halves_see_their_own_channels_alone(kind, apart):
    """The Jacobian of either half's features by the other's channels is zero, and that test can fail."""
    network = kind(ConvNet(4), ConvNet(4))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 3)), jnp.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), x, train=False))()
    jacobian = jax.jit(jax.jacrev(lambda x: network.apply(variables, x, train=False)[0]))(x)[:, 0]  # [D, H, W, C]
    d = len(jacobian) // 2
    own = np.abs(jacobian[:d, ..., :1]).max(), np.abs(jacobian[d:, ..., 1:]).max()
    other = np.abs(jacobian[:d, ..., 1:]).max(), np.abs(jacobian[d:, ..., :1]).max()
    assert min(own) > 1e-4
    assert (max(other) == 0) == apart


def run_and_state():
    run, _, _ = tiny.compiled("split_brain")
    return run, tiny.fresh(run)


def test_loss_is_the_sum_of_two_classifications():
    run, ts = run_and_state()
    method, batch = run.method, tiny.batch_of(run, 4)
    value, (_, metrics) = jax.jit(tiny.loss_function(run))(ts.params, ts.state, batch)

    def logits(images):
        return method._predict(ts.params, ts.state["stats"], images, True)[2]

    found = jax.jit(jax.vmap(logits, axis_name="data"))(batch["view"][None])
    colours = np.asarray(lab.rgb_to_lab(batch["view"]))[:, ::4, ::4]
    nearest = np.square(colours[..., None, 1:] - lab.ab_centres()).sum(-1).argmin(-1)
    wanted = 0.0
    for name, scores, label in zip(("ab", "l"), found, (nearest, colours[..., 0] // 2), strict=True):
        scores, label = np.asarray(scores[0], float).reshape(label.size, -1), label.astype(int).ravel()
        chosen = scores[np.arange(label.size), label]
        wanted += np.mean(np.log(np.exp(scores).sum(1)) - chosen)
        halves = [label.reshape(4, -1)[i::2].ravel() for i in (0, 1)]
        share = np.mean([np.mean(halves[i] == np.bincount(halves[1 - i]).argmax()) for i in (0, 1)])
        np.testing.assert_allclose(metrics[f"{name}_bin_accuracy/chance"], share, rtol=1e-5)
        np.testing.assert_allclose(metrics[f"{name}_bin_accuracy"], np.mean(scores.argmax(1) == label), atol=1e-3)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)


def test_each_half_has_a_task_of_its_own():
    """Gradients of one task reach its own half and decoder alone."""
    run, ts = run_and_state()
    batch = tiny.batch_of(run, 4)

    def of_colours(params):
        logits = run.method._predict(params, ts.state["stats"], batch["view"], False)[2][0]
        return jnp.mean(jax.nn.logsumexp(logits, -1))

    grads = jax.jit(jax.grad(of_colours))(ts.params)
    moved = {name: any(np.any(x) for x in jax.tree.leaves(part)) for name, part in grads["backbone"].items()}
    assert moved == {"first": True, "second": False}
    assert any(np.any(x) for x in jax.tree.leaves(grads["ab_decoder"]))
    assert not any(np.any(x) for x in jax.tree.leaves(grads["l_decoder"]))


def test_pictures():
    run, _ = run_and_state()
    grids.assert_well_formed(run)


@pytest.mark.fast
def test_what_is_refused():
    c = get_config("split_brain", "cifar10")
    method = build.method(c.method, models.from_config(c.model))
    with pytest.raises(UserError, match="1 channel"):
        method.check(32, 32, 1)
    for change in ({"name": "vit_micro"}, {"width": 15}):
        c = get_config("split_brain", "cifar10")
        c.model.update(change)
        with pytest.raises(UserError, match="even"):
            build.method(c.method, models.from_config(c.model)).check(32, 32, 3)
