"""Sharded parameters: the same run, whatever the shape of the mesh."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, mesh, train
from ssl_jax.batch import index as batch_index
from ssl_jax.batch import make_loader
from ssl_jax.data import loader
from ssl_jax.epoch import begin_epoch
from ssl_jax.models.transformer import INITS, TransformerBlock, scanned
from ssl_jax.plan import hlo
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step
from ssl_jax.workdir.checkpoint import Checkpoints

# One a family, and those with queues, banks, EMA teachers and statistics that are updated outside the gradient.
METHODS = (
    *("simclr", "byol", "mocov2", "npid", "dino", "swav", "barlow_twins", "mae", "rotation", "supervised", "s4l"),
    *("lejepa", "visreg", "capi"),
)


@pytest.fixture(autouse=True)
def every_leaf(monkeypatch):
    """The networks of these tests are smaller than what is worth splitting."""
    monkeypatch.setattr(mesh, "LEAST_BYTES", 0)


def bytes_of(tree, device=None) -> int:
    """Bytes of a tree, or of what one device holds of it."""
    leaves = jax.tree.leaves(tree)
    if device is None:
        return sum(x.nbytes for x in leaves)
    return sum(s.data.nbytes for x in leaves for s in x.addressable_shards if s.device == device)


def updates(run, count: int = 1):
    step, data, ts = mapped_step(run), loader.on_devices(run.train, run.mesh), run.init()
    begin = begin_epoch(run)
    for number in range(count):
        ts, metrics = step(begin(ts, data["image"], number), data, batch_index(run, number))
    return ts, jax.device_get(metrics)


@pytest.mark.parametrize("name", METHODS)
def test_a_sharded_step_is_the_step(name):
    # The gradient of the probe is zero but for rounding for a class that the batch lacks, and half of a batch of
    # S4L has labels; Adam divides a gradient by its own size.
    changes = {"batch_size": 128} if name == "s4l" else {}
    whole, metrics = updates(tiny.run(name, 2, **changes))
    sharded, other = updates(tiny.run(name, 8, **changes, **{"mesh.fsdp": 4}))
    tiny.assert_close(jax.device_get(sharded), jax.device_get(whole), 1e-4)
    np.testing.assert_allclose(other["loss"], metrics["loss"], rtol=1e-5)
    first = jax.devices()[0]
    for part in ("params", "opt_state"):
        held, all_of_it = bytes_of(getattr(sharded, part), first), bytes_of(getattr(sharded, part))
        assert held < 0.55 * all_of_it, f"a device holds {held} of {all_of_it} bytes of {part}"


def test_blocks_in_a_loop_are_sharded_like_those_one_after_the_other():
    """Encoder and decoder of MAE; the state has the same parameters either way."""
    whole, metrics = updates(tiny.run("mae", 2))
    run = tiny.run("mae", 8, **{"mesh.fsdp": 4, "model.scan": True})
    assert run.method.backbone.scan
    sharded, other = updates(run)
    tiny.assert_close(jax.device_get(sharded), jax.device_get(whole), 1e-4)
    np.testing.assert_allclose(other["loss"], metrics["loss"], rtol=1e-5)


def test_a_loop_gathers_parameters_and_moves_no_tokens():
    """Of blocks in a loop, parameters and gradients alone cross the links, also where tokens come in whole."""
    block = TransformerBlock(heads=2, inits=INITS["mae"], dtype=jnp.float32, parent=None)
    x, gates = jnp.zeros((1024, 16, 32)), jnp.ones((1, 3, 2))
    params = [block.init(jax.random.key(i), x[:1], gates[:, 0])["params"] for i in range(3)]
    grid = dist.make_mesh(fsdp=4)

    def gradient(params, x):
        value = lambda params: jnp.sum(scanned(block, params, x, gates, remat=True) ** 2)  # noqa: E731
        return jax.grad(value)(params)

    laid = mesh.layout(params, P(), grid)
    step = dist.map_replicas(gradient, grid, (P(), P(dist.AXIS)), P(), results=laid)
    x = jax.device_put(x, NamedSharding(grid, P(dist.AXIS)))
    moved = hlo.collectives(step.lower(jax.device_put(params, laid), x).compile().as_text())
    assert sum(size for _, size in moved.values()) < 4 * bytes_of(params) < x.nbytes / 2, moved


def test_accumulation_and_clipping():
    changes = {"accumulate": 2, "optim.default.clip": 0.1, "batch_size": 32}
    whole, _ = updates(tiny.run("simclr", 2, **changes), 2)
    sharded, _ = updates(tiny.run("simclr", 8, **changes, **{"mesh.fsdp": 4}), 2)
    tiny.assert_close(jax.device_get(sharded), jax.device_get(whole), 1e-4)


def test_checkpoints_move_between_shapes_of_the_mesh(tmp_path):
    """Trained on 2 x 4, resumed on 4 x 2 and on 8: the numbers are those of a run that was not moved."""
    one = tiny.run("byol", 8, **{"mesh.fsdp": 4})
    ts, _ = updates(one)
    kept = Checkpoints(str(tmp_path), keep=2)
    kept.save(1, ts, {})
    kept.close()
    for fsdp in (2, 1):
        run = tiny.run("byol", 8, **{"mesh.fsdp": fsdp})
        step, found = Checkpoints(str(tmp_path)).restore(run.shapes)
        assert step == 1
        tiny.assert_same(jax.device_get(found), jax.device_get(ts))
        assert jax.tree.map(lambda x: x.sharding, found) == run.layout


def test_streamed_images_are_split_over_both_axes(tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(32):
        folder = tmp_path / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    found = []
    for devices, fsdp in ((2, 1), (8, 4)):
        c = tiny.config("simclr", **{"mesh.fsdp": fsdp, "data.stream": "always", "data.size": 32})
        c.method.view1.affine = c.method.view2.affine = 0.0  # streamed images are cropped first
        c.data.source = f"folder:{tmp_path}"
        run = prepare(c, jax.devices()[:devices])
        source = make_loader(run, 0)
        data, index = source()
        source.close()
        assert {len(s.data[0]) for s in data["label"].addressable_shards} == {tiny.BATCH // devices}
        ts, _ = mapped_step(run)(run.init(), data, index)
        found.append(jax.device_get(ts))
    tiny.assert_close(found[1], found[0], 1e-4)


@pytest.mark.parametrize(
    ("shape", "along", "wanted"),
    [
        ((512, 2048), P(), P(None, "fsdp")),
        ((2048, 510), P(), P("fsdp", None)),
        ((3, 5), P(), P()),
        ((4096, 128), P("data"), P("data", "fsdp")),
        ((), P(), P()),
    ],
)
def test_the_largest_dimension_that_divides_is_split(shape, along, wanted):
    found = mesh.spec(shape, 4, along, mesh.make({"data": -1, "fsdp": 4}))
    assert found == wanted


def test_small_leaves_stay_whole(monkeypatch):
    monkeypatch.setattr(mesh, "LEAST_BYTES", 2**22)
    devices = mesh.make({"data": 2, "fsdp": 4})
    assert mesh.spec((1024, 1023), 4, P(), devices) == P()
    assert mesh.spec((1024, 1024), 4, P(), devices) == P("fsdp", None)


@pytest.mark.parametrize("sizes", [(3, 3), (-1, -1), (-1, 3), (0, 0), (-1, 16), (8, 2)])
def test_meshes_that_cannot_be_are_refused(sizes):
    with pytest.raises(UserError, match=r"config\.mesh"):
        tiny.run("simclr", 8, **{"mesh.data": sizes[0], "mesh.fsdp": sizes[1]})


def test_pmap_is_refused():
    with pytest.raises(UserError, match="pmap"):
        mapped_step(tiny.run("simclr", 8, "pmap", **{"mesh.fsdp": 2}))


def test_the_loop_trains_sharded(tmp_path):
    c = tiny.config("simclr", **{"mesh.fsdp": 4, "data.per_class": 8, "epochs": 2})
    train.train(c, str(tmp_path))
    assert (tmp_path / "checkpoints").exists()
    assert math.prod(mesh.make(c.mesh).devices.shape) == len(jax.devices()) and dist.FSDP in mesh.make(c.mesh).shape
