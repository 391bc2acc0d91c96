"""The contract of a backbone, by one that the package does not know."""

import json
import pathlib
import shutil
import sys

from ml_collections import ConfigDict
import numpy as np
import pytest
import tiny

from ssl_jax import evaluate, export, models, train, weights
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def own_backbone(tmp_path, monkeypatch):
    """A module outside the package that defines a backbone, by its dotted path."""
    folder = tmp_path / "my_project"
    folder.mkdir()
    shutil.copy(pathlib.Path(__file__).parent / "own_backbone.py", folder / "network.py")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_project.network"
    for name in ("my_project", "my_project.network"):
        sys.modules.pop(name, None)


def test_a_backbone_of_ones_own_is_trained_evaluated_exported_and_read_back(own_backbone, tmp_path, capsys):
    """One file, found by its path; nothing else knows it."""
    config = tiny.config("simclr", **{"model.name": own_backbone})
    config.epochs, config.data.per_class = 1, 20
    workdir = tmp_path / "run"
    train.train(config, str(workdir))
    assert evaluate.main([f"--workdir={workdir}", "--evals=knn,few_label"]) == 0
    assert json.loads((workdir / "results.json").read_text())["knn/top1"] > 0
    assert export.main([f"--workdir={workdir}", "--format=npz"]) == 0
    trained, read = weights.load(workdir), weights.load(workdir / "backbone.npz")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    assert type(read.module).__name__ == "OwnBackbone" and read.module.width == 4 and read.channels == 1
    assert trained(images).std() > 0
    np.testing.assert_array_equal(read(images), trained(images))
    assert read(images, stage=1).shape == (3, 4)
    assert (
        evaluate.main(
            [f"--workdir={tmp_path / 'file'}", f"--backbone={workdir / 'backbone.npz'}", "--data=digits", "--evals=knn"]
        )
        == 0
    )
    capsys.readouterr()
    for layout, words in (("timm", "no namesake"), ("onnx", "no ONNX graph")):
        assert export.main([f"--workdir={workdir}", f"--format={layout}"]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "words"),
    [("my_project.netwrk", "no module my_project.netwrk"), ("json.decoder", "no subclass of ssl_jax's Backbone")],
)
def test_a_module_without_a_backbone_is_named(own_backbone, name, words):
    with pytest.raises(UserError, match=f"config.model.name is '{name}'.*{words}"):
        models.from_config(ConfigDict({"name": name}))
