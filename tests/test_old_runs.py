"""Runs of earlier versions: loaded, evaluated, exported and resumed.

tests/data/run_of_8e57e65.tar.gz was made by that commit, before recipes, `encode` and named random streams, with

    python -m ssl_jax.main --config=configs/simclr.py:digits --workdir=runs/old --config.epochs=4
      --config.run.stop_epoch=2 --config.batch_size=64 --config.model.width=4 --config.method.hidden="(16,)"
      --config.method.out=8 --config.data.per_class=32 --config.run.save_epochs=0 --config.run.keep=1
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

import ssl_jax
from ssl_jax import evaluate, export, recipes, train
from ssl_jax.workdir import config as stored_config

# What that commit logged after the run's last update.
LATER = {
    "loss": 5.904239,
    "grad_norm": 3.257526,
    "lr/default": 4.616864e-4,
    "probe_top1": 0.28125,
    "projection_std": 0.3450628,
    "knn/top1": 0.6898876,
}
RUN = pathlib.Path(__file__).with_name("data") / "run_of_8e57e65.tar.gz"


@pytest.fixture
def workdir(tmp_path):
    with tarfile.open(RUN) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def entries(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("preset", "field"),
    [("digits+vicreg", "std_coeff"), ("digits+simclr", "temperature"), ("cifar10_small+byol", "tau")],
)
def test_a_sequence_gets_no_field_of_another_learner(tmp_path, caplog, preset, field):
    config = recipes.get_config("sequence", preset)
    stored_config.store(str(tmp_path), config)
    assert stored_config.plain(stored_config.load(str(tmp_path))) == stored_config.plain(config)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert stored_config.check(str(tmp_path), config) is None  # it resumes
    assert "earlier version" not in caplog.text
    stored = json.loads((tmp_path / "config.json").read_text())
    value = stored["method"]["learner"].pop(field)
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert stored_config.load(str(tmp_path)).method.learner[field] == value
    assert f"config.method.learner.{field} = " in caplog.text


@pytest.mark.fast
def test_its_config_is_completed(workdir, caplog):
    config = stored_config.load(str(workdir))
    assert "is of an earlier version; new fields take their defaults: " in caplog.text
    assert "config.mesh = {'data': -1, 'fsdp': 1}" in caplog.text
    assert (config.method.hidden, config.method.temperature, config.epochs) == ([16], 0.2, 4)
    stored_config.check(str(workdir), config)


def test_it_is_evaluated_as_it_was(workdir):
    """The kNN accuracy that the run itself had logged last, on the same images."""
    (logged,) = [e["knn/top1"] for e in entries(workdir) if e["step"] == 10 and "knn/top1" in e]
    assert evaluate.main([f"--workdir={workdir}", "--evals=knn"]) == 0
    assert json.loads((workdir / "results.json").read_text())["knn/top1"] == pytest.approx(logged, abs=0.01)


def test_it_is_exported(workdir):
    assert export.main([f"--workdir={workdir}", "--format=npz"]) == 0
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    found, wanted = (ssl_jax.load_backbone(str(p))(images) for p in (workdir / "backbone.npz", workdir))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_it_is_resumed_as_the_earlier_version_went_on(workdir):
    """Same order of images, views and rates: the losses, accuracies and rates that 8e57e65 itself had in the end."""
    config = stored_config.load(str(workdir))
    config.run.stop_epoch = None
    train.train(config, str(workdir))
    found = {name: value for e in entries(workdir) if e["step"] == 20 for name, value in e.items()}
    for name, value in LATER.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
