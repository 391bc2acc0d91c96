"""The hold-out: one rule for training, monitor, evaluation and report where a source has no test images."""

import collections
import json
import types

import jax
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import data, evaluate, recipes, report, train
from ssl_jax.data import train_test
from ssl_jax.evals import context
from ssl_jax.metrics.linear import held_out_part
from ssl_jax.metrics.subset import stratified
from ssl_jax.monitor import Monitor
from ssl_jax.report import neighbours
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def write(root, counts, seed=0):
    """A folder of pictures of 8 x 8 pixels: so many in each folder below it, each class of its own brightness."""
    rng = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(60 * number, 60 * number + 60, (8, 8), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root


def config(root, method="rotation", **changes):
    options = {"data.source": f"folder:{root}", "data.size": 8, "batch_size": 8, "run.eval_epochs": 1.0}
    # What grey images of any size can have.
    views = {"brightness": 0.0, "contrast": 0.0, "jitter": 0.0, "affine": 0.0, "mean": (0.5,), "std": (0.25,)}
    return tiny.config(method, **options, **{f"method.view.{name}": value for name, value in views.items()}, **changes)


def one_device(c):
    return prepare(c, jax.devices()[:1])


def pixels(d):
    """The images of a data set as a multiset."""
    return collections.Counter(image.tobytes() for image in d.images)


@pytest.mark.fast
def test_the_rule_is_a_share_of_each_class_and_of_the_images_without_one():
    labels = np.repeat([-1, 0, 1, 2, 3, 4], [30, 20, 10, 4, 2, 1])
    mask = stratified(labels, 0.1, seed=0)
    assert [int(mask[labels == c].sum()) for c in range(-1, 5)] == [
        3,
        2,
        1,
        1,
        1,
        0,
    ]  # at least one, never the only one
    assert (mask == stratified(labels, 0.1, seed=0)).all() and (mask != stratified(labels, 0.1, seed=1)).any()
    assert stratified(labels, 0.5, seed=0).sum() == 15 + 10 + 5 + 2 + 1
    np.testing.assert_array_equal(held_out_part(labels, seed=3), stratified(labels, 0.1, seed=3))


@pytest.mark.fast
def test_what_is_not_held_out():
    """Videos and sources that are measured on new classes; images of which each is the only one of its class."""
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 0, 1, 1], np.int32)
    plain = data.Dataset("x", images, labels, ("a", "b"))
    assert [len(part) for part in train_test.hold_out(plain, 0.1, 0)] == [2, 2]
    assert train_test.hold_out(plain, 0.0, 0) == (plain, None)
    clips = data.Dataset("x", images, labels, ("a", "b"), {"clip": labels})
    new = data.Dataset("x", images, labels, ("a", "b"), card=data.Card(new_classes=True))
    single = data.Dataset("x", images[:2], labels[1:3], ("a", "b"))
    assert [train_test.hold_out(d, 0.5, 0)[1] for d in (clips, new, single)] == [None] * 3


@pytest.mark.fast
def test_a_split_of_its_own_is_left_alone(tmp_path):
    root = write(tmp_path / "images", {"train/a": 10, "train/b": 10, "test/a": 3, "test/b": 3})
    run = one_device(config(root))
    assert (len(run.train), len(run.test), run.test.held_out) == (20, 6, False)


@pytest.mark.fast
def test_training_images_and_held_out_images_are_all_and_share_none(tmp_path):
    """In memory as from a stream, whatever the run's own seed; the first images of a class count after the hold-out."""
    root = write(tmp_path / "images", {"a": 20, "b": 30, "": 10})
    whole = data.load(f"folder:{root}", "train")
    runs = {
        how: one_device(config(root, seed=seed, **{"data.stream": how})) for seed, how in enumerate(("never", "always"))
    }
    kept = runs["never"]
    assert pixels(kept.train) + pixels(kept.test) == pixels(whole) and not pixels(kept.train) & pixels(kept.test)
    assert np.bincount(kept.test.labels + 1).tolist() == [1, 2, 3] and kept.test.held_out
    for part in ("train", "test"):
        held, streamed = getattr(kept, part), getattr(runs["always"], part)
        np.testing.assert_array_equal(streamed.images.pictures(8)[..., :1], held.images)
        np.testing.assert_array_equal(streamed.labels, held.labels)
    few = one_device(config(root, **{"data.per_class": 4}))
    assert len(few.train) == 8 and pixels(few.test) == pixels(kept.test)
    other = one_device(config(root, **{"data.holdout_seed": 1}))
    assert pixels(other.test) != pixels(kept.test) and other.images["content"] != kept.images["content"]
    half = one_device(config(root, **{"data.holdout": 0.5}))
    assert np.bincount(half.test.labels + 1).tolist() == [5, 10, 15]


def test_monitor_evaluation_and_report_measure_on_the_same_images(tmp_path):
    run = one_device(config(write(tmp_path / "images", {"a": 20, "b": 30})))
    ts, monitor = run.init(), Monitor(run)
    evaluated = context.load_images(run)
    network = types.SimpleNamespace(run=run, extract=lambda images: images.reshape(len(images), -1))
    drawn = neighbours.sample(network)
    for seen in (monitor._queries[0], evaluated[1].images, drawn.images):
        np.testing.assert_array_equal(seen, run.test.images)
    for seen in (monitor._bank[0], evaluated[0].images, drawn.bank_images):
        np.testing.assert_array_equal(seen, run.train.images)
    assert "5 held-out images, compared with 45 training images" in drawn.text
    log = types.SimpleNamespace(write=lambda *a, **k: None, say=lambda text: None)
    assert "knn/top1" in monitor(ts, 0, log)


def test_all_say_what_they_measure_on(tmp_path, capfd):
    """A folder of classes without test images, from training to the report, and once more."""
    root, workdir = write(tmp_path / "images", {"cat": 20, "dog": 30}), str(tmp_path / "run")
    c = config(root, epochs=1)
    train.train(c, workdir)
    told = capfd.readouterr().err
    assert "45 training images of 2 classes (cat, dog), 5 held-out images (10 % of each class" in told
    assert "kNN" in told
    assert evaluate.main([workdir, "--evals=knn,few_label"]) == 0
    assert f"Measured on 5 held-out images of folder:{root}, which comes without test images." in capfd.readouterr().out
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["measured_on"] == f"5 held-out images of folder:{root}" and "knn/top1" in stored
    page = report.report(workdir).read_text()
    assert "seed 0. Measured on 5 held-out images of folder:" in page  # the head of the page
    assert "5 held-out images, compared with 45 training images" in page  # neighbours and confusions
    train.train(c, workdir)
    assert "Finished already" in capfd.readouterr().err
    for changes in ({"data.holdout": 0.2}, {"data.holdout_seed": 1}):
        with pytest.raises(UserError, match=r"another config \(data\.holdout"):
            train.train(config(root, epochs=1, **changes), workdir)


def test_a_run_of_an_earlier_version_held_nothing_out(tmp_path, capfd):
    """It goes on with all of its images and is evaluated as it was; as another data set its folder is held out."""
    root, folder = write(tmp_path / "images", {"a": 12, "b": 12}), tmp_path / "run"
    c = config(root, epochs=2, **{"data.holdout": 0.0, "run.save_epochs": 1.0, "run.stop_epoch": 1})
    train.train(c, str(folder))
    for file in (folder / "config.json", *(folder / "checkpoints").glob("*/config/metadata")):
        stored = json.loads(file.read_text())
        for name in ("holdout", "holdout_seed"):
            del stored["data"][name]
        file.write_text(json.dumps(stored))
    old = evaluate.load_config(str(folder))
    assert old.data.holdout == 0
    old.run.stop_epoch = None
    train.train(old, str(folder))
    told = capfd.readouterr().err
    assert "24 training images of 2 classes (a, b), no test images" in told and "Resuming after update 3" in told
    assert evaluate.main([str(folder)]) == 0
    assert "lacks test images: only health can be measured" in capfd.readouterr().out
    assert "no test" not in report.report(str(folder)).read_text()
    assert evaluate.main([str(folder), f"--data=folder:{root}", "--evals=knn"]) == 0
    assert "Measured on 2 held-out images" in capfd.readouterr().out


@pytest.mark.fast
@pytest.mark.parametrize("count", [9, 64, 72, 300])
def test_the_preset_for_a_folder_counts_what_is_trained_on(tmp_path, count):
    root = write(tmp_path / "images", {"": count})
    c = recipes.get_config("simclr", f"folder:{root}")
    train_images, test = train_test.load(c.data)
    assert len(train_images) + len(test) == count
    assert c.batch_size <= len(train_images) < 2 * c.batch_size or c.batch_size == 256


@pytest.mark.fast
@pytest.mark.parametrize(("share", "words"), [(1.0, "below 1"), (-0.1, "at least 0")])
def test_a_share_that_cannot_be_is_refused(tmp_path, share, words):
    with pytest.raises(UserError, match=rf"data\.holdout is .*: it must be {words}"):
        one_device(config(write(tmp_path / "images", {"a": 8}), **{"data.holdout": share}))
