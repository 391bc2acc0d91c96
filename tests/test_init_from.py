"""Training that starts from the backbone of another run or of a file."""

import functools
import shutil

import jax
import numpy as np
import pytest
import tiny

from ssl_jax import export, train, weights
from ssl_jax.augment.view import View
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.methods.contract import Method
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step
from ssl_jax.weights import start
from ssl_jax.workdir.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def rotation(tmp_path_factory):
    """The workdir of a short run."""
    workdir = tmp_path_factory.mktemp("rotation")
    train.train(tiny.config("rotation", epochs=1, batch_size=256), str(workdir))
    return workdir


def started(name, path, devices=1, **changes):
    run = tiny.run(name, devices, init_from=str(path), **changes)
    given, origin = start.variables(str(path), start.shapes(run.method, run.shapes))
    return run, run.init(given), origin


# Where the parameters of a method's EMA teacher lie in its state.
TEACHERS = {"simclr": [], "byol": [("target", "params")], "mocov2": [("key", "params")]}


@pytest.mark.parametrize("name", list(TEACHERS))
def test_the_backbone_and_its_teacher_are_those_of_the_run(rotation, name):
    wanted = weights.load(rotation)
    run, ts, origin = started(name, rotation)
    assert origin == f"{rotation} (rotation, update 5)"
    tiny.assert_same(jax.device_get(ts.params["backbone"]), wanted.params)
    tiny.assert_same(jax.device_get(ts.state["stats"]["backbone"]), wanted.stats)
    for path in TEACHERS[name]:
        found = functools.reduce(lambda tree, key: tree[key], path, ts.state)
        tiny.assert_same(jax.device_get(found["backbone"]), wanted.params)
    anew = run.init()
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (anew.params, ts.params)), strict=True))
    # Heads are as they would be without, and no two leaves share a buffer, which donation would refuse.
    tiny.assert_same(*(jax.device_get({k: v for k, v in x.params.items() if k != "backbone"}) for x in (anew, ts)))
    step, rows = mapped_step(run), loader.on_devices(run.train, run.mesh)
    for number in range(2):
        ts, metrics = step(ts, rows, batch_index(run, number))
    assert np.isfinite(metrics["loss"])


def test_on_several_devices_it_is_the_same(rotation):
    one, many = (started("byol", rotation, devices)[1] for devices in (1, 8))
    tiny.assert_same(jax.device_get(one), jax.device_get(many))
    sharded = started("byol", rotation, 8, **{"mesh.fsdp": 4})[1]
    tiny.assert_same(jax.device_get(one), jax.device_get(sharded))


def test_a_run_starts_from_an_exported_file_and_resumes_without_it(rotation, tmp_path, capsys):
    file = tmp_path / "backbone.npz"
    export.export(str(rotation), "npz", str(file))
    config = tiny.config("simclr", epochs=1, batch_size=256, init_from=str(file))
    with config.unlocked():
        config.run.update({"stop_epoch": 1, "save_epochs": 1.0})
        config.epochs = 2
    train.train(config, str(tmp_path / "run"))
    assert f"The backbone starts from the weights of {file} (rotation, update 5)" in capsys.readouterr().err
    file.unlink()
    config.run.stop_epoch = None
    train.train(config, str(tmp_path / "run"))
    assert list(Checkpoints(tmp_path / "run").steps())[-1] == 10
    fresh = tmp_path / "fresh"
    with pytest.raises(UserError, match="There is no backbone at"):
        train.train(config, str(fresh))
    shutil.rmtree(fresh, ignore_errors=True)


def test_another_network_is_refused_by_name(rotation):
    for changes, words in (
        ({"model.width": 8}, r"stage1/kernel \[3, 3, 1, 4\], wanted \[3, 3, 1, 8\].* of another shape"),
        ({"model.norm": "none"}, "left over"),
        ({"model.name": "resnet18"}, "missing there"),
    ):
        with pytest.raises(UserError, match="whose backbone is not the one of config.model.*" + words):
            started("simclr", rotation, **changes)


def test_a_backbone_is_loaded_without_a_word(rotation, caplog, capfd):
    weights.load(rotation)
    assert caplog.records == [] and capfd.readouterr() == ("", "")


def test_positions_of_another_grid_are_resized(tmp_path):
    """What the network makes of images of the run's size stays the same, and the start says what was done."""
    run = tiny.run("dinov2")
    module = run.method.backbone
    large = np.zeros((1, 64, 64, 3), np.float32)
    params = jax.jit(lambda x: module.init(jax.random.key(1), x, train=False))(large)["params"]
    backbone = weights.Backbone(Method(module), params, {}, View(size=64), {})
    weights.save(tmp_path / "large.npz", backbone)
    given, origin = start.variables(str(tmp_path / "large.npz"), start.shapes(run.method, run.shapes))
    assert origin.endswith("positions of 8x8 patches resized to 4x4)")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    apply = jax.jit(lambda params: module.apply({"params": params}, images, train=False))
    np.testing.assert_allclose(apply(given["params"]), apply(params), rtol=1e-5, atol=1e-5)
    assert jax.tree.map(np.shape, given["params"]) == jax.tree.map(np.shape, run.shapes.params["backbone"])
