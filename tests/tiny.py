"""Runs so small that the whole suite can afford one compilation a method and mesh."""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from ssl_jax import dist, models, recipes
from ssl_jax.augment.render import render_views
from ssl_jax.batch import example
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.data.samplers import Shuffled
from ssl_jax.epoch import begin_epoch
from ssl_jax.methods import build, contract
from ssl_jax.methods.contract import flat, measured
from ssl_jax.models import vit
from ssl_jax.run import Run, prepare
from ssl_jax.state import TrainState
from ssl_jax.state import specs as state_specs
from ssl_jax.step import mapped_step, replica_step

BATCH = 16
vit.SIZES["vit_three"] = (64, 3, 2)  # three blocks are as good as the four of vit_micro, and compile sooner


def config(name: str, **changes: Any):
    """The method's preset without a download, with 16 images a batch; a network of four channels or of three blocks."""
    c = recipes.get_config(name, recipes.presets(name)[0])
    c.batch_size, c.epochs, c.model.width = BATCH, 2, 4
    c.model.name = c.model.name.replace("vit_micro", "vit_three")
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c


def check_changed(config: Any, changes: dict[str, Any], side: int) -> None:
    """Builds the method of a config with other values of some fields, and checks it for square grey images."""
    c = config.copy_and_resolve_references()
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    build.method(c.method, models.from_config(c.model)).check(side, side, 1)


def run(name: str, devices: int = 1, mapping: str = "shard_map", **changes: Any) -> Run:
    c = config(name, mapping=mapping, **changes)
    return prepare(c, jax.devices()[:devices])


def fresh(r: Run) -> TrainState:
    """The state a run begins with, laid over its devices; initialising is compiled once a method."""
    return place(r, _initial(r.config.method.name))


def place(r: Run, ts: TrainState) -> TrainState:
    """A state from the host, laid over the devices of a run."""
    return jax.device_put(ts, dist.shardings(state_specs(r.method), r.mesh))


def compiled(name: str, devices: int = 1, mapping: str = "shard_map"):
    """A run, its compiled step and its data on the devices."""
    return _compiled(name, devices, mapping)[:3]


def forget() -> None:
    """Drops the compiled steps: once JAX has forgotten its programs, one kept here would be traced again."""
    _compiled.cache_clear()


def traces(name: str) -> list[str]:
    """The name for each time that the step of `compiled(name)` was traced."""
    return _compiled(name, 1, "shard_map")[4]


@functools.lru_cache(maxsize=8)  # those of one method, and some more: programs are large
def _compiled(name: str, devices: int, mapping: str):
    r = run(name, devices, mapping)
    data = loader.on_devices(r.train, r.mesh)
    with pytest.MonkeyPatch.context() as patch:
        traced = count_traces(patch)
        step = mapped_step(r)
    return r, step, data, begin_epoch(r), traced


def steps(name: str, count: int, devices: int = 1, mapping: str = "shard_map", *, start=None, labels=None):
    """Trains some steps and returns the state and the metrics of each step, on the host."""
    r, step, data, begin, _ = _compiled(name, devices, mapping)
    ts = fresh(r) if start is None else place(r, start)
    data = data if labels is None else data | {"label": dist.replicate(labels, r.mesh)}
    metrics = []
    for _ in range(count):
        number = int(ts.step)
        ts, m = step(begin(ts, data["image"], number), data, batch_index(r, number))
        metrics.append(jax.device_get(m))
    return jax.device_get(ts), metrics


@functools.cache
def _initial(name: str) -> TrainState:
    return jax.device_get(compiled(name)[0].init())


def first_state(run: Run) -> TrainState:
    """The state at the first epoch."""
    return begin_epoch(run)(run.init(), loader.on_devices(run.train, run.mesh)["image"], 0)


def batch_of(run: Run, count: int, *, seed: int = 0) -> dict[str, Any]:
    """Views of the first `count` training images, outside a step; with targets or a sampler, of its first batch."""
    if not isinstance(run.sampler, Shuffled) or run.method.targets():
        shape = next(iter(run.sampler.parts.values()))
        together = int(np.prod(shape[1:]))
        return example(run, seed, max(1, count // together // len(run.sampler.parts)))[1]
    position = jnp.arange(count)
    images = jnp.asarray(run.train.images[:count])
    batch = jax.jit(lambda rng: render_views(run.method.views(), rng, position, images))(jax.random.key(seed))
    return batch | {"index": position, "position": position, "label": jnp.asarray(run.train.labels[:count])}


def loss_function(run: Run, method: contract.Method | None = None, records=flat):
    """`(params, state, batch, step=0) -> (loss, (state, metrics))` on a mesh of one device; metrics as `records`."""
    method = method or run.method

    def loss(params, state, batch, step):
        value, (state, aux) = method.loss(params, state, batch, rng=jax.random.key(1), step=step, info=run.info)
        return dist.mean(value), (state, dist.mean(records(aux.metrics)))

    mesh = dist.make_mesh(jax.devices()[:1])
    in_specs = (P(), method.specs(), P(dist.AXIS), P())
    mapped = jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=in_specs, out_specs=(P(), (method.specs(), P()))))
    return lambda params, state, batch, step=0: mapped(params, state, batch, jnp.asarray(step, jnp.int32))


def of_kind(run: Run, kind: str, batch: dict[str, Any]) -> list[str]:
    """Names of the method's metrics of a kind, for a batch of any size."""
    ts = run.shapes
    _, (_, found) = jax.eval_shape(loss_function(run, records=measured), ts.params, ts.state, batch)
    return [name for name, metric in found.items() if metric.kind == kind]


def overfit(run: Run, steps: int, method: contract.Method | None = None, until=None, gradients=None, begun=None):
    """Trains on 32 images that are always seen in the same views, without augmentation in the step.

    Args:
      run: from `run(name, batch_size=32, ...)`.
      steps: at most; the run's own length if that is shorter.
      method: instead of the run's.
      until: `(loss, metrics) -> bool`, asked every 20 updates; stops when true.
      gradients: a compiled `(params, state, batch, step) -> ((loss, (state, metrics)), gradient)` to use.
      begun: `first_state` and the views of the 32 images, where they have been made already.

    Returns:
      params, state, the losses and the metrics (dicts of floats) before each update.
    """
    method = method or run.method
    loss = loss_function(run, method)
    own, run = run, dataclasses.replace(run, method=method)
    ts, batch = begun or (first_state(run), batch_of(own, 32))
    gradients = gradients or jax.jit(jax.value_and_grad(loss, has_aux=True))

    @jax.jit
    def moved(params, state, opt_state, grads, step):
        updates, opt_state = run.optimizer.update(grads, opt_state, params)
        return *method.after_update(optax.apply_updates(params, updates), state, step, run.info), opt_state

    def update(params, state, opt_state, step):
        (value, (state, metrics)), grads = gradients(params, state, batch, step)
        return *moved(params, state, opt_state, grads, step), value, metrics

    params, state, opt_state = ts.params, ts.state, ts.opt_state
    values, history = [], []
    for step in range(min(steps, run.info.total_steps)):
        params, state, opt_state, value, metrics = update(params, state, opt_state, jnp.asarray(step, jnp.int32))
        values.append(value)
        history.append(metrics)
        if until and step % 20 == 19 and until(float(value), {name: float(x) for name, x in metrics.items()}):
            break
    history = [{name: float(x) for name, x in metrics.items()} for metrics in history]
    return params, state, [float(v) for v in values], history


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by one whenever a training step is traced from here on."""
    traced: list[str] = []
    make = replica_step

    def counting(run):
        step = make(run)

        def replica(*arguments):
            traced.append(run.config.method.name)
            return step(*arguments)

        return replica

    monkeypatch.setattr("ssl_jax.step.replica_step", counting)
    return traced


def assert_picture(picture: contract.Picture) -> None:
    """A well-formed picture: at most 8 rows, every column named, images from 0 to 1 in grey or colour."""
    rows, columns, *_, channels = picture.images.shape
    assert picture.title and picture.images.ndim == 5 and channels in (1, 3)
    assert 0 < rows <= 8 and columns == len(picture.columns)
    assert isinstance(picture.images, np.ndarray) and np.isfinite(picture.images).all()
    assert 0 <= picture.images.min() <= picture.images.max() <= 1
    assert picture.captions == () or [len(row) for row in picture.captions] == [columns] * rows


class Pixels(nn.Module):
    """A backbone without any norm, which compiles in no time: one linear layer of the pixels."""

    frozen: ClassVar[tuple[str, ...]] = ()
    width: int = 16
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, stage=None):
        return nn.Dense(self.width)(x.reshape(len(x), -1))


def generator(n: int, d: int, s: float) -> np.ndarray:
    """The input generator A(n, d, s) of the specification sheet, section 10."""
    i, j = np.mgrid[:n, :d]
    return np.sin(0.7 * i + 1.3 * j + s) + 0.1 * np.cos(i * j + s)


def assert_close(found: Any, wanted: Any, tolerance: float) -> None:
    """Every leaf agrees: its root mean square gap is at most `tolerance` of its largest value.

    A leaf that is tiny beside the rest of its part (below a hundredth) is measured by that hundredth: a gradient
    that is zero but for rounding, such as that of a bias before BatchNorm, has no scale of its own. The mean over the
    leaf, since Adam divides a gradient by its own size: one number that is zero but for rounding moves by all of it.
    """
    parts = vars(wanted) if isinstance(wanted, TrainState) else {"": wanted}
    for name, part in parts.items():
        other = getattr(found, name) if name else found
        largest = max([np.abs(x).max(initial=0) for x in jax.tree.leaves(part)], default=0.0)
        pairs = zip(jax.tree_util.tree_leaves_with_path(other), jax.tree.leaves(part), strict=True)
        for (path, a), b in pairs:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            scale = max(np.abs(b).max(initial=0), largest / 100, 1e-30)
            gap = np.sqrt(np.mean((a - b) ** 2)) / scale if a.size else 0.0
            assert gap <= tolerance, f"{name}{jax.tree_util.keystr(path)} differs by {gap:.2g} of its largest value"


def assert_same(found: Any, wanted: Any) -> None:
    """Every leaf is bitwise equal."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True)
    for (path, a), b in pairs:
        assert np.array_equal(np.asarray(a), np.asarray(b)), f"{jax.tree_util.keystr(path)} differs"


def assert_global_triplets(devices, loss, reference):
    """That the mean over replicas of a loss of embeddings and labels, and its gradient, are those of the global batch.

    Args:
      devices: over which two copies each of four images are laid, in any order.
      loss: of z [n, D] and labels [n], with the gather inside.
      reference: of all of them, in NumPy.
    """
    draw = np.random.default_rng(0)
    z, w, labels = draw.normal(size=(8, 5)), draw.normal(size=(5, 4)), draw.permutation(np.tile(np.arange(4), 2))

    def over(devices):
        def replica(w, z, labels):
            value, grad = jax.value_and_grad(lambda w: dist.mean(loss(z @ w, labels)))(w)
            return value, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:devices])
        specs = (P(), P(dist.AXIS), P(dist.AXIS))
        return dist.map_replicas(replica, mesh, specs, P())(*(jnp.asarray(x) for x in (w, z, labels)))

    with jax.enable_x64(True):
        found, wanted = over(devices), over(1)
        np.testing.assert_allclose(wanted[0], reference(z @ w, labels), rtol=1e-9)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def features(method, params, state, images, stage=None):
    """What a method's network makes of normalised images: float32 [B, D]."""
    return method.encode(method.variables(params, state), images, stage=stage)[0].pooled
