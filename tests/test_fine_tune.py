"""Fine-tuning on the digits, with a convnet of four channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.augment import recipes
from ssl_jax.evals import fine_tune
from ssl_jax.evals.features import extractor
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vit import ViT

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def case(name="rotation", devices=1, frozen=0):
    """A run, the backbone's initial weights and a tuner."""
    run = tiny.run(name, devices)
    ts = tiny.fresh(run)
    start = run.method.variables(ts.params, ts.state)
    return run, start, fine_tune.Tuner(run.method, run.eval_view, run.mesh, 10, frozen)


def test_learns_and_repeats():
    run, start, tune = case()
    train, test = run.train, run.test
    network = tune(start, train.images, train.labels, 8, seed=0)
    top1 = tune.top1(network, test.images, test.labels)
    untuned = tune.top1(tune(start, train.images[:1], train.labels[:1], 1, seed=0), test.images, test.labels)
    assert top1 > 0.4 > untuned
    tiny.assert_same(jax.device_get(tune(start, train.images, train.labels, 8, seed=0)), jax.device_get(network))
    other = jax.device_get(tune(start, train.images, train.labels, 8, seed=1))
    assert np.any(other[0]["head"]["bias"] != network[0]["head"]["bias"])


def test_devices_do_not_matter():
    networks = []
    for devices in (1, 2):
        run, start, tune = case(devices=devices)
        networks.append(jax.device_get(tune(start, run.train.images[:128], run.train.labels[:128], 2, seed=0)))
    tiny.assert_close(networks[1], networks[0], 1e-4)
    run, _, tune = case(devices=2)
    accuracies = [case(devices=d)[2].top1(networks[0], run.test.images, run.test.labels) for d in (1, 2)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize("frozen", [1, 3])
def test_frozen_stages_stay_bitwise_and_the_others_move(frozen):
    run, start, tune = case(frozen=frozen)
    network = jax.device_get(tune(start, run.train.images[:64], run.train.labels[:64], 2, seed=0))
    backbone = run.method.backbone
    for before, after in ((start["params"], network[0]["backbone"]), (start["batch_stats"], network[1])):
        for name in before:
            same = all(
                np.array_equal(a, b)
                for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
            )
            assert same == (backbone.stage_of(name) <= frozen), name
    assert np.any(network[0]["head"]["kernel"])


def test_transplant_copies_the_first_stages():
    run, start, _ = case()
    zeros = jax.tree.map(jnp.zeros_like, start)
    mixed = fine_tune.transplant(run.method.backbone, start, zeros, 2)
    params, stats = mixed["params"], mixed["batch_stats"]
    tiny.assert_same(
        {k: params[k] for k in params if k < "stage3"}, {k: x for k, x in start["params"].items() if k < "stage3"}
    )
    assert not np.any(params["stage3"]["kernel"])
    assert np.any(stats["stage2_norm"]["batch"]["var"]) and not np.any(stats["stage3_norm"]["batch"]["var"])


def test_transplant_copies_the_first_stages_of_both_halves():
    half = {"stage1": 1, "stage2": 1, "stage3": 1}
    there = {"params": {"first": half, "second": half}}
    none = jax.tree.map(lambda _: 0, there)
    found = fine_tune.transplant(case()[0].method.backbone, there, none, 1)
    assert found["params"] == {half: {"stage1": 1, "stage2": 0, "stage3": 0} for half in ("first", "second")}


@pytest.mark.parametrize("name", ["dino", "cpc", "split_brain", "multitask"])
def test_tunes_the_network_that_is_evaluated(name):
    """DINO's teacher; gray patches; two halves; of several tasks the first: it begins with the features, and learns."""
    run = tiny.run(name)
    ts = tiny.fresh(run)
    start = run.method.variables(ts.params, ts.state)
    if name == "dino":
        tiny.assert_same(start["params"], ts.state["teacher"]["params"]["backbone"])
    tune = fine_tune.Tuner(run.method, run.eval_view, run.mesh, 10)
    some, labels = run.train.images[:64], run.train.labels[:64]
    network = jax.device_get(tune(start, some, labels, 3, seed=0))  # the head starts at zero
    assert jax.tree.map(jnp.shape, network[1]) == jax.tree.map(jnp.shape, start["batch_stats"])
    leaves = (jax.tree.leaves(tree) for tree in (network[0]["backbone"], start["params"]))
    assert np.mean([np.any(a != b) for a, b in zip(*leaves, strict=True)]) > 0.9
    # With the head at zero but for one feature a class, logits are features.
    features = extractor(run.method, run.eval_view, run.mesh, 64)(ts.params, ts.state, some)
    kernel = jnp.eye(features.shape[1], 10)
    untuned = {"backbone": start["params"], "head": {"kernel": kernel, "bias": jnp.zeros(10)}}
    logits = tune._logits((untuned, start["batch_stats"]), some)
    np.testing.assert_allclose(logits, features[:, :10], rtol=1e-5, atol=1e-6)


@pytest.mark.fast
def test_few_images_fill_a_batch_and_many_are_seen_equally():
    rows = fine_tune._order(10, 64, seed=0)
    assert np.bincount(rows).tolist().count(6) >= 6 and len(rows) == 64
    assert sorted(fine_tune._order(100, 100, seed=0)) == list(range(100))


@pytest.mark.fast
def test_augmentation_moves_images_and_leaves_colours_alone():
    run, _, _ = case()
    method = run.method.__class__(run.method.backbone, recipes.SIMCLR)
    view = fine_tune.augmentation(method, run.eval_view)
    assert (view.crop, view.area, view.flip) == ("tf", (0.08, 1.0), 0.5)
    assert view.jitter == view.gray == view.blur == 0
    assert (view.size, view.mean) == (run.eval_view.size, run.eval_view.mean)


@pytest.mark.parametrize(
    "backbone", [ResNet("resnet18", 4, "small"), ViT("vit_tiny", patch=4)], ids=["resnet18", "vit_tiny"]
)
@pytest.mark.parametrize("frozen", [1, 4])
def test_frozen_stages_get_no_gradient(backbone, frozen):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    shapes = jax.eval_shape(lambda: backbone.init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.05), shapes)
    variables = jax.tree.map(lambda x: x + 0.01 * jax.random.normal(jax.random.key(1), x.shape), variables)

    def total(params):
        out = backbone.apply({**variables, "params": params}, images, train=False, frozen=frozen)
        return jnp.sum(out * jnp.arange(out.shape[-1]))

    grads = jax.jit(jax.grad(total))(variables["params"])
    stages = set()
    for name, part in grads.items():
        moved = any(np.any(x) for x in jax.tree.leaves(part))
        last = name == "norm"  # of a ViT, behind all blocks
        assert moved == (backbone.stage_of(name) > frozen or last), name
        stages.add(backbone.stage_of(name))
    assert stages == set(range(5))
