"""Optimisers, masks and schedules against reference numbers and the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax import optim, optim_parts
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.byol import BYOL, target_decay
from ssl_jax.methods.joint.simclr import SimCLR
from ssl_jax.models.resnet import ResNet
from ssl_jax.recipes import base, get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def trajectory(optimizer, params, grads):
    """Parameters after each update, and the last state."""
    state, after = optimizer.init(params), []
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
        after.append(params)
    return after, state


def built(params, steps_per_epoch=10, total_steps=100, batch_size=256, **changes):
    """One group's optimiser by its config; SGD without momentum at a constant 0.1 unless changed."""
    config = {"default": base.optimizer(**({"schedule": "constant", "momentum": 0.0} | changes))}
    labels = jax.tree.map(lambda _: "default", params)
    return optim.build(config, labels, batch_size, steps_per_epoch, total_steps)[0]


def lars(order="outside", rate=1.0, momentum=0.9, decay=0.0, exclude="none"):
    return optim.lars(
        rate if callable(rate) else lambda _: rate,
        momentum=momentum,
        weight_decay=decay,
        trust=0.001,
        order=order,
        mask=lambda p: optim.decayed(p, exclude),
    )


# LARS.


def numpy_lars(w, grads, rates, order="outside", larc=False):
    """Momentum 0.9, weight decay 1e-4, trust 0.001; LARC divides by |g| + decay |w| in place of |g + decay w|."""
    v, after = np.zeros_like(w), []
    for g, rate in zip(grads, rates, strict=True):
        d = g + 1e-4 * w
        length = np.linalg.norm(g) + 1e-4 * np.linalg.norm(w) + 1e-8 if larc else np.linalg.norm(d)
        d = d * 0.001 * np.linalg.norm(w) / length
        v = 0.9 * v + (rate * d if order == "inside" else d)
        w = w - (v if order == "inside" else rate * v)
        after.append(w)
    return np.stack(after)


@pytest.mark.fast
@pytest.mark.parametrize("order", ["inside", "outside"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_lars_agrees_with_numpy(order, dtype, tolerance):
    rng = np.random.default_rng(0)
    w, grads = rng.normal(size=(6, 5)), rng.normal(size=(5, 6, 5))
    with jax.enable_x64(dtype == "float64"):
        optimizer = lars(order, rate=lambda step: 0.3 / (1 + step), decay=1e-4)
        after, _ = trajectory(optimizer, jnp.asarray(w, dtype), jnp.asarray(grads, dtype))
        assert after[0].dtype == dtype
        np.testing.assert_allclose(after, numpy_lars(w, grads, 0.3 / np.arange(1, 6), order), rtol=0, atol=tolerance)


@pytest.mark.fast
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_lars_agrees_with_the_reference(golden, order):
    with jax.enable_x64(True), np.load(golden / "lars_lr0.3_m0.9_wd1e-4_trust0.001.npz") as ref:
        params = {"w": jnp.asarray(ref["w0"]), "b": jnp.asarray(ref["b0"])}
        grads = [
            {"w": jnp.asarray(w), "b": jnp.asarray(b)} for w, b in zip(ref["grads_w"], ref["grads_b"], strict=True)
        ]
        options = {"name": "lars", "learning_rate": 0.3, "momentum": 0.9, "weight_decay": 1e-4, "exclude": "1d"}
        after, _ = trajectory(built(params, lars_order=order, **options), params, grads)
        np.testing.assert_allclose(np.stack([a["b"] for a in after]), ref["b_after"], rtol=0, atol=1e-7)
        # The reference has LARC's ratio, the authors of SimCLR and BYOL have |g + decay w|.
        np.testing.assert_allclose(np.stack([a["w"] for a in after]), ref["w_after"], rtol=0, atol=1e-6)
        larc = numpy_lars(ref["w0"], ref["grads_w"], [0.3] * 5, larc=True)
        np.testing.assert_allclose(larc, ref["w_after"], rtol=0, atol=1e-12)


@pytest.mark.fast
@pytest.mark.parametrize(("order", "expected"), [("inside", (2.993694, 4.007761)), ("outside", (2.996248, 4.004618))])
def test_lars_orders_differ_while_the_rate_changes(order, expected):
    w, g = jnp.array([3.0, 4.0]), jnp.array([1.0, -2.0])
    optimizer = lars(order, rate=lambda step: jnp.where(step == 0, 1.0, 0.1), decay=0.1)
    after, _ = trajectory(optimizer, w, [g, g])
    ratio = (w - after[0]) / (g + 0.1 * w)
    np.testing.assert_allclose(ratio, 0.002425, atol=1e-6)
    np.testing.assert_allclose(after[1], expected, atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_lars_gives_excluded_parameters_the_plain_rate(order):
    w, g = jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0])
    for params, exclude, moved in ((w, "none", -0.005), (w, "1d", -1.0), (w[None], "1d", -0.005)):
        updates, _ = trajectory(lars(order, exclude=exclude), params, [g.reshape(params.shape)])
        np.testing.assert_allclose(updates[0] - params, np.reshape([moved, 0.0], params.shape), atol=1e-6)
    # Nor are they decayed.
    after, _ = trajectory(lars(order, exclude="1d", decay=0.5), w, [g])
    np.testing.assert_allclose(after[0] - w, [-1.0, 0.0], atol=1e-6)


@pytest.mark.fast
def test_lars_ratio_is_one_where_a_norm_is_zero():
    zero, some = jnp.zeros((2, 2)), jnp.full((2, 2), 0.5)
    after, _ = trajectory(lars(), zero, [some])
    np.testing.assert_allclose(after[0], -some)
    after, _ = trajectory(lars(), some, [zero, zero])
    np.testing.assert_array_equal(after[1], some)


@pytest.mark.fast
def test_lars_order_is_checked():
    with pytest.raises(UserError, match="lars_order is 'both': use 'inside' or 'outside'"):
        lars("both")


# SGD, AdamW, clipping, groups.


@pytest.mark.fast
def test_sgd_is_torchs():
    rng = np.random.default_rng(0)
    w0, grads = rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2))
    for nesterov in (False, True):
        w, v = w0, 0
        for g in grads:
            g = g + 0.01 * w
            v = 0.9 * v + g
            w = w - 0.1 * (g + 0.9 * v if nesterov else v)
        params = jnp.asarray(w0, jnp.float32)
        optimizer = built(params, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
        after, _ = trajectory(optimizer, params, jnp.asarray(grads, jnp.float32))
        np.testing.assert_allclose(after[-1], w, rtol=1e-5)


@pytest.mark.fast
def test_adamw_decay_is_decoupled():
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    options = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.5, "exclude": "1d"}
    after, _ = trajectory(built(params, **options), params, [zeros, zeros])
    np.testing.assert_allclose(after[1]["kernel"], 2 * (1 - 0.1 * 0.5) ** 2, rtol=1e-6)
    np.testing.assert_array_equal(after[1]["bias"], 2.0)
    # The first step is of the learning rate's length whatever the gradient's, plus the decay.
    after, _ = trajectory(built(params, **options, b1=0.8, b2=0.9), params, [jax.tree.map(jnp.ones_like, params)])
    np.testing.assert_allclose(after[0]["kernel"], 2 * (1 - 0.1 * 0.5) - 0.1, rtol=1e-5)
    np.testing.assert_allclose(after[0]["bias"], 2 - 0.1, rtol=1e-5)


@pytest.mark.fast
def test_adams_decay_is_part_of_the_gradient():
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    options = {"name": "adam", "learning_rate": 0.1, "weight_decay": 0.5, "exclude": "1d"}
    after, _ = trajectory(built(params, **options), params, [zeros])
    np.testing.assert_allclose(after[0]["kernel"], 2 - 0.1, rtol=1e-5)  # divided by its own size, as gradients are
    np.testing.assert_array_equal(after[0]["bias"], 2.0)


@pytest.mark.fast
def test_adamw_uses_its_betas():
    w, grads = jnp.zeros((1, 1)), [jnp.full((1, 1), g) for g in (1.0, 3.0)]
    after, _ = trajectory(built(w, name="adamw", learning_rate=0.1, b1=0.8, b2=0.9), w, grads)
    m, v = (0.8 * 0.2 + 0.2 * 3) / (1 - 0.8**2), (0.9 * 0.1 + 0.1 * 9) / (1 - 0.9**2)
    np.testing.assert_allclose(after[1] - after[0], -0.1 * m / np.sqrt(v), rtol=1e-4)


@pytest.mark.fast
def test_clipping_bounds_the_norm_of_the_groups_gradient():
    params = {"a": jnp.zeros(2), "b": jnp.zeros((1, 2))}
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[0.0, 4.0]])}
    after, _ = trajectory(built(params, clip=1.0, learning_rate=1.0), params, [grads])
    np.testing.assert_allclose(after[0]["a"], [-0.6, 0], atol=1e-6)
    np.testing.assert_allclose(after[0]["b"], [[0, -0.8]], atol=1e-6)
    after, _ = trajectory(built(params, clip=6.0, learning_rate=1.0), params, [grads])
    np.testing.assert_allclose(after[0]["a"], [-3, 0], atol=1e-6)


@pytest.mark.fast
def test_each_parameters_gradient_can_be_clipped_alone():
    params = {"a": jnp.zeros(2), "b": jnp.zeros((1, 2))}
    grads = {"a": jnp.array([0.3, 0.4]), "b": jnp.array([[0.0, 40.0]])}
    after, _ = trajectory(built(params, clip_each=3.0, learning_rate=1.0), params, [grads])
    np.testing.assert_allclose(after[0]["a"], [-0.3, -0.4], rtol=1e-6)  # short enough, whatever the other's length
    np.testing.assert_allclose(after[0]["b"], [[0, -3]], rtol=1e-6)
    after, _ = trajectory(
        built(params, clip_each=3.0, learning_rate=1.0), params, [jax.tree.map(jnp.zeros_like, grads)]
    )
    np.testing.assert_array_equal(after[0]["b"], 0)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "larc"])
def test_weight_decay_can_follow_a_cosine(name):
    """DINO's: .04 at first, .4 in the end, on what is decayed alone."""
    changes = {"name": name, "weight_decay": 0.04, "weight_decay_final": 0.4, "exclude": "1d", "learning_rate": 0.1}
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    if name in ("lars", "larc"):  # the trust ratio hides the decay of a gradient of zero
        grads = [{"kernel": jnp.array([[0.1, -0.1], [0.1, 0.0]]), "bias": jnp.zeros(2)}] * 100
        after, _ = trajectory(built(params, **changes), params, grads)
        early, _ = trajectory(built(params, **changes | {"weight_decay_final": None}), params, grads)
        np.testing.assert_allclose(after[0]["kernel"], early[0]["kernel"], rtol=1e-6)
        assert np.abs(after[-1]["kernel"] - early[-1]["kernel"]).max() > 1e-4
    else:
        after, _ = trajectory(built(params, **changes), params, [jax.tree.map(jnp.zeros_like, params)] * 100)
        kernel = np.array([2.0, *[a["kernel"][0, 0] for a in after]])
        decay = (1 - kernel[1:] / kernel[:-1]) / 0.1
        expected = 0.4 + (0.04 - 0.4) * 0.5 * (1 + np.cos(np.pi * np.arange(100) / 100))
        np.testing.assert_allclose(decay, expected, atol=2e-5)
    np.testing.assert_array_equal(after[-1]["bias"], 2.0)


@pytest.mark.fast
def test_a_frozen_group_follows_the_decay_of_the_run():
    params, zeros = jnp.full((1, 1), 2.0), [jnp.zeros((1, 1))] * 10
    changes = {"weight_decay": 0.0, "weight_decay_final": 1.0, "steps_per_epoch": 2, "total_steps": 10}
    after, _ = trajectory(built(params, frozen_epochs=2, **changes), params, zeros)
    np.testing.assert_array_equal(after[3], 2.0)
    decay = 0.5 * (1 - np.cos(np.pi * 4 / 10))
    np.testing.assert_allclose(after[4], 2 * (1 - 0.1 * decay), rtol=1e-6)


@pytest.mark.fast
def test_groups_have_their_own_optimiser():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    config = {
        "default": base.optimizer(learning_rate=0.1, schedule="constant"),
        "head": base.optimizer(name="adamw", learning_rate=0.5, schedule="constant", clip=0.1),
    }
    optimizer, schedules = optim.build(config, {"a": "default", "b": "head"}, 512, 10, 100)
    after, _ = trajectory(optimizer, params, [jax.tree.map(jnp.ones_like, params)])
    np.testing.assert_allclose(after[0]["a"], 1 - 0.2, rtol=1e-6)
    np.testing.assert_allclose(after[0]["b"], 1 - 1.0, atol=1e-5)
    assert {g: float(s(jnp.array(0))) for g, s in schedules.items()} == pytest.approx({"default": 0.2, "head": 1.0})


@pytest.mark.fast
def test_a_group_without_an_entry_is_refused():
    with pytest.raises(UserError, match=r"groups \['head'\] without an entry: add config.optim.head"):
        optim.build({"default": base.optimizer()}, {"a": "default", "b": "head"}, 256, 10, 100)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "larz"}, "name is 'larz'. Did you mean 'lars'"),
        ({"scaling": "liner"}, "scaling is 'liner'. Did you mean 'linear'"),
        ({"schedule": "cosin"}, "schedule is 'cosin'. Did you mean 'cosine'"),
        ({"name": "lars", "lars_order": "within"}, "lars_order is 'within'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(changes, message):
    params = jnp.ones((2, 2))
    with pytest.raises(UserError, match=message):
        trajectory(built(params, **changes), params, [params])


# Frozen groups.


@pytest.mark.fast
@pytest.mark.parametrize("name", ["sgd", "lars", "larc", "adam", "adamw"])
def test_a_frozen_group_waits_and_then_starts_afresh(name):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "bias": jnp.ones(2)}
    grads = [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params) for _ in range(6)]
    options = {"name": name, "momentum": 0.9, "weight_decay": 0.1, "learning_rate": 0.5}
    frozen = built(params, steps_per_epoch=2, frozen_epochs=1.5, **options)
    free = built(params, steps_per_epoch=2, **options)
    waiting, state = trajectory(frozen, params, grads[:3])
    for after in waiting:
        jax.tree.map(np.testing.assert_array_equal, after, params)
    counts_left_out = [x for x in jax.tree.leaves(state) if x.ndim]
    assert counts_left_out and not any(x.any() for x in counts_left_out)  # no momentum gathered
    late, _ = trajectory(frozen, params, grads)
    afresh, _ = trajectory(free, params, grads[3:])
    for a, b in zip(late[3:], afresh, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)
        assert np.abs(a["kernel"] - params["kernel"]).max() > 1e-4


@pytest.mark.fast
@pytest.mark.parametrize("name", ["sgd", "lars", "larc"])
def test_a_frozen_group_follows_the_rate_of_the_run(name):
    params, ones = jnp.zeros(1), [jnp.ones(1)] * 10
    options = {"name": name, "exclude": "1d", "schedule": "cosine", "steps_per_epoch": 2, "total_steps": 10}
    moves = []
    for frozen_epochs in (0, 2):
        after, _ = trajectory(built(params, frozen_epochs=frozen_epochs, **options), params, ones)
        moves.append(np.diff(np.stack([params, *after]), axis=0))
    np.testing.assert_array_equal(moves[1][:4], 0)
    np.testing.assert_allclose(moves[1][4:], moves[0][4:], rtol=1e-5)


@pytest.mark.fast
def test_other_groups_move_while_one_is_frozen():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    config = {"default": base.optimizer(), "head": base.optimizer(frozen_epochs=1.0)}
    optimizer, _ = optim.build(config, {"a": "default", "b": "head"}, 256, 2, 10)
    after, _ = trajectory(optimizer, params, [jax.tree.map(jnp.ones_like, params)] * 3)
    assert (after[1]["a"] < 0.95).all() and (after[1]["b"] == 1).all() and (after[2]["b"] < 1).all()


# Masks.


def initial_shapes(method):
    """The parameters of a method on images of 32 pixels."""
    images = {f"view{i}": jnp.zeros((2, 32, 32, 3)) for i in (1, 2)}
    return jax.eval_shape(lambda: method.init(jax.random.key(0), images, Info(512, 2, 256, 256)))[0]


def simclr_shapes():
    return initial_shapes(SimCLR(ResNet("resnet18", 64, "small", zero_init=True), hidden=(512,)))


def names(tree, wanted):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, value in paths if value == wanted}


@pytest.mark.fast
def test_decayed_parameters_of_a_resnet18_with_simclrs_head():
    params = simclr_shapes()
    decayed = names(optim.decayed(params, "1d"), True)
    assert decayed == {
        "backbone/stem/kernel",
        *(f"backbone/stage{s}_block{b}/conv{c}/kernel" for s in (1, 2, 3, 4) for b in (1, 2) for c in (1, 2)),
        *(f"backbone/stage{s}_block1/shortcut/kernel" for s in (2, 3, 4)),
        "projector/dense1/kernel",
        "projector/out/kernel",
    }
    excluded = names(optim.decayed(params, "1d"), False)
    assert {name.rsplit("/", 1)[1] for name in excluded} == {"scale", "bias"}
    assert "backbone/stem_norm/batch/scale" in excluded and "projector/out_norm/scale" in excluded
    assert len(excluded) == 2 * 20 + 2 + 1  # the head's last norm has no offset
    assert names(optim.decayed(params, "none"), True) == decayed | excluded


@pytest.mark.fast
def test_norms_alone_are_left_out():
    """VISSL's `regularize_bn: False`, `regularize_bias: True`."""
    params = {
        "backbone": {"stem": {"kernel": jnp.ones((3, 3)), "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)}}},
        "head": {"out": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}},
    }
    wanted = {
        "backbone": {"stem": {"kernel": True, "norm": {"scale": False, "bias": False}}},
        "head": {"out": {"kernel": True, "bias": True}},
    }
    assert optim.decayed(params, "norm") == wanted
    labels = jax.tree.map(lambda _: "default", params)
    lines = optim.describe({"default": base.optimizer(exclude="norm")}, labels, params)
    assert "head/out/bias (2,) default decayed" in lines and "backbone/stem/norm/bias (3,) default excluded" in lines
    optimizer = built(params, weight_decay=0.1, exclude="norm")
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = jax.tree.map(lambda x: bool(jnp.any(x != 0)), updates)
    assert moved == wanted


@pytest.mark.fast
@pytest.mark.parametrize("epoch", [0, 80, 119, 120, 159, 160, 199])
def test_npids_rates_on_cifar_are_its_authors(epoch):
    """cifar.py: lr 0.1 ** ((epoch - 80) // 40) from epoch 80 on."""
    entry = get_config("npid", "cifar10").optim.default
    schedule = optim.learning_rate(entry, 128, 390, 78_000)
    authors = 0.03 * 0.1 ** ((epoch - 80) // 40) if epoch >= 80 else 0.03
    np.testing.assert_allclose([schedule(390 * epoch), schedule(390 * epoch + 389)], authors, rtol=1e-5)


@pytest.mark.fast
def test_decayed_parameters_of_byols_heads():
    params = initial_shapes(BYOL(ResNet("resnet18", 16, "small"), out_bias=True))
    heads = {name for name in names(optim.decayed(params, "1d"), False) if not name.startswith("backbone")}
    for head in ("projector", "predictor"):
        biases = {f"{head}/dense1/bias", f"{head}/out/bias", f"{head}/norm1/scale", f"{head}/norm1/bias"}
        assert {name for name in heads if name.startswith(head)} == biases


@pytest.mark.fast
def test_describe_has_one_line_a_parameter():
    params = simclr_shapes()
    labels = jax.tree.map(lambda _: "default", params)
    lines = optim.describe({"default": base.optimizer(exclude="1d")}, labels, params)
    assert len(lines) == 22 + 43 and sum(line.endswith(" decayed") for line in lines) == 22
    assert "backbone/stem/kernel (3, 3, 3, 64) default decayed" in lines
    assert "projector/out_norm/scale (128,) default excluded" in lines


@pytest.mark.fast
def test_exclude_is_checked():
    with pytest.raises(UserError, match="exclude is 'bias': use '1d', 'norm' or 'none'"):
        optim.decayed(jnp.ones(2), "bias")


# Schedules.


def rates(steps, batch_size=256, steps_per_epoch=10, total_steps=100, **changes):
    schedule = optim.learning_rate(base.optimizer(**changes), batch_size, steps_per_epoch, total_steps)
    return np.array([schedule(jnp.asarray(step)) for step in steps])


@pytest.mark.fast
def test_warmup_and_cosine_move_with_every_update():
    steps = np.arange(101)
    expected = 0.5 * (1 + np.cos(np.pi * (steps - 20) / 80))
    expected[:20] = steps[:20] / 20
    np.testing.assert_allclose(rates(steps, learning_rate=1.0, warmup_epochs=2.0), expected, atol=1e-6)


@pytest.mark.fast
def test_inverse_is_that_of_the_paper():
    expected = [0.01, 0.01 / 6**0.75, 0.01 / 11**0.75]  # Ganin et al. 2016, sec. 5.2.2: mu_0 / (1 + 10 p)^.75
    found = rates([0, 50, 100], learning_rate=0.01, scaling="none", schedule="inverse")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.fast
def test_per_epoch_cosine_is_the_closed_form():
    steps = np.arange(100)
    expected = 0.3 * 0.5 * (1 + np.cos(np.pi * (steps // 10) / 10))
    np.testing.assert_allclose(rates(steps, learning_rate=0.3, per_epoch=True), expected, atol=1e-6)


@pytest.mark.fast
def test_cosine_ends_at_its_final_rate():
    got = rates([0, 50, 100, 150], learning_rate=2.0, final=0.1)
    np.testing.assert_allclose(got, [2.0, 1.1, 0.2, 0.2], atol=1e-6)


@pytest.mark.fast
def test_steps_multiply_at_each_milestone():
    got = rates([0, 29, 30, 59, 60, 99], learning_rate=0.5, schedule="steps", milestones=(3, 6), factor=0.2)
    np.testing.assert_allclose(got, [0.5, 0.5, 0.1, 0.1, 0.02, 0.02], rtol=1e-5)
    warm = rates([0, 5, 10], learning_rate=0.5, schedule="steps", milestones=(3,), warmup_epochs=1.0)
    np.testing.assert_allclose(warm, [0, 0.25, 0.5], rtol=1e-5)


@pytest.mark.fast
def test_constant_stays():
    np.testing.assert_allclose(rates([0, 99, 500], learning_rate=0.5, schedule="constant"), 0.5)
    warm = rates([0, 5, 10, 99], learning_rate=0.5, schedule="constant", warmup_epochs=1.0)
    np.testing.assert_allclose(warm, [0, 0.25, 0.5, 0.5])


@pytest.mark.fast
@pytest.mark.parametrize(("scaling", "base", "peak"), [("linear", 0.3, 4.8), ("sqrt", 0.075, 4.8), ("none", 0.3, 0.3)])
def test_rate_scales_with_the_batch(scaling, base, peak):
    np.testing.assert_allclose(rates([0], batch_size=4096, learning_rate=base, scaling=scaling), peak, rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("config", "examples", "peak"),
    [
        (get_config("simclr", "imagenet"), 1_281_167, 4.8),
        (get_config("simclr", "cifar10"), 50_000, 2.0),  # 1.0 times 512 / 256
        (get_config("byol", "imagenet"), 1_281_167, 4.8),
    ],
    ids=["simclr-imagenet", "simclr-cifar10", "byol-imagenet"],
)
def test_schedule_snapshot(config, examples, peak):
    per_epoch = examples // config.batch_size
    total, warmup = per_epoch * config.epochs, 10 * per_epoch
    steps = [0, warmup // 2, warmup, warmup + (total - warmup) // 2, total - 1]
    got = rates(steps, config.batch_size, per_epoch, total, **config.optim.default)
    expected = [0, peak * (warmup // 2) / warmup, peak, peak / 2, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6 * peak)
    assert (config.optim.default.name, config.optim.default.exclude) == ("lars", "1d")
    order = "inside" if config.method.name == "simclr" else "outside"
    group = config.optim.default
    assert (group.lars_order, group.trust, group.momentum) == (order, 0.001, 0.9)


@pytest.mark.fast
def test_target_decay_agrees_with_the_reference(golden):
    with jax.enable_x64(True), np.load(golden / "schedules.npz") as ref:
        # The reference reaches 1 at step 999 of 1000; the authors reach it after the last step.
        ours = jax.vmap(lambda step: target_decay(0.996, step, 999))(jnp.arange(1000))
        np.testing.assert_allclose(ours, ref["byol_tau_0p996_to_1"], rtol=1e-7)


@pytest.mark.fast
def test_target_decay_values_of_the_specification():
    ours = [target_decay(0.996, jnp.asarray(k), 1000) for k in (0, 250, 500, 750, 1000)]
    np.testing.assert_allclose(ours, [0.996, 0.996586, 0.998, 0.999414, 1], atol=1e-6)


# LARC.


def larc_step(w, g, rate=1.0, *, decay=0.1, trust=0.001, clip=False, exclude="none"):
    """What one update without momentum adds to the weights."""
    mask = lambda p: optim.decayed(p, exclude)  # noqa: E731
    optimizer = optim.larc(lambda _: rate, momentum=0.0, weight_decay=decay, trust=trust, clip=clip, mask=mask)
    return optimizer.update(g, optimizer.init(w), w)[0]


@pytest.mark.fast
def test_larc_ratio():
    """eta |w| / (|g| + lambda |w|) = .001827 for w = (3, 4), g = (1, -2), lambda = .1."""
    w, g = jnp.array([3.0, 4.0]), jnp.array([1.0, -2.0])
    ratio = 0.001 * 5 / (5**0.5 + 0.5)
    np.testing.assert_allclose(ratio, 0.001827, rtol=1e-3)
    np.testing.assert_allclose(larc_step(w, g), -ratio * (g + 0.1 * w), rtol=1e-5)


@pytest.mark.fast
def test_larc_clipped_never_moves_further_than_sgd():
    w, g = jnp.full((2, 2), 50.0), jnp.full((2, 2), 1e-3)
    np.testing.assert_allclose(larc_step(w, g, 0.5, decay=0.0, trust=0.02, clip=True), -0.5 * g, rtol=1e-5)
    unclipped = larc_step(w, g, 0.5, decay=0.0, trust=0.02)
    np.testing.assert_allclose(unclipped, jnp.full((2, 2), -0.5 * 0.02 * 50.0), rtol=1e-4)
    # Where the ratio is below the rate, clipping divides the rate out again.
    large = larc_step(w, jnp.full((2, 2), 1e3), 0.5, decay=0.0, trust=0.02, clip=True)
    np.testing.assert_allclose(large, jnp.full((2, 2), -0.02 * 50.0), rtol=1e-5)


@pytest.mark.fast
def test_larc_leaves_excluded_and_zero_parameters_to_sgd():
    bias, g = jnp.array([3.0, 4.0]), jnp.array([1.0, -2.0])
    np.testing.assert_allclose(larc_step(bias, g, 0.5, exclude="1d"), -0.5 * g)
    np.testing.assert_allclose(larc_step(jnp.zeros((2, 2)), jnp.ones((2, 2)), 0.5), -0.5 * jnp.ones((2, 2)))


@pytest.mark.fast
def test_larc_from_a_config():
    """solo-learn's BYOL for CIFAR-10 asks for it, and its schedule reaches the clipping."""
    config = get_config("byol", "cifar10").optim.default
    assert (config.name, config.trust, config.trust_clip, config.exclude) == ("larc", 0.02, True, "1d")
    w, g = {"kernel": jnp.full((2, 2), 50.0)}, {"kernel": jnp.full((2, 2), 1e-3)}
    changes = {"name": "larc", "trust": 0.02, "trust_clip": True, "learning_rate": 0.5}
    (after,), _ = trajectory(built(w, **changes), w, [g])
    np.testing.assert_allclose(after["kernel"], 50.0 - 0.5e-3, rtol=1e-7)


@pytest.mark.fast
def test_a_group_moves_each_so_many_th_update():
    """Every third update counts, and what rests neither moves nor gathers momentum; the rate is that of the run."""
    inner = optax.chain(optax.trace(0.5), optax.scale_by_learning_rate(lambda count: 1.0 + count))
    found = optim.at_times(inner, 2, 3)
    params, state, moves = jnp.zeros(()), found.init(jnp.zeros(())), []
    for _ in range(9):
        update, state = found.update(jnp.ones(()), state, params)
        moves.append(float(update))
    # Updates 2, 3, 4 -> the last of them; then 5, 6, 7.
    assert moves == [0, 0, 0, 0, -1.0, 0, 0, -2 * 1.5, 0]


@pytest.mark.fast
def test_the_rate_of_a_resting_group_is_that_of_the_run():
    c = base.optimizer(name="sgd", learning_rate=1.0, scaling="none", schedule="steps", milestones=(2,), momentum=0.0)
    c.every = 2
    group = {"default": c}
    optimizer, _ = optim.build(group, {"w": "default"}, 1, 2, 8)
    params = {"w": jnp.zeros(())}
    state, moves = optimizer.init(params), []
    for _ in range(8):
        update, state = optimizer.update({"w": jnp.ones(())}, state, params)
        moves.append(round(float(update["w"]), 6))
    # Two updates an epoch, a tenth from the third epoch on.
    assert moves == [0, -1.0, 0, -1.0, 0, -0.1, 0, -0.1]
    c.every = 0
    with pytest.raises(UserError, match="every"):
        optim.build(group, {"w": "default"}, 1, 2, 8)


# What is done part by part.


@pytest.mark.fast
def test_layers_have_the_rates_of_the_specification(golden):
    """DINOv2's and BEiT's: index 0 are patches, tokens and positions, 13 the last norm and the heads."""
    blocks = {f"block{i + 1}": {"mlp1": {"kernel": 0}} for i in range(12)}
    first = {name: 0 for name in ("token", "positions", "registers")}
    tree = {"backbone": {**blocks, **first, "patch": {"kernel": 0}, "norm": {"scale": 0}}}
    tree |= {"head": {"dense1": {"kernel": 0}}, "mask_token": 0}
    rates = optim_parts.layer_rates(tree, 0.9, 0.2)
    with np.load(golden.parent / "golden_modern" / "schedules.npz") as reference:
        wanted = reference["layer_multiplier_L12_decay.9"]
    for i in range(12):
        assert rates["backbone"][f"block{i + 1}"]["mlp1"]["kernel"] == pytest.approx(wanted[i + 1])
    for rate in (*(rates["backbone"][name] for name in first), rates["mask_token"]):
        assert rate == pytest.approx(wanted[0])
    assert rates["backbone"]["patch"]["kernel"] == pytest.approx(0.050837, abs=1e-6)
    assert rates["backbone"]["norm"]["scale"] == rates["head"]["dense1"]["kernel"] == 1.0
    with pytest.raises(UserError, match="of vision transformers"):
        optim_parts.layer_rates({"backbone": {"stem": 0}}, 0.9, 1.0)


@pytest.mark.fast
def test_each_part_is_clipped_by_its_own_norm_and_moves_at_its_own_rate():
    params = {"backbone": {"block1": jnp.ones(3), "patch": jnp.ones(3)}, "head": jnp.ones(4)}
    grads = {"backbone": {"block1": jnp.full(3, 4.0), "patch": jnp.zeros(3)}, "head": jnp.full(4, 0.1)}
    (after,), _ = trajectory(built(params, learning_rate=1.0, scaling="none", clip_parts=1.0), params, [grads])
    np.testing.assert_allclose(after["backbone"]["block1"], 1 - 3**-0.5, rtol=1e-5)  # was longer than 1
    np.testing.assert_allclose(after["head"], 0.9, rtol=1e-6)  # was shorter
    plain, _ = trajectory(built(params, name="adamw", weight_decay=0.1), params, [grads])
    layers = built(params, name="adamw", weight_decay=0.1, layer_decay=0.5, patch_rate=0.1)
    (found,), _ = trajectory(layers, params, [grads])
    for name, rate in (("block1", 0.5), ("patch", 0.025)):  # decay included
        np.testing.assert_allclose(1 - found["backbone"][name], rate * (1 - plain[0]["backbone"][name]), rtol=1e-3)
    np.testing.assert_array_equal(found["head"], plain[0]["head"])


@pytest.mark.fast
def test_a_held_group_gathers_moments_and_a_frozen_one_does_not():
    params, grads = {"w": jnp.ones(2)}, [{"w": jnp.full(2, g)} for g in (1.0, 3.0)]
    after = {}
    for field in ("hold_epochs", "frozen_epochs"):
        optimizer = built(params, steps_per_epoch=1, momentum=0.5, learning_rate=1.0, scaling="none", **{field: 1.0})
        after[field], _ = trajectory(optimizer, params, grads)
    np.testing.assert_array_equal(after["hold_epochs"][0]["w"], 1)
    np.testing.assert_allclose(after["hold_epochs"][1]["w"], 1 - 3.5)
    np.testing.assert_allclose(after["frozen_epochs"][1]["w"], 1 - 3)
