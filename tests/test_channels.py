"""Images of other channels than colours have, from a folder to an exported backbone."""

import logging

import numpy as np
import pytest
from test_data import cache  # noqa: F401
from test_pixels import npy, tiff

import ssl_jax
from ssl_jax import channels, data, export, models, recipes, train, weights
from ssl_jax.evals import run as evaluation
from ssl_jax.methods import build
from ssl_jax.recipes import base
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import config as stored_config

pytestmark = pytest.mark.usefixtures("cache")
CHANNELS = (4, 0, 1, 2, 5)  # of six
SMALL = {"model.width": 4, "epochs": 1, "data.size": 32, "run.eval_epochs": 0.0, "run.log_steps": 1}


def bands(number: int) -> np.ndarray:
    """Six channels of one image, as a satellite has them: of several ranges, the fifth tells the classes apart."""
    rng = np.random.default_rng(number)
    a = rng.random((36 + number % 3, 34, 6)) * [900, 900, 900, 4000, 100, 200]
    a[..., 4] += 900 * (number % 2)
    return a.astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("bands")
    for number in range(24):
        place = where / ("train" if number < 16 else "test") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}.npy").write_bytes(npy(bands(number)))
    return where


def config(folder, method="simclr", stream="never", **changes):
    c = recipes.get_config(method, f"folder:{folder}")
    views = {f"method.{name}.size": 32 for name in c.method if hasattr(c.method[name], "crop")}
    return base.changed(c, {**SMALL, **views, "data.channels": CHANNELS, "data.stream": stream, **changes})


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """Of streamed images; those in memory are the same, as a test says."""
    workdir = tmp_path_factory.mktemp("run")
    train.train(config(folder, stream="always", batch_size=8), str(workdir))
    return workdir


def test_a_run_says_what_it_does_with_them(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        c = channels.completed(config(folder))
    assert c.method.view1.mean == c.method.view2.mean and len(c.method.view1.std) == 5
    assert c.method.view1.saturation == c.method.view1.gray == 0 and c.method.view1.jitter == 0.8
    assert "config.method.view1, config.method.view2: mean (" in caplog.text
    assert "images of 5 channels have no colours to change: set to 0 are config.method.view1: saturation" in caplog.text
    every = np.concatenate([data.load(f"folder:{folder}", "train", size=32, channels=CHANNELS).images.reshape(-1, 5)])
    np.testing.assert_allclose(c.method.view1.mean, every.mean(0) / 255, atol=1e-3)
    np.testing.assert_allclose(c.method.view1.std, every.std(0) / 255, atol=1e-3)
    again = channels.completed(c)
    assert again.to_dict() == c.to_dict()


def test_what_a_config_says_stays(folder):
    own = {"method.view1.mean": (0.5,), "method.view1.std": (0.1, 0.2, 0.3, 0.4, 0.5)}
    c = channels.completed(config(folder, **own))
    assert c.method.view1.mean == (0.5,) and c.method.view1.std == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert len(c.method.view2.mean) == 5
    plain = config(folder, **{"data.channels": None})
    assert channels.completed(plain) is plain


def test_from_a_folder_to_an_exported_backbone(run, folder, tmp_path, capsys):
    """Trained, resumed, evaluated, embedded, exported in every format, and brought in again under other names."""
    stored = stored_config.load(str(run))
    assert tuple(map(tuple, stored.data.range)) == ((0.0,) * 5, (1023.0,) * 4 + (255.0,))
    train.train(config(folder, stream=stored.data.stream, batch_size=8), str(run))  # it is the same config

    found = evaluation.evaluate(str(run), ["knn", "health"])
    assert 0 <= found["knn/top1"] <= 1

    backbone = ssl_jax.load_backbone(str(run))
    assert backbone.takes == 5 and backbone.reading.channels == CHANNELS
    embedded = ssl_jax.embed(str(run), str(folder))
    assert len(embedded) == 24
    paths = [folder / name for name in embedded.names[:3]]
    np.testing.assert_allclose(backbone(paths), embedded.features[:3], atol=1e-4)

    endings = {"npz": "npz", "safetensors": "safetensors", "torchvision": "safetensors", "onnx": "onnx"}
    for layout, ending in endings.items():
        path = export.export(str(run), layout, str(tmp_path / f"{layout}.{ending}"))
        if layout != "onnx":
            np.testing.assert_allclose(weights.load(path)(paths), embedded.features[:3], rtol=1e-3, atol=1e-3)
    view = {"mean": tuple(backbone.view.mean), "std": tuple(backbone.view.std), "size": 32, "centre": 1.0}
    brought, _ = export.bring_in(str(tmp_path / "torchvision.safetensors"), "resnet18", str(tmp_path / "in.npz"), view)
    other = weights.load(brought)
    assert other.takes == 5 and other.reading.channels == (0, 1, 2, 3, 4)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 5), np.uint8)
    wanted = weights.load(tmp_path / "npz.npz")(images)
    np.testing.assert_allclose(other(images), wanted, rtol=1e-2, atol=1e-2 * np.abs(wanted).max())
    with pytest.raises(UserError, match=r"Images have 3 channel\(s\) where this backbone wants 5"):
        other(images[..., :3])


def test_a_file_is_evaluated_on_them(run, folder, tmp_path):
    path = export.export(str(run), "npz", str(tmp_path / "b.npz"))
    on = evaluation.On(backbone=str(path), source=f"folder:{folder}")
    assert 0 <= evaluation.evaluate(str(tmp_path / "results"), ["knn"], on)["knn/top1"] <= 1


def test_resident_and_streamed_images_are_the_same(folder):
    options = {"size": 32, "channels": CHANNELS}
    resident = data.load(f"folder:{folder}", "train", **options)
    streamed = data.load(f"folder:{folder}", "train", stream=True, **options)
    assert resident.image_shape == streamed.image_shape == (32, 32, 5) and resident.span == streamed.span
    np.testing.assert_array_equal(resident.images, streamed.images.pictures(32))


def test_tiff_is_what_an_array_is(tmp_path):
    pytest.importorskip("tifffile", reason="the channels of TIFF files are read by tifffile")
    for kind, encode in {"npy": npy, "tif": tiff}.items():
        for number in range(4):
            place = tmp_path / kind / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.{kind}").write_bytes(encode(bands(number)))
    found = [
        data.load(f"folder:{tmp_path / kind}", "train", size=32, channels=CHANNELS, stream=stream)
        for kind in ("npy", "tif")
        for stream in (False, True)
    ]
    images = [d.images.pictures(32) if d.streamed else d.images for d in found]
    for other in images[1:]:
        np.testing.assert_array_equal(images[0], other)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("simclr", ""),
        ("swav", ""),
        ("mae", ""),
        ("cpc", ""),
        ("exemplar", ""),
        ("multitask", ""),
        ("colorization", "predicts colours"),
        ("context_encoder", "fill has 3 values, but the images 5"),
    ],
)
def test_methods_take_them_or_say_why_not(folder, method, words):
    c = channels.completed(recipe(folder, method))
    made = build.method(c.method, models.from_config(c.model))
    if not words:
        made.check(96, 96, 5)
        return
    with pytest.raises(UserError, match=words):
        made.check(96, 96, 5)


def recipe(folder, method):
    return base.changed(recipes.get_config(method, f"folder:{folder}"), {"data.channels": CHANNELS})
