"""CyCADA: its losses, who moves by which of them, the images of earlier updates, and the translators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.methods.adapt import cycada
from ssl_jax.models.translator import PatchDiscriminator, Translator, instance_norm
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_losses_are_least_squares_in_value_and_gradient():
    draw = np.random.default_rng(0)
    real, made = draw.normal(size=(3, 2, 2)), draw.normal(size=(3, 2, 2))
    with jax.enable_x64(True):
        value, grads = jax.value_and_grad(cycada.discriminator_loss, (0, 1))(real, made)
        assert value == pytest.approx(((real - 1) ** 2).mean() / 2 + (made**2).mean() / 2, rel=1e-12)
        np.testing.assert_allclose(grads[0], (real - 1) / real.size, rtol=1e-12)  # of half a mean of squares
        np.testing.assert_allclose(grads[1], made / made.size, rtol=1e-12)
        value, grad = jax.value_and_grad(cycada.generator_loss)(made)
        assert value == pytest.approx(((made - 1) ** 2).mean(), rel=1e-12)
        np.testing.assert_allclose(grad, 2 * (made - 1) / made.size, rtol=1e-12)  # not halved, as the discriminator's
    assert cycada.discriminator_loss(jnp.full(4, 0.5), jnp.full(4, 0.5)) == pytest.approx(0.25)  # the equilibrium


@pytest.mark.fast
def test_instance_norm_is_of_each_image_and_channel():
    x = np.random.default_rng(0).normal(2, 3, (2, 5, 4, 3)).astype(np.float32)
    wanted = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x), wanted, atol=1e-5)
    np.testing.assert_allclose(instance_norm(x[:1]), wanted[:1], atol=1e-5)  # the batch is not looked at


@pytest.mark.fast
def test_networks_have_the_sizes_of_their_images():
    for side, channels, halvings in ((28, 1, 2), (13, 3, 2), (8, 1, 1)):
        x = jnp.zeros((2, side, side, channels))
        translator = Translator(4, 1, halvings)
        made = jax.eval_shape(lambda: translator.init_with_output(jax.random.key(0), x, train=True)[0])  # noqa: B023
        assert made.shape == x.shape
    x = jax.random.normal(jax.random.key(1), (2, 28, 28, 1))
    made, variables = Translator(4, 1).init_with_output(jax.random.key(0), x, train=True)
    assert float(jnp.abs(made).max()) <= 1 and set(variables) == {"params"}
    judged, _ = PatchDiscriminator((4, 8)).init_with_output(jax.random.key(0), x, train=True)
    assert judged.shape == (2, 6, 6)  # one answer a patch


def earlier(pool, filled, made, rng):
    """The image buffer as the authors' code has it, one image after the other."""
    pool, given, (of_swap, of_place) = list(np.asarray(pool)), [], jax.random.split(rng)
    places = jax.random.randint(of_place, (len(made),), 0, len(pool))
    swaps = jax.random.bernoulli(of_swap, shape=(len(made),))
    for image, place, swap in zip(np.asarray(made), places.tolist(), swaps.tolist(), strict=True):
        if filled < len(pool):
            pool[filled], filled = image, filled + 1
            given.append(image)
        elif swap:
            given.append(pool[place])
            pool[place] = image
        else:
            given.append(image)
    return np.stack(pool), filled, np.stack(given)


@pytest.mark.fast
def test_the_discriminator_sees_earlier_images_half_of_the_time():
    pool, filled, old = jnp.zeros((5, 2)), jnp.zeros((), jnp.int32), 0
    step = jax.jit(cycada.exchanged)
    for number in range(40):
        made = jnp.arange(16.0).reshape(8, 2) + 100 * (number + 1)
        key = jax.random.key(number)
        wanted = earlier(pool, int(filled), made, key)
        (pool, filled), given = step(pool, filled, made, key)
        for found, right in zip((pool, filled, given), wanted, strict=True):
            np.testing.assert_array_equal(found, right)
        old += int(np.any(np.asarray(given) != np.asarray(made), -1).sum())
        if not number:
            np.testing.assert_array_equal(given[:5], made[:5])  # the first fill it
    assert 0.4 < old / 320 < 0.6


@pytest.fixture(scope="module")
def trial():
    """A run with all terms of the loss, its state, a batch, and its compiled loss."""
    run = tiny.run("cycada", **{"method.identity_weight": 5.0})
    return run, run.init(), tiny.batch_of(run, 16), tiny.loss_function(run)


OWN = {  # each term of the loss, and the networks that it moves
    "generator_loss": {"to_source", "to_target"},
    "cycle_l1": {"to_source", "to_target"},
    "identity_l1": {"to_source", "to_target"},
    "semantic_loss": {"to_source", "to_target"},
    "discriminator_loss": {"judge_source", "judge_target"},
    "label_loss": {"backbone", "classifier"},
    "source_label_loss": {"source_backbone", "source_classifier"},
}


def test_each_network_moves_by_its_own_loss(trial):
    run, ts, batch, loss = trial

    @jax.jit
    def gradients(params):
        def term(name):
            return jax.grad(lambda params: loss(params, ts.state, batch)[1][1][name])(params)

        return {name: term(name) for name in OWN}

    for name, grads in gradients(ts.params).items():
        moved = {part for part, x in grads.items() if any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(x))}
        assert moved == OWN[name], name
    groups = run.method.groups(ts.params)
    for name, group in (("to_source", "generators"), ("judge_target", "discriminators"), ("classifier", "default")):
        assert set(jax.tree.leaves(groups[name])) == {group}


def test_the_loss_is_the_sum_of_its_terms(trial):
    """With the weights of both papers; semantic consistency begins after a tenth of the run."""
    run, ts, batch, loss = trial
    method, begins = run.method, run.info.total_steps * run.method.pretrained
    (early, (_, metrics)), (late, _) = (loss(ts.params, ts.state, batch, step) for step in (0, int(np.ceil(begins))))
    view = method.view
    x, y = (2 * (batch[name]["view"] * view.std[0] + view.mean[0]) - 1 for name in ("source", "target"))
    to_target, to_source = (lambda v, name=name: method._run(ts.params, name, v) for name in ("to_target", "to_source"))
    cycle = sum(np.abs(a - b).mean() for a, b in ((to_source(to_target(x)), x), (to_target(to_source(y)), y)))
    same = np.abs(to_target(y) - y).mean() + np.abs(to_source(x) - x).mean()
    assert metrics["cycle_l1"] == pytest.approx(float(cycle), rel=1e-4)
    assert metrics["identity_l1"] == pytest.approx(float(same), rel=1e-4)
    assert abs(float(same) - float(cycle)) > 1e-2  # or one could stand for the other
    rest = sum(metrics[n] for n in ("generator_loss", "discriminator_loss", "label_loss", "source_label_loss"))
    assert early == pytest.approx(float(rest + 10 * cycle + 5 * same), rel=1e-4)
    assert late - early == pytest.approx(float(metrics["semantic_loss"]), rel=1e-3)


def test_no_label_of_the_target_is_seen():
    true, _ = tiny.steps("cycada", 3)
    run, _, _ = tiny.compiled("cycada")
    labels, rows = run.train.labels.copy(), np.flatnonzero(run.train.fields["domain"] == 1)
    assert (labels[rows] == -1).all()
    labels[rows] = np.random.default_rng(0).integers(0, 10, len(rows))
    strange, _ = tiny.steps("cycada", 3, labels=labels)
    tiny.assert_same((strange.params, strange.state), (true.params, true.state))


def test_pictures_show_both_ways(trial):
    run, ts, batch, _ = trial
    there, back = run.method.pictures(ts.params, ts.state, batch, rng=jax.random.key(0))
    assert there.columns == ("source", "as target", "back") and back.columns == ("target", "as source", "back")
    for picture in (there, back):
        assert picture.images.shape == (8, 3, 8, 8, 1) and picture.images.min() >= 0 and picture.images.max() <= 1


@pytest.mark.fast
def test_what_cannot_be_is_refused():
    for change in ({"method.judge": (8, 8, 8)}, {"method.halvings": 3}):
        with pytest.raises(UserError, match=r"config\.method\.judge"):
            tiny.run("cycada", **change)
