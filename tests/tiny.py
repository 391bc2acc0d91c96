"""Runs so small that the whole suite can afford one compilation a method and mesh."""

import functools
import importlib
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist, train

BATCH = 16


def config(name: str, **changes: Any):
    """The method's digits preset with a convnet of four channels and 16 images a batch."""
    c = importlib.import_module(f"configs.{name}").get_config("digits")
    c.batch_size, c.epochs, c.model.width = BATCH, 2, 4
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c


def run(name: str, devices: int = 1, mapping: str = "shard_map", **changes: Any) -> train.Run:
    c = config(name, mapping=mapping, **changes)
    return train.prepare(c, jax.devices()[:devices])


@functools.cache
def compiled(name: str, devices: int = 1, mapping: str = "shard_map"):
    """A run, its compiled step and its data on the devices."""
    r = run(name, devices, mapping)
    return r, train.mapped_step(r), dist.replicate((r.train.images, r.train.labels), r.mesh)


def steps(name: str, count: int, devices: int = 1, mapping: str = "shard_map", *, start=None, labels=None):
    """Trains some steps and returns the state and the metrics of each step, on the host."""
    r, step, (images, known) = compiled(name, devices, mapping)
    ts = r.init() if start is None else jax.device_put(start, NamedSharding(r.mesh, P()))
    labels = known if labels is None else dist.replicate(labels, r.mesh)
    metrics = []
    for _ in range(count):
        ts, m = step(ts, images, labels, train.batch_index(r, int(ts.step)))
        metrics.append(jax.device_get(m))
    return jax.device_get(ts), metrics


def assert_close(found: Any, wanted: Any, tolerance: float) -> None:
    """Every leaf agrees to `tolerance` of its largest value.

    A leaf that is tiny beside the rest of its part (below a hundredth) is measured by that hundredth: a gradient
    that is zero but for rounding, such as that of a bias before BatchNorm, has no scale of its own.
    """
    parts = vars(wanted) if isinstance(wanted, train.TrainState) else {"": wanted}
    for name, part in parts.items():
        other = getattr(found, name) if name else found
        largest = max([np.abs(x).max(initial=0) for x in jax.tree.leaves(part)], default=0.0)
        pairs = zip(jax.tree_util.tree_leaves_with_path(other), jax.tree.leaves(part), strict=True)
        for (path, a), b in pairs:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            scale = max(np.abs(b).max(initial=0), largest / 100, 1e-30)
            gap = np.abs(a - b).max(initial=0) / scale
            assert gap <= tolerance, f"{name}{jax.tree_util.keystr(path)} differs by {gap:.2g} of its largest value"


def assert_same(found: Any, wanted: Any) -> None:
    """Every leaf is bitwise equal."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True)
    for (path, a), b in pairs:
        assert np.array_equal(np.asarray(a), np.asarray(b)), f"{jax.tree_util.keystr(path)} differs"
