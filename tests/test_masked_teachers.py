"""iBOT, DINOv2 and SimDINO against reference numbers; their masks; what must not depend on the number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.dino import moved_centre, paired_cross_entropy
from ssl_jax.methods.joint.dinov2 import masked_rows, moved_patch_centre
from ssl_jax.methods.joint.ibot import cross_entropy
from ssl_jax.methods.joint.simdino import compression, expansion
from ssl_jax.methods.joint.swav import sinkhorn
from ssl_jax.methods.shared import masks as mask_maker
from ssl_jax.methods.shared.masked_teacher import masked_mean, teacher_temperature
from ssl_jax.models.transformer import subset_gates
from ssl_jax.models.vit import ViT

KEY = jax.random.key(0)
STRATA = {"group": 16, "share": 0.5, "low": 0.1, "high": 0.5}

fast = pytest.mark.fast
pytestmark = pytest.mark.usefixtures("quick_compilation")


def alone(function):
    """Calls a function that speaks of the replicas where there is one."""
    mesh = dist.make_mesh(jax.devices()[:1])
    return lambda *x: jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P())(*x)


# DINOv2.


def dinov2_terms(ref, balance="sinkhorn"):
    """The terms of the loss as a function of the student's outputs; crops come one after the other."""
    temp = float(ref["teacher_temp"])
    teacher, patches = jnp.asarray(ref["teacher_cls"]), jnp.asarray(ref["teacher_patch"])
    if balance == "sinkhorn":
        p, p_patch = sinkhorn(teacher, epsilon=temp), sinkhorn(patches, epsilon=temp)
    else:
        p, p_patch = (jax.nn.softmax((x - ref[c]) / temp) for x, c in ((teacher, "centre"), (patches, "patch_centre")))
    # The reference has patches in the order of the crops.
    by_crop = np.nonzero(ref["masks"].reshape(-1))[0]
    shares = ref["masks"] / np.maximum(ref["masks"].sum(1, keepdims=True), 1) / 6
    weights = jnp.asarray(shares.reshape(-1)[by_crop])

    def of_classes(large, small):
        views = jnp.concatenate([large.reshape(2, 3, -1), small.reshape(2, 3, -1)])
        return paired_cross_entropy(p.reshape(2, 3, -1), views, 0.1)

    def of_patches(student):
        return jnp.sum(weights * cross_entropy(p_patch, student, 0.1))

    def of_koleo(x):
        return 0.1 * sum(losses.koleo(crop, jnp.arange(3), 64) for crop in x.reshape(2, 3, -1))

    return of_classes, of_patches, of_koleo


@fast
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_dinov2_agrees_with_the_reference(modern, dtype, tolerance):
    ref = modern("dinov2")
    with jax.enable_x64(dtype == "float64"):
        ref = {name: x.astype(dtype) if x.dtype == float else x for name, x in ref.items()}
        of_classes, of_patches, of_koleo = dinov2_terms(ref)
        names = ("student_global", "student_local", "student_patch", "student_cls_prehead")
        inputs = [jnp.asarray(ref[name]) for name in names]

        def total(large, small, patch, before):
            return of_classes(large, small) + of_patches(patch) + of_koleo(before)

        value, grads = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))(*inputs)
        assert value == pytest.approx(float(ref["total"]), rel=tolerance)
        for name, grad in zip(names, grads, strict=True):
            wanted = ref[f"grad_{name}"]
            assert np.abs(grad - wanted).max() <= 10 * tolerance * np.abs(wanted).max(), name
        assert of_classes(*inputs[:2]) == pytest.approx(float(ref["loss_local"] + ref["loss_global"]), rel=tolerance)
        assert of_patches(inputs[2]) == pytest.approx(float(ref["loss_ibot"]), rel=tolerance)
        assert of_koleo(inputs[3]) == pytest.approx(float(ref["koleo_weighted"]), rel=10 * tolerance)
        # Swapped crops of the teacher are another loss.
        swapped = of_classes(inputs[0].reshape(2, 3, -1)[::-1].reshape(6, -1), inputs[1])
        assert abs(swapped - of_classes(*inputs[:2])) > 0.1


@fast
def test_dinov2_balances_as_the_reference(modern):
    ref = modern("dinov2")
    with jax.enable_x64(True):
        temp = float(ref["teacher_temp"])
        np.testing.assert_allclose(sinkhorn(ref["teacher_cls"], epsilon=temp), ref["sinkhorn_cls"], rtol=1e-9)
        # Rows that are no masked patches change nothing.
        padded = np.concatenate([ref["teacher_patch"], np.full((4, 5), 3.0)])
        found = sinkhorn(padded, epsilon=temp, counted=jnp.arange(11) < 7)[:7]
        np.testing.assert_allclose(found, ref["sinkhorn_patch"], rtol=1e-9)
        of_classes, of_patches, _ = dinov2_terms(ref, "centre")
        wanted = float(ref["centred_loss_local"] + ref["centred_loss_global"])
        assert of_classes(*(jnp.asarray(ref[f"student_{x}"]) for x in ("global", "local"))) == pytest.approx(wanted)
        assert of_patches(jnp.asarray(ref["student_patch"])) == pytest.approx(float(ref["centred_loss_ibot"]))
        moved = moved_centre(jnp.asarray(ref["centre"]), jnp.asarray(ref["teacher_cls"])[None], 0.9)
        np.testing.assert_allclose(moved, ref["new_centre"], rtol=1e-9)
        patch = alone(lambda c, t: moved_patch_centre(c, t, jnp.arange(11) < 7, 0.9))
        np.testing.assert_allclose(patch(ref["patch_centre"], padded), ref["new_patch_centre"], rtol=1e-9)
        np.testing.assert_array_equal(
            alone(lambda c, t: moved_patch_centre(c, t, jnp.zeros(11, bool), 0.9))(ref["patch_centre"], padded),
            ref["patch_centre"],
        )


@fast
def test_koleo_agrees_with_the_reference(modern):
    ref = modern("dinov2")
    with jax.enable_x64(True):
        x = jnp.asarray(ref["student_cls_prehead"])
        value, grad = jax.value_and_grad(lambda x: losses.koleo(x, jnp.arange(6), 6))(x)
        assert value == pytest.approx(float(ref["koleo_all"]), rel=1e-7)
        np.testing.assert_allclose(grad, ref["grad_koleo_all"], rtol=1e-6, atol=1e-9)
        halves = losses.koleo(x, jnp.arange(6), 3)
        assert halves == pytest.approx(float(ref["koleo_crop0"] + ref["koleo_crop1"]) / 2, rel=1e-7)
        order = np.array([3, 0, 5, 1, 4, 2])
        assert losses.koleo(x[order], jnp.asarray(order), 3) == pytest.approx(float(halves), rel=1e-12)
        # The same image twice, and an image without another in its group.
        twice = x.at[1].set(x[0])
        value, grad = jax.value_and_grad(lambda x: losses.koleo(x, jnp.arange(6), 6))(twice)
        assert np.isfinite(value) and np.abs(grad).max() < 100
        assert losses.koleo(x, jnp.arange(6), 1) == 0


@pytest.mark.parametrize("devices", [2, 8])
def test_koleo_balance_and_coding_rate_are_of_the_whole_batch(devices):
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=(16, 5)).astype(np.float32), draw.normal(size=(5, 4)).astype(np.float32)

    def over(count):
        def replica(w, x):
            positions = dist.positions(len(x))

            def loss(w):
                z = losses.l2_normalize(x @ w)
                rate = losses.coding_rate(z, positions, 0.5, 2, dist.AXIS)
                p = sinkhorn(x @ w, epsilon=0.5, axis_name=dist.AXIS)
                return dist.mean(losses.koleo(x @ w, positions, 8, dist.AXIS) + rate + (p * z).sum(1).mean())

            value, grad = jax.value_and_grad(loss)(w)
            return value, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:count])
        return dist.map_replicas(replica, mesh, (P(), P(dist.AXIS)), P())(w, x)

    for a, b in zip(over(devices), over(1), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


# iBOT.


@fast
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_ibot_agrees_with_the_reference(modern, dtype, tolerance):
    ref = modern("ibot")
    with jax.enable_x64(dtype == "float64"):
        ref = {name: jnp.asarray(x.astype(dtype) if x.dtype == float else x) for name, x in ref.items()}
        p = jax.nn.softmax((ref["teacher_cls"] - ref["centre"]) / ref["temp_cls"]).reshape(2, 2, -1)
        views = jnp.concatenate([ref[f"student_{x}"].reshape(2, 2, -1) for x in ("cls", "local")])
        of_classes = paired_cross_entropy(p, views, 0.1)
        assert of_classes == pytest.approx(float(ref["loss_cls"]), rel=tolerance)
        p_patch = jax.nn.softmax((ref["teacher_patch"] - ref["patch_centre"]) / ref["temp_patch"])
        masks = ref["mask"].astype(bool).reshape(2, 2, 3)

        def of_patches(student, masks=masks):
            terms = cross_entropy(p_patch, student, 0.1).reshape(2, 2, 3)
            return masked_mean(terms, masks)

        value, grad = jax.value_and_grad(of_patches)(ref["student_patch"])
        assert value == pytest.approx(float(ref["loss_patch"]), rel=tolerance)
        np.testing.assert_array_equal(np.asarray(grad)[~np.asarray(ref["mask"], bool)], 0)
        assert of_patches(ref["student_patch"], jnp.zeros_like(masks)) == 0
        # Crops without a mask count: twice as many of them halve the loss.
        more = masked_mean(jnp.ones((4, 2, 3)), jnp.concatenate([masks, jnp.zeros_like(masks)]))
        assert more == pytest.approx(float(masked_mean(jnp.ones((2, 2, 3)), masks)) / 2, rel=1e-6)
        for name, teacher in (("centre", ref["teacher_cls"][None]), ("patch_centre", ref["teacher_patch"])):
            moved = moved_centre(ref[name], teacher, 0.9)
            np.testing.assert_allclose(moved, ref[f"new_{name}"], rtol=100 * tolerance)


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
    # As many as may be masked in a device's crops have a place.
    for crops in (2, 4, 16, 24, 32, 64):
        most = mask_maker.capacity(crops, 196, **STRATA)
        found = max(counts.reshape(-1)[i : i + crops].sum() for i in range(0, 65 - crops, crops))
        assert found <= most <= crops * 98
    assert mask_maker.capacity(16, 196, **STRATA) == sum(int(x + 1e-3) for x in ends[1:])


@fast
def test_masked_rows_are_gathered_with_their_weights():
    masks = jnp.asarray([[[1, 0, 1], [0, 0, 0]], [[0, 1, 0], [1, 1, 1]]], bool)
    index, counted, weights = masked_rows(masks, 8)
    np.testing.assert_array_equal(index[:6], [0, 2, 7, 9, 10, 11])
    np.testing.assert_array_equal(counted, [1] * 6 + [0] * 2)
    np.testing.assert_allclose(weights, np.array([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3, 0, 0]) / 4)
    values = jnp.arange(12.0).reshape(2, 2, 3)
    assert jnp.sum(weights * values.reshape(-1)[index]) == pytest.approx(float(masked_mean(values, masks)))


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


@fast
def test_teacher_temperature_is_that_of_the_reference(modern):
    wanted = modern("schedules")["dinov2_teacher_temp"]
    info = Info(1, 1, 10, 1000)  # of 1,000 updates
    reached = np.argmax(wanted >= wanted[-1] - 1e-12)
    found = [float(teacher_temperature(jnp.asarray(s), info, 0.04, 0.07, reached / 10)) for s in range(0, 1000, 50)]
    np.testing.assert_allclose(found, wanted[::50], rtol=2e-3)


@pytest.mark.parametrize("name", ["ibot", "dinov2"])
def test_the_teacher_sees_no_mask_and_small_crops_have_none(name):
    run = tiny.run(name, batch_size=8)
    ts, batch = run.init(), tiny.batch_of(run, 8)
    base = {"drop_path": 0.0}
    without = dataclasses.replace(run.method, mask_share=0.0, **base)
    masked = dataclasses.replace(run.method, mask_share=1.0, **base)
    (_, (_, plain)), (_, (_, hidden)) = (
        tiny.loss_function(run, m)(ts.params, ts.state, batch) for m in (without, masked)
    )
    assert plain["masked"] == plain["patch_loss"] == 0 and hidden["masked"] > 0.1 and hidden["patch_loss"] > 0
    assert hidden["teacher_entropy"] == pytest.approx(float(plain["teacher_entropy"]), rel=1e-5)


def test_variants_of_dinov2_train():
    """Sinkhorn's iterations, and one head for class tokens and patches."""
    run = tiny.run("dinov2", **{"method.balance": "sinkhorn", "method.separate_head": False, "batch_size": 8})
    ts = run.init()
    assert set(ts.params) == {"backbone", "head", "mask_token"}
    loss, (state, metrics) = tiny.loss_function(run)(ts.params, ts.state, tiny.batch_of(run, 8))
    assert np.isfinite(loss) and not np.abs(state["centre"]).any()
    # All prototypes are equally likely.
    assert metrics["mean_entropy"] == pytest.approx(np.log(run.method.out), abs=0.01)
