"""The evaluation of a run from outside: what it prints, stores, keeps, and refuses."""

import dataclasses
import json
import shutil

import jax
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import data, evaluate, weights
from ssl_jax.augment import render
from ssl_jax.evals import cache, context, features, find, fine_tune, layers, linear, linear_lbfgs, pretext
from ssl_jax.evals import run as evaluation
from ssl_jax.metrics import few_label, label_curve, subset
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.fingerprint import fingerprint

pytestmark = pytest.mark.usefixtures("quick_compilation")


def store(run, ts, workdir):
    """A workdir as training leaves it."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(run.config.to_dict()))
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(int(ts.step), ts, run.config.to_dict())
    checkpoints.close()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    run = tiny.run("rotation", 8)
    ts, _ = tiny.steps("rotation", 4)
    store(run, ts, folder)
    return folder


@pytest.fixture
def copied(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "run")


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def only(monkeypatch, *names):
    """Makes these the evaluations that are measured unasked."""
    for name, module in find.evaluations().items():
        monkeypatch.setattr(module, "DEFAULT", name in names)


QUICK = ("health", "pretext", "knn", "linear_lbfgs", "layers", "few_shot", "retrieval", "cluster")


@pytest.fixture(scope="module")
def evaluated(workdir):
    assert evaluate.main([f"--workdir={workdir}", f"--evals={','.join(QUICK)}"]) == 0
    return results(workdir)


def test_names_of_the_results(evaluated):
    for suffix in ("", "_untrained", "_pixels"):
        for name in ("knn/top1", "few_shot/5way_1shot/prototypes", "few_shot/5way_5shot/logistic", "retrieval/map"):
            assert 0 < evaluated[f"{name}{suffix}"] < 1
        for name in ("retrieval/recall@1", "retrieval/precision@10", "cluster/accuracy", "cluster/nmi"):
            assert 0 < evaluated[f"{name}{suffix}"] < 1
        name = f"few_shot/5way_1shot/prototypes{suffix}"
        assert 0 < evaluated["measures"][name]["spread"] < 0.02 and evaluated["measures"][name]["chance"] == 0.2
    for suffix in ("", "_untrained"):
        assert evaluated[f"layers/3/top1{suffix}"] == evaluated[f"linear_lbfgs/top1{suffix}"]
        assert 0.1 < evaluated[f"layers/1/top1{suffix}"] < 1
        assert evaluated[f"pretext/rotation_top1{suffix}"] > 0
        for name in ("lidar", "alignment", "uniformity", "dead_units", "rank/1", "rank/3", "feature_std", "rankme"):
            assert np.isfinite(evaluated[f"health/{name}{suffix}"])
    assert evaluated["health/rank/3"] == evaluated["health/rankme"] == evaluated["rankme"]
    loss, top1 = (evaluated["measures"][f"pretext/{name}"] for name in ("loss", "rotation_top1"))
    assert loss["chance"] == pytest.approx(np.log(4)) and loss["kind"] == "loss"
    assert top1["chance"] == pytest.approx(1 / 4) and top1["kind"] == "share"
    assert {f"seconds/{name}" for name in (*QUICK, "extraction")} <= set(evaluated)
    assert evaluated["data"] == "digits" and evaluated["step"] == 4
    assert {"seed", "config", "versions", "device", "evaluation_seconds", "epoch"} <= set(evaluated)


def test_the_number_of_devices_does_not_matter(evaluated, copied, monkeypatch):
    shutil.rmtree(copied / "features")
    (copied / "results.json").unlink()
    right = prepare
    monkeypatch.setattr(evaluation, "prepare", lambda config: right(config, jax.devices()[:1]))
    # What the other protocols are given are these features, and nothing of the devices.
    other = evaluate.evaluate(str(copied), ("health", "pretext", "knn", "linear_lbfgs"))
    for name, value in other.items():
        if isinstance(value, float) and not name.startswith(("seconds", "evaluation_seconds")):
            # A prediction may hang on the last bit of a feature.
            assert value == pytest.approx(evaluated[name], rel=1e-3, abs=0.005), name


def test_a_second_look_adds_and_does_not_extract_again(evaluated, copied, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("extracted again")

    monkeypatch.setattr(context, "stage_extractor", lambda *args, **options: never)
    assert evaluate.main([f"--workdir={copied}", "--evals=label_curve"]) == 0
    stored = results(copied)
    assert stored["knn/top1"] == evaluated["knn/top1"]
    assert 0.1 < stored["label_curve/1/top1"] < stored["label_curve/100/top1"] <= 1
    assert stored["label_curve/100/top1_untrained"] and stored["label_curve/10/top1_pixels"]
    assert stored["label_curve/images"]["100"] == 1352


def test_features_are_extracted_where_something_reads_them(copied, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("extracted")

    monkeypatch.setattr(context, "stage_extractor", lambda *args, **options: never)
    (copied / "results.json").unlink(missing_ok=True)
    shutil.rmtree(copied / "features", ignore_errors=True)
    found = evaluate.evaluate(str(copied), ("pretext", "classifier"))
    assert found["pretext/loss"] > 0 and "rankme" not in found
    with pytest.raises(AssertionError, match="extracted"):
        evaluate.evaluate(str(copied), ("pretext", "knn"))


def test_numbers_of_images_are_stored_and_what_is_left_out_is_said(copied, monkeypatch, capsys):
    for module in (label_curve, few_label):
        monkeypatch.setattr(module, "MAX_IMAGES", 500)
    found = evaluate.evaluate(
        str(copied), ("label_curve", "few_label"), settings=evaluate.Settings(fields={"draws": "2"})
    )
    assert found["few_label/images"] == {"1": 10, "5": 50, "10": 100, "all": 500}
    assert found["label_curve/images"] == {"1": 10, "5": 70, "10": 137}  # rounded for each class
    assert "label_curve/10/top1" in found and "label_curve/50/top1" not in found
    told = capsys.readouterr().out
    assert told.count("label_curve: without 50 %, 100 %, which are more than 500 images") == 1
    assert "images |" not in told and "all (500 images)" in told


def test_a_newer_checkpoint_starts_anew(evaluated, copied):
    run = tiny.run("rotation", 8)
    ts, _ = tiny.steps("rotation", 6)
    store(run, ts, copied)
    assert evaluate.main([f"--workdir={copied}", "--evals=knn"]) == 0
    stored = results(copied)
    assert stored["step"] == 6 and "retrieval/map" not in stored
    assert json.loads((copied / "results-4-digits.json").read_text()) == evaluated
    names = [p.name for p in (copied / "features").iterdir()]
    assert sorted(n.rsplit("-", 1)[0] for n in names) == ["pretrained-6", "untrained-0"]
    found = evaluate.extract(run, jax.device_put(ts))
    with np.load(next((copied / "features").glob("pretrained-6-*"))) as kept:
        np.testing.assert_allclose(found.pretrained[1], kept["arr_5"], rtol=1e-4, atol=1e-6)


def test_another_data_set(evaluated, copied, tmp_path):
    """Colour pictures of another size, for a run of 8x8 gray ones; no label of 2 in test."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 20)):
        for label in range(3):
            folder = tmp_path / "images" / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 120, (14, 12, 3)) + 60 * label
                Image.fromarray(np.minimum(picture, 255).astype(np.uint8)).save(folder / f"{i}.png")
    arguments = [f"--workdir={copied}", "--evals=knn,retrieval,few_shot", f"--data=folder:{tmp_path / 'images'}"]
    assert evaluate.main(arguments) == 0
    stored = results(copied)
    assert stored["data"].startswith("folder:") and stored["knn/top1"] > 0.8
    assert "few_shot/3way_5shot/prototypes" in stored  # fewer classes than five
    assert json.loads((copied / "results-4-digits.json").read_text()) == evaluated
    assert evaluate.main([*arguments[:1], "--evals=cluster", *arguments[2:], "--classes=0,2"]) == 0
    stored = results(copied)
    assert stored["data"].endswith("classes 0,2") and stored["cluster/accuracy"] > 0.9


def test_a_backbone_in_a_file_is_worth_what_its_run_is(workdir, evaluated, tmp_path, capsys):
    """Same features, same numbers; a new network beside it, and a run's folder is left alone."""
    file = tmp_path / "backbone.npz"
    backbone = weights.load(workdir)
    weights.save(file, backbone)
    command = [f"--workdir={tmp_path / 'out'}", f"--backbone={file}"]
    assert evaluate.main([*command, "--data=digits", "--evals=knn,retrieval,health"]) == 0
    found = results(tmp_path / "out")
    for name in ("knn/top1", "knn/top1_pixels", "retrieval/map", "health/rankme"):
        np.testing.assert_allclose(found[name], evaluated[name], rtol=1e-5)
    assert 0 < found["knn/top1_untrained"] < 1
    # Another file's numbers are not mixed with these.
    other = dataclasses.replace(backbone, params=jax.tree.map(lambda x: 0.5 * x, backbone.params))
    weights.save(tmp_path / "other.npz", other)
    assert evaluate.main([command[0], f"--backbone={tmp_path / 'other.npz'}", "--data=digits", "--evals=knn"]) == 0
    assert "retrieval/map" not in results(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results-0-digits.json").read_text()) == found
    for arguments, words in (
        ([*command, "--evals=knn"], "--data"),
        ([*command, "--data=digits", "--evals=pretext"], "own task"),
        ([*command, "--data=photo_tiles", "--evals=knn"], "3 channel"),
        ([f"--workdir={workdir}", command[1], "--data=digits", "--evals=knn"], "own folder"),
        ([command[0], "--backbone=nothing.npz", "--data=digits"], "no backbone"),
    ):
        assert evaluate.main(arguments) == 2
        assert words in capsys.readouterr().err


@pytest.mark.fast
def test_images_are_copied_only_where_some_are_left_out():
    images, labels = np.zeros((6, 2, 2, 1), np.uint8), np.array([0, 1, 2, 0, 1, 2], np.int32)
    split = data.Dataset("some", images, labels, ("a", "b", "c"))
    found, _ = context.with_labels((split, split))
    assert found.images is images and found.labels.tolist() == labels.tolist()
    found, _ = context.with_labels((split, split), (2, 1))
    assert len(found.images) == 4 and found.labels.tolist() == [1, 0, 1, 0] and found.classes == ("c", "b")


def test_gray_and_colour_meet():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)

    def recoloured(images, channels):
        return context._recoloured(data.Dataset("some", images, np.zeros(3, np.int32), ()), channels).images

    gray = recoloured(images, 1)
    wanted = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])[..., None]
    assert np.abs(gray.astype(int) - wanted).max() <= 1  # Pillow rounds in fixed point
    np.testing.assert_array_equal(recoloured(gray, 3), np.repeat(gray, 3, axis=-1))
    assert recoloured(images, 3) is images


def test_fine_tuning_and_copied_stages_beside_a_supervised_run(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tune, "EPOCHS", {10: 1, 100: 1})
    ts, _ = tiny.steps("supervised", 4)
    store(tiny.run("supervised", 8), ts, tmp_path / "supervised")
    arguments = [
        f"--workdir={copied}",
        "--evals=knn,fine_tune",
        "--frozen=1,3",
        f"--supervised={tmp_path / 'supervised'}",
    ]
    assert evaluate.main(arguments) == 0
    stored = results(copied)
    names = ["10/top1", "100/top1", "10/top1_untrained", "100/top1_supervised", "frozen1/top1", "frozen3/top1"]
    for name in (*names, "tuned1/top1", "tuned3/top1"):
        assert 0 < stored[f"fine_tune/{name}"] <= 1
    # All three stages copied and tuned is fine-tuning.
    assert stored["fine_tune/tuned3/top1"] == stored["fine_tune/100/top1"]
    assert stored["knn/top1_supervised"] > 0.1


def test_garbage_test_labels_choose_nothing(workdir):
    """Whatever is chosen on the way (rates, penalties) is the same when the test labels are wrong."""
    run = tiny.run("rotation", **{"eval.linear_epochs": 2})
    ts, _ = tiny.steps("rotation", 4)
    train_split, test_split = context.with_labels(context.load_images(run))
    right = context.prepare(run, jax.device_put(ts), (train_split, test_split))
    labels = (right.features.labels[0], (right.features.labels[1] + 1) % 10)
    wrong = dataclasses.replace(right, features=dataclasses.replace(right.features, labels=labels))
    for probe in (linear, linear_lbfgs, layers):
        for result, other in zip(probe.measure(right), probe.measure(wrong), strict=True):
            if result.measure.endswith("/top1"):
                assert other.value < result.value
            else:
                assert result.detail and other.value == result.value, result.name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--evals=knn,lineer",), "Did you mean 'linear'"),
        (("--evals=knn", "--frozen=1"), "add fine_tune"),
        (("--evals=fine_tune", "--fine_tune_epochs=0"), "at least 1"),
        (("--evals=knn", "--data=digitz"), "Did you mean 'digits'"),
        (("--evals=knn", "--classes=3,10"), "0 to 9"),
        (("--evals=knn", "--supervised=nowhere"), "There is no run in nowhere"),
        (("--evals=knn", "--data=folder:nowhere"), "nowhere"),
        (("--evals=knn", "--config.eval.knn=3"), "Did you mean 'knn_k'"),
        (("--evals=knn", "--config.eval.knn_k=few"), "config.eval.knn_k is 'few': give it a number like"),
        (("--evals=knn", "--config.epochs=3"), "--config.epochs=3 means nothing to ssl_jax evaluate"),
    ],
)
def test_mistakes_are_explained(workdir, capsys, arguments, words):
    assert evaluate.main([f"--workdir={workdir}", *arguments]) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told


def test_settings_may_differ_from_those_of_the_run(copied):
    one = evaluate.evaluate(
        str(copied), ("knn",), settings=evaluate.Settings(fields={"knn_k": "1", "knn_temperature": "0.5"})
    )
    assert (one["config"]["eval"]["knn_k"], one["config"]["eval"]["knn_temperature"]) == (1, 0.5)
    run = prepare(evaluate.load_config(str(copied)))
    what = context.prepare(run, evaluate.restore(run, str(copied)), context.with_labels(context.load_images(run)))
    (bank, queries), labels = what.features.pretrained, what.features.labels
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    nearest = labels[0][np.argmax(queries @ bank.T, 1)]
    assert one["knn/top1"] == pytest.approx(np.mean(nearest == labels[1]), abs=0.005)


def test_what_takes_hours_on_much_data_is_asked_for(copied, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "LARGE", 100)
    only(monkeypatch, "knn", "linear_lbfgs", "layers")
    (copied / "results.json").unlink(missing_ok=True)
    found = evaluate.evaluate(str(copied))
    assert "knn/top1" in found and not any(name.startswith(("linear", "layers")) for name in found)
    assert "layers, linear_lbfgs would take hours on" in capsys.readouterr().out
    assert "layers/1/top1" in evaluate.evaluate(str(copied), ("layers",))


def test_of_much_data_the_earlier_stages_are_kept_of_the_images_that_health_uses(copied, monkeypatch):
    config = json.loads((copied / "config.json").read_text())
    config["run"]["eval_images"] = 50
    (copied / "config.json").write_text(json.dumps(config))
    shutil.rmtree(copied / "features", ignore_errors=True)
    whole = dict(evaluate.evaluate(str(copied), ("health",)))
    before = set((copied / "features").iterdir())
    monkeypatch.setattr(evaluation, "LARGE", 100)
    few = evaluate.evaluate(str(copied), ("health",))
    names = [name for name in whole if name.startswith("health/") or name == "rankme"]
    assert {"health/rank/1", "health/rank/1_untrained", "health/rank/3"} <= set(names)
    assert {n: few[n] for n in names} == pytest.approx({n: whole[n] for n in names})
    added = set((copied / "features").iterdir()) - before
    assert len(added) == 2
    for path in added:
        with np.load(path) as kept:
            assert [len(kept[f"arr_{i}"]) for i in range(6)] == [50, 50, 1352, 0, 0, 445]
    evaluate.evaluate(str(copied), ("layers",))  # which takes what is kept of all images


def test_too_many_pixels_are_no_representation(copied, monkeypatch, capsys):
    monkeypatch.setattr(context, "MOST_PIXELS", 1797 * 64 - 1)
    (copied / "results.json").unlink(missing_ok=True)
    found = evaluate.evaluate(str(copied), ("knn", "few_label"), settings=evaluate.Settings(fields={"draws": "1"}))
    assert "knn/top1" in found and "few_label/all/untrained" in found
    assert not any("pixels" in name or "pca" in name for name in found)
    assert capsys.readouterr().out.count("Raw pixels are not measured") == 1


def test_a_self_supervised_run_is_no_yardstick(workdir, capsys):
    assert evaluate.main([f"--workdir={workdir}", f"--supervised={workdir}", "--evals=knn"]) == 2
    assert "a run of rotation" in capsys.readouterr().err


def test_numbers_that_are_none(workdir):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([f"--workdir={workdir}", "--classes=cat"])
    assert stopped.value.code == 2


def test_health_needs_no_labels(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    changes = {"data.source": f"folder:{tmp_path / 'images'}", "data.holdout": 0.0, "batch_size": 8}
    run = tiny.run("rotation", **changes)
    store(run, run.init(), tmp_path / "run")
    assert evaluate.main([f"--workdir={tmp_path / 'run'}", "--evals=health"]) == 0
    assert "health/lidar" in results(tmp_path / "run")
    capsys.readouterr()
    assert evaluate.main([f"--workdir={tmp_path / 'run'}", "--evals=pretext"]) == 2
    assert "pretext needs test images" in capsys.readouterr().err
    assert evaluate.main([f"--workdir={tmp_path / 'run'}", "--evals=knn"]) == 2
    assert "needs labels and a test split" in capsys.readouterr().err


DEFAULT = [name for name, e in find.evaluations().items() if e.DEFAULT and not e.NEEDS - {"labels", "test images"}]


def pictures(root, counts):
    """A folder of random pictures of 8 x 8 pixels: so many in each folder below it."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / name / f"{i}.png")
    return f"--data=folder:{root}"


@pytest.mark.parametrize(
    ("counts", "measured", "words"),
    [
        ({"": 12}, "health pretext", "lacks labels: only health, pretext can be measured"),
        ({"a": 6, "b": 6}, " ".join(DEFAULT), "Measured on 2 held-out images"),
        ({"train/a": 1, "train/b": 1}, "health", "lacks test images: only health can be measured"),
        ({"train": 12, "test": 8}, "health pretext", "lacks labels: only health, pretext can be measured"),
    ],
)
def test_the_plain_command_measures_what_the_data_has(copied, tmp_path, monkeypatch, capsys, counts, measured, words):
    done = []
    monkeypatch.setattr(evaluation, "_measure", lambda name, what, results, workdir: done.append(name))
    assert evaluate.main([f"--workdir={copied}", pictures(tmp_path / "images", counts)]) == 0
    assert " ".join(done) == measured and words in capsys.readouterr().out


def test_what_cannot_apply_is_skipped_unless_it_is_named(copied, tmp_path, monkeypatch, capsys):
    """One training and one test image a class: nothing can be held out or retrieved."""
    data = pictures(tmp_path / "images", {f"{split}/{c}": 1 for split in ("train", "test") for c in "abc"})
    only(monkeypatch, "linear", "retrieval", "knn")
    assert evaluate.main([f"--workdir={copied}", data]) == 0
    told = capsys.readouterr().out
    assert "linear: skipped, The probe holds out training images" in told
    assert "retrieval: skipped, Retrieval needs a class of two labelled images" in told
    assert "knn/top1" in results(copied) and "retrieval/map" not in results(copied)
    assert evaluate.main([f"--workdir={copied}", data, "--evals=knn,retrieval"]) == 2
    assert "Retrieval needs a class of two" in capsys.readouterr().err


def test_streamed_images_without_a_test_split_have_the_features_of_resident_ones(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    found = {}
    for stream in ("never", "always"):
        options = {"data.source": f"folder:{tmp_path / 'images'}", "data.stream": stream, "data.size": 8}
        for name, value in (("affine", 0.0), ("jitter", 0.0), ("mean", (0.5,)), ("std", (0.25,))):
            options[f"method.view.{name}"] = value
        run = tiny.run("rotation", batch_size=4, **options)
        assert run.train.streamed == (stream == "always") and run.test.held_out
        what = context.prepare(run, run.init(), context.load_images(run), cache=cache.FeatureCache(tmp_path / stream))
        found[stream] = what.features
    assert [(x.shape, y.shape) for x, y in found["always"].stages["pretrained"]] == [
        ((11, d), (1, d)) for d in (4, 8, 16)
    ]
    for x, y in zip(found["always"].stages["pretrained"], found["never"].stages["pretrained"], strict=True):
        np.testing.assert_allclose(x[0], y[0], atol=0.02 * np.abs(y[0]).max())
    assert found["always"].pretrained[0].shape == (11, 16)


def test_pretext_is_the_loss_of_the_test_images():
    """Contrastive: the value depends on the batch, which is the training's; nothing of it on the devices."""
    run = tiny.run("simclr")
    ts = jax.device_get(tiny.fresh(run))
    images, labels = run.test.images[:40], run.test.labels[:40]
    found = []
    for devices in (1, 4):
        run = tiny.run("simclr", devices)
        measure = pretext.measurer(run.method, run.info, run.mesh, tiny.BATCH)
        found.append(measure(ts.params, ts.state, ts.step, images, labels))
        assert found[-1] == measure(ts.params, ts.state, ts.step, images, labels)  # always in the same views
    for name, metric in found[0].items():
        assert found[1][name].value == pytest.approx(metric.value, rel=1e-5)
    assert {name: metric.kind for name, metric in found[0].items()} == {
        "loss": "loss",
        "contrastive_top1": "share",
        "projection_std": "std",
    }
    chance = run.method.chance(run.info)
    assert found[0]["loss"].chance == pytest.approx(chance)
    assert 0.5 * chance < found[0]["loss"].value < 1.5 * chance


def test_pretext_with_labels_is_about_the_labels_of_the_run(capsys):
    made = tiny.run("supervised")
    network = context.Network(made, tiny.fresh(made))
    own = context.load_images(made)
    others = [
        context.with_labels(own, (3, 5, 7)),
        tuple(data.Dataset("others", d.images, 90 + d.labels, d.classes) for d in own),
    ]
    for images in others:
        assert pretext.measure(context.Context({"pretrained": network}, images, None)) == []
        assert "pretext: skipped, supervised answers with the labels of digits" in capsys.readouterr().out
    both = {"pretrained": network, "untrained": network}
    found = pretext.measure(context.Context(both, context.with_labels(own), None))
    assert "pretext/supervised_top1" in [r.name for r in found] and np.isfinite([r.value for r in found]).all()


@pytest.mark.parametrize("name", ["protonet", "triplet", "dann", "shuffle_and_learn"])
def test_pretext_draws_whole_batches_of_test_images(name):
    """Episodes, classes, domains and clips, as the sampler draws them of the test data; whatever the devices."""
    change = {"method.ways": 4} if name == "protonet" else {}
    run = tiny.run(name, **change)
    ts = jax.device_get(tiny.fresh(run))
    first = pretext.batch_measurer(run, run.test)(ts.params, ts.state, ts.step)
    many = tiny.run(name, 4, **change)
    found = pretext.batch_measurer(many, many.test)(ts.params, ts.state, ts.step)
    assert first == pretext.batch_measurer(run, run.test)(ts.params, ts.state, ts.step)  # always the same batches
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(
        {name: metric.value for name, metric in first.items()}, rel=1e-4, abs=1e-6
    )
    network = context.Network(run, tiny.fresh(run))
    both = {"pretrained": network, "untrained": network}
    results = pretext.measure(context.Context(both, context.load_images(run), None))
    assert {r.name: r.value for r in results if r.of == "pretrained"} == {
        f"pretext/{name}": metric.value for name, metric in first.items()
    }


def test_pretext_of_drawn_batches_is_the_mean_of_the_losses_of_the_test_data():
    """By hand: every micro-batch of an epoch of the test data, without the function that makes batches."""
    change = {"method.ways": 4, "method.queries": 2, "method.view.affine": 0.0, "method.view.jitter": 0.0}
    run = tiny.run("protonet", accumulate=2, batch_size=4, **change)
    ts = tiny.fresh(run)
    sampler = run.method.sampler(run.test, run.info)
    values = []
    for step in range(sampler.steps_per_epoch):
        for rows in sampler(run.config.seed, step)[""].reshape(2, 2, *sampler.parts[""][1:]):
            flat = run.test.images[rows.reshape(-1)]
            keys = jax.random.split(jax.random.key(0), len(flat))  # which a view without chance does not read
            view = render.render_batch(run.eval_view, keys, flat)
            batch = {"view": view.reshape(*rows.shape, *view.shape[1:])}
            options = {"rng": keys[0], "step": 0, "info": run.info, "train": False}
            values.append(run.method.loss(ts.params, ts.state, batch, **options)[0])
    found = pretext.batch_measurer(run, run.test)(ts.params, ts.state, ts.step)
    assert found["loss"].value == pytest.approx(np.mean(values), rel=1e-4)
    assert found["loss"].chance == pytest.approx(np.log(4))


def test_pretext_without_a_whole_batch_says_so():
    run = tiny.run("protonet", **{"method.ways": 4})
    few = run.test[run.test.labels < 3]
    with pytest.raises(UserError, match="The test images of digits make no batch of protonet: Episodes take"):
        pretext.batch_measurer(run, few)


def test_triplets_of_new_classes_are_measured():
    """The method tells classes apart, whatever their names; a classifier would answer with those it knows."""
    run = tiny.run("triplet")
    network = context.Network(run, tiny.fresh(run))
    others = context.with_labels(context.load_images(run), (3, 5, 7, 9))
    found = pretext.measure(context.Context({"pretrained": network, "untrained": network}, others, None))
    assert "pretext/loss" in [r.name for r in found]


@pytest.mark.fast
def test_pretext_batches():
    rows = pretext._blocks(44, 16)
    assert rows.shape == (2, 16) and len(np.unique(rows)) == 32
    assert pretext._blocks(10_000, 512).shape == (4, 512)
    assert sorted(np.unique(pretext._blocks(5, 16))) == list(range(5))


@pytest.mark.fast
def test_pretext_of_a_memory_bank_is_refused():
    run = tiny.run("npid")
    with pytest.raises(UserError, match="no meaning for test images"):
        pretext.measurer(run.method, run.info, run.mesh, 16)


def test_stages_end_with_the_features_and_draws_differ():
    run = tiny.run("rotation", 2)
    ts = tiny.fresh(run)
    images = run.train.images[:20]
    stages = features.stage_extractor(run.method, run.eval_view, run.mesh, 8)(ts.params, ts.state, images)
    assert [s.shape for s in stages] == [(20, 4), (20, 8), (20, 16)]
    view = run.method.view
    extract = features.extractor(run.method, view, run.mesh, 8)
    last = features.extractor(run.method, run.eval_view, run.mesh, 16)(ts.params, ts.state, images)
    np.testing.assert_allclose(stages[-1], last, rtol=1e-5, atol=1e-6)
    for most in (0, 3, 30):
        few = features.stage_extractor(run.method, run.eval_view, run.mesh, 8)(ts.params, ts.state, images, most=most)
        np.testing.assert_array_equal(few[-1], stages[-1])
        for some, whole in zip(few[:-1], stages[:-1], strict=True):
            np.testing.assert_array_equal(some, subset.evenly_spaced(whole, most))
    one, again, two = (extract(ts.params, ts.state, images, draw=d) for d in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert fingerprint(one) != fingerprint(two)
    assert extract(ts.params, ts.state, images[:0]).shape == (0, 16)
