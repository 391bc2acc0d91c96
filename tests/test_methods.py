"""What every method must pass. A new file in ssl_jax/methods is tested here without an edit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import data, models
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader, train_test
from ssl_jax.epoch import begin_epoch
from ssl_jax.methods import build
from ssl_jax.recipes import get_config, presets
from ssl_jax.run import Run
from ssl_jax.state import TrainState
from ssl_jax.workdir.checkpoint import Checkpoints

every_method = pytest.mark.parametrize("name", build.names())


@every_method
def test_replicas_agree(name):
    """Different data on each of 1, 2 and 8 devices: one step gives the same loss, gradients and state."""
    one, (metrics_one,) = tiny.steps(name, 1)
    many, (metrics_many,) = tiny.steps(name, 1, 8)
    tiny.assert_close(metrics_many, metrics_one, 1e-5)
    tiny.assert_close(*map(_without_probe, (many, one)), 1e-5)


def _without_probe(ts: TrainState) -> TrainState:
    """A state with the moments of the online probe alone, for Adam moves weights by gradients that are all rounding."""
    return dataclasses.replace(ts, probe=ts.probe["opt_state"] if ts.probe else {})


# One a family, and those that gather, store or shard in ways of their own. How a step is mapped is one function.
PMAP = sorted({members[0] for members in build.families().values()} | {"byol", "mocov1", "npid", "simclr", "swav"})


@pytest.mark.parametrize("name", PMAP)
def test_pmap_agrees_with_shard_map(name):
    tiny.assert_close(tiny.steps(name, 2, 2, "pmap")[1], tiny.steps(name, 2)[1], 1e-5)
    # States after one step: Adam makes much of gradients that are zero but for rounding.
    states = tiny.steps(name, 1, 2, "pmap")[0], tiny.steps(name, 1)[0]
    tiny.assert_close(*map(_without_probe, states), 1e-5)


@every_method
@pytest.mark.second_python
def test_one_update(name):
    """Trains at all: what the oldest and the newest JAX of the promise must do for every method."""
    ts, (metrics,) = tiny.steps(name, 1)
    assert int(ts.step) == 1 and np.isfinite(float(metrics["loss"]))


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
    run, _, _ = tiny.compiled(name)
    if "labels" in run.method.needs:
        pytest.skip("uses labels")
    true, _ = tiny.steps(name, 2)
    permuted, _ = tiny.steps(name, 2, labels=np.random.default_rng(0).permutation(run.train.labels))
    for part in ("params", "state", "opt_state"):
        tiny.assert_same(getattr(permuted, part), getattr(true, part))
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), permuted.probe["params"], true.probe["params"])
    assert max(jax.tree.leaves(gaps)) > 0  # the online probe does see them


# With 16 channels maps of 8x8 would have 32 in the second stage, whose convolutions are Winograd's: their loops take
# fifteen times as long as these, compiled without optimisation. The tests of `models/conv_winograd.py` are elsewhere.
NARROW = {"model.width": 8}
OVERFITS = {
    "context_prediction": NARROW,
    "jigsaw": NARROW,
    "msn": {"method.focals": 0, "method.prototypes": 16},  # with small views and 32 prototypes 200 updates come to 2.1
    "multitask": NARROW | {"optim.default.learning_rate": 6e-3},  # the narrow one would need more than 200 updates
}


@functools.lru_cache(maxsize=1)
def program(name):
    """A run, its state at the first epoch, 32 images, and one compiled loss with all gradients that the tests ask for.

    Groups of BatchNorm are made of neighbours: only without them are all orders of the batch one.
    """
    changes = {"batch_size": 32, "model.width": 16, "model.bn_groups": 1, **OVERFITS.get(name, {})}
    run = tiny.run(name, epochs=5, **changes)
    if run.info.total_steps < 200:
        run = tiny.run(name, epochs=-(-200 // run.info.steps_per_epoch), **changes)
    loss = tiny.loss_function(run)

    @jax.jit
    def gradients(params, state, batch, step):
        numbers, rest = _floats(state)

        def of(params, numbers):
            return loss(params, _merged(numbers, rest), batch, step)

        return jax.value_and_grad(of, argnums=(0, 1), has_aux=True)(params, numbers)

    return run, tiny.first_state(run), tiny.batch_of(run, 32), gradients


@every_method
def test_state_gets_no_gradient(name):
    """Targets, queues, banks and statistics are constants of the loss, exactly."""
    _, ts, batch, gradients = program(name)
    _, (params_grads, grads) = gradients(ts.params, ts.state, batch, jnp.zeros((), jnp.int32))
    for leaf in jax.tree.leaves(grads):
        assert not np.any(np.asarray(leaf))
    assert any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(params_grads["backbone"]))


def begun(run: Run) -> TrainState:
    """A fresh state at the beginning of the first epoch."""
    return begin_epoch(run)(tiny.fresh(run), loader.on_devices(run.train, run.mesh)["image"], 0)


def _floats(tree):
    """The floating-point leaves, and a tree with the others (None in their place)."""
    is_float = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), tree)
    pick = lambda want: jax.tree.map(lambda x, f: x if f == want else None, tree, is_float)  # noqa: E731
    return pick(True), pick(False)


def _merged(numbers, rest):
    return jax.tree.map(lambda a, b: b if a is None else a, numbers, rest, is_leaf=lambda x: x is None)


@every_method
def test_order_of_the_batch_does_not_matter(name):
    _, ts, batch, gradients = program(name)
    step, draw = jnp.zeros((), jnp.int32), np.random.default_rng(0)
    there = gradients(ts.params, ts.state, batch, step)[0][0]
    orders = {len(x): draw.permutation(len(x)) for x in jax.tree.leaves(batch)}
    shuffled = jax.tree.map(lambda x: x[orders[len(x)]], batch)
    np.testing.assert_allclose(gradients(ts.params, ts.state, shuffled, step)[0][0], there, rtol=1e-5)


# Shares of right answers in the methods' own tasks, which 32 images in fixed views let them solve.
SOLVED = {
    f"{task}_top1"
    for task in (
        [
            "rotation",
            "jigsaw",
            "neighbour",
            "exemplar",
            "label",
            "supervised",
            "contrastive",
            "instance",
            "image",
            "cluster",
            "batch",
        ]
    )
}


@every_method
def test_overfits(name):
    """32 images, always in the same views: half way to the best loss, where there is a chance, and no collapse."""
    run, ts, batch, gradients = program(name)
    chance = run.method.chance(run.info)
    middle = np.inf if chance is None else (chance + run.method.best(run.info)) / 2
    stds = tiny.of_kind(run, "std", batch)

    def solved(loss, metrics):
        tasks = [value for name, value in metrics.items() if name.split("/")[-1] in SOLVED]
        spreads = [value for name, value in metrics.items() if name in stds]
        healthy = all(value > 0.5 / run.method.out**0.5 for value in spreads)
        return loss < middle and min(tasks, default=1) > 0.95 and healthy

    def own(*args):
        found, (grads, _) = gradients(*args)
        return found, grads

    _, _, losses, metrics = tiny.overfit(run, 200, until=solved, gradients=own, begun=(ts, batch))
    assert solved(losses[-1], metrics[-1]), (losses[-1], middle, metrics[-1])


@every_method
def test_structure(name):
    run, _, _ = tiny.compiled(name)
    ts = tiny.fresh(run)
    assert set(ts.params) >= {"backbone"}
    side = run.eval_view.size
    images = jnp.zeros((3, side, side, run.train.images.shape[-1]))
    backbone = run.method.backbone
    wanted = jax.eval_shape(lambda: backbone.init_with_output(jax.random.key(0), images, train=False)[0]).shape
    params, state = ts.params, ts.state
    encode, variables = run.method.encode, run.method.variables(params, state)
    encoded, same = jax.eval_shape(encode, variables, images)
    assert encoded.pooled.shape == wanted and encoded.pooled.dtype == jnp.float32
    assert encoded.map.shape[::3] == (3, wanted[-1])
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, variables)
    stages = range(1, backbone.stages + 1)
    widths = [
        jax.eval_shape(functools.partial(encode, stage=stage), variables, images)[0].pooled.shape[-1]
        for stage in stages
    ]
    assert widths == sorted(widths) and widths[-1] == wanted[-1]
    chance = run.method.chance(run.info)
    assert chance is None or run.method.best(run.info) < chance < np.inf
    assert set(jax.tree.leaves(run.method.groups(ts.params))) <= {"frozen", *run.config.optim}


@every_method
def test_step_is_compiled_once_and_stays_on_the_device(name):
    """One program for a fresh state, for what it gives, and for all that the tests before called it with."""
    run, step, data = tiny.compiled(name)
    ts, _ = step(begun(run), data, batch_index(run, 0))  # where it is traced, constants go to the device
    with jax.transfer_guard("disallow"):
        for number in (1, 2):
            ts, metrics = step(ts, data, batch_index(run, number))
        jax.block_until_ready(ts)
    assert np.isfinite(metrics["loss"])
    assert tiny.traces(name) == [name] and step._cache_size() == 1


def _presets():
    for name in build.names():
        yield from ((name, preset) for preset in presets(name))


@pytest.mark.parametrize(("name", "preset"), tuple(_presets()))
@pytest.mark.fast
def test_presets(name, preset):
    """Every preset makes a method whose views fit its data; fields of the config are the method's own."""
    config = get_config(name, preset)
    method = build.method(config.method, backbone=models.from_config(config.model))
    sources = [*train_test.sources(config.data.source), config.data.target]
    cards = [data.card(source) for source in sources if source]
    size = config.data.size or cards[0].side or 256  # the images of ImageNet differ in size
    method.check(size, size, max(card.channels for card in cards))  # grey domains join others in colour
    fields = {f.name for f in dataclasses.fields(method)} - {"backbone"}
    assert set(config.method) == fields | {"name"}
    sizes = [view.size for view in method.views().values()]
    assert 0 < max(sizes) <= max(size, 256)
