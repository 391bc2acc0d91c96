"""What a run is resumed with: the images and the config that it began with, or a sentence that names both."""

import dataclasses
import json
import pathlib
import shutil
import tarfile

import jax
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import data, evaluate, loop, run, train
from ssl_jax.data import record
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import config as stored_config
from ssl_jax.workdir import images as stored_images

pytestmark = pytest.mark.usefixtures("one_device", "quick_compilation")
OLD = pathlib.Path(__file__).with_name("data") / "run_of_8e57e65.tar.gz"


def paint(root, names, side=8, seed=0):
    draw = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).save(root / name, "PNG", compress_level=0)


NAMES = [f"train/{c}/{i}.png" for c in "ab" for i in range(16)] + [f"test/{c}/0.png" for c in "ab"]


def config(**changes):
    """Two updates an epoch; the images lie where the config says, below the working folder."""
    small = {"run.eval_epochs": 0.0, "run.save_epochs": 1.0, "run.log_steps": 1, "epochs": 2, "data.size": 8}
    views = {"method.view.mean": (0.5,) * 3, "method.view.std": (0.2,) * 3}
    return tiny.config("rotation", **{"data.source": "folder:images", **views, **small, **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two epochs, on 32 images, that was stopped after the first, and one that is finished."""
    folder = tmp_path_factory.mktemp("runs")
    paint(folder / "images", NAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.train(config(**{"run.stop_epoch": 1}), "stopped")
        shutil.copytree("stopped", "finished")
        train.train(config(), "finished")
    return folder


@pytest.fixture
def copy(runs, tmp_path, monkeypatch):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def no_compilation(monkeypatch):
    monkeypatch.setattr(loop, "mapped_step", None)
    monkeypatch.setattr(train.Checkpoints, "restore", None)


def grown(images):
    paint(images, ["train/a/more.png"], seed=1)


def shrunk(images):
    (images / "train/b/15.png").unlink()


def moved_to_another_class(images):
    (images / "train/b/0.png").rename(images / "train/a/b0.png")


def with_another_class(images):
    paint(images, ["train/c/0.png"])


def renamed(images):
    (images / "train/a/0.png").rename(images / "train/a/zero.png")


def of_other_sizes(images):
    paint(images, ["train/a/0.png"], side=9)


def without_labels(images):
    for image in (images / "train").rglob("*.png"):
        image.rename(images / f"{image.parent.name}{image.name}")
    shutil.rmtree(images / "train")
    shutil.rmtree(images / "test")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grown, "training images: 32 then, 33 now"),
        (shrunk, "training images: 32 then, 31 now"),
        (moved_to_another_class, "other labels"),
        (with_another_class, "classes: 2 then, 3 now"),
        (renamed, "other content of the images"),
        (of_other_sizes, "other content of the images"),
        (without_labels, "classes: 2 then, 0 now"),
    ],
)
def test_other_images_are_refused_before_anything_compiles(copy, monkeypatch, change, words):
    change(copy / "images")
    no_compilation(monkeypatch)
    with pytest.raises(UserError, match="stopped holds a run on other images") as caught:
        train.train(config(), "stopped")
    assert words in str(caught.value) and "folder:images" in str(caught.value)
    with pytest.raises(UserError, match="holds a run on other images"):
        evaluate.evaluate("stopped", ["health"])


@pytest.mark.parametrize("lost", ["lost", "cut", "of something else"])
def test_each_checkpoint_remembers_the_images(copy, monkeypatch, lost):
    file = copy / "stopped" / "images.json"
    (file.unlink() if lost == "lost" else file.write_text("[1" if lost == "cut" else "null"))
    grown(copy / "images")
    no_compilation(monkeypatch)
    with pytest.raises(UserError, match="training images: 32 then, 33 now"):
        train.train(config(), "stopped")


def test_the_same_images_elsewhere_in_time_are_the_same(copy):
    """Copied anew, so that their times differ; the test images are free, since no weight depends on them."""
    paint(copy / "images", NAMES)
    paint(copy / "images", ["test/a/1.png"])
    train.train(config(), "stopped")
    lines = [json.loads(line)["step"] for line in (copy / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4]


@pytest.mark.fast
def test_a_run_that_never_made_an_update_may_begin_with_others(tmp_path, monkeypatch):
    stored_images.store(str(tmp_path), {"name": "digits", "images": 3})
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "epoch": 0.0}\n')
    stored_images.check(str(tmp_path), {"name": "digits", "images": 4}, 2)


@pytest.mark.fast
def test_images_of_a_stream_are_told_apart_by_name_and_size_without_reading_them(tmp_path, monkeypatch):
    paint(tmp_path / "images", NAMES)
    where = f"folder:{tmp_path}/images"
    resident, streamed = (record.record(data.load(where, "train", stream=stream)) for stream in (False, True))
    assert resident["content"] == streamed["content"] and resident["labels"] == streamed["labels"]
    again = data.load(where, "train", stream=True)
    renamed(tmp_path / "images")
    other = data.load(where, "train", stream=True)
    monkeypatch.setattr(pathlib.Path, "read_bytes", None)
    monkeypatch.setattr(pathlib.Path, "open", None)
    assert record.record(again) == streamed
    assert record.differences(streamed, record.record(other)) == ["other content of the images"]


@pytest.mark.fast
def test_images_in_memory_are_told_apart_by_their_pixels():
    digits = data.load("digits", "train")
    one = record.record(digits)
    assert one == record.record(data.load("digits", "train"))
    images = digits.images.copy()
    images[5, 2, 2] += 1
    other = record.record(dataclasses.replace(digits, images=images))
    assert record.differences(one, other) == ["other content of the images"]
    swapped = record.record(digits[np.r_[1, 0, 2 : len(digits)]])
    assert record.differences(one, swapped) == ["other labels", "other content of the images"]
    field = record.record(dataclasses.replace(digits, fields={"clip": digits.labels}))
    assert record.differences(one, field) == ["other fields beside the images"]


def test_a_run_of_the_first_version_is_known_by_the_length_of_its_epochs(tmp_path, caplog):
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    workdir = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"an epoch had 5 updates then and has 6 now, with 400 images of digits"):
        stored_images.check(workdir, {"name": "digits", "images": 400}, 6)
    stored_images.check(workdir, {"name": "digits", "images": 320}, 5)
    assert "does not say which images" in caplog.text


# --- the config


def test_a_lost_config_does_not_let_another_continue(copy, monkeypatch):
    no_compilation(monkeypatch)
    (copy / "stopped" / "config.json").unlink()
    with pytest.raises(UserError, match=r"another config .*learning_rate: 0\.\d+ there, 9.0 now"):
        train.train(config(**{"optim.default.learning_rate": 9.0, "seed": 3}), "stopped")


@pytest.mark.parametrize("content", ["", "{", "null", "{}", "[]", '{"a": 1}', '{"method": 3, "data": {}}'])
def test_a_damaged_config_is_set_aside_and_the_run_goes_on(copy, caplog, content):
    file = copy / "stopped" / "config.json"
    file.write_text(content)
    with pytest.raises(UserError, match="another config"):
        stored_config.check("stopped", config(seed=3))
    file.write_text(content)
    assert stored_config.load("stopped").seed == 0
    assert "lost or damaged" in caplog.text
    stored_config.check("stopped", config())
    assert (copy / "stopped" / "config.json.damaged").read_text() == content


def test_a_config_that_was_changed_by_hand_is_not_believed(copy):
    file = copy / "stopped" / "config.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"seed": 7}))
    with pytest.raises(UserError, match="seed: 0 there, 7 now"):
        stored_config.check("stopped", config(seed=7))


def test_without_a_run_a_damaged_config_is_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text("null")
    for read in (lambda: stored_config.load(str(tmp_path)), lambda: evaluate.evaluate(str(tmp_path))):
        with pytest.raises(UserError, match="There is no run in"):
            read()
    stored_config.check(str(tmp_path), config())


# --- more epochs


def test_a_finished_run_is_extended_and_says_what_becomes_of_the_schedule(copy, capsys):
    train.train(config(epochs=3), "finished")
    said = capsys.readouterr().err
    assert "The run had ended after 2 epochs and goes on to 3." in said and "after update 4 default" in said
    entries = [json.loads(line) for line in (copy / "finished" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    rates = [entry["lr/default"] for entry in entries]
    assert rates[4] > 0 and stored_config.load("finished").epochs == 3
    with pytest.raises(UserError, match="epochs: 3 there, 2 now"):
        train.train(config(), "finished")


def test_a_run_that_is_not_finished_keeps_its_epochs(copy):
    with pytest.raises(UserError, match="a run of 2 epochs that is not finished"):
        train.train(config(epochs=3), "stopped")
    assert stored_config.load("stopped").epochs == 2


@pytest.mark.fast
def test_processes_compare_images_labels_and_fields(monkeypatch):
    seen = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(run.processes, "all_have", lambda value: seen.append(value) or True)
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4, dtype=np.int32)
    one = data.Dataset("a", images, labels, ("a", "b", "c", "d"), {"mask": images[..., 0]})
    others = (
        dataclasses.replace(one, images=images + 1),
        dataclasses.replace(one, labels=labels[::-1].copy()),
        dataclasses.replace(one, fields={"mask": images[..., 0] + 1}),
        dataclasses.replace(one, fields={}),
    )
    for d in (one, one, *others):
        run._check_same(d)
    assert seen[0] == seen[1] and len(set(seen)) == 1 + len(others)
    monkeypatch.setattr(run.processes, "all_have", lambda value: False)
    with pytest.raises(UserError, match="do not see the same training images of a"):
        run._check_same(one)
