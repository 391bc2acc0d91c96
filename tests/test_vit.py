"""The vision transformer against an independent reference and the formulas of its authors."""

import functools
import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
import tiny

from ssl_jax import models
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.models import patches, transformer
from ssl_jax.models.transformer import INITS, TransformerBlock
from ssl_jax.models.vit import ViT
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step

KEY = jax.random.key(0)


pytestmark = pytest.mark.usefixtures("quick_compilation")


def images(side=8, count=3, channels=1, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, side, side, channels)), jnp.float32)


@functools.cache
def tiny_vit():
    """A ViT with patches of two pixels, and weights for 8x8 images, none of them left at zero or one."""
    model = ViT("vit_tiny", patch=2)
    params = jax.jit(functools.partial(model.init, train=True))(KEY, images())["params"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return model, jax.tree.unflatten(tree, [x + 0.05 * rng.normal(size=x.shape).astype(np.float32) for x in leaves])


def size(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


# Reference.


def numpy_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def numpy_block(x, p, heads):
    """One image's tokens [n, D], head by head."""
    width = x.shape[1]
    d = width // heads
    y = numpy_norm(x, p["norm1"]) @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    q, k, v = y[:, :width], y[:, width : 2 * width], y[:, 2 * width :]
    out = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(d))
        out[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
    x = x + p.get("scale1", 1) * (out @ p["proj"]["kernel"] + p["proj"]["bias"])
    y = numpy_norm(x, p["norm2"]) @ p["mlp1"]["kernel"] + p["mlp1"]["bias"]
    if p["mlp2"]["kernel"].shape[0] < y.shape[1]:  # SwiGLU
        gate, value = np.split(y, 2, 1)
        y = gate / (1 + np.exp(-gate)) * value
    else:
        y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
    return x + p.get("scale2", 1) * (y @ p["mlp2"]["kernel"] + p["mlp2"]["bias"])


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


@pytest.mark.fast
def test_block_agrees_with_numpy():
    block = TransformerBlock(3, INITS["dino"], jnp.float32)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, 12)), jnp.float32)
    gates = jnp.array([[1.0, 1.0], [0.0, 2.0]])
    params = jax.tree.map(lambda p: p + 0.3, block.init(KEY, x, gates)["params"])
    params["qkv"]["kernel"] = 0.3 * jax.random.normal(KEY, (12, 36))
    out = block.apply({"params": params}, x, gates)
    reference = as_float64(params)
    np.testing.assert_allclose(out[0], numpy_block(as_float64(x[0]), reference, 3), rtol=2e-5, atol=2e-5)
    # A closed gate leaves only the input; an opened one weighs its branch.
    no_attention = {**reference, "proj": jax.tree.map(np.zeros_like, reference["proj"])}
    double = {**no_attention, "mlp2": jax.tree.map(lambda p: 2 * p, reference["mlp2"])}
    np.testing.assert_allclose(out[1], numpy_block(as_float64(x[1]), double, 3), rtol=2e-5, atol=2e-5)


def test_whole_model_agrees_with_numpy():
    model, params = tiny_vit()
    found = jax.jit(lambda x: model.apply({"params": params}, x, train=False))(images())
    p = as_float64(params)
    for image, ours in zip(np.asarray(images(), np.float64), found, strict=True):
        cut = [image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].ravel() for r in range(4) for c in range(4)]
        x = (
            np.concatenate([p["token"][0], np.stack(cut) @ p["patch"]["kernel"] + p["patch"]["bias"]])
            + p["positions"][0]
        )
        for i in range(12):
            x = numpy_block(x, p[f"block{i + 1}"], 3)
        np.testing.assert_allclose(ours, numpy_norm(x[0], p["norm"]), rtol=1e-3, atol=1e-4)


def test_block_of_dinov2_agrees_with_numpy():
    """SwiGLU and LayerScale."""
    block = TransformerBlock(3, INITS["dino"], jnp.float32, "swiglu", 0.5)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5, 12)), jnp.float32)
    params = jax.tree.map(lambda p: p + 0.3, block.init(KEY, x, jnp.ones((1, 2)))["params"])
    assert params["mlp1"]["kernel"].shape == (12, 64) and params["mlp2"]["kernel"].shape == (32, 12)
    assert (params["scale1"] == 0.8).all() and (params["scale2"] == 0.8).all()
    out = block.apply({"params": params}, x, jnp.ones((1, 2)))
    np.testing.assert_allclose(out[0], numpy_block(as_float64(x[0]), as_float64(params), 3), rtol=2e-5, atol=2e-5)


def test_registers_are_seen_and_thrown_away():
    model = ViT("vit_micro", patch=2, registers=3)
    params = jax.jit(functools.partial(model.init, train=True))(KEY, images())["params"]
    assert params["registers"].shape == (1, 3, 64) and params["positions"].shape == (1, 17, 64)
    assert model.stage_of("registers") == 0

    @functools.partial(jax.jit, static_argnames="pool")
    def run(params, pool):
        return model.apply({"params": params}, images(), train=False, pool=pool)

    grid = run(params, pool=False)
    assert grid.shape == (3, 4, 4, 64)
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(KEY, x.shape), params)
    seen = {**params, "registers": jax.random.normal(KEY, (1, 3, 64))}
    for pool in (True, False):
        assert np.abs(run(seen, pool) - run(params, pool)).max() > 1e-3
    # Registers have no place: their order changes nothing.
    turned = {**params, "registers": params["registers"][:, ::-1]}
    np.testing.assert_allclose(run(turned, pool=False), run(params, pool=False), rtol=1e-3, atol=1e-4)
    visible = jnp.array([[0, 5], [1, 2], [3, 9]])
    tokens = jax.jit(lambda p: model.apply({"params": p}, images(), train=True, pool=False, visible=visible))(params)
    assert tokens.shape == (3, 3, 64)


def test_bfloat16_keeps_float32_parameters_and_is_near():
    model, params = tiny_vit()
    half = model.clone(dtype=jnp.bfloat16)
    exact, rough = (
        jax.jit(lambda x, m=m: m.apply({"params": params}, x, train=False))(images()) for m in (model, half)
    )
    assert rough.dtype == jnp.bfloat16
    assert np.abs(np.asarray(rough, np.float32) - exact).max() < 0.1 * np.abs(exact).max()


# Parameters.


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "count"), [("vit_small", 21_665_664), ("vit_base", 85_798_656), ("vit_large", 303_301_632)]
)
def test_parameter_counts_are_those_of_the_papers(name, count):
    shapes = jax.eval_shape(functools.partial(ViT(name).init, train=True), KEY, jnp.zeros((1, 224, 224, 3)))
    assert size(shapes["params"]) == count
    assert set(shapes) == {"params"}
    fixed = jax.eval_shape(
        functools.partial(ViT(name, positions="sincos").init, train=True), KEY, jnp.zeros((1, 224, 224, 3))
    )
    assert size(shapes) - size(fixed) == 197 * shapes["params"]["token"].shape[-1]


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["dino", "mocov3", "mae"])
def test_weights_start_as_the_authors_have_them(kind):
    init, d = INITS[kind], 256
    draw = lambda f, *shape: np.asarray(f(KEY, shape, jnp.float32))  # noqa: E731
    qkv, linear = draw(init.qkv, d, 3 * d), draw(init.linear, d, 4 * d)
    patch, token = draw(init.patch, 768, d), draw(init.token, 1, 1, 10_000)
    if kind == "dino":
        for w in (qkv, linear, token):
            assert w.std() == pytest.approx(0.02, rel=0.03)
        assert np.abs(linear).max() > 0.07  # not cut at two standard deviations
        assert np.abs(patch).max() == pytest.approx(1 / math.sqrt(768), rel=1e-3)
    else:
        assert np.abs(linear).max() == pytest.approx(math.sqrt(6 / (5 * d)), rel=1e-3)
        assert np.abs(patch).max() == pytest.approx(math.sqrt(6 / (768 + d)), rel=1e-3)
        # Each of q, k, v alone, or the whole matrix.
        fans = 2 * d if kind == "mocov3" else 4 * d
        assert np.abs(qkv).max() == pytest.approx(math.sqrt(6 / fans), rel=1e-3)
        assert token.std() == pytest.approx(1e-6 if kind == "mocov3" else 0.02, rel=0.03)


def test_a_fixed_patch_projection_gets_no_gradient_and_never_moves():
    changes = {"model.name": "vit_tiny", "model.patch": 4, "model.fixed_patch": True}
    run = prepare(tiny.config("simclr", **changes), jax.devices()[:1])
    assert run.method.backbone.frozen == ("patch",)
    params = jax.eval_shape(run.init).params
    labels = run.method.groups(params)["backbone"]
    assert set(jax.tree.leaves(labels["patch"])) == {"frozen"}
    assert set(jax.tree.leaves({k: v for k, v in labels.items() if k != "patch"})) == {"default"}
    model, weights = tiny_vit()
    fixed = model.clone(fixed_patch=True)
    grads = jax.jit(jax.grad(lambda p: fixed.apply({"params": p}, images(), train=True)[:, 0].sum()))(weights)
    assert all(not np.any(g) for g in jax.tree.leaves(grads["patch"]))
    assert np.any(grads["token"]) and np.any(grads["positions"]) and np.any(grads["block1"]["qkv"]["kernel"])


# Patches and positions.


@pytest.mark.fast
def test_patches_are_cut_row_by_row():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cut = patches.patches(jnp.asarray(x), 2)
    assert cut.shape == (2, 6, 12)
    np.testing.assert_array_equal(cut[1, 4], x[1, 2:4, 2:4].ravel())
    with pytest.raises(UserError, match=r"4x6 pixels do not divide into patches of 4x4: set config\.model\.patch"):
        patches.patches(jnp.asarray(x), 4)


@pytest.mark.fast
def test_fixed_positions_have_their_closed_form():
    table = patches.sincos((3, 4), 16)
    assert table.shape == (1, 13, 16)
    np.testing.assert_array_equal(table[0, 0], 0)
    row, column = 2, 1
    frequencies = [1, 10**-1, 10**-2, 10**-3]
    expected = [
        *[math.sin(row * f) for f in frequencies],
        *[math.cos(row * f) for f in frequencies],
        *[math.sin(column * f) for f in frequencies],
        *[math.cos(column * f) for f in frequencies],
    ]
    np.testing.assert_allclose(table[0, 1 + row * 4 + column], expected, rtol=1e-6)


@pytest.mark.fast
def test_learned_positions_stay_as_they_are_at_their_own_size():
    positions = jnp.asarray(np.random.default_rng(0).normal(size=(1, 17, 6)), jnp.float32)
    assert patches.resized(positions, (4, 4)) is positions
    moved = patches.resized(positions, (2, 8))  # as many patches, but another grid
    assert moved.shape == (1, 17, 6)
    np.testing.assert_array_equal(moved[:, 0], positions[:, 0])
    assert np.abs(moved - positions).max() > 0.1


def torch_bicubic(values, new):
    """One dimension, sample by sample, from the definition."""
    old, scale, out = len(values), (new + 0.1) / len(values), []
    for i in range(new):
        x = (i + 0.5) / scale - 0.5
        total = 0.0
        for tap in range(math.floor(x) - 1, math.floor(x) + 3):
            d = abs(x - tap)
            w = 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            total += w * values[min(max(tap, 0), old - 1)]
        out.append(total)
    return np.array(out)


@pytest.mark.fast
@pytest.mark.parametrize(("old", "new"), [(14, 6), (4, 7), (2, 1)])
def test_interpolation_is_torchs_bicubic(old, new):
    square = np.random.default_rng(0).normal(size=(old, old))
    rows = np.stack([torch_bicubic(column, new) for column in square.T], 1)
    expected = np.stack([torch_bicubic(row, new) for row in rows])
    positions = jnp.asarray(np.concatenate([[7.0], square.ravel()])[None, :, None], jnp.float32)
    moved = patches.resized(positions, (new, new))
    assert moved[0, 0, 0] == 7
    np.testing.assert_allclose(moved[0, 1:, 0].reshape(new, new), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(patches.bicubic(old, new).sum(1), 1, rtol=1e-6)  # a constant stays


def test_other_crop_sizes_share_the_learned_positions():
    model, params = tiny_vit()
    apply = jax.jit(lambda x: model.apply({"params": params}, x, train=False))
    small = apply(images(4))
    assert small.shape == (3, 192)
    elsewhere = {**params, "positions": patches.resized(params["positions"], (2, 2))}
    expected = jax.jit(lambda x: model.apply({"params": elsewhere}, x, train=False))(images(4))
    np.testing.assert_allclose(small, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fields", "side", "count"),
    [
        ({"size": "vit_huge", "patch": 14, "positions": "learned"}, 224, 630_764_800),  # timm's ViT-H/14
        # DINOv2's ViT-g/14 less its mask token, and ViT-S/16 with its LayerScale and four registers.
        ({"size": "vit_giant", "patch": 14, "layer_scale": 1e-5}, 518, 1_136_480_768 - 1536),
        ({"size": "vit_small", "layer_scale": 1e-5, "registers": 4}, 224, 21_665_664 + 9216 + 1536),
    ],
    ids=["huge", "giant", "registers"],
)
def test_parameter_counts_of_large_models(fields, side, count):
    shapes = jax.eval_shape(functools.partial(ViT(**fields).init, train=True), KEY, jnp.zeros((1, side, side, 3)))
    assert size(shapes["params"]) == count


# Stages and drop path.


def test_stages_are_quarters_of_the_depth():
    model, params = tiny_vit()
    assert model.stages == 4

    @functools.partial(jax.jit, static_argnums=1)
    def features(params, stage):
        return model.apply({"params": params}, images(), train=False, stage=stage)

    last = features(params, 4)
    np.testing.assert_array_equal(last, features(params, None))
    half = features(params, 2)
    assert half.shape == last.shape and np.abs(half - last).max() > 0.01
    broken = {**params, "block7": jax.tree.map(jnp.zeros_like, params["block7"])}
    np.testing.assert_array_equal(features(broken, 2), half)
    broken = {**params, "block6": jax.tree.map(jnp.zeros_like, params["block6"])}
    assert np.abs(features(broken, 2) - half).max() > 1e-3


@pytest.mark.fast
def test_gates_open_with_their_probability():
    keys = jax.random.split(KEY, 4000)
    gates = np.asarray(transformer.open_gates(keys, 0.4, 5))
    assert gates.shape == (4000, 5, 2)
    np.testing.assert_array_equal(gates[:, 0], 1)
    for block, dropped in enumerate([0, 0.1, 0.2, 0.3, 0.4]):
        assert set(np.unique(gates[:, block]).round(4)) <= {0, np.float32(1 / (1 - dropped)).round(4)}
        assert (gates[:, block] == 0).mean() == pytest.approx(dropped, abs=0.02)
        assert gates[:, block].mean() == pytest.approx(1, abs=0.03)
    both = (gates[:, 4] == 0).all(1).mean()  # the branches of a block are drawn on their own
    assert both == pytest.approx(0.16, abs=0.03)
    np.testing.assert_array_equal(transformer.open_gates(keys[5:7], 0.4, 5), gates[5:7])  # an image has its own


def test_drop_path_is_of_the_example_and_of_training_alone():
    model, params = tiny_vit()
    keys = jax.random.split(KEY, 3)

    @functools.partial(jax.jit, static_argnames="train")
    def features(keys, train):
        return model.apply({"params": params}, images(), train=train, drop_path=0.5, keys=keys)

    dropped, plain = features(keys, True), features(keys, False)
    np.testing.assert_array_equal(plain, features(keys[::-1], False))
    assert np.abs(dropped - plain).max() > 0.01
    np.testing.assert_allclose(features(keys.at[0].set(keys[1]), True)[1:], dropped[1:], rtol=1e-4, atol=1e-5)
    assert np.abs(features(keys.at[0].set(keys[1]), True)[0] - dropped[0]).max() > 1e-3


# Blocks in a loop.


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"remat": 2}, {"stage": 3}),
        ({"remat": 4, "layer_scale": 0.5, "ffn": "swiglu", "registers": 2}, {"frozen": 1}),
        ({"remat": 1}, {"frozen": 2, "drop_path": 0.5, "keys": jax.random.split(KEY, 3)}),
        ({"dtype": jnp.bfloat16}, {}),
    ],
    ids=["plain", "stage", "dinov2", "drop_path", "bfloat16"],
)
def test_blocks_in_a_loop_are_the_blocks_one_after_the_other(fields, options):
    """Names and start of the parameters, value and gradient, and which parameters have none."""
    plain = ViT("vit_micro", patch=2, **fields)
    loop = plain.clone(scan=True)
    params, again = (jax.jit(functools.partial(m.init, train=True))(KEY, images())["params"] for m in (plain, loop))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(KEY, x.shape), params)

    def results(model):
        def loss(params):
            y = model.apply({"params": params}, images(), train=True, **options)
            return jnp.square(y.astype(jnp.float32)).mean(), y

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    ((_, wanted), gradient), ((_, found), in_loop) = results(plain), results(loop)
    tolerance = 0.05 if "dtype" in fields else 1e-4
    close = functools.partial(np.testing.assert_allclose, rtol=tolerance)
    close(np.float32(found), np.float32(wanted), atol=tolerance)
    jax.tree.map(lambda a, b: close(a, b, atol=tolerance * np.abs(b).max() + 1e-12), in_loop, gradient)
    moved = {name: max(np.abs(x).max() for x in jax.tree.leaves(g)) > 0 for name, g in in_loop.items()}
    frozen, stage = options.get("frozen", 0), options.get("stage", 4)
    assert [moved[f"block{i + 1}"] for i in range(4)] == [frozen <= i < stage for i in range(4)]


def test_a_loop_has_one_block_however_deep_the_network():
    def lines(model):
        shapes = jax.eval_shape(functools.partial(model.init, train=True), KEY, images())

        def loss(params):
            return jnp.square(model.apply({"params": params}, images(), train=True)).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(shapes["params"])).count("dot_general")

    loop = ViT("vit_tiny", patch=2, scan=True)
    assert lines(loop) < lines(loop.clone(scan=False)) / 6
    assert lines(loop) == lines(loop.clone(size="vit_micro"))  # twelve blocks as four


@pytest.mark.parametrize("remat", [0, 4])
def test_a_loop_keeps_no_more_for_the_backward_pass_than_products_of_matrices(remat):
    """Or, computed anew, the input of each block."""
    model = ViT("vit_micro", patch=2, scan=True, remat=remat)
    shapes = jax.eval_shape(functools.partial(model.init, train=True), KEY, images())["params"]
    pull = jax.eval_shape(lambda p: jax.vjp(lambda p: model.apply({"params": p}, images(), train=True), p)[1], shapes)
    kept = sum(x.size for x in jax.tree.leaves(pull) if x.shape[:2] == (4, 3))  # blocks, images
    tokens = 4 * 3 * 17 * 64
    scores = 4 * 3 * 2 * 17 * 17
    # Input; queries, keys and values; what is attended to; two projections and the hidden layer.
    assert kept <= (tokens if remat else tokens * (1 + 3 + 1 + 2 + 4) + 2 * scores)


# Configs.


def model_config(**changes):
    return ConfigDict({**get_config("simclr", "cifar10").model, "name": "vit_tiny", "patch": 4, **changes})


@pytest.mark.fast
def test_a_config_makes_it():
    model = models.from_config(model_config(bn_groups=2, dtype="bfloat16"))
    assert (model.size, model.patch, model.heads, model.bn_groups) == ("vit_tiny", 4, 3, 2)
    assert (model.positions, model.vit_init, model.frozen, model.dtype) == ("learned", "dino", (), jnp.bfloat16)
    assert models.from_config(model_config(name="vit_large", scan=True)).scan
    giant = models.from_config(model_config(name="vit_giant", registers=4))
    assert (giant.feed_forward, giant.registers, giant.heads) == ("swiglu", 4, 24)
    heads = models.from_config(model_config(name="vit_small", heads=12, positions="sincos", vit_init="mocov3"))
    assert (heads.heads, heads.positions, heads.vit_init) == (12, "sincos", "mocov3")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "vit_smal"}, "name is 'vit_smal'.* Did you mean 'vit_small'"),
        ({"positions": "sincoss"}, "positions is 'sincoss'.* Did you mean 'sincos'"),
        ({"vit_init": "moco"}, "vit_init is 'moco'"),
        ({"ffn": "swiglo"}, "ffn is 'swiglo'.* Did you mean 'swiglu'"),
        ({"heads": 5}, "heads is 5, which does not divide the 192 channels of vit_tiny"),
    ],
)
def test_mistakes_in_a_config_are_explained(changes, message):
    with pytest.raises(UserError, match=message):
        models.from_config(model_config(**changes))


def test_a_joint_embedding_method_trains_it():
    """Two updates of SimCLR on two devices: the loss is a number and everything but fixed positions moves."""
    changes = {"model.name": "vit_tiny", "model.patch": 4, "model.fixed_patch": True}
    run = prepare(tiny.config("simclr", **changes), jax.devices()[:2])
    step = mapped_step(run)
    data = loader.on_devices(run.train, run.mesh)
    ts = run.init()
    before = jax.device_get(ts.params["backbone"])
    for number in range(2):
        ts, metrics = step(ts, data, batch_index(run, number))
    assert np.isfinite(metrics["loss"])
    after = jax.device_get(ts.params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, after.pop("patch"), before.pop("patch"))
    for name, part in after.items():
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), part, before[name])
        assert max(jax.tree.leaves(moved)) > 0, name
