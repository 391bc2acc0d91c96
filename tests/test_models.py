"""Convolution, BatchNorm, backbones and heads against formulas, and as JAX transforms and maps them."""

import functools
import itertools
import math
import re

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
import numpy as np
import pytest

from ssl_jax import dist, models
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.byol import BYOL
from ssl_jax.methods.joint.simclr import SimCLR
from ssl_jax.models import conv, conv_cpu, conv_winograd
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.heads import MLP, torch_uniform
from ssl_jax.models.lenet import LeNet
from ssl_jax.models.mlp import PixelMLP
from ssl_jax.models.norm import BatchNorm, Norm, moments_of_product, normalise_by_batch
from ssl_jax.models.pool import halved
from ssl_jax.models.resnet import DEPTHS, ResidualBlock, ResNet
from ssl_jax.models.vit import ViT
from ssl_jax.runtime.errors import UserError

KEY = jax.random.key(0)


pytestmark = pytest.mark.usefixtures("quick_compilation")


def normal(*shape, seed=0, dtype=float):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def shapes(module, *args, **kwargs):
    """Shapes of what `module.init` returns, without computing it."""
    return jax.eval_shape(functools.partial(module.init, **kwargs), KEY, *args)


def size(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


# Convolution.


@pytest.fixture
def winograd(monkeypatch):
    """However small a convolution, Winograd's way is taken if its shape allows it."""
    monkeypatch.setattr(conv_winograd, "_WORK", 0)


def reference_conv(x, w, stride, padding):
    sides = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, w, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def weighted(convolution, x, w, stride, padding):
    """A scalar whose gradients see every output differently; and the output."""
    y = convolution(x, w, stride, padding)
    return jnp.sum(jnp.sin(jnp.arange(y.size).reshape(y.shape)) * y), y


def with_gradients(convolution, stride, padding):
    def run(x, w):
        (_, y), grads = jax.value_and_grad(
            lambda x, w: weighted(convolution, x, w, stride, padding), (0, 1), has_aux=True
        )(x, w)
        return y, *grads

    return jax.jit(run)


@pytest.mark.parametrize(
    "block_bytes",
    [pytest.param(1, marks=pytest.mark.fast, id="image by image"), pytest.param(conv_cpu._BLOCK_BYTES, id="whole")],
)
@pytest.mark.parametrize(
    ("kernel", "stride", "shape", "out"),
    [
        (1, 1, (3, 5, 4, 6), 2),  # narrower out than in: the gradient is unfolded
        (1, 1, (6, 4, 4, 2), 6),
        (1, 2, (8, 5, 6, 3), 4),
        (3, 1, (1, 5, 6, 4), 4),
        (3, 1, (6, 7, 5, 3), 5),
        (3, 1, (8, 6, 6, 5), 3),
        (3, 2, (3, 7, 8, 3), 5),
        (3, 2, (8, 8, 7, 5), 3),
        (3, 1, (4, 1, 1, 2), 3),  # from here maps of no more pixels than the kernel
        (3, 1, (4, 2, 4, 2), 3),
        (3, 1, (4, 3, 3, 2), 3),
        (3, 2, (4, 2, 2, 3), 2),
        (3, 2, (4, 3, 3, 3), 2),
        (3, 2, (4, 6, 8, 16), 3),  # of 16 channels and more, stride 2, in blocks
        (3, 2, (4, 7, 8, 16), 3),
        (3, 2, (4, 6, 8, 32), 3),
        (3, 1, (4, 8, 8, 32), 40),  # from here Winograd's: many images
        (3, 1, (3, 7, 8, 40), 32),
        (3, 1, (1, 9, 11, 32), 32),
        (3, 1, (64, 16, 12, 32), 32),
        (3, 1, (2, 4, 4, 32), 192),  # few tiles for so many channels
        (7, 2, (3, 6, 8, 2), 3),
        (7, 1, (6, 8, 9, 3), 2),
        (7, 2, (3, 9, 8, 2), 3),
        (7, 2, (8, 8, 9, 3), 2),
    ],
)
def test_conv_agrees_with_autodiff(monkeypatch, winograd, kernel, stride, shape, out, block_bytes):
    monkeypatch.setattr(conv_cpu, "_BLOCK_BYTES", block_bytes)
    padding = (kernel - 1) // 2
    with jax.enable_x64(True):
        x, w = normal(*shape), normal(kernel, kernel, shape[-1], out, seed=1)
        ours, theirs = (with_gradients(c, stride, padding)(x, w) for c in (conv.conv2d, reference_conv))
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


@pytest.mark.fast
def test_conv_agrees_with_autodiff_for_other_paddings():
    with jax.enable_x64(True):
        for size, padding, stride in itertools.product(((6, 7), (3, 3)), (0, 2), (1, 2)):
            x, w = normal(2, *size, 4), normal(3, 3, 4, 3, seed=1)
            ours, theirs = (with_gradients(c, stride, padding)(x, w) for c in (conv.conv2d, reference_conv))
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("channels", [4, 32])
def test_conv_in_bfloat16_accumulates_in_float32(winograd, channels):
    x, w = (normal(*s, seed=s[0], dtype=jnp.bfloat16) for s in ((64, 8, 8, channels), (3, 3, channels, channels)))
    ours = with_gradients(conv.conv2d, 1, 1)(x, w)
    exact = with_gradients(reference_conv, 1, 1)(*(a.astype(jnp.float32) for a in (x, w)))
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        # Rounding of the gradient of the output and of the result, nothing that grows with the 4096 terms.
        assert np.abs(a.astype(jnp.float32) - b).max() <= 0.02 * np.abs(b).max()
    g = normal(64, 8, 8, channels, seed=2, dtype=jnp.bfloat16)
    assert conv_cpu.blocked_weight_gradient(x, g, 3, 1, 1).dtype == jnp.float32


@pytest.mark.parametrize(("stride", "channels", "out"), [(1, 2, 4), (2, 2, 4), (1, 32, 33)])
def test_conv_under_vmap(winograd, stride, channels, out):
    def check(ours, theirs, *args):
        for a, b in zip(jax.jit(ours)(*args), jax.jit(theirs)(*args), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())

    with jax.enable_x64(True):
        x, w = normal(3, 2, 5, 6, channels), normal(3, 3, 3, channels, out, seed=1)
        ours, theirs = (with_gradients(c, stride, 1) for c in (conv.conv2d, reference_conv))
        check(jax.vmap(ours), jax.vmap(theirs), x, w)
        check(jax.vmap(ours, (0, None)), jax.vmap(theirs, (0, None)), x, w[0])
        check(jax.vmap(ours, (None, 0)), jax.vmap(theirs, (None, 0)), x[0], w)
        twice = lambda f: jax.vmap(jax.vmap(f, (None, 0)), (0, None))  # noqa: E731
        check(twice(ours), twice(theirs), x, w)


def second_derivatives(convolution, stride):
    """Derivatives of a scalar's gradient along a direction, forward over reverse, reverse over reverse and mixed."""

    def run(x, w):
        along = (jnp.cos(x), jnp.cos(w))
        value = lambda x, w: jnp.sum(jnp.sin(convolution(x, w, stride, 1)))  # noqa: E731
        gradient = jax.grad(value, (0, 1))
        projected = lambda x, w: sum(map(jnp.vdot, gradient(x, w), along))  # noqa: E731
        forward = jax.jvp(gradient, (x, w), along)[1]
        reverse = jax.grad(projected, (0, 1))(x, w)
        mixed = jax.grad(lambda x, w: jax.jvp(value, (x, w), along)[1], (0, 1))(x, w)
        third = jax.jvp(jax.grad(projected, (0, 1)), (x, w), along)[1]
        return *forward, *reverse, *mixed, *third

    return run


@pytest.mark.parametrize(
    ("stride", "shape", "out"),
    [(1, (4, 5, 5, 2), 3), (2, (4, 6, 6, 2), 3), (1, (4, 2, 2, 3), 2), (2, (2, 6, 6, 16), 4), (1, (4, 7, 8, 32), 33)],
)
def test_second_derivatives_of_conv(winograd, stride, shape, out):
    with jax.enable_x64(True):
        x, w = normal(*shape), normal(3, 3, shape[-1], out, seed=1)
        found, wanted = (jax.jit(second_derivatives(c, stride))(x, w) for c in (conv.conv2d, reference_conv))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
@pytest.mark.parametrize(("channels", "size", "devices"), [(3, 5, 2), (3, 2, 2), (32, 8, 8)])
def test_second_derivatives_of_conv_over_devices(winograd, mapping, channels, size, devices):
    def mapped(convolution):
        def replica(w, x):
            value = lambda w: dist.mean(jnp.sum(jnp.sin(convolution(x, dist.vary_like(w, x), 1, 1))))  # noqa: E731
            forward = jax.jvp(jax.grad(value), (w,), (jnp.cos(w),))[1]
            return dist.mean((forward, jax.grad(lambda w: jnp.vdot(jax.grad(value)(w), jnp.cos(w)))(w)))

        mesh = dist.make_mesh(jax.devices()[:devices])
        return dist.map_replicas(replica, mesh, (P(), P(dist.AXIS)), P(), mapping=mapping)

    with jax.enable_x64(True):
        x, w = normal(8, size, size, channels), normal(3, 3, channels, channels, seed=1)
        for a, b in zip(mapped(conv.conv2d)(w, x), mapped(reference_conv)(w, x), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.fast
@pytest.mark.parametrize("channels", [3, 32])
def test_conv_under_checkpoint(winograd, channels):
    def run(convolution):
        block = jax.checkpoint(lambda x, w: jnp.sin(convolution(jnp.cos(x), w, 1, 1)))
        return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(block(x, w))), (0, 1)))

    with jax.enable_x64(True):
        x, w = normal(2, 8, 7, channels), normal(3, 3, channels, channels, seed=1)
        for a, b in zip(run(conv.conv2d)(x, w), run(reference_conv)(x, w), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.fast
def test_accelerators_keep_xlas_convolution(winograd):
    x, w = normal(4, 8, 8, 32, dtype=jnp.float32), normal(3, 3, 32, 32, dtype=jnp.float32)

    def operations(convolution, platform):
        gradient = jax.jit(jax.grad(lambda x, w: jnp.sum(convolution(x, w, 1, 1)), (0, 1)))
        text = gradient.trace(x, w).lower(lowering_platforms=(platform,)).as_text()
        return [len(re.findall(rf"stablehlo\.{name}\b", text)) for name in ("convolution", "dot_general", "while")]

    assert operations(conv.conv2d, "cuda") == operations(reference_conv, "cuda")
    assert operations(conv.conv2d, "tpu") == operations(reference_conv, "tpu")
    assert operations(conv.conv2d, "cpu")[0] == 0 < operations(conv.conv2d, "cpu")[2]


@pytest.mark.parametrize("shape", [(8, 16, 16, 64), (2, 8, 8, 256)], ids=["images", "channels"])
def test_error_of_winograds_convolution(winograd, shape):
    """In float32, by the largest value of what float64 gives: the bound that `conv_winograd` states."""
    with jax.enable_x64(True):
        x, w = jax.nn.relu(normal(*shape)), normal(3, 3, shape[-1], shape[-1], seed=1)
        exact = with_gradients(reference_conv, 1, 1)(x, w)
        rounded = [a.astype(jnp.float32) for a in (x, w)]
        for a, b in zip(with_gradients(conv.conv2d, 1, 1)(*rounded), exact, strict=True):
            assert a.dtype == jnp.float32
            assert np.abs(a - b).max() <= 4e-6 * np.abs(b).max()


@pytest.mark.fast
def test_which_convolutions_are_winograds():
    takes = functools.partial(conv_winograd.takes, stride=1, padding=1)
    assert takes((64, 32, 32, 64), (3, 3, 64, 64)) and takes((1, 7, 7, 512), (3, 3, 512, 512))
    assert not takes((64, 32, 32, 16), (3, 3, 16, 64)) and not takes((64, 32, 32, 64), (3, 3, 64, 16))
    assert not takes((256, 5, 5, 64), (3, 3, 64, 64))  # tiles of 64 pixels for 25
    assert not takes((7, 16, 16, 64), (3, 3, 64, 64)) and takes((8, 16, 16, 64), (3, 3, 64, 64))  # too little work
    assert not takes((64, 32, 32, 64), (1, 1, 64, 64)) and not takes((64, 32, 32, 64), (3, 3, 64, 64), stride=2)
    assert not takes((64, 32, 32, 64), (3, 3, 64, 64), padding=0)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
@pytest.mark.parametrize(("stride", "out", "size"), [(1, 2, 5), (1, 5, 5), (2, 2, 5), (1, 2, 1)])
def test_conv_over_two_devices(mapping, stride, out, size):
    def replica(w, x):
        def loss(w, x):
            return dist.mean(jnp.sum(jnp.sin(conv.conv2d(x, w, stride, 1))))

        value, (to_w, to_x) = jax.value_and_grad(loss, (0, 1))(w, x)
        return value, dist.mean(to_w), to_x

    with jax.enable_x64(True):
        x, w = normal(6, size, size + 1, 3), normal(3, 3, 3, out, seed=1)
        specs = (P(), P(dist.AXIS))
        mesh = dist.make_mesh(jax.devices()[:2])
        mapped = dist.map_replicas(replica, mesh, specs, (P(), P(), P(dist.AXIS)), mapping=mapping)
        value, to_w, to_x = mapped(w, x)

        def whole(w, x):
            return jnp.sum(jnp.sin(reference_conv(x, w, stride, 1))) / 2

        expected, (expected_w, expected_x) = jax.value_and_grad(whole, (0, 1))(w, x)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(to_w, expected_w, rtol=0, atol=1e-12 * np.abs(expected_w).max())
        # With pmap a derivative of the mean is that of the sum over replicas; the step averages those of weights only.
        scale = 1 if mapping == "shard_map" else 2
        np.testing.assert_allclose(to_x, scale * expected_x, rtol=0, atol=1e-12 * np.abs(expected_x).max() * scale)


@pytest.mark.fast
def test_blocks_divide_the_batch_and_fit():
    assert [conv_cpu._block_size(n, 1) for n in (1, 3, 6, 8, 96, 256)] == [1, 1, 2, 8, 32, 256]
    assert conv_cpu._block_size(256, conv_cpu._BLOCK_BYTES // 16) == 16
    assert conv_cpu._block_size(256, conv_cpu._BLOCK_BYTES // 16 + 1) == 8
    assert conv_cpu._block_size(256, 10 * conv_cpu._BLOCK_BYTES) == 1


@pytest.mark.fast
def test_conv_module():
    module = conv.Conv(8, kernel=3, use_bias=True, dtype=jnp.bfloat16)
    x = normal(2, 5, 5, 4, dtype=jnp.float32)
    params = module.init(KEY, x)["params"]
    assert {k: (v.shape, v.dtype) for k, v in params.items()} == {
        "kernel": ((3, 3, 4, 8), jnp.float32),
        "bias": ((8,), jnp.float32),
    }
    moved = module.apply({"params": {**params, "bias": jnp.arange(8.0)}}, x)
    assert moved.dtype == jnp.bfloat16
    difference = moved.astype(jnp.float32) - module.apply({"params": params}, x).astype(jnp.float32)
    np.testing.assert_allclose(difference.mean((0, 1, 2)), np.arange(8), atol=0.05)


@pytest.mark.fast
def test_initialisers_have_torchs_spread():
    kernel = conv.Conv(64, kernel=3).init(KEY, jnp.zeros((1, 4, 4, 32)))["params"]["kernel"]
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.03)  # Kaiming, fan out
    kernel = conv.Conv(32, kernel=3, init_kind="torch").init(KEY, jnp.zeros((1, 4, 4, 64)))["params"]["kernel"]
    assert float(jnp.abs(kernel).max()) == pytest.approx(1 / math.sqrt(9 * 64), rel=0.01)
    dense = torch_uniform(KEY, (400, 100))
    assert float(jnp.abs(dense).max()) == pytest.approx(1 / math.sqrt(400), rel=0.01)
    assert float(dense.std()) == pytest.approx(1 / math.sqrt(3 * 400), rel=0.02)


# BatchNorm.


def batch_norm(x, *, devices=1, mapping="shard_map", scale=None, bias=None, running=None, **fields):
    """Output and running statistics of a training step over some devices."""
    c = x.shape[-1]
    module = BatchNorm(**fields)
    params = {"scale": jnp.ones(c) if scale is None else scale, "bias": jnp.zeros(c) if bias is None else bias}
    stats = running or {"mean": jnp.zeros(c), "var": jnp.ones(c)}

    def replica(params, stats, x):
        y, moved = module.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
        return y, moved["batch_stats"]

    specs = (P(), P(), P(dist.AXIS))
    mesh = dist.make_mesh(jax.devices()[:devices])
    return dist.map_replicas(replica, mesh, specs, (P(dist.AXIS), P()), mapping=mapping)(params, stats, x)


def numpy_batch_norm(x, groups, scale, bias):
    """Normalised by group with the biased variance; mean over groups of the means and unbiased variances."""
    g = np.asarray(x, np.float64).reshape(groups, -1, x.shape[-1])
    y = (g - g.mean(1, keepdims=True)) / np.sqrt(g.var(1, keepdims=True) + 1e-5)
    return (y * scale + bias).reshape(x.shape), g.mean(1).mean(0), g.var(1, ddof=1).mean(0)


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 2, 3)], ids=["rows", "images"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    ("devices", "mapping"), [(1, "shard_map"), (2, "shard_map"), (4, "shard_map"), (1, "pmap"), (2, "pmap")]
)
def test_batch_norm_agrees_with_numpy(shape, groups, devices, mapping):
    scale, bias = np.array([0.5, 1.0, -2.0]), np.array([0.0, 3.0, -1.0])
    with jax.enable_x64(True):
        x = 2 * normal(*shape) + jnp.array([0.0, 1.0, -3.0])
        running = {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([4.0, 5.0, 6.0])}
        fields = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias), "running": running, "dtype": x.dtype}
        y, stats = batch_norm(x, groups=groups, devices=devices, mapping=mapping, **fields)
        expected, mean, var = numpy_batch_norm(x, groups, scale, bias)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(stats["mean"], 0.9 * running["mean"] + 0.1 * mean, rtol=1e-12)
        np.testing.assert_allclose(stats["var"], 0.9 * running["var"] + 0.1 * var, rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("devices", [1, 2])
def test_gradient_of_batch_norm_is_that_of_the_formula(groups, devices):
    module = BatchNorm(groups, dtype=jnp.float64)

    def formula(params, x):
        g = x.reshape(groups, -1, x.shape[-1])
        y = (g - g.mean(1, keepdims=True)) / jnp.sqrt(g.var(1, keepdims=True) + 1e-5)
        y = (y * params["scale"] + params["bias"]).reshape(x.shape)
        return jnp.mean(jnp.sin(3 * y) * y)

    def replica(params, stats, x):
        def loss(params, x):
            y, _ = module.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
            return dist.mean(jnp.mean(jnp.sin(3 * y) * y))

        return jax.grad(loss, (0, 1))(params, x)

    with jax.enable_x64(True):
        x = normal(8, 2, 3, 2)
        params = {"scale": jnp.array([0.5, 2.0]), "bias": jnp.array([1.0, -1.0])}
        stats = {"mean": jnp.zeros(2), "var": jnp.ones(2)}
        mesh = dist.make_mesh(jax.devices()[:devices])
        mapped = dist.map_replicas(replica, mesh, (P(), P(), P(dist.AXIS)), (P(), P(dist.AXIS)))
        ours, theirs = mapped(params, stats, x), jax.grad(formula, (0, 1))(params, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), ours, theirs)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_of_a_maximum_is_the_maximum_of_batch_norm(groups, devices, train):
    module = BatchNorm(groups, dtype=jnp.float64)
    pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def replica(inside, params, stats, x):
        def loss(params, x):
            variables = {"params": params, "batch_stats": stats}
            y, moved = module.apply(variables, x, train, pool if inside else None, mutable=["batch_stats"])
            y = y if inside else pool(y)
            return dist.mean(jnp.mean(jnp.sin(3 * y) * y)), (y, moved["batch_stats"])

        gradients, (y, moved) = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return gradients, y, moved

    with jax.enable_x64(True):
        params = {"scale": jnp.array([0.5, -2.0, 1.0]), "bias": jnp.array([1.0, -1.0, 0.0])}
        stats = {"mean": jnp.array([0.3, -0.2, 0.0]), "var": jnp.array([2.0, 0.5, 1.0])}
        mesh = dist.make_mesh(jax.devices()[:devices])
        specs = (P(), P(), P(dist.AXIS)), ((P(), P(dist.AXIS)), P(dist.AXIS), P())
        one, other = (
            dist.map_replicas(functools.partial(replica, inside), mesh, *specs)(params, stats, normal(8, 6, 4, 3))
            for inside in (True, False)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), one, other)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_with_a_kernel_is_batch_norm_of_the_convolution(groups, devices, train):
    module = BatchNorm(groups, dtype=jnp.float64)

    def replica(inside, params, stats, x):
        def loss(params, x):
            kernel, norm = params
            given = (x, train, None, kernel) if inside else (conv.conv2d(x, kernel, 1, 0), train)
            variables = {"params": norm, "batch_stats": stats}
            y, moved = module.apply(variables, *given, mutable=["batch_stats"])
            return dist.mean(jnp.mean(jnp.sin(3 * y) * y)), (y, moved["batch_stats"])

        gradients, (y, moved) = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return gradients, y, moved

    with jax.enable_x64(True):
        norm = {"scale": jnp.array([0.5, -2.0, 1.0, 0.0]), "bias": jnp.array([1.0, -1.0, 0.0, 0.3])}
        kernel = normal(1, 1, 3, 4, seed=1)
        stats = {"mean": jnp.array([0.3, -0.2, 0.0, 1.0]), "var": jnp.array([2.0, 0.5, 1.0, 3.0])}
        mesh = dist.make_mesh(jax.devices()[:devices])
        specs = (P(), P(), P(dist.AXIS)), ((P(), P(dist.AXIS)), P(dist.AXIS), P())
        one, other = (
            dist.map_replicas(functools.partial(replica, inside), mesh, *specs)(
                (kernel, norm), stats, normal(8, 5, 4, 3) + 2
            )
            for inside in (True, False)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), one, other)


def test_a_bottleneck_is_the_same_on_one_device_and_two():
    module = ResidualBlock(4, 1, True, "batch", 1, False, "kaiming", jnp.float64)

    def replica(mapping, variables, x):
        def loss(params):
            given = variables | {"params": params}
            y, moved = module.apply(given, x, True, mutable=["batch_stats"])
            return dist.mean(jnp.mean(jnp.sin(3 * y))), moved

        gradients, moved = jax.grad(loss, has_aux=True)(variables["params"])
        return (dist.mean(gradients) if mapping == "pmap" else gradients), moved  # shard_map has summed them

    with jax.enable_x64(True):
        x = normal(8, 3, 3, 4)
        variables = module.init(KEY, x, False)
        found = []
        for devices, mapping in ((1, "shard_map"), (2, "shard_map"), (2, "pmap")):
            mesh = dist.make_mesh(jax.devices()[:devices])
            specs = (P(), P(dist.AXIS)), (P(), P())
            mapped = dist.map_replicas(functools.partial(replica, mapping), mesh, *specs, mapping=mapping)
            found.append(jax.tree.map(np.asarray, mapped(variables, x)))
            if mapping == "shard_map":  # a kernel is used twice, and its gradient still crosses replicas once
                program = str(jax.make_jaxpr(mapped)(variables, x))
                assert len(re.findall(r"f64\[(1,1,)?4,16\] = psum", program)) == 2  # last convolution and shortcut
        for other in found[1:]:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), found[0], other)


@pytest.mark.fast
def test_batch_norm_takes_a_kernel_or_a_maximum():
    with pytest.raises(ValueError, match="not both"):
        BatchNorm().init(KEY, jnp.ones((2, 2, 2, 3)), True, lambda x: x, jnp.ones((1, 1, 3, 4)))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("depth", "groups", "count"),
    [("resnet50", 1, 3 + 4 + 6 + 3 + 1), ("resnet50", 2, 0), ("resnet18", 1, 0)],  # a block each, and a shortcut
)
def test_convolutions_that_widen_are_normalised_by_their_kernels(depth, groups, count, monkeypatch):
    products = []
    counted = lambda x, w: products.append(w.shape) or moments_of_product(x, w)  # noqa: E731
    monkeypatch.setattr("ssl_jax.models.norm.moments_of_product", counted)
    # Layers of one shape are traced once: here each shall be seen.
    monkeypatch.setattr("ssl_jax.models.norm.normalise_by_batch", normalise_by_batch.__wrapped__)
    net = resnet(depth, 4, "small", bn_groups=groups)
    x = jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(KEY, x, train=False), x)
    step = dist.map_replicas(
        lambda variables, x: net.apply(variables, x, train=True, mutable=["batch_stats"])[0],
        dist.make_mesh(jax.devices()[:1]),
        (P(), P(dist.AXIS)),
        P(dist.AXIS),
    )
    jax.eval_shape(step, variables, x)
    assert len(products) == count and all(wide > narrow for narrow, wide in products)


@pytest.mark.fast
def test_moments_of_a_product_are_those_of_what_it_gives():
    # Far from zero, where the square of the mean is most of the second moment.
    x = (normal(4096, 32, dtype=jnp.float32) + 3).astype(jnp.bfloat16)
    w = normal(32, 128, dtype=jnp.float32, seed=1)
    mean, square = moments_of_product(x, w)
    y = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    assert mean.dtype == square.dtype == jnp.float32
    np.testing.assert_allclose(mean, y.mean(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(square - mean**2, y.var(0), rtol=1e-3)


@pytest.mark.fast
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_of_a_constant_channel_is_its_offset(groups):
    x = normal(8, 2, dtype=jnp.float32).at[:, 1].set(7.3)
    y, stats = batch_norm(x, groups=groups, bias=jnp.array([0.0, 0.5]))
    # E[x^2] - E[x]^2 of a constant is zero but for rounding, which 1 / sqrt(epsilon) magnifies.
    np.testing.assert_allclose(y[:, 1], 0.5, atol=0.01)
    assert stats["var"][1] >= 0.9 * (1 - 1e-6) and np.isfinite(y).all()
    gradient = jax.grad(lambda x: jnp.sum(batch_norm(x, groups=groups)[0] ** 3))(x)
    assert np.isfinite(gradient).all()


@pytest.mark.fast
def test_batch_norm_computes_statistics_of_bfloat16_in_float32():
    x = (normal(8, 4, 2, dtype=jnp.float32) + 3).astype(jnp.bfloat16)
    for groups in (1, 2):
        y, stats = batch_norm(x, groups=groups, dtype=jnp.bfloat16)
        expected, mean, var = numpy_batch_norm(np.asarray(x, np.float64), groups, 1, 0)
        assert y.dtype == jnp.bfloat16 and stats["mean"].dtype == stats["var"].dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=0.02)
        np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
        np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)


@pytest.mark.fast
def test_batch_norm_in_evaluation_uses_the_running_statistics():
    stats = {"mean": jnp.array([1.0, -2.0]), "var": jnp.array([4.0, 0.25])}
    params = {"scale": jnp.array([3.0, 1.0]), "bias": jnp.array([0.5, 0.0])}
    x = normal(5, 2, dtype=jnp.float32)
    y, moved = BatchNorm().apply({"params": params, "batch_stats": stats}, x, False, mutable=["batch_stats"])
    expected = (np.asarray(x) - [1, -2]) / np.sqrt(np.array([4, 0.25]) + 1e-5) * [3, 1] + [0.5, 0]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], stats)


@pytest.mark.fast
def test_batch_norm_groups_must_fit_the_devices():
    x = jnp.ones((8, 2))
    for groups, devices in ((3, 2), (2, 4), (3, 1), (16, 1)):
        with pytest.raises(UserError, match=f"{groups} BatchNorm groups cannot be laid over {devices} devices"):
            batch_norm(x, groups=groups, devices=devices)


@pytest.mark.fast
def test_batch_norm_parameters():
    x = jnp.ones((2, 3))
    for fields, wanted in (
        ({}, {"scale": 1.0, "bias": 0.0}),
        ({"zero_scale": True}, {"scale": 0.0, "bias": 0.0}),
        ({"use_bias": False}, {"scale": 1.0}),
        ({"use_scale": False, "use_bias": False}, {}),
    ):
        variables = BatchNorm(**fields).init(KEY, x, True)
        assert {k: float(v[0]) for k, v in variables.get("params", {}).items()} == wanted
        assert {k: v.shape for k, v in variables["batch_stats"].items()} == {"mean": (3,), "var": (3,)}


@pytest.mark.parametrize(("kind", "channels"), [("group", 64), ("group", 8), ("group", 48), ("layer", 8), ("none", 8)])
def test_norms_without_a_batch(kind, channels):
    module, x = Norm(kind), 3 * normal(4, 2, 2, channels, dtype=jnp.float32) + 1
    variables = module.init(KEY, x, True)
    y = module.apply(variables, x, True)
    np.testing.assert_allclose(module.apply(variables, x[:1], True), y[:1], atol=1e-5)  # no image sees another
    np.testing.assert_array_equal(module.apply(variables, x, False), y)
    if kind == "none":
        assert y is x and not variables
    elif kind == "layer":
        np.testing.assert_allclose(y.std(-1), 1, atol=0.01)
    else:
        groups = math.gcd(32, channels)
        np.testing.assert_allclose(y.reshape(4, 4, groups, -1).std((1, 3)), 1, atol=0.01)
    if kind != "none":
        scales = jax.tree.leaves(Norm(kind, zero_scale=True).init(KEY, x, True)["params"])
        assert not any(s.any() for s in scales)


# Backbones.


def block(width, stride=1, bottleneck=False, norm="batch", zero_init=False):
    return ResidualBlock(
        width,
        stride=stride,
        bottleneck=bottleneck,
        norm=norm,
        bn_groups=1,
        zero_init=zero_init,
        conv_init="kaiming",
        dtype=jnp.float32,
    )


def resnet(depth, width=64, stem="imagenet", **fields):
    return ResNet(depth, width, stem, **fields)


IMAGES = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)


def features(module, variables, images, stage=None):
    return jax.eval_shape(lambda v, x: module.apply(v, x, train=False, stage=stage), variables, images)


@pytest.mark.parametrize(
    ("depth", "parameters", "out"),
    [
        pytest.param("resnet18", 11_176_512, 512, marks=pytest.mark.fast),
        ("resnet34", 21_284_672, 512),
        pytest.param("resnet50", 23_508_032, 2048, marks=pytest.mark.fast),
        ("resnet101", 42_500_160, 2048),
        ("resnet152", 58_143_808, 2048),
    ],
)
def test_resnet_has_torchvisions_size(depth, parameters, out):
    variables = shapes(resnet(depth), IMAGES, train=True)
    assert size(variables["params"]) == parameters
    assert features(resnet(depth), variables, IMAGES).shape == (2, out)


@pytest.mark.fast
@pytest.mark.parametrize(("depth", "widths"), [("resnet18", (16, 32, 64, 128)), ("resnet50", (64, 128, 256, 512))])
def test_resnet_stages(depth, widths):
    module = resnet(depth, width=16)
    assert module.stages == 4
    variables = shapes(module, IMAGES, train=True)
    for stage, width in enumerate(widths, 1):
        assert features(module, variables, IMAGES, stage).shape == (2, width)
    assert features(module, variables, IMAGES).shape == (2, widths[-1])


def heights(module, images):
    """Height of the output of every named layer."""
    variables = shapes(module, images, train=True)

    def run(variables, x):
        return module.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])[1]

    found = jax.eval_shape(run, variables, images)["intermediates"]
    return {name: value["__call__"][0].shape[1] for name, value in found.items() if name != "__call__"}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("stem", "side", "sides"), [("imagenet", 64, (32, 16, 16, 8, 4, 2)), ("small", 32, (32, 32, 32, 16, 8, 4))]
)
def test_resnet_stems(stem, side, sides):
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    module = resnet("resnet18", 8, stem)
    found = heights(module, images)
    assert (found["stem"], *(found[f"stage{s}_block{b}"] for s, b in ((1, 1), (1, 2), (2, 1), (3, 2), (4, 2)))) == sides
    kernel = shapes(module, images, train=True)["params"]["stem"]["kernel"].shape
    assert kernel == ((7, 7, 3, 8) if stem == "imagenet" else (3, 3, 3, 8))


@pytest.mark.fast
def test_bottleneck_strides_in_its_3x3_convolution():
    found = heights(block(16, stride=2, bottleneck=True), jax.ShapeDtypeStruct((1, 8, 8, 32), jnp.float32))
    assert [found[name] for name in ("conv1", "conv2", "conv3_norm", "shortcut")] == [8, 4, 4, 4]


@pytest.mark.fast
@pytest.mark.parametrize(("bottleneck", "last"), [(False, "conv2_norm"), (True, "conv3_norm")])
def test_zero_init_makes_a_block_the_identity(bottleneck, last):
    module = block(2, bottleneck=bottleneck, zero_init=True)
    x = normal(2, 3, 3, 8 if bottleneck else 2, dtype=jnp.float32)
    variables = jax.jit(lambda: module.init(KEY, x, train=True))()
    scales = {k: v["batch"]["scale"] for k, v in variables["params"].items() if k.endswith("_norm")}
    assert {k for k, scale in scales.items() if not scale.any()} == {last}
    assert all((scale == 1).all() for k, scale in scales.items() if k != last)
    np.testing.assert_array_equal(jax.jit(lambda x: module.apply(variables, x, train=False))(x), nn.relu(x))


@pytest.mark.fast
def test_resnet_hands_its_fields_to_its_blocks():
    seen = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, ResidualBlock):
            m = context.module
            seen.append((m.zero_init, m.norm, m.bn_groups, m.conv_init, m.dtype, m.bottleneck))
        return call(*args, **kwargs)

    fields = {"zero_init": True, "norm": "group", "bn_groups": 4, "conv_init": "torch", "dtype": jnp.bfloat16}
    module = resnet("resnet50", 2, "small", **fields)
    with nn.intercept_methods(note):
        shapes(module, IMAGES, train=True)
    assert seen == [(True, "group", 4, "torch", jnp.bfloat16, True)] * 16


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_blocks_with_other_norms(norm):
    module = block(8, stride=2, norm=norm)
    x = normal(3, 8, 8, 4, dtype=jnp.float32)
    variables = jax.jit(lambda: module.init(KEY, x, train=True))()
    assert "batch_stats" not in variables
    run = jax.jit(lambda x: module.apply(variables, x, train=True))
    out = run(x)
    assert np.isfinite(out).all() and out.std() > 0.1
    np.testing.assert_allclose(run(x[::-1])[::-1], out, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_resnet_with_other_norms(norm):
    small = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = shapes(resnet("resnet18", 8, "small", norm=norm), small, train=True)
    assert "batch_stats" not in variables
    names = {k.key for path, _ in jax.tree_util.tree_leaves_with_path(variables) for k in path}
    assert names & {"batch", "group", "layer"} == {norm} - {"none"}


@pytest.mark.fast
def test_bfloat16_keeps_parameters_and_gradients_in_float32():
    module = resnet("resnet18", 8, "small", dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = shapes(module, images, train=True)

    def loss(params, variables, x):
        y = module.apply({**variables, "params": params}, x, train=False)
        return jnp.sum(y.astype(jnp.float32)), y

    grads, out = jax.eval_shape(jax.grad(loss, has_aux=True), variables["params"], variables, images)
    assert out.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((variables, grads))} == {jnp.dtype("float32")}


@pytest.mark.fast
def test_bfloat16_is_near_float32():
    x = normal(4, 8, 8, 3, dtype=jnp.float32)
    variables = jax.jit(lambda: ConvNet(8).init(KEY, x, train=True))()
    exact, half = (
        jax.jit(functools.partial(ConvNet(8, dtype=d).apply, train=False))(variables, x)
        for d in (jnp.float32, jnp.bfloat16)
    )
    assert half.dtype == jnp.bfloat16
    assert np.abs(half.astype(jnp.float32) - exact).max() <= 0.02 * np.abs(exact).max()


@pytest.mark.fast
@pytest.mark.fast
@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 7, 5, 2)])
def test_halving_is_max_pooling(shape):
    """In value and gradient, behind a ReLU as networks have it."""

    def through(pool):
        return lambda x: jnp.sum(jnp.sin(pool(nn.relu(x))) * 3)

    x = normal(*shape)
    usual = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    np.testing.assert_array_equal(halved(x), usual(x))
    np.testing.assert_allclose(jax.grad(through(halved))(x), jax.grad(through(usual))(x), rtol=1e-6)


@pytest.mark.fast
def test_lenet():
    net, x = LeNet(width=4), normal(2, 28, 28, 3)
    variables = net.init(KEY, x, train=True)
    encoded = net.apply(variables, x, train=False, pool=None)
    assert encoded.map.shape == (2, 7, 7, 6) and encoded.pooled.shape == (2, 7 * 7 * 6)
    assert net.apply(variables, x, train=False, stage=1, pool=False).shape == (2, 14, 14, 4)
    assert net.apply(variables, x, train=False, stage=1).shape == (2, 4)
    assert size(shapes(LeNet(), normal(1, 28, 28, 3), train=True)) == 3 * 25 * 32 + 32 + 32 * 25 * 48 + 48
    frozen = jax.grad(lambda v: net.apply(v, x, train=True, frozen=1).sum())(variables)["params"]
    assert not jnp.any(frozen["stage1"]["kernel"]) and jnp.any(frozen["stage2"]["kernel"])


@pytest.mark.fast
def test_pixel_mlp():
    net, x = PixelMLP(width=4), normal(6, 5, 3, 2)
    variables = net.init(KEY, x, train=True)
    encoded = net.apply(variables, x, train=False, pool=None)
    assert encoded.map.shape == (6, 1, 1, 4) and encoded.pooled.shape == (6, 4)
    assert net.apply(variables, x, train=False, stage=1).shape == (6, 4)
    assert net.filters(variables["params"]).shape == (5, 3, 2, 4) and net.channels(variables["params"]) == 2
    # The formula: W2 of leaky W1 x, divided by the running deviation (1) after the running mean (0) is taken away.
    w1, w2 = variables["params"]["stage1"]["kernel"].reshape(30, 4), variables["params"]["stage2"]["kernel"]
    leaky = lambda x: np.where(x > 0, x, 0.2 * x)  # noqa: E731
    wanted = leaky(leaky(x.reshape(6, 30) @ w1) @ w2) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(encoded.pooled, wanted, rtol=1e-4, atol=1e-6)
    for frozen in (1, 2):
        grads = jax.grad(lambda v, n=frozen: net.apply(v, x, train=False, frozen=n).sum())(variables)["params"]
        assert not jnp.any(grads["stage1"]["kernel"]) and bool(jnp.any(grads["stage2"]["kernel"])) == (frozen == 1)


def test_convnet():
    module = ConvNet(width=8)
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    variables = shapes(module, images, train=True)
    assert module.stages == 3
    assert [features(module, variables, images, stage).shape[1] for stage in (1, 2, 3, None)] == [8, 16, 32, 32]
    assert heights(module, images)["stage1"] == 8 and heights(module, images)["stage3"] == 2
    assert size(variables["params"]) == 9 * (1 * 8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32)


@pytest.mark.fast
def test_backbone_is_what_the_config_says():
    fields = {"name": "resnet50", "width": 8, "stem": "small", "norm": "batch", "bn_groups": 4, "zero_init": True,
              "conv_init": "torch", "dtype": "bfloat16", "remat": 2}  # fmt: skip
    shared = {"width": 8, "norm": "batch", "bn_groups": 4, "conv_init": "torch", "dtype": jnp.dtype("bfloat16")}
    expected = ResNet("resnet50", stem="small", zero_init=True, remat=2, **shared)
    assert models.from_config(ConfigDict(fields)) == expected
    assert models.from_config(ConfigDict(fields | {"name": "convnet"})) == ConvNet(**shared)
    for field, value, hint in (
        ("name", "resnet5", "Did you mean 'resnet50'"),
        ("norm", "bach", "Did you mean 'batch'"),
        ("stem", "big", "Known: imagenet, small"),
        ("dtype", "float16", "Did you mean 'bfloat16'"),
        ("conv_init", "keiming", "Did you mean 'kaiming'"),
    ):
        with pytest.raises(UserError, match=f"config.model.{field} is '{value}', which is not known. {hint}"):
            models.from_config(ConfigDict(fields | {field: value}))


# Heads.

WIDE = ConvNet(width=512)  # 2048 features, as a ResNet-50 has, without its cost


def head_sizes(method):
    views = {f"view{i}": jnp.zeros((2, 4, 4, 3)) for i in (1, 2)}
    params, _ = jax.eval_shape(lambda: method.init(KEY, views, Info(2, 2, 1, 1)))
    return {name: size(part) for name, part in params.items() if name != "backbone"}


@pytest.mark.fast
def test_heads_have_the_sizes_of_the_specification():
    assert head_sizes(SimCLR(WIDE)) == {"projector": 4_460_672}
    assert head_sizes(SimCLR(WIDE, hidden=(2048, 2048))) == {"projector": 8_659_072}
    assert head_sizes(BYOL(WIDE)) == {"projector": 9_449_472, "predictor": 2_109_440}


@pytest.mark.fast
def test_mlp_layers():
    x = jnp.ones((2, 6))
    for norm, names in (("none", None), ("affine", {"scale", "bias"}), ("scale", {"scale"}), ("plain", set())):
        params = shapes(MLP((5, 4), 3, out_norm=norm), x, train=True)["params"]
        assert set(params["dense1"]) == set(params["dense2"]) == {"kernel"} and set(params["out"]) == {"kernel", "bias"}
        assert [params[n]["kernel"].shape for n in ("dense1", "dense2", "out")] == [(6, 5), (5, 4), (4, 3)]
        assert set(params.get("out_norm", {})) == (names or set())
    params = shapes(MLP((5,), 3, hidden_bias=True, out_bias=False), x, train=True)["params"]
    assert set(params["dense1"]) == {"kernel", "bias"} and set(params["out"]) == {"kernel"}


@pytest.mark.fast
def test_mlp_is_dense_norm_relu_dense():
    module, x = MLP((5,), 3), normal(4, 6, dtype=jnp.float32)
    variables = module.init(KEY, x, train=True)
    p = variables["params"]
    hidden = np.maximum(x @ p["dense1"]["kernel"] / np.sqrt(1 + 1e-5), 0)
    expected = hidden @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(module.apply(variables, x, train=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", [ResNet("resnet18", 4, "small", "group"), ViT("vit_tiny", patch=8)])
def test_rematerialisation_keeps_less_for_the_backward_pass(net):
    x = jax.random.normal(KEY, (8, 32, 32, 3))
    params = jax.eval_shape(lambda: net.init(KEY, x, train=False))["params"]

    def kept(stages):
        def output(params):
            return net.clone(remat=stages).apply({"params": params}, x, train=True)

        pull = jax.eval_shape(lambda params: jax.vjp(output, params)[1], params)
        return sum(math.prod(a.shape) for a in jax.tree.leaves(pull))

    sizes = [kept(stages) for stages in range(net.stages + 1)]
    assert sizes == sorted(sizes, reverse=True) and sizes[4] < sizes[0] / 2 and len(set(sizes)) == 5


def test_rematerialisation_changes_no_number(monkeypatch):
    """Parameters' names, the loss, gradients and running statistics, with BatchNorm over two devices."""
    monkeypatch.setitem(DEPTHS, "resnet10", ((1, 1, 1, 1), False))
    net = ResNet("resnet10", 4, "small")
    x = jax.random.normal(KEY, (8, 8, 8, 3))
    variables = net.init(KEY, x, train=False)

    def replica(net, variables, x):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            y, moved = net.apply(state, x, train=True, mutable=["batch_stats"])
            return dist.mean(jnp.square(y).mean()), moved

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    mesh = dist.make_mesh(jax.devices()[:2])

    def results(net):
        return dist.map_replicas(functools.partial(replica, net), mesh, (P(), P(dist.AXIS)), P())(variables, x)

    plain, again = results(net), results(net.clone(remat=4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), again, plain)
