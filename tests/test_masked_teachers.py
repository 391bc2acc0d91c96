"""SimDINO against reference numbers; masks; what must not depend on the number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, losses
from ssl_jax.methods.joint.simdino import compression, expansion
from ssl_jax.methods.shared import masks as mask_maker
from ssl_jax.models.transformer import subset_gates
from ssl_jax.models.vit import ViT

KEY = jax.random.key(0)
STRATA = {"group": 16, "share": 0.5, "low": 0.1, "high": 0.5}

fast = pytest.mark.fast
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def modern(golden):
    def load(name):
        with np.load(golden.parent / "golden_modern" / f"{name}.npz") as found:
            return dict(found)

    return load


@pytest.mark.parametrize("devices", [2, 8])
def test_coding_rate_is_of_the_whole_batch(devices):
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=(16, 5)).astype(np.float32), draw.normal(size=(5, 4)).astype(np.float32)

    def over(count):
        def replica(w, x):
            positions = dist.positions(len(x))

            def loss(w):
                z = losses.l2_normalize(x @ w)
                return dist.mean(losses.coding_rate(z, positions, 0.5, 2, dist.AXIS))

            value, grad = jax.value_and_grad(loss)(w)
            return value, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:count])
        return dist.map_replicas(replica, mesh, (P(), P(dist.AXIS)), P())(w, x)

    for a, b in zip(over(devices), over(1), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


# SimDINO.


@fast
@pytest.mark.parametrize("epsilon", [0.5, 0.05])
def test_simdino_agrees_with_the_reference(modern, epsilon):
    ref = modern("simdino")
    with jax.enable_x64(True):
        student, teacher = jnp.asarray(ref["student"]), jnp.asarray(ref["teacher"])
        assert compression(student, teacher) == pytest.approx(float(ref[f"compression_eps{epsilon}"]), rel=1e-9)
        wide = expansion(student, teacher, jnp.arange(4), epsilon)
        assert wide == pytest.approx(float(ref[f"expansion_eps{epsilon}"]), rel=1e-9)
        # A covariance of each half, scaled as if it were of all.
        halves = expansion(student, teacher, jnp.arange(4), epsilon, 2)
        eye, p, n = np.eye(3), 3, 4
        rates = []
        for rows in (ref["student"][:2] + ref["teacher"]) / 2:
            for half in (rows[:2], rows[2:]):
                rates.append(np.linalg.slogdet(eye + p / (n * epsilon) * half.T @ half)[1] / 2)
        assert halves == pytest.approx((p + n) / (p * n) * np.mean(rates), rel=1e-9)
        assert abs(halves - wide) > 0.01


# Masks.


@fast
@pytest.mark.parametrize("roll", [False, True])
def test_masks_have_the_number_of_patches_asked_for(roll):
    counts = jnp.asarray([0, 1, 5, 19, 60, 98, 195, 196] * 40)
    masks = mask_maker.block_masks(jax.random.split(KEY, 320), counts, (14, 14), roll=roll)
    np.testing.assert_array_equal(masks.sum(1), counts)
    often = np.asarray(masks).reshape(40, 8, 14, 14)[:, 4:6].mean((0, 1))
    edge = np.concatenate([often[0], often[-1], often[:, 0], often[:, -1]]).mean()
    middle = often[4:10, 4:10].mean()
    assert (edge > 0.8 * middle) if roll else (edge < 0.5 * middle)
    # Made of rectangles: most neighbours of a masked patch are masked, too.
    m = np.asarray(masks).reshape(40, 8, 14, 14)[:, 4]
    together = (m[:, 1:] & m[:, :-1]).sum() / m[:, 1:].sum()
    assert together > 0.7


@fast
@pytest.mark.parametrize("drawn", [True, False])
def test_half_of_the_crops_of_a_group_are_masked_by_spread_ratios(drawn):
    numbers = jnp.arange(64)
    counts = np.asarray(mask_maker.stratified_counts(KEY, numbers, 196, **STRATA, drawn=drawn)).reshape(4, 16)
    assert ((counts > 0).sum(1) == 8).all()
    assert len({tuple(row > 0) for row in counts}) > 1
    ends = 196 * np.linspace(0.1, 0.5, 9)
    for row in np.sort(counts, 1)[:, 8:]:
        assert (np.floor(ends[:-1]) <= row).all() and (row <= ends[1:] + 1e-3).all()
        assert drawn or (row == np.floor(ends[1:] + 1e-4)).all()
    order = np.random.default_rng(0).permutation(64)
    again = mask_maker.stratified_counts(KEY, numbers[order], 196, **STRATA, drawn=drawn)
    np.testing.assert_array_equal(again, counts.reshape(-1)[order])


# Drop path, and the vision transformer.


@fast
def test_a_fixed_number_of_rows_passes_each_branch(modern):
    ref = modern("subset_droppath")
    x = ref["x"]
    gates = np.zeros(5)
    gates[ref["indices"]] = 5 / 3
    np.testing.assert_allclose(x + gates[:, None, None] * (np.tanh(x) + 0.1 * x), ref["out"], rtol=1e-12)
    drawn = np.asarray(subset_gates(KEY, jnp.arange(20), 5, float(ref["rate"]), 3))
    assert drawn.shape == (20, 3, 2) and set(np.unique(drawn)) == {0.0, np.float32(5 / 3)}
    np.testing.assert_array_equal((drawn > 0).reshape(4, 5, 6).sum(1), 3)
    assert len(np.unique((drawn > 0).reshape(4, 5, 6), axis=0)) > 1
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(subset_gates(KEY, jnp.asarray(order), 5, 0.3, 3), drawn[order])
    np.testing.assert_array_equal(subset_gates(KEY, jnp.arange(20), 5, 0.0, 3), 1)


def test_masked_patches_are_the_token_at_their_position():
    net = ViT("vit_micro", 4)
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    variables = net.init(KEY, x, train=False)
    token, mask = jnp.ones((1, 1, 64)), jnp.asarray([[1, 0, 0, 1], [0, 0, 0, 0]], bool)

    def encode(x, **options):
        return net.apply(variables, x, train=False, pool=None, **options)

    seen = encode(x, masked=(mask, token))
    np.testing.assert_allclose(seen.pooled[1], encode(x).pooled[1], atol=1e-6)
    assert np.abs(seen.pooled[0] - encode(x).pooled[0]).max() > 1e-3
    # What is under the mask has no say.
    other = x.at[0, :4, :4].set(7.0).at[0, 4:, 4:].set(-7.0)
    np.testing.assert_allclose(encode(other, masked=(mask, token)).map, seen.map, atol=1e-6)
    gates = jnp.zeros((2, 4, 2))
    embedded = encode(x, gates=gates)
    assert np.abs(embedded.map - encode(x).map).max() > 1e-3


def test_the_teacher_sees_no_mask():
    run = tiny.run("simdinov2", batch_size=8)
    ts, batch, found = run.init(), tiny.batch_of(run, 8), []
    for share in (0.0, 1.0):
        method = dataclasses.replace(run.method, mask_share=share, drop_path=0.0)
        found.append(tiny.loss_function(run, method)(ts.params, ts.state, batch)[1][1])
    plain, hidden = found
    assert plain["masked"] == plain["patch_cosine"] == 0 and hidden["masked"] > 0.1 and hidden["patch_cosine"] > 0
