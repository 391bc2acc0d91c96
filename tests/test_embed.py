"""Features of images in files, and the functions of the package."""

import csv

import numpy as np
from PIL import Image
import pytest
import tiny

import ssl_jax
from ssl_jax import __main__ as commands
from ssl_jax import embed, recipes, train
from ssl_jax.methods import build
from ssl_jax.recipes import base
from ssl_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny backbone of digits, 8 pixels in grey."""
    workdir = tmp_path_factory.mktemp("run")
    train.train(tiny.config("simclr"), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Photographs of several sizes in two classes and two splits, one of them damaged."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i, name in enumerate(("train/cat/a.png", "train/cat/b.jpg", "train/dog/c.png", "test/dog/d.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + i, 14, 3), np.uint8)).save(folder / name)
    (folder / "train/dog/broken.png").write_bytes(b"no image")
    return folder


def test_features_of_a_folder_have_the_names_of_its_files(backbone, images):
    found = ssl_jax.embed(str(backbone), str(images))
    assert found.names.tolist() == ["train/cat/a.png", "train/cat/b.jpg", "train/dog/c.png", "test/dog/d.png"]
    assert found.splits.tolist() == ["train"] * 3 + ["test"] and found.labels.tolist() == [0, 0, 1, 1]
    assert found.classes == ("cat", "dog") and found.skipped == ("train/dog/broken.png",)
    # The same as by hand: the centre square, at the side of the view, as luma.
    picture = Image.open(images / "train/dog/c.png")  # 14 x 11
    square = picture.resize((8, 8), Image.Resampling.BILINEAR, box=(1, 0, 12, 11))
    grey = np.round(np.asarray(square) @ [0.299, 0.587, 0.114]).astype(np.uint8)[None, ..., None]
    np.testing.assert_allclose(found.features[2], ssl_jax.load_backbone(str(backbone))(grey)[0], atol=0.02)


def test_features_of_the_runs_own_data_are_those_of_its_backbone(backbone):
    found = ssl_jax.embed(str(backbone))
    digits = tiny.config("simclr").data.source
    from ssl_jax import data

    splits = [data.load(digits, split) for split in data.splits(digits)]
    expected = ssl_jax.load_backbone(str(backbone))(np.concatenate([d.images for d in splits]))
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.concatenate([d.labels for d in splits]))
    assert found.names[1] == "000001"


def test_files(backbone, images, tmp_path, capsys):
    for ending in embed.FORMATS:
        out = tmp_path / f"features{ending}"
        assert commands.ANSWERS and embed.main([str(backbone), f"--images={images}", f"--out={out}"]) == 0
        printed = capsys.readouterr().out
        assert "Left out 1 images that cannot be read: train/dog/broken.png" in printed
        assert "4 images, " in printed and str(out) in printed
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert sorted(arrays) == ["classes", "features", "labels", "names", "splits"]
    with (tmp_path / "features.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["cat", "cat", "dog", "dog"]
    np.testing.assert_allclose([float(rows[1][f"f{i}"]) for i in range(4)], arrays["features"][1, :4], rtol=1e-6)
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = parquet.read_table(tmp_path / "features.parquet").to_pydict()
    assert table["name"] == arrays["names"].tolist()
    np.testing.assert_array_equal(np.array(table["features"], np.float32), arrays["features"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out=features.txt"], "ends in none of .npz, .csv, .parquet"),
        (["--images=nowhere", "--out=f.npz"], "There is no data source 'nowhere'"),
    ],
)
def test_mistakes(backbone, arguments, words, capsys):
    assert embed.main([str(backbone), *arguments]) == 2
    assert words in capsys.readouterr().err


# --- the functions of the package


def test_functions_of_the_package(tmp_path):
    changes = {"epochs": 1, "batch_size": 256, "model.width": 4, "run.eval_epochs": 0.0}
    workdir = str(tmp_path / "run")
    ssl_jax.train("simclr:digits", workdir, changes)
    results = ssl_jax.evaluate(workdir, ["knn"])
    assert 0 < results["knn/top1"] <= 1
    assert ssl_jax.export(workdir, "npz").exists()
    assert ssl_jax.compare(workdir) == tmp_path / "run" / "report.html"
    assert repr(ssl_jax.load_backbone(workdir)) == "Backbone(simclr: ConvNet, 8 pixels of 1 channel(s))"
    assert repr(ssl_jax.embed(workdir)).startswith("Embedding(1797 images")


@pytest.mark.fast
def test_lists():
    assert ssl_jax.list_methods() == build.names()
    assert ssl_jax.list_methods("masked") == ["capi", "ijepa", "mae"]
    with pytest.raises(UserError, match="Did you mean 'pretext'"):
        ssl_jax.list_methods("pretexts")
    assert set(ssl_jax.__all__) <= set(dir(ssl_jax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ssl_jax.nothing


@pytest.mark.fast
def test_changes_of_a_config():
    config = recipes.get_config("simclr", "digits")
    changed = base.changed(config, {"epochs": 3, "data.source": "photo_tiles"})
    assert (changed.epochs, changed.data.source, config.epochs) == (3, "photo_tiles", 100)
    for wrong in ("epoch", "data.sise", "seed.x", "nothing.at.all"):
        with pytest.raises(UserError, match=f"There is no field config.{wrong}"):
            base.changed(config, {wrong: 3})
    with pytest.raises(UserError, match=r"config\.epochs cannot be 'many'"):
        base.changed(config, {"epochs": "many"})


def test_a_backbone_takes_paths_and_pictures(backbone, images):
    network = ssl_jax.load_backbone(str(backbone))
    paths = [images / name for name in ("train/cat/a.png", "train/cat/b.jpg", "test/dog/d.png")]
    wanted = ssl_jax.embed(str(backbone), str(images)).features[[0, 1, 3]]
    np.testing.assert_allclose(network(paths), wanted, atol=1e-5)
    np.testing.assert_allclose(network(str(paths[0])), wanted[:1], atol=1e-5)
    pictures = [Image.open(path) for path in paths]
    np.testing.assert_allclose(network(pictures), wanted, atol=1e-5)
    np.testing.assert_allclose(network([paths[0], pictures[1]]), wanted[:2], atol=1e-5)
    deep = Image.fromarray(np.asarray(pictures[0].convert("L")).astype(np.uint16) * 257)
    grey = pictures[0].convert("L")
    np.testing.assert_allclose(network(deep), network(grey), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": 1}, "Images are of type dict: give an array"),
        (None, "type NoneType"),
        (["nowhere.png"], "nowhere.png cannot be read"),
        ("broken", "broken.png cannot be read"),
        (["broken", np.zeros((8, 8, 1))], "beside paths or Pillow images|cannot be read"),
        ([np.zeros((8, 8, 1)), np.zeros((9, 8, 1))], r"must be \[N, H, W, C\]"),
        (np.zeros((1, 8, 8, 5), np.uint8), r"5 channel\(s\) where this backbone wants 1"),
        (np.zeros((1, 8, 8, 1), np.int64), "type int64"),
        (np.array(["a.png"]), "give an array"),
    ],
)
def test_what_a_backbone_does_not_take_is_said(backbone, images, given, words):
    broken = str(images / "train/dog/broken.png")
    given = [broken if isinstance(x, str) and x == "broken" else x for x in given] if isinstance(given, list) else given
    given = broken if isinstance(given, str) else given
    with pytest.raises(UserError, match=words):
        ssl_jax.load_backbone(str(backbone))(given)
