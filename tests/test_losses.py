"""NT-Xent, BYOL's regression and what they are made of, against reference numbers and closed forms."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from tiny import generator

from ssl_jax import dist, losses
from ssl_jax.methods.joint.byol import regression_loss
from ssl_jax.methods.joint.simclr import nt_xent

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])


pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.partial(jax.jit, static_argnames="temperature")
def value_and_gradients(z1, z2, *, temperature):
    def loss(z1, z2):
        return nt_xent(z1, z2, temperature=temperature)[0]

    return jax.value_and_grad(loss, (0, 1))(z1, z2)


def contrast(z1, z2, temperature=0.5):
    """Loss and share of right answers in float64."""
    with jax.enable_x64(True):
        return [float(x) for x in nt_xent(jnp.asarray(z1, float), jnp.asarray(z2, float), temperature=temperature)]


def numpy_nt_xent(z1, z2, temperature):
    """Anchor by anchor; a row without length counts as zero."""
    z = np.concatenate([z1, z2])
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    terms = []
    for i in range(len(z)):
        positive = (i + len(z1)) % len(z)
        scores = {j: z[i] @ z[j] / temperature for j in range(len(z)) if j != i}
        terms.append(np.log(sum(np.exp(s) for s in scores.values())) - scores[positive])
    return np.mean(terms)


def pairs(n=6, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d))


# NT-Xent.


@pytest.mark.fast
@DTYPES
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_agrees_with_the_reference(golden, temperature, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / f"nt_xent_tau{temperature}.npz") as ref:
        z1, z2 = jnp.asarray(ref["x0"], dtype), jnp.asarray(ref["x1"], dtype)
        loss, grads = value_and_gradients(z1, z2, temperature=temperature)
        assert loss.dtype == dtype
        assert abs(loss - ref["loss"]) <= tolerance * ref["loss"]
        for ours, theirs in zip(grads, (ref["grad0"], ref["grad1"]), strict=True):
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.fast
@pytest.mark.parametrize(("temperature", "value"), [(0.1, 2.444066), (0.5, 1.643251)])
def test_nt_xent_has_the_values_of_the_specification(temperature, value):
    assert contrast(generator(4, 3, 0.1), generator(4, 3, 0.9), temperature)[0] == pytest.approx(value, abs=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "zero rows", "one image"])
def test_nt_xent_agrees_with_numpy(case):
    z1, z2 = pairs(n=1 if case == "one image" else 6)
    if case == "duplicates":
        z1[2], z1[3], z2[4], z2[3] = z1[0], z2[3], z1[0], z1[0]
    if case == "zero rows":
        z1[1], z2[1], z2[4] = 0, 0, 0
    for temperature in (0.1, 1.0):
        assert contrast(z1, z2, temperature)[0] == pytest.approx(numpy_nt_xent(z1, z2, temperature), abs=1e-12)
    loss, grads = value_and_gradients(jnp.asarray(z1, jnp.float32), jnp.asarray(z2, jnp.float32), temperature=0.1)
    assert np.isfinite(loss) and np.isfinite(grads).all()


@pytest.mark.fast
def test_nt_xent_is_symmetric_and_does_not_see_order_or_scale():
    z1, z2 = pairs()
    loss, _ = contrast(z1, z2)
    order, scale = np.random.default_rng(1).permutation(6), np.linspace(0.1, 9, 6)[:, None]
    assert contrast(z2, z1)[0] == pytest.approx(loss, rel=1e-12)
    assert contrast(z1[order], z2[order])[0] == pytest.approx(loss, rel=1e-12)
    assert contrast(z1 * scale, z2 / scale)[0] == pytest.approx(loss, rel=1e-12)
    assert abs(contrast(z1, z2[order])[0] - loss) > 0.01  # but it does see who belongs to whom


@pytest.mark.fast
def test_nt_xent_has_its_closed_forms():
    same = np.tile(generator(1, 3, 0.1), (8, 1))
    assert contrast(same, same, 0.1)[0] == pytest.approx(np.log(2 * 8 - 1), rel=1e-12)
    assert contrast(*pairs(n=1), 0.1)[0] == 0
    # Perfect positives at right angles to all else.
    loss, top1 = contrast(np.eye(4), 3 * np.eye(4), 0.5)
    assert loss == pytest.approx(np.log(1 + 6 * np.exp(-2)), rel=1e-12) == pytest.approx(0.594438, abs=1e-6)
    assert top1 == 1


@pytest.mark.fast
def test_nt_xent_counts_right_answers_among_all_candidates():
    z1 = np.eye(4)
    assert contrast(z1, z1)[1] == 1
    assert contrast(z1, z1[[1, 0, 2, 3]])[1] == 0.5
    near = z1 + 0.1  # of the first view's own rows, row 1 is nearer to row 0 than its positive is
    near[1] = near[0] + [0, 0.01, 0, 0]
    assert contrast(near, [[1, -1, 0, 0], [0, 1, 0, 0], *z1[2:]])[1] == 0.5


@pytest.mark.fast
def test_nt_xent_computes_in_float32_and_does_not_overflow():
    z1, z2 = jnp.asarray(pairs(), jnp.bfloat16)
    loss, _ = nt_xent(z1, z2, temperature=0.1)
    assert loss.dtype == jnp.float32
    exact = numpy_nt_xent(np.asarray(z1, np.float64), np.asarray(z2, np.float64), 0.1)
    assert float(loss) == pytest.approx(exact, rel=1e-5)
    loss, grads = value_and_gradients(z1, -z1, temperature=0.001)
    assert np.isfinite(loss) and loss > 1000 and all(np.isfinite(np.asarray(g, np.float32)).all() for g in grads)


def over_replicas(devices, mapping, z1, z2, w):
    """Loss, share of right answers and gradient of shared weights, taken as the training step takes them."""

    def replica(w, z1, z2):
        def loss(w):
            value, top1 = nt_xent(z1 @ w, z2 @ w, temperature=0.2, axis_name=dist.AXIS)
            return dist.mean(value), dist.mean(top1)

        (value, top1), grads = jax.value_and_grad(loss, has_aux=True)(w)
        return value, top1, dist.mean(grads)

    specs = (P(), P(dist.AXIS), P(dist.AXIS))
    mesh = dist.make_mesh(jax.devices()[:devices])
    return dist.map_replicas(replica, mesh, specs, P(), mapping=mapping)(w, z1, z2)


@pytest.mark.fast
@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (2, "pmap"), (8, "pmap")])
def test_gathered_nt_xent_is_the_loss_of_the_whole_batch(devices, mapping):
    with jax.enable_x64(True):
        z1, z2 = (jnp.asarray(z) for z in pairs(8))  # on eight devices, one image each
        w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)))

        def whole(w):
            return nt_xent(z1 @ w, z2 @ w, temperature=0.2)

        (loss, top1), grads = jax.value_and_grad(whole, has_aux=True)(w)
        found_loss, found_top1, found_grads = over_replicas(devices, mapping, z1, z2, w)
        np.testing.assert_allclose(found_loss, loss, rtol=1e-12)
        np.testing.assert_allclose(found_top1, top1, rtol=1e-6)
        np.testing.assert_allclose(found_grads, grads, rtol=1e-9, atol=1e-12)


# BYOL's regression.


@pytest.mark.fast
@DTYPES
def test_regression_agrees_with_the_reference(golden, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / "byol_two_minus_two_cosine.npz") as ref:
        p, z = jnp.asarray(ref["x0"], dtype), jnp.asarray(ref["x1"], dtype)
        loss, grad = jax.value_and_grad(regression_loss)(p, z)
        assert loss.dtype == dtype
        assert abs(loss - ref["loss"]) <= tolerance * ref["loss"]
        assert np.abs(grad - ref["grad0"]).max() <= tolerance * np.abs(ref["grad0"]).max()


@pytest.mark.fast
def test_regression_is_two_minus_two_cosines(golden):
    with jax.enable_x64(True), np.load(golden / "negative_cosine.npz") as ref:
        assert float(regression_loss(ref["x0"], ref["x1"])) == pytest.approx(2 + 2 * float(ref["loss"]), abs=1e-9)


@pytest.mark.fast
def test_regression_has_the_value_of_the_specification():
    p1, p2, z1, z2 = (jnp.asarray(generator(4, 3, s), jnp.float32) for s in (0.1, 0.9, 0.4, 1.7))
    both = regression_loss(p1, z2) + regression_loss(p2, z1)
    assert float(both) == pytest.approx(2.228625, abs=1e-5)


@pytest.mark.fast
def test_regression_does_not_move_its_target():
    p, z = jnp.asarray(pairs(), jnp.float32)
    to_p, to_z = jax.grad(regression_loss, (0, 1))(p, z)
    assert np.abs(to_p).max() > 0.01
    np.testing.assert_array_equal(to_z, 0)


@pytest.mark.fast
def test_regression_has_its_closed_forms():
    p = np.float32([[3, 0], [0, 2]])
    for angle, value in ((p, 0), (p[::-1], 2), (-p, 4)):
        assert float(regression_loss(p, jnp.asarray(angle))) == pytest.approx(value, abs=1e-6)
    p, z = jnp.asarray(pairs(), jnp.float32)
    order = np.array([3, 0, 1, 2, 5, 4])
    loss = float(regression_loss(p, z))
    assert float(regression_loss(p[order], z[order])) == pytest.approx(loss, rel=1e-6)
    assert float(regression_loss(7 * p, 0.1 * z)) == pytest.approx(loss, rel=1e-6)


@pytest.mark.fast
def test_regression_of_nothing_is_finite():
    p, z = jnp.asarray(pairs(), jnp.float32)
    for a, b in ((p.at[1].set(0), z), (p, z.at[1].set(0)), (p * 0, z * 0)):
        loss, grad = jax.value_and_grad(regression_loss)(a, b)
        assert np.isfinite(loss) and np.isfinite(grad).all()


# What they are made of.


@pytest.mark.fast
def test_l2_normalize():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0]], np.float32)
    np.testing.assert_allclose(losses.l2_normalize(jnp.asarray(x)), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    assert losses.l2_normalize(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32
    # Shorter than epsilon counts as epsilon.
    np.testing.assert_allclose(losses.l2_normalize(jnp.asarray(x), 0.1)[2], [0.01, 0], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: losses.l2_normalize(x).sum())(jnp.zeros((2, 3)))).all()


@pytest.mark.fast
def test_cross_entropy_and_accuracy():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    labels = np.array([0, 3, 2, 1, 1])
    likely = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(likely[np.arange(5), labels]).mean()
    assert float(losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))) == pytest.approx(expected, rel=1e-6)
    right = logits.argmax(1)
    assert float(losses.accuracy(jnp.asarray(logits), jnp.asarray(right))) == 1
    right[:2] = (right[:2] + 1) % 4
    assert float(losses.accuracy(jnp.asarray(logits), jnp.asarray(right))) == pytest.approx(0.6)


@pytest.mark.fast
def test_similarity_asks_for_full_precision():
    x, y = jnp.asarray(pairs(), jnp.float32)
    np.testing.assert_allclose(losses.similarity(x, y), np.asarray(x, float) @ np.asarray(y, float).T, rtol=1e-5)
    (dot,) = (e for e in jax.make_jaxpr(losses.similarity)(x, y).eqns if e.primitive.name == "dot_general")
    assert dot.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2


@pytest.mark.fast
def test_a_guess_is_no_better_than_it_can_be():
    """The mode of the same rows would be right in a fifth of them, where a guess is in a tenth."""
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 10, (4000, 26)))
    guess = jax.jit(jax.vmap(lambda x: losses.guess_accuracy(x, jnp.arange(26), 10)))
    assert abs(float(guess(labels).mean()) - 0.1) < 3 * 0.06 / 4000**0.5
    own = np.array([np.bincount(x).max() / 26 for x in np.asarray(labels)])
    assert own.mean() > 0.18
    # Two labels of three in each half; unknown ones count nowhere.
    found = losses.guess_accuracy(jnp.array([1, 2, 1, 2, 0, 0, -1, -1]), jnp.arange(8), 3)
    assert float(found) == 0.0
    pixels = jnp.array([[1, 1], [1, 0], [1, 2], [1, 1]])
    assert float(losses.guess_accuracy(pixels, jnp.arange(4), 3)) == 0.75
    assert float(losses.guess_accuracy(-jnp.ones(4, int), jnp.arange(4), 3)) == 0.0


@pytest.mark.fast
def test_logits_of_the_batch_are_not_kept_for_the_gradient():
    """What waits for the backward pass has the size of the rows, not of all pairs."""
    x, z = jnp.ones((48, 4)), jnp.ones((64, 4))
    _, pull = jax.vjp(lambda x, z: losses.in_batch_softmax(x, z, jnp.arange(48))[0], x, z)
    kept = [leaf.size for leaf in jax.tree.leaves(pull)]
    assert kept and max(kept) <= z.size
