"""I-JEPA: blocks, targets and loss against references, and what context encoder and predictor may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import models
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info
from ssl_jax.methods.masked import ijepa
from ssl_jax.models.decoders import JEPAPredictor
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEYS = jax.random.split(jax.random.key(0), 5)
GRID = (14, 14)


@pytest.fixture
def given(golden):
    with np.load(golden.parent / "golden_modern" / "ijepa.npz") as found:
        return dict(found)


def test_target_and_loss_of_the_reference(given):
    with jax.enable_x64(True):
        whole = jnp.asarray(given["target_encoder_out"])
        masks = jnp.asarray(given["masks_pred"])  # [blocks, images, patches]
        target = jnp.stack([jnp.take_along_axis(ijepa.feature_targets(whole), m[..., None], 1) for m in masks])
        np.testing.assert_allclose(target.reshape(given["target"].shape), given["target"], atol=1e-12)
        prediction, counted = jnp.asarray(given["prediction"]), jnp.ones(given["prediction"].shape[:2], bool)

        def loss(prediction, target):
            return ijepa.prediction_error(prediction, target, counted)

        value, gradient = jax.value_and_grad(loss)(prediction, jnp.asarray(given["target"]))
        np.testing.assert_allclose(value, given["loss"], atol=1e-12)
        np.testing.assert_allclose(gradient, given["grad_prediction"], atol=1e-12)
        plain = jnp.stack([jnp.take_along_axis(whole, m[..., None], 1) for m in masks])
        np.testing.assert_allclose(loss(prediction, plain.reshape(prediction.shape)), 0.301479180, atol=1e-9)  # wrong


def test_blocks_of_the_authors_draws(given):
    u = jnp.asarray(np.stack([given["block_rand"]] * 2, -1))  # one draw for area and aspect
    np.testing.assert_array_equal(ijepa.block_size(u, GRID, (0.15, 0.2), (0.75, 1.5), 1), given["pred_blocks"])
    np.testing.assert_array_equal(ijepa.block_size(u, GRID, (0.85, 1.0), (1.0, 1.0), 1), given["context_blocks"])


@pytest.mark.fast
def test_smooth_l1_and_the_paper_s_square():
    prediction, target = jnp.array([[[0.5, 3.0]]]), jnp.zeros((1, 1, 2))
    one = jnp.ones((1, 1), bool)
    np.testing.assert_allclose(ijepa.prediction_error(prediction, target, one), (0.125 + 2.5) / 2)
    np.testing.assert_allclose(ijepa.prediction_error(prediction, target, one, "l2"), (0.25 + 9.0) / 2)


@pytest.mark.fast
def test_patches_that_do_not_count_change_nothing():
    draw = np.random.default_rng(0)
    prediction, target = (jnp.asarray(draw.normal(size=(2, 4, 3))) for _ in range(2))
    counted = jnp.array([[True, True, False, False], [True, False, False, False]])
    wanted = ijepa.prediction_error(prediction, target, counted)
    other = jnp.where(counted[..., None], prediction, 7.0)
    np.testing.assert_allclose(ijepa.prediction_error(other, target, counted), wanted)
    rows = [(0, 0), (0, 1), (1, 0)]
    gaps = np.abs(np.array([prediction[r] - target[r] for r in rows]))
    np.testing.assert_allclose(wanted, np.where(gaps < 1, gaps**2 / 2, gaps - 0.5).mean(), rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("authors", [False, True])
def test_blocks_lie_where_the_rules_say(authors):
    u = jax.random.uniform(KEYS[0], (4000, 2))
    found = np.asarray(ijepa.blocks(u, jnp.array([5, 6]), GRID, authors)).reshape(-1, *GRID)
    rows, columns = found.any(2), found.any(1)
    assert (found.sum((1, 2)) == 30).all() and (rows.sum(1) == 5).all() and (columns.sum(1) == 6).all()
    assert rows[:, -1].any() != authors and columns[:, -1].any() != authors  # the code never reaches the last ones
    assert rows[:, 0].any() and columns[:, 0].any()
    free = 9 if authors else 10
    share = rows[:, 0].mean()  # a block begins in each of the free rows as often
    assert abs(share - 1 / free) < 4 * np.sqrt(1 / free / 4000)


@pytest.mark.fast
@pytest.mark.parametrize("side", [7, 8, 14, 16])
def test_no_block_has_more_patches_than_there_is_room_for(side):
    """And the room is needed: every number of patches that is possible is drawn."""
    u = jax.random.uniform(KEYS[0], (400_000, 2))
    areas = ijepa.areas_of_blocks((side, side), (0.15, 0.2), (0.75, 1.5))
    for authors in (0, 1):
        sizes = ijepa.block_size(u, (side, side), (0.15, 0.2), (0.75, 1.5), authors)
        assert set(np.unique(sizes.prod(-1)).tolist()) == areas


@pytest.mark.fast
def test_a_context_has_no_target_unless_too_little_is_left():
    block = jnp.ones(64, bool)
    targets = jnp.zeros((4, 64), bool).at[0, :30].set(True).at[1, 20:50].set(True).at[2, 40:60].set(True)
    targets = targets.at[3, 60:63].set(True)
    found = np.asarray(ijepa.context_of(block, targets))
    assert found.sum() == 14 and not found[:50].any()  # of 4 left by all, and by three, two targets' rest is kept
    assert np.asarray(ijepa.context_of(block, targets.at[2].set(False))).sum() == 11


@pytest.mark.fast
def test_gathered_indices_keep_the_order_of_rows():
    mask = jnp.array([[False, True, True, False, True]])
    index, counted = ijepa.gathered(mask, 4)
    assert index[0, :3].tolist() == [1, 2, 4] and counted.tolist() == [[True, True, True, False]]


def small(**changes):
    fields = {"width": 16, "depth": 1, **changes}
    config = tiny.config("ijepa", **{f"method.{k}": v for k, v in fields.items()})
    return build.method(config.method, models.from_config(config.model)), config


def embedded(backbone, params, x, **seen):
    return backbone.apply({"params": params}, x, train=True, pool=False, **seen)


def test_padding_changes_no_token():
    """An image's tokens are those of a batch without padding, and hidden patches' pixels do not matter."""
    backbone = models.from_config(get_config("ijepa", "cifar10_small").model)
    x = jax.random.normal(KEYS[1], (2, 32, 32, 3))
    params = backbone.init(KEYS[2], x, train=True)["params"]
    index = jnp.array([[0, 3, 9, 20, 21, 40], [5, 6, 7, 0, 0, 0]])
    counted = jnp.array([[True] * 6, [True] * 3 + [False] * 3])
    both = embedded(backbone, params, x, visible=index, seen=counted)
    alone = embedded(backbone, params, x[1:], visible=index[1:, :3], seen=counted[1:, :3])
    np.testing.assert_allclose(both[1, :3], alone[0], atol=2e-6)
    side = 32 // backbone.patch
    hidden = jnp.ones((side, side), bool).reshape(-1).at[index[1, :3]].set(False).reshape(side, side)
    pixels = jnp.kron(hidden, jnp.ones((backbone.patch,) * 2))[..., None]
    other = x.at[1].set(jnp.where(pixels > 0, 9.0, x[1]))
    changed = embedded(backbone, params, other, visible=index, seen=counted)
    np.testing.assert_allclose(changed[1, :3], both[1, :3], atol=2e-6)
    whole = embedded(backbone, params, x[:1])
    everything = embedded(backbone, params, x[:1], visible=jnp.arange(side * side)[None])
    np.testing.assert_allclose(everything, whole.reshape(1, side * side, -1), atol=2e-6)


def test_each_target_is_predicted_alone():
    """Blocks do not see one another, nor what pads the context; the prediction knows where a patch is."""
    net = JEPAPredictor(16, 2, 2, (4, 4), 8)
    x = jax.random.normal(KEYS[3], (2, 5, 8))
    where = {
        "context": jnp.array([[0, 1, 2, 3, 0], [4, 5, 6, 0, 0]]),
        "counted": jnp.array([[True] * 4 + [False], [True] * 3 + [False] * 2]),
        "targets": jnp.array([[[10, 11], [14, 15]], [[8, 9], [12, 13]]]),
        "target_counted": jnp.ones((2, 2, 2), bool).at[0, 1, 1].set(False),
    }
    params = net.init(KEYS[4], x, train=True, **where)

    def predicted(x, **changes):
        return net.apply(params, x, train=True, **(where | changes))

    found = predicted(x)
    assert found.shape == (2, 2, 2, 8)
    np.testing.assert_allclose(predicted(x.at[0, 4].set(9.0))[0], found[0], atol=1e-6)  # padding of the context
    moved = predicted(x, targets=where["targets"].at[0, 0].set(jnp.array([5, 6])))
    np.testing.assert_allclose(moved[0, 1], found[0, 1], atol=1e-6)
    assert np.abs(moved[0, 0] - found[0, 0]).max() > 1e-3
    padded = predicted(x, targets=where["targets"].at[0, 1, 1].set(7))  # a patch that there is not
    np.testing.assert_allclose(padded[0, 1, 0], found[0, 1, 0], atol=1e-6)


@pytest.mark.fast
def test_the_target_moves_linearly_to_standing_still():
    method, _ = small(tau=0.9)
    params, state = {"backbone": {"w": jnp.ones(2)}}, {"target": {"backbone": {"w": jnp.zeros(2)}}}
    info = Info(1, 1, 10, 100)  # of 100 updates
    for step, share in ((0, 0.1), (50, 0.05), (100, 0.0)):
        _, moved = method.after_update(params, state, jnp.asarray(step), info)
        np.testing.assert_allclose(moved["target"]["backbone"]["w"], share, atol=1e-7)


@pytest.mark.fast
def test_settings_without_meaning_are_refused():
    config = get_config("ijepa", "fashion_mnist")
    for changes, message in (
        ({"model.name": "vit_micro"}, "set config.model.name to vit_micro_gap"),
        ({"model.name": "resnet18"}, "set config.model.name to vit_micro_gap"),
        ({"method.error": "l1"}, "config.method.error is 'l1'"),
        ({"method.width": 30}, "config.method.width is 30"),
        ({"model.patch": 14}, "at least four times as large"),
        ({"model.registers": 2}, "stand beside a class token"),
    ):
        with pytest.raises(UserError, match=message):
            tiny.check_changed(config, changes, 28)
