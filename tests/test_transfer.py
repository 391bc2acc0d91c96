"""The transfer matrix: its tasks, its budget, and the files it writes."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import data, train
from ssl_jax.evals.context import Network
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError
from ssl_jax.transfer import Budget, Matrix, __main__, decoder, targets, transfer

pytestmark = pytest.mark.usefixtures("one_device")

BUDGET = Budget(images=16, test_images=8, updates=20, batch=8, width=8)


@pytest.fixture(scope="module")
def rooms():
    d = data.load("scenes:12", "train", size=32)
    return d[:16], d[16:]


def test_data_have_the_tasks_of_their_fields(rooms):
    found = targets.of(rooms, 0)
    own = {"class", "few_shot", "segmentation", "depth", "normals", "boundaries", "motion"}
    assert set(found) == own | {"autoencoding", "rotation", "colorization", "inpainting"}
    bare = tuple(dataclasses.replace(d, fields={}, labels=np.full(len(d), -1)) for d in rooms)
    assert set(targets.of(bare, 0)) == {"autoencoding", "rotation", "colorization", "inpainting"}
    for name, target in found.items():
        shape = target.truth[1].shape
        answer = jnp.zeros((*shape[: 3 if target.dense else 1], target.out))
        losses = target.loss(answer, target.truth[1])
        assert losses.shape == (len(rooms[1]) // (1 + target.pairs),) and np.isfinite(losses).all(), name
        alone = target.loss(answer[2:3], target.truth[1][2:3])
        np.testing.assert_allclose(losses[2], alone[0], rtol=1e-4, err_msg=name)  # an image's loss is its own


def test_what_the_backbone_sees_is_what_the_task_hides(rooms):
    x = rooms[0].images
    grey, hole = targets.seen(x, "grey"), targets.seen(x, "hole")
    assert (grey == grey[..., :1]).all() and (hole[:, 8:24, 8:24] == 128).all()
    np.testing.assert_array_equal(hole[:, :8], x[:, :8])
    turned = targets.seen(x[:2], "turned", np.array([0, 1]))
    np.testing.assert_array_equal(turned[0], x[0])
    np.testing.assert_array_equal(turned[1], np.rot90(x[1]))
    inside = targets.of(rooms, 0)["inpainting"].truth[0]
    assert np.isnan(inside[:, 0]).all() and not np.isnan(inside[:, 2:6, 2:6]).any()


def test_decoders_learn_and_do_not_see_other_images(rooms):
    run = tiny.run("rotation", **{"data.source": "photo_tiles", "model.name": "convnet", "model.width": 8})
    network = Network(run, run.init())
    few = {name: t for name, t in targets.of(rooms, 0).items() if name in ("segmentation", "motion", "class")}
    longer = dataclasses.replace(BUDGET, updates=150)
    short, long = (decoder.losses(network, (rooms[0], rooms[0]), {k: dataclasses.replace(t, truth=t.truth[:1] * 2)
                   for k, t in few.items()}, budget) for budget in (BUDGET, longer))  # fmt: skip
    for name in few:
        assert long[name].mean() < short[name].mean(), name
    permuted = rooms[1][np.arange(8)[::-1]]
    one = decoder.losses(network, rooms, {"class": few["class"]}, BUDGET)
    turned = dataclasses.replace(few["class"], truth=(rooms[0].labels, permuted.labels))
    other = decoder.losses(network, (rooms[0], permuted), {"class": turned}, BUDGET)
    np.testing.assert_allclose(one["class"], other["class"][::-1], rtol=1e-4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = []
    for name in ("a", "b"):
        config = get_config("rotation", "photo_tiles")
        config.update_from_flattened_dict({"epochs": 1, "batch_size": 64, "model.width": 8, "data.per_class": 64,
                                           "run.eval_epochs": 0.0})  # fmt: skip
        found.append(str(tmp_path_factory.mktemp("runs") / name))
        train.train(config, found[-1])
    return found


def test_the_command_writes_matrix_losses_and_page(runs, tmp_path, capsys):
    flags = ["--data=scenes:10", "--images=16", "--test_images=8", "--updates=5", "--targets=class,depth,motion"]
    assert __main__.main([str(tmp_path), *runs, *flags]) == 0
    found = json.loads((tmp_path / "transfer.json").read_text())
    assert found["rows"] == ["rotation (a)", "rotation (b)", "untrained"]
    assert set(found["targets"]) == {"class", "depth", "motion"} and found["budget"]["updates"] == 5
    depth = found["targets"]["depth"]
    np.testing.assert_allclose(sum(depth["affinity"]), 1)
    assert depth["gain"][2] == 0.5 and np.shape(depth["win_rate"]) == (3, 3)
    with np.load(tmp_path / "losses.npz") as losses:
        assert losses["motion"].shape == (3, 4) and losses["class"].shape == (3, 8)
    page = (tmp_path / "transfer.html").read_text()
    assert "rotation (b)" in page and "Affinity of each source" in page and "could not be drawn" not in page
    assert "untrained: class" in capsys.readouterr().out
    with pytest.raises(UserError, match="There is no target 'dept'"):
        transfer(str(tmp_path), runs[0], data="scenes:4", wanted=("dept",))
    with pytest.raises(UserError, match="Two runs would be called"):
        transfer(str(tmp_path), runs[0], runs[0])


def test_quality_is_beside_what_learnt_with_labels():
    losses = np.array([[1.0, 2, 3], [2, 1, 4], [3, 3, 3]])
    found = Matrix(("rotation", "supervised", "untrained"), {"depth": losses}).summary()["targets"]["depth"]
    np.testing.assert_allclose(found["quality"], [2 / 3, 0.5, 1 / 3])
    np.testing.assert_allclose(found["gain"], [5 / 6, 2 / 3, 0.5])
