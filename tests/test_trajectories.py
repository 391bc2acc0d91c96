"""Whole trajectories: losses, weights and states after each update, against those of the authors' own code.

The numbers come from the authors' classes or transcriptions of them (README of the folder), on a small stand-in for the
backbone, with each preset's optimiser and schedule, in float64. Both sides were given the same views and weights.
"""

import importlib
import json
from typing import Any

from conftest import SHARED
import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from ssl_jax import batch, data, dist, mesh, optim
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info
from ssl_jax.models.backbone import Backbone
from ssl_jax.run import Run
from ssl_jax.state import TrainState, specs
from ssl_jax.step import replica_step

FOLDER = SHARED / "golden_trajectories"
FILES = {path.stem for path in FOLDER.glob("*.npz")}
METHODS = {"barlow_twins", "byol", "dcl", "dino", "mocov1", "mocov2", "mocov3", "nnclr", "simclr", "simsiam", "swav",
           "vicreg", "wmse"}  # fmt: skip
# Largest difference of anything, as a share of the largest value of the part it is in.
TOLERANCE = 1e-10

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.skipif(not FILES, reason="reference trajectories are not on this machine"),
]


class Pixelwise(Backbone):
    """The stand-in for a backbone: each pixel to 12 channels, and their mean over the image."""

    bn_groups: int = 1
    dtype: Any = jnp.float64

    stages = 1

    @nn.compact
    def __call__(self, x, *, train=False, stage=None, pool=True, **_):
        x = nn.relu(nn.Dense(12, name="lin", param_dtype=x.dtype)(x))
        return x.mean((1, 2)) if pool else x


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def part(file, prefix):
    """The arrays below a prefix of the file, as nested dicts."""
    return unflatten_dict({tuple(k.split("/")): file[prefix + k] for k in names(file, prefix)})


def names(file, prefix):
    return [key.removeprefix(prefix) for key in file.files if key.startswith(prefix)]


def filled(shapes, values):
    """A tree of the method's own structure with the values of the file, which must be all there and no more."""
    given, wanted = flatten_dict(values), flatten_dict(shapes)
    assert {key: x.shape for key, x in given.items()} == {key: x.shape for key, x in wanted.items()}
    empty = {key: x for key, x in flatten_dict(shapes, keep_empty_nodes=True).items() if key not in wanted}
    return unflatten_dict(empty | {key: jnp.asarray(x) for key, x in given.items()})


def trajectory(about):
    """The run of a file: its method on the stand-in, with the optimiser and the schedule of its preset."""
    config = importlib.import_module(f"configs.{about['method']}").get_config(about["preset"])
    with config.unlocked():
        config.method.update(about["fields"])
    method = build.method(config.method, Pixelwise())
    epochs = about["epochs"] or config.epochs
    per_epoch = about["updates_per_epoch"]
    info = Info(about["examples"], about["batch"], per_epoch, per_epoch * epochs)
    return config, method, info


@pytest.mark.fast
def test_every_trajectory_is_compared():
    assert FILES == METHODS


@pytest.mark.parametrize("name", sorted(METHODS))
def test_trajectory_is_the_authors(monkeypatch, name):
    file = np.load(FOLDER / f"{name}.npz")
    about = json.loads(str(file["about"]))
    config, method, info = trajectory(about)
    devices = mesh.make(config.mesh, jax.devices()[:1])
    views = {name: jnp.asarray(file[f"data/0/{name}"]) for name in names(file, "data/0/")}
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), views, info))
    params, state = filled(shapes[0], part(file, "params0/")), filled(shapes[1], part(file, "state0/"))
    size = about["batch"]
    # The rates are those of the preset's batch.
    rates = (config.batch_size, info.steps_per_epoch, info.total_steps)
    optimizer, schedules = optim.build(config.optim, method.groups(params), *rates)
    nothing = data.Dataset("given", np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32), ())
    run = Run(config, nothing, None, method, devices, info, None, optimizer, schedules, None)
    monkeypatch.setattr(batch, "maker", lambda run: lambda rng, number, rows, given: (given, rng))
    laid, split = specs(method), P(dist.AXIS)
    step = dist.map_replicas(replica_step(run), devices, (laid, split, P(None, dist.AXIS)), (laid, P()))
    key = jax.random.key_data(jax.random.key(0))
    ts = TrainState(jnp.zeros((), jnp.int32), key, params, state, optimizer.init(params), {})
    for number in range(about["updates"]):
        given = {name: jnp.asarray(file[f"data/{number}/{name}"]) for name in views}
        given |= {"index": jnp.asarray(file[f"index/{number}"], jnp.int32), "position": jnp.arange(size)}
        ts, metrics = step(ts, given | {"label": jnp.full(size, -1)}, jnp.arange(size)[None])
        np.testing.assert_allclose(metrics["loss"], file["losses"][number], rtol=TOLERANCE)
        for group in schedules:
            np.testing.assert_allclose(metrics[f"lr/{group}"], file[f"lr/{number}/{group}"], rtol=1e-6)
        if names(file, f"params/{number + 1}/"):
            close(ts.params, part(file, f"params/{number + 1}/"))
            close(ts.state, part(file, f"state/{number + 1}/"))


def close(found, wanted):
    found, wanted = flatten_dict(jax.device_get(found)), flatten_dict(wanted)
    assert found.keys() == wanted.keys()
    for key, x in wanted.items():
        np.testing.assert_allclose(
            found[key], x, rtol=0, atol=TOLERANCE * max(np.abs(x).max(), 1e-3), err_msg="/".join(key)
        )
