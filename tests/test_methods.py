"""What every method must pass. A new file in ssl_jax/methods is tested here without an edit."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from configs import common
from ssl_jax import dist, methods, train
from ssl_jax.augment.view import render_batch
from ssl_jax.checkpoint import Checkpoints

every_method = pytest.mark.parametrize("name", methods.names())


def batch_of(run: train.Run, count: int, *, seed: int = 0) -> dict[str, jax.Array]:
    """Views of the first `count` training images, outside a step."""
    position = jnp.arange(count)
    images = jnp.asarray(run.train.images[:count])
    rng = jax.random.key(seed)
    batch = {
        view_name: render_batch(view, dist.example_keys(jax.random.fold_in(rng, i), position), images)
        for i, (view_name, view) in enumerate(run.method.views().items())
    }
    return batch | {"index": position, "position": position, "label": jnp.asarray(run.train.labels[:count])}


def loss_function(run: train.Run):
    """`(params, state, batch) -> (loss, (state, aux))` on a mesh of one device."""
    batch_specs = P(dist.AXIS)

    def loss(params, state, batch):
        value, (state, aux) = run.method.loss(
            params, state, batch, rng=jax.random.key(1), step=jnp.zeros((), jnp.int32), info=run.info
        )
        return dist.mean(value), (state, dist.mean(aux["metrics"]))

    mesh = dist.make_mesh(jax.devices()[:1])
    return jax.shard_map(loss, mesh=mesh, in_specs=(P(), P(), batch_specs), out_specs=(P(), (P(), P())))


@every_method
def test_replicas_agree(name):
    """Different data on each of 1, 2 and 8 devices: one step gives the same loss, gradients and state."""
    one, (metrics_one,) = tiny.steps(name, 1)
    for devices in (2, 8):
        many, (metrics_many,) = tiny.steps(name, 1, devices)
        tiny.assert_close(metrics_many, metrics_one, 1e-5)
        tiny.assert_close(many, one, 1e-5)


@every_method
def test_pmap_agrees_with_shard_map(name):
    shard_map, metrics = tiny.steps(name, 2, 2)
    pmap, pmap_metrics = tiny.steps(name, 2, 2, "pmap")
    tiny.assert_close(pmap_metrics, metrics, 1e-5)
    tiny.assert_close(pmap, shard_map, 1e-5)


@every_method
def test_resume_is_bitwise(name, tmp_path):
    """A state that went through a checkpoint after any step goes on as if it had not."""
    whole, _ = tiny.steps(name, 4)
    run, _, _ = tiny.compiled(name)
    for stop in (1, 3):
        half, _ = tiny.steps(name, stop)
        checkpoints = Checkpoints(tmp_path / str(stop), keep=1)
        checkpoints.save(stop, half, {"method": name})
        checkpoints.close()
        checkpoints = Checkpoints(tmp_path / str(stop), keep=1)
        step, restored = checkpoints.restore(run.init())
        checkpoints.close()
        assert step == stop
        tiny.assert_same(jax.device_get(restored), half)
        resumed, _ = tiny.steps(name, 4 - stop, start=restored)
        tiny.assert_same(resumed, whole)


@every_method
def test_labels_change_nothing(name):
    if methods.find(name).uses_labels:
        pytest.skip("uses labels")
    run, _, _ = tiny.compiled(name)
    true, _ = tiny.steps(name, 2)
    permuted, _ = tiny.steps(name, 2, labels=np.random.default_rng(0).permutation(run.train.labels))
    for part in ("params", "state", "opt_state"):
        tiny.assert_same(getattr(permuted, part), getattr(true, part))
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), permuted.probe["params"], true.probe["params"])
    assert max(jax.tree.leaves(gaps)) > 0  # the online probe does see them


@every_method
def test_state_gets_no_gradient(name):
    """Targets, queues, banks and statistics are constants of the loss, exactly."""
    run, _, _ = tiny.compiled(name)
    ts, loss, batch = run.init(), loss_function(run), batch_of(run, 8)
    numbers, rest = _floats(ts.state)
    grads = jax.jit(jax.grad(lambda s: loss(ts.params, _merged(s, rest), batch)[0]))(numbers)
    for leaf in jax.tree.leaves(grads):
        assert not np.any(np.asarray(leaf))
    params_grads = jax.jit(jax.grad(lambda p: loss(p, ts.state, batch)[0]))(ts.params)
    assert any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(params_grads["backbone"]))


def _floats(tree):
    """The floating-point leaves, and a tree with the others (None in their place)."""
    is_float = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), tree)
    pick = lambda want: jax.tree.map(lambda x, f: x if f == want else None, tree, is_float)  # noqa: E731
    return pick(True), pick(False)


def _merged(numbers, rest):
    return jax.tree.map(lambda a, b: b if a is None else a, numbers, rest, is_leaf=lambda x: x is None)


@every_method
def test_order_of_the_batch_does_not_matter(name):
    run, _, _ = tiny.compiled(name)
    ts, loss, batch = run.init(), jax.jit(loss_function(run)), batch_of(run, 8)
    order = np.random.default_rng(0).permutation(8)
    there = loss(ts.params, ts.state, batch)[0]
    shuffled = loss(ts.params, ts.state, jax.tree.map(lambda x: x[order], batch))[0]
    np.testing.assert_allclose(shuffled, there, rtol=1e-5)


@every_method
def test_overfits(name):
    """32 images, always in the same views: half of the loss that knows nothing, a solved task, no collapse."""
    run = tiny.run(name, batch_size=32, epochs=5, **{"model.width": 16})
    loss, batch = loss_function(run), batch_of(run, 32)
    ts = run.init()

    @jax.jit
    def update(params, state, opt_state, step):
        (value, (state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params, state, batch)
        updates, opt_state = run.optimizer.update(grads, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return params, run.method.after_update(params, state, step, run.info), opt_state, value, metrics

    params, state, opt_state = ts.params, ts.state, ts.opt_state
    for step in range(min(200, run.info.total_steps)):
        params, state, opt_state, value, metrics = update(params, state, opt_state, jnp.asarray(step))
    assert value < 0.5 * run.method.chance(run.info)
    for metric, last in metrics.items():
        if metric.endswith("_top1"):  # the pretext task is solved
            assert last > 0.95
        if metric.endswith("_std"):  # and not by collapse
            assert last > 0.5 / run.method.out**0.5


@every_method
def test_structure(name):
    run, _, _ = tiny.compiled(name)
    ts = jax.eval_shape(run.init)
    assert set(ts.params) >= {"backbone"}
    images = jnp.zeros((3, 8, 8, 1))
    wanted = run.method.backbone.init_with_output(jax.random.key(0), images, train=False)[0].shape
    params, state = run.init().params, run.init().state
    assert run.method.features(params, state, images).shape == wanted
    widths = [run.method.features(params, state, images, stage).shape[-1] for stage in (1, 2, 3)]
    assert widths == sorted(widths) and widths[-1] == wanted[-1]
    assert np.isfinite(run.method.chance(run.info)) and run.method.chance(run.info) > 0
    assert set(jax.tree.leaves(run.method.groups(ts.params))) <= set(run.config.optim)


@every_method
def test_step_is_compiled_once_and_stays_on_the_device(name):
    run = tiny.run(name)
    step = train.mapped_step(run)
    images, labels = dist.replicate((run.train.images, run.train.labels), run.mesh)
    ts = run.init()
    with jax.transfer_guard("disallow"):
        for number in range(3):
            ts, _ = step(ts, images, labels, train.batch_index(run, number))
        jax.block_until_ready(ts)
    assert step._cache_size() == 1


@every_method
@pytest.mark.parametrize("preset", common.PRESETS)
@pytest.mark.fast
def test_presets(name, preset):
    """Every preset makes a method whose views fit its data; fields of the config are the method's own."""
    config = importlib.import_module(f"configs.{name}").get_config(preset)
    method = methods.build(config.method, backbone=None)
    size = {"digits": 8, "fashion_mnist": 28, "imagenet": 256}.get(preset, 32)
    channels = 1 if preset in ("digits", "fashion_mnist") else 3
    method.check(size, size, channels)
    fields = {f.name for f in dataclasses.fields(method)} - {"backbone"}
    assert set(config.method) == fields | {"name"}
    for view in method.views().values():
        assert view.size == {"imagenet": 224}.get(preset, size)
