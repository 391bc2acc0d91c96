"""Heads on a backbone: attentive pools, output stride, and the probes that train on random crops."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import dist
from ssl_jax.data import Dataset
from ssl_jax.evals import attentive, context, linear_layers, linear_published, ridge
from ssl_jax.models.conv import dilated_conv2d
from ssl_jax.models.dense_heads import AttentivePool, CrossAttentionPool
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vit import ViT
from ssl_jax.recipes import base
from ssl_jax.runtime.errors import UserError


@pytest.mark.fast
def test_attentive_pools_are_the_reference_ones(golden):
    path = golden.parent / "golden_modern" / "attentive_pool.npz"
    if not path.exists():
        pytest.skip("reference numbers golden_modern are not on this machine")
    with np.load(path) as found:
        want = {name: jnp.asarray(found[name], jnp.float32) for name in found}

    def dense(name):
        return {"kernel": want[f"w_{name}"].T, "bias": want[f"b_{name}"]}

    kv = {"query": want["query"], "kv": dense("kv")}
    logits = AttentivePool(3, 2).apply({"params": kv | {"linear": dense("out")}}, want["tokens"], train=False)
    np.testing.assert_allclose(logits, want["capi_logits"], atol=1e-5)
    plain = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    pooled = AttentivePool(4, 2).apply({"params": kv | {"linear": plain}}, want["tokens"], train=False)
    np.testing.assert_allclose(pooled, want["capi_pooled"], atol=1e-5)
    norm = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    block = kv | {
        "q": dense("q"),
        "fc1": dense("fc1"),
        "fc2": dense("fc2"),
        "norm1": norm,
        "norm2": norm,
        "linear": plain,
    }
    found = CrossAttentionPool(4, 2, ratio=2).apply({"params": block}, want["tokens"], train=False)
    np.testing.assert_allclose(found, want["vjepa_pooled"], atol=2e-5)


@pytest.mark.fast
@pytest.mark.parametrize(("kind", "parameters"), [(AttentivePool, 681_064), (CrossAttentionPool, 2_012_008)])
def test_attentive_pools_have_the_authors_parameters(kind, parameters):
    shapes = jax.eval_shape(lambda: kind(1000).init(jax.random.key(0), jnp.zeros((1, 4, 384)), train=True))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


@pytest.mark.fast
@pytest.mark.parametrize("dilation", [2, 3])
def test_a_dilated_convolution_is_xlas(dilation):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 7, 10, 3), (3, 3, 3, 4)))

    def reference(x, w):
        layout = ("NHWC", "HWIO", "NHWC")
        padding = [(dilation, dilation)] * 2
        return lax.conv_general_dilated(x, w, (1, 1), padding, rhs_dilation=(dilation,) * 2, dimension_numbers=layout)

    np.testing.assert_allclose(dilated_conv2d(x, w, dilation), reference(x, w), atol=1e-5)
    for argument in (0, 1):
        grads = (jax.grad(lambda x, w, f=f: jnp.sum(jnp.sin(f(x, w))), argument)(x, w) for f in
                 (lambda x, w: dilated_conv2d(x, w, dilation), reference))  # fmt: skip
        np.testing.assert_allclose(*grads, atol=1e-4)


@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 8), ("small", 4), ("imagenet", 16)])
def test_a_smaller_output_stride_sees_more_places_of_the_same_map(stem, stride):
    """At the places that the strided network has, the dilated one has the same values."""
    plain = ResNet("resnet18", 4, stem)
    x = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    variables = plain.init(jax.random.key(1), x, train=True)
    wanted = plain.apply(variables, x, train=False, pool=False)
    found = plain.clone(output_stride=stride).apply(variables, x, train=False, pool=False)
    step = found.shape[1] // wanted.shape[1]
    assert found.shape[1] == 64 // stride and step > 1
    np.testing.assert_allclose(found[:, ::step, ::step], wanted, atol=1e-4)


@pytest.mark.fast
def test_the_last_blocks_are_blocks():
    vit = ViT("vit_tiny", 8)
    assert [round(12 * stage / 4) for stage in vit.last_blocks(4)] == [9, 10, 11, 12]
    assert ResNet("resnet18").last_blocks(2) == (3, 4) and ResNet("resnet18").last_blocks(9) == (1, 2, 3, 4)
    micro = ViT("vit_micro", 4)
    x = jnp.ones((1, 8, 8, 3))
    variables = micro.init(jax.random.key(0), x, train=True)
    whole = micro.apply(variables, x, train=False)
    np.testing.assert_array_equal(micro.apply(variables, x, train=False, stage=micro.last_blocks(1)[0]), whole)


def coloured(count, seed, side=16):
    """Images of three classes, known by which channel is brightest, at random brightness."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    images = rng.integers(0, 90, (count, side, side, 3)) + 100 * np.eye(3, dtype=int)[labels][:, None, None]
    return Dataset("coloured", images.astype(np.uint8), labels, ("a", "b", "c"))


def described(name, **changes):
    """What evaluations are given of an untrained run on coloured images."""
    run = tiny.run(name, **{"data.source": "photo_tiles"} | changes)
    images = coloured(48, 0), coloured(30, 1)
    networks = {"pretrained": context.Network(run, run.init())}
    none = (np.zeros((48, 0)), np.zeros((30, 0)))
    features = context.Features(none, none, None, (images[0].labels, images[1].labels), 3)
    return context.Context(networks, images, features)


def asked(what, **options):
    with what.run.config.unlocked():
        what.run.config.eval.update(options)
    return what


@pytest.fixture(scope="module")
def simclr():
    return described("simclr", **{"model.name": "convnet"})


def test_the_authors_probe_learns_and_leaves_the_backbone_alone(simclr):
    what = asked(simclr, published_epochs=30, published_batch=8)
    before = jax.device_get(what.networks["pretrained"].variables)
    found = {r.measure: r.value for r in linear_published.measure(what)}
    assert found["linear_published/top1"] > 0.6
    assert found["linear_published/probe"] == "SimCLR, appendix B.6; 30 epochs, 8 images an update"
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(what.networks["pretrained"].variables))
    streamed = dataclasses.replace(what, images=(dataclasses.replace(what.images[0], images=list(range(48))),) * 2)
    with pytest.raises(UserError, match=r"linear_published needs images in memory, .* is streamed"):
        linear_published.measure(streamed)


@pytest.mark.fast
def test_probes_are_those_of_the_methods_authors():
    assert linear_published.probe_of("mocov2", False).optim["learning_rate"] == 30
    assert [linear_published.probe_of("mocov3", vit).optim["learning_rate"] for vit in (False, True)] == [0.1, 3.0]
    assert (
        linear_published.probe_of("mae", True).norm and linear_published.probe_of("mae", True).optim["name"] == "lars"
    )
    assert linear_published.probe_of("rotation", False) == linear_published.PROBES["simclr"]
    for probe in linear_published.PROBES.values():
        base.optimizer(**probe.optim)  # no field that there is not


def trained(what, devices, probe):
    run = what.networks["pretrained"].run
    network = context.Network(
        dataclasses.replace(run, mesh=dist.make_mesh(jax.devices()[:devices])), what.networks["pretrained"].ts
    )
    trainer = linear_published._trainer(network, probe, 3, 16, 4, 48)
    found = trainer(what.images[0].images, {"label": what.images[0].labels}, 12, 0)
    return trainer.answers(found, what.images[1].images, run.eval_view)


def test_the_number_of_devices_does_not_matter(simclr):
    """With MAE's BatchNorm, whose statistics are of the whole batch."""
    one, eight = (trained(simclr, devices, linear_published.PROBES["mae"]) for devices in (1, 8))
    np.testing.assert_allclose(one, eight, atol=2e-4)


def test_layers_and_attention_are_probed_on_crops():
    what = asked(
        described("mae", **{"model.name": "vit_micro", "model.patch": 8}),
        layers_iterations=60, layers_batch=24, attentive_iterations=40, attentive_batch=24,
    )  # fmt: skip
    found = {r.measure: r.value for r in linear_layers.measure(what)}
    assert found["linear_layers/best_of_test"] >= found["linear_layers/top1"] > 0.7
    assert "learning rate" in found["linear_layers/head"]
    found = {r.measure: r.value for r in attentive.measure(what)}
    assert set(found) >= {f"attentive/{kind}/top1" for kind in ("linear", "linear_patches", "capi", "vjepa")}
    assert found["attentive/vjepa/top1"] > 0.6 and found["attentive/linear_patches/top1"] > 0.6


@pytest.mark.fast
def test_heads_of_a_grid_learn_as_if_alone():
    labels = jnp.arange(6) % 3
    logits = jax.random.normal(jax.random.key(0), (6, 4, 3))
    grads = jax.grad(lambda x: linear_layers.cross_entropies({"a": x}, {"label": labels}))(logits)
    alone = jax.grad(lambda x: linear_layers.cross_entropies({"a": x}, {"label": labels}))(logits[:, 2:3])
    np.testing.assert_allclose(grads[:, 2:3], alone, atol=1e-7)
    moved, _ = linear_layers.of_each(np.array([1.0, 0, 2, 3])).update({"kernel": jnp.ones((4, 5, 3))}, None)
    np.testing.assert_array_equal(moved["kernel"][:, 0, 0], [1, 0, 2, 3])


@pytest.mark.fast
def test_few_shots_in_closed_form():
    rng = np.random.default_rng(0)
    labels = tuple(np.arange(n) % 3 for n in (90, 60))
    x, y = (rng.normal(size=(len(part), 6)) + 3 * np.eye(3, 6)[part] for part in labels)
    features = context.Features((x, y), (x * 0 + rng.normal(size=x.shape), y * 0), None, labels, 3)
    run = tiny.run("rotation")
    networks = dict.fromkeys(("pretrained", "untrained"), context.Network(run, None))
    found = {r.name: r for r in ridge.measure(context.Context(networks, None, features))}
    assert found["ridge/5shot/top1"].value > 0.9 > 0.5 > found["ridge/25shot/top1_untrained"].value
    assert found["ridge/5shot/top1"].spread is not None
