"""The image sources: layouts, file formats, damage, the cache, and the built-in data sets."""

import errno
import gc
import gzip
import hashlib
import io
import json
import logging
import os
import pathlib
import pickle
import sys
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest

from ssl_jax import data
from ssl_jax.data import cache as data_cache
from ssl_jax.data import decode, files, tars
from ssl_jax.data.sources import cifar10, fashion_mnist
from ssl_jax.runtime.errors import TryAgain, UserError

Layout = dict[str, bytes]


def png(value: int | tuple[int, ...] | np.ndarray, mode: str = "RGB", size=(8, 8), kind="png") -> bytes:
    """A file of one colour, or of the pixels given."""
    image = Image.fromarray(value) if isinstance(value, np.ndarray) else Image.new(mode, size, value)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def write(root: pathlib.Path, layout: Layout) -> str:
    for name, content in layout.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def pack(file: pathlib.Path, layout: Layout) -> str:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in layout.items():
                archive.writestr(name, content)
        return str(file)
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as tar:
        for name, content in layout.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(file)


def shade(dataset: data.Dataset) -> list[int]:
    """The first channel of each image's first pixel, which tells the files of a test apart."""
    return dataset.images[:, 0, 0, 0].tolist()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


pytestmark = pytest.mark.usefixtures("cache")

TWO_SPLITS: Layout = {
    "train/dog/b.png": png((40, 0, 0)),
    "train/dog/a.png": png((30, 0, 0)),
    "train/cat/deep/er/z.PNG": png((20, 0, 0)),
    "train/cat/c.png": png((10, 0, 0)),
    "train/cat/.hidden.png": b"",
    "train/.git/x.png": b"",
    "train/dog/notes.txt": b"not an image",
    "test/dog/t.png": png((50, 0, 0)),
}


# --- layouts


@pytest.mark.fast
@pytest.mark.parametrize(
    "kind", ["folder", ".tar", ".tar.gz", ".tgz", "wrapped.tar", "dotted.tar.gz", ".zip", "wrapped.zip"]
)
def test_layout_is_the_same_in_folders_and_archives(tmp_path, kind):
    if kind == "folder":
        where = write(tmp_path / "images", TWO_SPLITS)
    else:
        prefix = {"wrapped.tar": "images-1.0/", "wrapped.zip": "images 1/", "dotted.tar.gz": "./"}.get(kind, "")
        where = pack(tmp_path / f"images{kind}", {prefix + name: file for name, file in TWO_SPLITS.items()})
    train, test = (data.load("folder", split, path=where) for split in ("train", "test"))
    assert data.splits(f"folder:{where}") == ("train", "test")
    assert shade(train) == [10, 20, 30, 40]
    assert train.labels.tolist() == [0, 0, 1, 1] and train.labels.dtype == np.int32
    assert train.images.shape == (4, 8, 8, 3) and train.images.dtype == np.uint8
    assert shade(test) == [50] and test.labels.tolist() == [1]
    assert train.classes == test.classes == ("cat", "dog")
    assert train.name == f"folder:{where}"


@pytest.mark.fast
def test_without_splits_everything_is_training_data(tmp_path):
    where = write(tmp_path / "images", {"b/1.png": png((1, 0, 0)), "a/2.png": png((2, 0, 0))})
    train = data.load(f"folder:{where}", "train")
    assert data.splits(f"folder:{where}") == ("train",)
    assert shade(train) == [2, 1] and train.classes == ("a", "b")
    with pytest.raises(UserError, match=r"no test images.*test/"):
        data.load(f"folder:{where}", "test")


@pytest.mark.fast
def test_images_without_class_folders_have_no_label(tmp_path):
    where = pack(tmp_path / "images.tar", {f"n{i}_name.JPEG": png((i, i, 9), kind="jpeg") for i in (30, 10)})
    train = data.load(f"folder:{where}", "train")
    assert train.labels.tolist() == [-1, -1] and train.classes == ()
    assert train.images[0, 0, 0, 0] < train.images[1, 0, 0, 0]
    with pytest.raises(UserError, match="no classes"):
        data.load(f"folder:{where}", "train", per_class=1)


@pytest.mark.fast
def test_val_stands_in_for_test_only_where_there_is_no_test(tmp_path):
    layout = {"train/a/1.png": png((1, 0, 0)), "val/a/2.png": png((2, 0, 0))}
    where = write(tmp_path / "images", layout)
    assert shade(data.load(f"folder:{where}", "test")) == [2]
    write(tmp_path / "images", {"test/a/3.png": png((3, 0, 0))})
    assert shade(data.load(f"folder:{where}", "test")) == [3]


@pytest.mark.fast
def test_a_test_class_that_training_lacks_is_an_error(tmp_path):
    where = write(tmp_path / "images", TWO_SPLITS | {"test/emu/e.png": png((1, 1, 1))})
    assert data.load(f"folder:{where}", "train").classes == ("cat", "dog")
    with pytest.raises(UserError, match="'emu'"):
        data.load(f"folder:{where}", "test")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: str(root / "absent"), "no images at .*absent"),
        (lambda root: write(root / "empty", {"readme.txt": b"-"}), "no images in .*looked for .*jpg"),
        (lambda root: str(root / "only.rar"), "neither a folder nor"),
        (lambda root: str(root / "only.zip"), r"no readable \.zip file"),
        (lambda root: str(root / "junk.tar"), "not a readable tar"),
        (lambda root: str(root / "cut.tar.gz"), "damaged or incomplete"),
        (lambda root: "", "no place"),
    ],
)
def test_absent_empty_and_damaged_sources_are_named(tmp_path, make, message):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = pathlib.Path(pack(tmp_path / "cut.tar.gz", {f"{i}.png": png(noise) for i in range(4)}))
    whole.write_bytes(whole.read_bytes()[:-5000])
    write(tmp_path, {"only.rar": b"Rar!", "only.zip": b"PK", "junk.tar": b"junk" * 500})
    with pytest.raises(UserError, match=message):
        data.load(f"folder:{make(tmp_path)}", "train")


@pytest.mark.fast
def test_unknown_names_are_explained():
    with pytest.raises(UserError, match="Did you mean 'cifar10'"):
        data.load("cifar100", "train")
    with pytest.raises(UserError, match="'digits'"):
        data.splits("digit")
    with pytest.raises(UserError, match="no split 'validation'"):
        data.load("digits", "validation")
    with pytest.raises(UserError, match=r"data\.size is 0"):
        data.load("digits", "train", size=0)


# --- pixels


def decoded(tmp_path, *files: bytes, size=None) -> np.ndarray:
    where = write(tmp_path / "images", {f"{i}.png": file for i, file in enumerate(files)})
    return data.load(f"folder:{where}", "train", size=size).images


@pytest.mark.fast
def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).quantize(2)
    palette.info["transparency"] = bytes([0, 255])
    stream = io.BytesIO()
    palette.save(stream, "png")
    images = decoded(
        tmp_path,
        png((0, 255, 255, 0), "CMYK", kind="jpeg"),
        png((10, 200, 30, 5), "RGBA"),
        stream.getvalue(),
        png(np.full((8, 8), 257 * 200 + 120, np.uint16)),
        png(128, "L"),
        png(1, "1"),
    )
    expected = [(255, 0, 0), (10, 200, 30), (10, 200, 30), (200,) * 3, (128,) * 3, (255,) * 3]
    assert images.shape == (6, 8, 8, 3)
    # CMYK went through JPEG.
    np.testing.assert_allclose(images, np.broadcast_to(np.array(expected)[:, None, None], images.shape), atol=2)


@pytest.mark.fast
def test_grey_images_have_one_channel(tmp_path):
    images = decoded(tmp_path, png(128, "L"), png(1, "1"), png(np.full((8, 8), 257 * 200 + 120, np.uint16)))
    assert images.shape == (3, 8, 8, 1)
    assert images[:, 3, 3, 0].tolist() == [128, 255, 200]


@pytest.mark.fast
def test_exif_orientation_is_honoured(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", exif=exif)
    images = decoded(tmp_path, stream.getvalue())
    assert images.shape == (1, 8, 4, 3)
    assert images[0, :4].min() == 255 and images[0, 4:].max() == 0


@pytest.mark.fast
def test_size_resizes_the_short_side_and_crops_the_centre(tmp_path):
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 255
    images = decoded(tmp_path, png(pixels), png(pixels.transpose(1, 0, 2)), png(7, "L", (3, 3)), size=8)
    assert images.shape == (3, 8, 8, 3)
    # The white centre fills the crop; bicubic filtering darkens nothing but its rim.
    assert images[0, :, 2:6].min() == 255 and images[1, 2:6].min() == 255
    np.testing.assert_array_equal(images[0], images[1].transpose(1, 0, 2))
    assert np.all(images[2] == 7)


@pytest.mark.fast
def test_images_of_several_sizes_need_a_size(tmp_path):
    with pytest.raises(UserError, match=r"8x8.*9x5.*--config\.data\.size"):
        decoded(tmp_path, png((0, 0, 0)), png((0, 0, 0), size=(9, 5)))


@pytest.mark.fast
def test_unreadable_images_are_left_out_and_named_once(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    bad = {f"a/bad{i}.png": b"nothing" for i in range(5)} | {"b/cut.jpg": png(noise, kind="jpeg")[:900]}
    good = {"a/good.png": png((9, 0, 0), size=(32, 32)), "b/good.png": png((8, 0, 0), size=(32, 32))}
    where = write(tmp_path / "images", bad | good)
    for _ in ("decoded", "from the cache"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ssl_jax"):
            train = data.load(f"folder:{where}", "train")
        assert shade(train) == [9, 8] and train.labels.tolist() == [0, 1]
        (record,) = caplog.records
        assert "6 unreadable" in record.message and "a/bad4.png, ..." in record.message
        assert "cut" not in record.message
    with pytest.raises(UserError, match="None of the 6 images"):
        data.load(f"folder:{write(tmp_path / 'bad', bad)}", "train")


@pytest.mark.fast
def test_a_disk_that_is_away_is_no_damage(tmp_path, monkeypatch, cache):
    """A file is read again for a while; then the whole is an error, of which nothing is remembered."""
    where = write(tmp_path / "images", {f"a/{i}.png": png((i, 0, 0)) for i in range(3)})
    monkeypatch.setattr(files, "_PAUSES", (0.0, 0.0, 0.0))
    read, failures = pathlib.Path.read_bytes, []

    def away(path, times):
        if path.name == "1.png" and len(failures) < times:
            failures.append(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: away(path, 100))
    with pytest.raises(TryAgain, match=r"a/1\.png could not be read in 4 attempts \(OSError: .*Stale file handle\)"):
        data.load(f"folder:{where}", "train", cache=str(cache))
    assert len(failures) == 4 and not list(cache.glob("*.npz"))
    failures.clear()
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: away(path, 3))
    assert shade(data.load(f"folder:{where}", "train", cache=str(cache))) == [0, 1, 2]
    assert len(failures) == 3


@pytest.mark.fast
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_memory_is_checked_before_decoding_everything(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(decode.joblib, "cpu_count", lambda: 1)
    calls = []
    original = decode.decode
    monkeypatch.setattr(decode, "decode", lambda *args: calls.append(args) or original(*args))
    where = write(tmp_path / "images", {f"{i}.png": png(0, mode) for i in range(100)})
    need = 100 * 8 * 8 * len(mode) / 2**30
    with pytest.raises(UserError, match=r"GiB.*max_gib"):
        data.load(f"folder:{where}", "train", max_gib=need * 0.99)
    assert len(calls) < 50
    assert len(data.load(f"folder:{where}", "train", max_gib=need).images) == 100
    with pytest.raises(UserError, match=r"GiB.*max_gib"):  # from the cache
        data.load(f"folder:{where}", "train", max_gib=need * 0.99)


@pytest.mark.fast
def test_a_late_colour_image_is_counted_with_its_channels(tmp_path):
    where = write(tmp_path / "images", {"0.png": png(3, "L"), "1.png": png((1, 2, 3))})
    with pytest.raises(UserError, match="GiB"):
        data.load(f"folder:{where}", "train", max_gib=2 * 8 * 8 / 2**30)
    images = data.load(f"folder:{where}", "train").images
    assert images[0, 0, 0].tolist() == [3, 3, 3] and images[1, 0, 0].tolist() == [1, 2, 3]


# --- choosing and caching


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_per_class_decodes_only_the_first_of_each_class(tmp_path, monkeypatch, kind):
    original, calls = decode.decode, []
    monkeypatch.setattr(decode, "decode", lambda *args: calls.append(args) or original(*args))
    layout = {
        f"{split}/{name}/{i}.png": png((i, 0, 0)) for split in ("test", "train") for name in "ba" for i in (3, 1, 2)
    }
    where = write(tmp_path / "images", layout) if kind == "folder" else pack(tmp_path / "images.tar", layout)
    train = data.load(f"folder:{where}", "train", per_class=2)
    assert shade(train) == [1, 2, 1, 2] and train.labels.tolist() == [0, 0, 1, 1]
    assert len(calls) == 4
    assert len(data.load(f"folder:{where}", "test", per_class=2).images) == 6


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_a_cache_hit_unpacks_and_decodes_nothing_and_is_equal(tmp_path, monkeypatch, kind, cache):
    where = write(tmp_path / "images", TWO_SPLITS) if kind == "folder" else pack(tmp_path / "images.tar.gz", TWO_SPLITS)
    first = data.load(f"folder:{where}", "train")
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", None)
        patch.setattr(tars, "_members", None)
        assert data.splits(f"folder:{where}") == ("train", "test")
        again = data.load(f"folder:{where}", "train")
    assert again.classes == first.classes and again.name == first.name
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert again.labels.dtype == np.int32
    assert not list(cache.glob("*.tmp"))


@pytest.mark.fast
def test_the_cache_is_keyed_by_files_and_request(tmp_path, cache):
    where = write(tmp_path / "images", TWO_SPLITS)
    for options in ({}, {"size": 4}, {"per_class": 1}, {"size": 8}):
        data.load(f"folder:{where}", "train", **options)
    data.load(f"folder:{where}", "test")
    assert len(list(cache.glob("*.npz"))) == 5
    write(tmp_path / "images", {"train/cat/new.png": png((12, 0, 0))})
    assert shade(data.load(f"folder:{where}", "train")) == [10, 20, 12, 30, 40]
    changed = tmp_path / "images" / "train" / "cat" / "new.png"
    before = changed.stat()
    changed.write_bytes(png((13, 0, 0)))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copying with times does
    assert changed.stat().st_size == before.st_size
    assert shade(data.load(f"folder:{where}", "train")) == [10, 20, 13, 30, 40]


@pytest.mark.fast
def test_a_changed_archive_is_listed_again(tmp_path):
    where = pack(tmp_path / "images.tar.gz", TWO_SPLITS)
    assert data.splits(f"folder:{where}") == ("train", "test")
    where = pack(tmp_path / "images.tar.gz", {"train/cat/a.png": png((7, 0, 0))})
    assert data.splits(f"folder:{where}") == ("train",)
    assert shade(data.load(f"folder:{where}", "train")) == [7]


@pytest.mark.fast
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_file_is_said_and_rebuilt(tmp_path, cache, damage, caplog):
    where = write(tmp_path / "images", TWO_SPLITS)
    first = data.load(f"folder:{where}", "train")
    (file,) = cache.glob("*.npz")
    whole = file.read_bytes()
    middle = whole.index(first.images.tobytes())
    changed = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    file.write_bytes({"truncated": whole[: len(whole) // 2], "flipped": changed, "empty": b""}[damage])
    np.testing.assert_array_equal(data.load(f"folder:{where}", "train").images, first.images)
    assert file.read_bytes()[middle] == whole[middle]
    assert f"the decoded images of {where}, kept in {file}, cannot be used" in caplog.text


@pytest.mark.fast
def test_a_cache_file_of_other_images_is_said_and_rebuilt(tmp_path, cache, caplog):
    where = write(tmp_path / "images", TWO_SPLITS)
    first = data.load(f"folder:{where}", "train")
    (file,) = cache.glob("*.npz")
    data.load(f"folder:{where}", "test")
    (other,) = set(cache.glob("*.npz")) - {file}
    file.write_bytes(other.read_bytes())
    np.testing.assert_array_equal(data.load(f"folder:{where}", "train").images, first.images)
    assert "cannot be used (it is of other images) and are made anew" in caplog.text


@pytest.mark.fast
def test_the_cache_does_not_grow_without_end(tmp_path, cache, caplog, monkeypatch):
    """What was not used for longest goes first; other files in the folder stay."""
    where = write(tmp_path / "images", TWO_SPLITS)
    data.load(f"folder:{where}", "train", size=64)
    (old,) = cache.glob("*.npz")
    os.utime(old, (1, 1))
    (cache / "mine.npz").write_bytes(bytes(10**6))
    monkeypatch.setattr(data_cache, "MOST_GIB", 1.5 * old.stat().st_size / 2**30)
    data.load(f"folder:{where}", "train", size=63)
    data.load(f"folder:{where}", "train", size=63)
    assert not old.exists() and f"removed {old}, which was not used since" in caplog.text
    assert len(list(cache.glob("*.npz"))) == 2


@pytest.mark.fast
def test_a_cache_that_cannot_be_written_is_not_fatal(tmp_path, caplog):
    where = write(tmp_path / "images", TWO_SPLITS)
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        train = data.load(f"folder:{where}", "train", cache=str(tmp_path / "file" / "cache"))
    assert len(train.images) == 4
    said = [record.message.partition("(")[0] for record in caplog.records if "not cached" in record.message]
    assert said == [f"decoded images are not cached in {tmp_path / 'file' / 'cache'} "]


# --- the built-in data sets


@pytest.mark.fast
def test_digits_are_split_by_class_without_overlap():
    from sklearn.datasets import load_digits

    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert train.images.shape == (1352, 8, 8, 1) and test.images.shape == (445, 8, 8, 1)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
    assert (train.images.min(), train.images.max()) == (0, 255)
    fraction = np.bincount(test.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    np.testing.assert_allclose(fraction, 0.25, atol=0.005)
    both = np.concatenate([train.images, test.images])
    whole = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in whole)
    few = data.load("digits", "train", per_class=3, size=16)
    assert few.images.shape == (30, 16, 16, 1) and np.bincount(few.labels).tolist() == [3] * 10
    assert data.splits("digits") == ("train", "test")


@pytest.mark.fast
def test_photo_tiles_are_cut_from_separate_parts():
    train, test = data.load("photo_tiles", "train"), data.load("photo_tiles", "test")
    assert train.images.shape == (5244, 32, 32, 3) and test.images.shape == (828, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [2622] * 2 and np.bincount(test.labels).tolist() == [414] * 2
    # Neighbours overlap but for 4 pixels; no column of a test tile is one of a training tile.
    np.testing.assert_array_equal(train.images[0][:, 4:], train.images[1][:, :-4])
    columns = [{column.tobytes() for x in d.images for column in x.transpose(1, 0, 2)} for d in (train, test)]
    assert not columns[0] & columns[1]
    assert test.classes == ("temple", "flower")


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)  # else tests have other names each second


def fashion(count: int = 3) -> Layout:
    images = np.arange(count * 28 * 28).reshape(count, 28, 28) % 251
    return {
        f"{prefix}-{name}-ubyte.gz": idx(array + (prefix == "t10k"))
        for prefix in ("train", "t10k")
        for name, array in {"images-idx3": images, "labels-idx1": np.arange(count)}.items()
    }


@pytest.fixture
def no_fashion_package(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "PACKAGE", tmp_path / "no_package")


@pytest.mark.fast
def test_fashion_mnist_is_read_from_a_folder(tmp_path, no_fashion_package):
    where = write(tmp_path / "fashion", fashion())
    train = data.load("fashion_mnist", "train", path=where)
    test = data.load("fashion_mnist", "test", path=where)
    assert train.images.shape == (3, 28, 28, 1) and train.images[0, 1, 2, 0] == 30
    assert train.labels.tolist() == [0, 1, 2] and train.labels.dtype == np.int32
    assert test.images[0, 1, 2, 0] == 31 and test.labels.tolist() == [1, 2, 3]
    assert train.classes[9] == "Ankle boot"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (fashion()["train-images-idx3-ubyte.gz"][:-20], "damaged or incomplete"),
        (b"", "not an IDX file"),
        (b"plain", "damaged or incomplete"),
        (idx(np.zeros(3)), "not an IDX file of 3"),
        (gzip.compress(gzip.decompress(idx(np.zeros((3, 28, 28))))[:-1], mtime=0), r"2351 bytes where \[3, 28, 28\]"),
        (idx(np.zeros((4, 28, 28))), "4 train images but 3 labels"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, no_fashion_package, content, message):
    where = write(tmp_path / "fashion", fashion() | {"train-images-idx3-ubyte.gz": content})
    with pytest.raises(UserError, match=message):
        data.load("fashion_mnist", "train", path=where)


@pytest.mark.fast
def test_fashion_mnist_is_downloaded_and_checked(tmp_path, cache, monkeypatch, no_fashion_package):
    host = tmp_path / "host"
    write(host, fashion())
    monkeypatch.setattr(fashion_mnist, "URL", host.as_uri() + "/")
    with pytest.raises(UserError, match="checksum"):
        data.load("fashion_mnist", "train")
    assert not list((cache / "fashion_mnist").iterdir())
    sums = {name: hashlib.md5(content).hexdigest() for name, content in fashion().items()}
    monkeypatch.setattr(fashion_mnist, "MD5", sums)
    assert len(data.load("fashion_mnist", "train").images) == 3
    monkeypatch.setattr(fashion_mnist, "URL", "http://127.0.0.1:9/")
    assert len(data.load("fashion_mnist", "test").images) == 3


@pytest.mark.fast
def test_fashion_mnist_that_is_nowhere_says_where_it_looked(tmp_path, monkeypatch, no_fashion_package):
    monkeypatch.setattr(fashion_mnist, "URL", "http://127.0.0.1:9/")
    with pytest.raises(UserError) as error:
        data.load("fashion_mnist", "train", path=str(tmp_path / "mine"))
    for part in ("mine", "no_package", "cache", "no_tfds", "dataset-fashion-mnist", "--config.data.path"):
        assert part in str(error.value)


def test_the_real_fashion_mnist():
    if not fashion_mnist.PACKAGE.is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    train = data.load("fashion_mnist", "train")
    assert train.images.shape == (60000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert train.images.mean() == pytest.approx(0.28604 * 255, abs=0.01)
    assert data.load("fashion_mnist", "test").images.shape == (10000, 28, 28, 1)


def cifar_batches() -> Layout:
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches = {
        name: {b"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), b"labels": [i, 9]}
        for i, name in enumerate(names)
    }
    return {f"cifar-10-batches-py/{name}": pickle.dumps(batch, protocol=2) for name, batch in batches.items()}


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["folder", "batches", "archive"])
def test_cifar10_is_read_from_the_authors_files(tmp_path, kind):
    where = write(tmp_path / "cifar", cifar_batches())
    if kind == "batches":
        where += "/cifar-10-batches-py"
    if kind == "archive":
        where = pack(tmp_path / "cifar-10-python.tar.gz", cifar_batches())
    train, test = (data.load("cifar10", split, path=where) for split in ("train", "test"))
    assert data.splits("cifar10", where) == ("train", "test")
    assert train.images.shape == (10, 32, 32, 3) and test.images.shape == (2, 32, 32, 3)
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and test.labels.tolist() == [5, 9]
    raw = pickle.loads(cifar_batches()["cifar-10-batches-py/test_batch"])[b"data"]
    assert test.images[1, 3, 4].tolist() == [raw[1, c * 1024 + 3 * 32 + 4] for c in range(3)]


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: pathlib.Path):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.fast
@pytest.mark.parametrize("count", [5, 40, 300])
def test_a_cut_off_archive_is_refused(tmp_path, count):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        info.size = 5000
        tar.addfile(info, io.BytesIO(np.random.default_rng(0).bytes(5000)))
    archive.write_bytes(archive.read_bytes()[:count])
    for source in ("cifar10", f"folder:{archive}"):
        with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz"):
            data.load(source, "train", path=str(archive))


@pytest.mark.fast
def test_damaged_and_hostile_cifar10_files_are_refused(tmp_path):
    where = write(tmp_path / "cifar", cifar_batches())
    batch = tmp_path / "cifar" / "cifar-10-batches-py" / "data_batch_3"
    for content in (batch.read_bytes()[:-100], pickle.dumps(Hostile(tmp_path / "hacked"))):
        batch.write_bytes(content)
        with pytest.raises(UserError, match="data_batch_3"):
            data.load("cifar10", "train", path=where)
    assert not (tmp_path / "hacked").exists()
    batch.unlink()
    with pytest.raises(UserError, match="data_batch_3"):
        data.load("cifar10", "train", path=where)


@pytest.mark.fast
def test_cifar10_is_downloaded_and_checked(tmp_path, cache, monkeypatch):
    archive = pathlib.Path(pack(tmp_path / "host.tar.gz", cifar_batches()))
    monkeypatch.setattr(cifar10, "URL", archive.as_uri())
    with pytest.raises(UserError, match="checksum"):
        data.load("cifar10", "train")
    assert not list((cache / "cifar10").iterdir())
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(data.load("cifar10", "train")) == 10 and data.splits("cifar10") == ("train", "test")
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/")  # it is there, and asked for no second time
    assert len(data.load("cifar10", "test")) == 2


@pytest.mark.fast
def test_cifar10_may_be_a_folder_of_images_or_nowhere(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/")
    where = write(tmp_path / "images", TWO_SPLITS)
    train = data.load("cifar10", "train", path=where)
    assert shade(train) == [10, 20, 30, 40] and train.name == "cifar10"
    assert data.splits("cifar10", where) == ("train", "test")
    with pytest.raises(UserError, match="no_tfds") as error:
        data.load("cifar10", "train")
    assert "--config.data.path" in str(error.value) and "cifar-10-python.tar.gz" in str(error.value)


# --- real images


def test_cifar10_archive_of_jpegs(photographs):
    train = data.load("cifar10", "train", path=str(photographs / "cifar10_jpeg.tar.gz"), per_class=20)
    assert train.images.shape == (200, 32, 32, 3)
    assert train.classes == cifar10.CLASSES
    assert train.labels.tolist() == np.repeat(np.arange(10), 20).tolist()
    # CIFAR-10's training mean is (125.3, 123.0, 113.9).
    np.testing.assert_allclose(train.images.mean((0, 1, 2)), [125.3, 123.0, 113.9], atol=12)


def test_photographs_of_mixed_size(photographs):
    where = f"folder:{photographs / 'imagenet_sample64.tar'}"
    train = data.load(where, "train", size=64)
    assert train.images.shape[1:] == (64, 64, 3) and len(train.images) > 60
    assert set(train.labels.tolist()) == {-1} and train.classes == ()
    assert 90 < train.images.mean() < 140 and train.images.std() > 50
    with pytest.raises(UserError, match=r"data\.size"):
        data.load(where, "train")


# --- TensorFlow Datasets


@pytest.mark.fast
def test_tfds_that_is_not_prepared_says_how(tmp_path):
    with pytest.raises(UserError) as error:
        data.load("tfds:caltech101", "train")
    assert "tfds build caltech101 --file_format=array_record" in str(error.value)
    assert str(tmp_path / "no_tfds" / "caltech101") in str(error.value)
    with pytest.raises(UserError, match="no name"):
        data.splits("tfds")


@pytest.fixture
def tiny_tfds(tmp_path) -> pathlib.Path:
    """A tfds folder with data set "toy": 5 training and 2 validation images."""
    return prepare_tfds(tmp_path, "toy", {"train": 5, "validation": 2}, ragged=1)


def prepare_tfds(tmp_path, name, counts, ragged=0, unlabelled="") -> pathlib.Path:
    """A tfds folder with so many images in each split of a data set, written without TensorFlow."""
    # tfds swaps Python's import while it is imported, and the semaphores of loader processes that are garbage by then
    # cannot import what they need to go.
    gc.collect()
    tfds = pytest.importorskip("tensorflow_datasets")
    writer = pytest.importorskip("array_record.python.array_record_module")
    from tensorflow_datasets.core import example_serializer

    place = tmp_path / "tfds" / name / "1.10.0"
    place.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
    )
    serialize = example_serializer.ExampleSerializer(features.get_serialized_info()).serialize_example
    for split, count in counts.items():
        records = writer.ArrayRecordWriter(str(place / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for i in range(count):
            label = -1 if split == unlabelled else i % 2
            records.write(serialize({"image": png((10 * i, 0, 0), size=(8, 8 + ragged * i)), "label": label}))
        records.close()
    features.save_config(str(place))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {
        "name": name,
        "version": "1.10.0",
        "fileFormat": "array_record",
        "splits": [
            {"name": split, "shardLengths": [str(count)], "numBytes": "1", "filepathTemplate": template}
            for split, count in counts.items()
        ],
    }
    (place / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path / "tfds"


def test_tfds_is_read_without_tensorflow(tiny_tfds):
    older = tiny_tfds / "toy" / "1.9.0"
    older.mkdir()
    (older / "dataset_info.json").write_text('{"fileFormat": "array_record", "splits": []}')
    where = {"path": str(tiny_tfds), "size": 8}
    train, test = data.load("tfds:toy", "train", **where), data.load("tfds:toy", "test", **where)
    assert data.splits("tfds:toy", str(tiny_tfds)) == ("train", "test")
    assert shade(train) == [0, 10, 20, 30, 40] and train.labels.tolist() == [0, 1, 0, 1, 0]
    assert shade(test) == [0, 10] and train.classes == test.classes == ("a", "b")
    few = data.load("tfds:toy", "train", per_class=1, **where)
    assert shade(few) == [0, 10]
    with pytest.raises(UserError, match=r"data\.size"):
        data.load("tfds:toy", "train", path=str(tiny_tfds))


def test_tfds_takes_the_split_that_has_labels(tmp_path):
    """ImageNet's test images are prepared with the label -1."""
    where = {"path": str(prepare_tfds(tmp_path, "toy", {"train": 3, "test": 4, "validation": 2}, unlabelled="test"))}
    test = data.load("tfds:toy", "test", **where)
    assert test.labels.tolist() == [0, 1]
    streamed = data.load("tfds:toy", "test", stream=True, **where)
    assert streamed.labels.tolist() == [0, 1] and len(streamed.images) == 2
    labelled = {"path": str(prepare_tfds(tmp_path / "other", "toy", {"train": 3, "test": 4, "validation": 2}))}
    assert len(data.load("tfds:toy", "test", **labelled).images) == 4


@pytest.mark.fast
def test_tfds_of_an_address_is_refused():
    with pytest.raises(UserError, match="gs://bucket/tfds is none: copy it or mount it"):
        data.load("tfds:toy", "train", path="gs://bucket/tfds")


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_builtin_data_set_may_be_prepared_by_tfds(tmp_path, monkeypatch, name):
    """In the folder that data.path names, or in the usual one."""
    root = prepare_tfds(tmp_path, name, {"train": 3, "test": 2})
    found = data.load(name, "test", path=str(root))
    assert shade(found) == [0, 10] and found.classes == ("a", "b")
    assert data.splits(name, str(root)) == ("train", "test")
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    monkeypatch.setattr(fashion_mnist, "PACKAGE", tmp_path / "no_package")
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "no_cache"))
    assert shade(data.load(name, "train")) == [0, 10, 20]
    if name == "cifar10":  # a path is not passed over for what lies in the usual place
        with pytest.raises(UserError, match="nowhere"):
            data.load(name, "train", path=str(tmp_path / "nowhere"))


@pytest.mark.fast
def test_tfds_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    info = {"fileFormat": "array_record", "splits": [{"name": "train"}]}
    write(tmp_path / "tfds" / "toy" / "1.0.0", {"dataset_info.json": json.dumps(info).encode()})
    assert data.splits("tfds:toy", str(tmp_path / "tfds")) == ("train",)
    held_out = info | {"splits": [{"name": "validation"}, {"name": "train"}]}
    write(tmp_path / "tfds" / "held" / "1.0.0", {"dataset_info.json": json.dumps(held_out).encode()})
    assert data.splits("tfds:held", str(tmp_path / "tfds")) == ("train", "test")
    with pytest.raises(UserError, match=r"\.\[tfds\]"):
        data.load("tfds:toy", "train", path=str(tmp_path / "tfds"))
    with pytest.raises(UserError, match="no test split, only train"):
        data.load("tfds:toy", "test", path=str(tmp_path / "tfds"))


def test_images_in_a_bucket_are_those_of_the_folder(tmp_path):
    """fsspec's file system in memory stands for gs://, which it reads alike."""
    import fsspec

    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    bucket = fsspec.filesystem("memory")
    for number, image in enumerate(images):
        for root in (tmp_path, "memory://bucket/photos"):
            name = f"train/{'ab'[number % 2]}/{number}.png"
            with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
                Image.fromarray(image).save(file, "PNG")
    bucket.pipe("/bucket/photos/train/notes.txt", b"no image")
    cache = str(tmp_path / "cache")
    wanted = data.load(f"folder:{tmp_path}", "train", cache=cache)
    found = data.load("folder:memory://bucket/photos", "train", cache=cache)
    assert found.classes == wanted.classes == ("a", "b")
    np.testing.assert_array_equal(found.images, wanted.images)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    streamed = data.load("folder:memory://bucket/photos", "train", stream=True)
    np.testing.assert_array_equal(streamed.images.pictures(8), wanted.images)
    bucket.pipe("/bucket/photos/train/a/0.png", bucket.cat_file("/bucket/photos/train/b/1.png"))
    changed = data.load("folder:memory://bucket/photos", "train", cache=cache)
    np.testing.assert_array_equal(changed.images[0], images[1])  # not what the cache had
    with pytest.raises(UserError, match="There are no images in memory://bucket/none"):
        data.load("folder:memory://bucket/none", "train")
