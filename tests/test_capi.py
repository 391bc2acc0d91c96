"""CAPI: assignments, losses, positions and masks against references, and what student and decoder may see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import losses, models, optim
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.ibot import cross_entropy
from ssl_jax.methods.masked import capi
from ssl_jax.methods.shared.masks import inverse_blocks
from ssl_jax.models import rotary, vit_capi
from ssl_jax.recipes import base, get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
fast = pytest.mark.fast
KEYS = jax.random.split(jax.random.key(0), 4)


@fast
def test_assignments_and_losses_of_the_reference(modern):
    given = modern("capi")
    with jax.enable_x64():
        logits = jnp.asarray(given["teacher_logits"]).swapaxes(0, 1)  # [images, places, clusters]
        p = capi.assignments(logits, 0.06)
        np.testing.assert_allclose(p.swapaxes(0, 1), given["assignments"], atol=1e-7)
        pooled = capi.assignments(logits, 0.06, by_place=False).swapaxes(0, 1)
        np.testing.assert_allclose(pooled.reshape(12, 5), given["assignments_pooled"], atol=1e-7)
        assert np.abs(pooled - given["assignments"]).max() > 0.1  # what a place of its own makes of it
        np.testing.assert_allclose(cross_entropy(p, logits, 0.12).mean(), given["clustering_loss"], rtol=1e-7)
        student = jnp.asarray(given["student_logits"]).reshape(3, 4, 5).swapaxes(0, 1)
        np.testing.assert_allclose(cross_entropy(p, student, 0.12).mean(), given["student_loss"], rtol=1e-7)
        assert not np.any(jax.grad(lambda x: capi.assignments(x, 0.06)[0, 0, 0])(logits))


@fast
def test_positions_of_the_reference(modern):
    given = modern("rope")
    np.testing.assert_allclose(vit_capi.frequencies(8), given["capi_freqs"], rtol=1e-8)
    np.testing.assert_allclose(vit_capi.patch_places((2, 3)), given["capi_coords"], atol=1e-12)
    by = vit_capi.turns(jnp.asarray(given["capi_coords"], jnp.float32)[None], 8)
    found = rotary.turned(jnp.asarray(given["q"], jnp.float32)[None, :, None], by)
    np.testing.assert_allclose(found[0, :, 0], given["capi_rotated"], atol=2e-5)  # angles of up to 44 in float32


@fast
def test_registers_go_round_the_edge():
    found = vit_capi.edge_places(8)
    corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
    np.testing.assert_allclose(found[::2], corners)
    np.testing.assert_allclose(found[1::2], [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]])
    model = vit_capi.CAPIViT("vit_micro", 4, registers=4)
    whole = model.places((3, 5), None)
    np.testing.assert_allclose(whole[0, :4], corners)
    some = model.places((3, 5), jnp.array([[6, 8, 11]]))  # rows 1 and 2, columns 1 to 3
    np.testing.assert_allclose(some[0, :4], [[0.5, 0.25], [1, 0.25], [1, 0.75], [0.5, 0.75]])
    np.testing.assert_allclose(some[0, 4:], whole[0, jnp.array([10, 12, 15])])


@fast
@pytest.mark.parametrize(("grid", "visible"), [((16, 16), 90), ((8, 8), 23), ((7, 7), 18), ((4, 9), 30), ((5, 5), 25)])
def test_the_student_sees_one_rectangle(grid, visible):
    masks = np.asarray(inverse_blocks(jax.random.split(KEYS[0], 4000), visible, grid))
    assert masks.shape == (4000, grid[0] * grid[1]) and (~masks).sum(1).tolist() == [visible] * 4000
    share = (~masks).mean(0)
    assert np.abs(share - visible / masks.shape[1]).max() < 5 * 0.5 / np.sqrt(4000)  # shifts leave no place out
    seen = ~masks.reshape(-1, *grid)
    if visible == 90:  # rolled back, rows and columns are runs, and only the last row is cut
        for one in seen[:200]:
            down, along = (np.flatnonzero(one.any(axis) & ~np.roll(one.any(axis), 1)) for axis in (1, 0))
            assert len(down) <= 1 and len(along) <= 1
            back = np.roll(one, (-down[0] if len(down) else 0, -along[0] if len(along) else 0), (0, 1))
            h, w = back.any(1).sum(), back.any(0).sum()
            assert back[: h - 1, :w].all() and (h - 1) * w < visible <= h * w
            assert 0.45 < h / w < 2.2
        heights = seen.any(2).sum(1)
        assert len(np.unique(heights)) >= 6 and heights.min() == 7 and heights.max() == 13


@fast
def test_patches_are_asked_for_once_and_only_hidden_ones():
    hidden = jnp.arange(20) % 3 == 0
    found = np.asarray(jax.vmap(lambda key: capi.asked_patches(key, hidden, 5))(jax.random.split(KEYS[0], 300)))
    assert (found % 3 == 0).all() and all(len(set(row)) == 5 for row in found.tolist())
    counts = np.bincount(found.ravel(), minlength=20)[::3]
    assert counts.min() > 300 * 5 / 7 * 0.8  # each as often


@fast
def test_schedules_of_the_authors(modern):
    """But for the warm-up, whose n updates the authors have from 0 to the peak and here lack the last."""
    given = modern("schedules")
    rates, momentum = given["capi_lr"], given["capi_momentum"]
    warmup = int(np.argmax(rates))  # the peak comes twice: at the end of the warm-up and behind it
    warmup += int(rates[warmup + 1] == rates[warmup])
    config = base.optimizer(
        learning_rate=float(rates.max()), scaling="none", schedule="cosine_4_5", warmup_epochs=float(warmup)
    )
    schedule = jax.jit(optim.learning_rate(config, 1, 1, len(rates)))
    steps = np.arange(len(rates))
    found = np.array([schedule(jnp.int32(step)) for step in steps[::7]])
    np.testing.assert_allclose(found[steps[::7] >= warmup], rates[::7][steps[::7] >= warmup], rtol=1e-5)
    np.testing.assert_allclose(found, rates[::7], atol=rates.max() / (warmup - 1))
    share = np.asarray(jax.vmap(lambda step: capi.opening(step, warmup, len(rates)))(jnp.asarray(steps)))
    m = 1 - (1 - momentum.min()) * share
    np.testing.assert_allclose(m[warmup:], momentum[warmup:], atol=1e-7)
    np.testing.assert_allclose(m, momentum, atol=(1 - momentum.min()) / (warmup - 1))
    assert m[0] == 1 and m[-1] < 1


def small(**changes):
    return tiny.run("capi", **{f"method.{name}": value for name, value in changes.items()})


def test_what_the_student_sees_and_what_is_asked():
    """Pixels of hidden patches change nothing; what one place is asked does not change the answer at another."""
    run = small()
    method, params = run.method, tiny.first_state(run).params
    net, positions = method.backbone, jnp.arange(3)
    x = jax.random.normal(KEYS[1], (3, 32, 32, 3))
    seen, asked = method._draw(KEYS[2], positions)
    hidden, count = method._counts()
    assert seen.shape == (3, 64 - hidden) and asked.shape == (3, count)
    assert not any(set(a) & set(b) for a, b in zip(seen.tolist(), asked.tolist(), strict=True))
    logits, same = method._student(params, x, positions, KEYS[2], False)
    np.testing.assert_array_equal(same, asked)
    dark = jnp.ones((3, 64), bool).at[jnp.arange(3)[:, None], seen].set(False).reshape(3, 8, 8)
    pixels = jnp.kron(dark, jnp.ones((4, 4)))[..., None]
    other, _ = method._student(params, jnp.where(pixels > 0, 9.0, x), positions, KEYS[2], False)
    np.testing.assert_allclose(other, logits, atol=1e-5)
    decoder, h = method._decoder(), net.apply({"params": params["backbone"]}, x, train=False, visible=seen)
    places = {"asked": net.places((8, 8), asked)[:, net.registers :], "known": net.places((8, 8), seen)}
    own = {"params": params["decoder"]}
    whole = decoder.apply(own, h, train=False, **places)
    np.testing.assert_allclose(jnp.mean(whole**2, -1), 1.0, atol=1e-2)
    cosines = method._head().apply({"params": params["head"]}, losses.l2_normalize(whole).reshape(3 * count, -1))
    np.testing.assert_allclose(logits.reshape(3 * count, -1), cosines, atol=1e-5)
    moved = decoder.apply(own, h, train=False, **places | {"asked": places["asked"].at[:, 0].set(0.5)})
    np.testing.assert_allclose(moved[:, 1:], whole[:, 1:], atol=1e-5)
    assert np.abs(moved[:, 0] - whole[:, 0]).max() > 1e-3
    loop = decoder.clone(scan=True).apply(own, h, train=False, **places)
    np.testing.assert_allclose(loop, whole, atol=1e-5)


def test_the_network_knows_places():
    net = small().method.backbone
    x = jax.random.normal(KEYS[1], (2, 32, 32, 3))
    params = net.init(KEYS[3], x, train=True)["params"]
    assert "positions" not in params and "token" not in params and "norm" not in params
    biases = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params) if p[-1].key == "bias"]
    assert biases == ["['patch']['bias']"]
    out = net.apply({"params": params}, x, train=False)
    shuffled = x.reshape(2, 8, 4, 32, 3)[:, ::-1].reshape(x.shape)
    assert np.abs(net.apply({"params": params}, shuffled, train=False) - out).max() > 1e-3
    swapped = {**params, "registers": params["registers"][:, ::-1]}  # registers have places, too
    assert np.abs(net.apply({"params": swapped}, x, train=False) - out).max() > 1e-6
    all_of_it = net.apply({"params": params}, x, train=False, visible=jnp.tile(jnp.arange(64), (2, 1)))
    np.testing.assert_allclose(all_of_it[:, net.registers :].mean(1), out, atol=1e-5)
    np.testing.assert_allclose(net.clone(scan=True).apply({"params": params}, x, train=False), out, atol=1e-5)


def test_each_loss_reaches_its_own_part():
    """The clustering loss moves the clustering layer alone, and the prediction loss all but that."""
    run = small()
    ts, batch = tiny.first_state(run), tiny.batch_of(run, 8)
    loss = tiny.loss_function(run)
    both = jax.grad(lambda params: loss(params, ts.state, batch)[0])(ts.params)
    _, logits = run.method._clusters(ts.params, ts.state, batch["view"])
    p = capi.assignments(logits, run.method.target_temp)

    def clustering(clusters):
        _, found = run.method._clusters({"clusters": clusters}, ts.state, batch["view"])
        return cross_entropy(p, found, run.method.cluster_temp).mean()

    alone = jax.grad(clustering)(ts.params["clusters"])
    for name, value in alone.items():
        np.testing.assert_allclose(both["clusters"][name], value, rtol=1e-4, atol=1e-5)
    for part in ("backbone", "decoder", "head"):
        assert all(np.any(x) for x in jax.tree.leaves(both[part])), part


@fast
def test_the_teacher_opens_and_closes():
    method = dataclasses.replace(small().method, tau=0.9, tau_warmup_epochs=2.0)
    params, state = {"backbone": {"w": jnp.ones(2)}}, {"target": {"backbone": {"w": jnp.zeros(2)}}}
    info = Info(1, 1, 10, 100)  # of 100 updates, 20 of them before the teacher is as open as it gets
    last = 0.1 * 0.5 * (1 + np.cos(0.8 * np.pi))
    for step, share in ((0, 0.0), (10, 0.05), (20, 0.1), (100, last)):
        _, moved = method.after_update(params, state, jnp.asarray(step), info)
        np.testing.assert_allclose(moved["target"]["backbone"]["w"], share, atol=1e-7)


@fast
def test_groups_have_the_authors_decay():
    run = small()
    labels = run.method.groups(tiny.first_state(run).params)
    assert labels["backbone"]["block1"]["norm1"]["scale"] == labels["decoder"]["block2"]["norm2"]["scale"] == "norms"
    assert set(jax.tree.leaves(labels["clusters"])) == {"clusters"}
    assert labels["head"] == {"gain": "default", "kernel": "default"}
    config = get_config("capi", "imagenet").optim
    assert config.norms.weight_decay == 0.01 and config.default.weight_decay == 0.1
    assert config.clusters.learning_rate == config.default.learning_rate / 2
    assert {config[group].b2 for group in config} == {0.95}


@fast
def test_numbers_of_the_authors_recipe():
    """The patches that are hidden and asked for; ViT-L's parameters: 24 blocks of 12 D^2 + 2 D, patches, registers."""
    config = get_config("capi", "imagenet")
    method = build.method(config.method, models.from_config(config.model))
    assert method._counts() == (166, 8)
    made = jax.eval_shape(lambda: method.init(KEYS[0], {"view": jnp.zeros((1, 224, 224, 3))}, None)[0])
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in made.items()}
    d, k = 1024, 16384
    assert count["backbone"] == 24 * (12 * d * d + 2 * d) + 14 * 14 * 3 * d + d + 16 * d
    assert count["decoder"] == 12 * (12 * d * d + 2 * d) + d
    assert (count["head"], count["clusters"]) == (k * d + k, k * d + k)


@fast
def test_settings_without_meaning_are_refused():
    config = get_config("capi", "fashion_mnist")
    for changes, message in (
        ({"model.name": "vit_micro"}, "set config.model.name to vit_micro_capi"),
        ({"model.patch": 5}, "a multiple of config.model.patch"),
        ({"method.asked_share": 0.01}, "at least one is predicted"),
        ({"model.registers": 6}, "make it a multiple of 4"),
        ({"model.positions": "sincos"}, "has rotary ones"),
    ):
        with pytest.raises(UserError, match=message):
            tiny.check_changed(config, changes, 28)
    net = models.from_config(config.model)
    for refuse in (lambda: net.torch_pairs("timm"), lambda: net.torch_code("timm", 3, 28)):
        with pytest.raises(UserError, match="npz"):
            refuse()
