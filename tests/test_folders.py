"""Folders as people have them: other names of splits, wrappers, links, pipes, strips; and what is said about them."""

import gzip
import io
import logging
import os
import pathlib
import tarfile
import zipfile

import jax
import numpy as np
from PIL import Image
import pytest
from test_data import cache, pack, png, shade, write  # noqa: F401
import tiny

from ssl_jax import data
from ssl_jax.data import decode, files
from ssl_jax.evals import context
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("cache")]


def both(train: str, test: str, around: str = "") -> dict[str, bytes]:
    """Two classes, a training and a test image each."""
    return {
        f"{around}{split}/{name}/{number}.png": png((10 * number, 0, 0))
        for number, (split, name) in enumerate([(train, "a"), (train, "b"), (test, "a"), (test, "b")])
    }


def seen(where: str, stream: bool = False) -> dict[str, list[int]]:
    found = {split: data.load(f"folder:{where}", split, stream=stream) for split in data.splits(f"folder:{where}")}
    assert all(d.classes == ("a", "b") and d.labels.tolist() == [0, 1] for d in found.values())
    return {split: d.images.pictures(8)[:, 0, 0, 0].tolist() if stream else shade(d) for split, d in found.items()}


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize(
    ("train", "test", "around"),
    [
        ("Train", "Test", ""),
        ("training", "validation", ""),
        ("TRAIN", "dev", ""),
        ("train", "eval", ""),
        ("train", "valid", "dataset/"),
        ("Training", "Testing", "data/x/"),
        ("train2017", "val2017", "coco/images/"),
        ("trainset", "testset", ""),
        ("Training Images", "test-images", ""),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val", ""),
    ],
)
def test_splits_are_known_by_their_other_names(tmp_path, kind, train, test, around):
    layout = both(train, test, around)
    where = write(tmp_path / "images", layout) if kind == "folder" else pack(tmp_path / "images.tar", layout)
    for stream in (False, True):
        assert seen(where, stream) == {"train": [0, 10], "test": [20, 30]}


def test_a_class_may_be_called_as_a_split_where_none_is_for_training(tmp_path):
    where = write(tmp_path / "images", {f"{name}/0.png": png(0) for name in ("Test", "eval", "cat")})
    years = write(tmp_path / "years", {f"{name}/0.png": png(0) for name in ("train1", "train2", "plane")})
    assert data.load(f"folder:{years}", "train").classes == ("plane", "train1", "train2")
    assert data.load(f"folder:{where}", "train").classes == ("Test", "cat", "eval")
    alone = write(tmp_path / "one", {"photos/cat/0.png": png(0), "photos/dog/0.png": png(0)})
    assert data.load(f"folder:{alone}", "train").classes == ("photos",)


def test_a_cache_of_before_is_not_taken_for_other_splits(tmp_path, cache):  # noqa: F811
    """An earlier version took train and test for two classes, and cached that under the files alone."""
    where = write(tmp_path / "images", both("Train", "Test"))
    from ssl_jax.data.cache import cached
    from ssl_jax.data.places import opened

    wrong = data.Dataset("old", np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 0, 1, 1], np.int32), ("Test", "Train"))
    with opened(where) as files:
        cached(files.identity(), data.Request("train"), "old", lambda: (wrong, []))
    assert data.load(f"folder:{where}", "train").classes == ("a", "b")


def warnings(caplog, where: str) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        for split in data.splits(f"folder:{where}"):
            data.load(f"folder:{where}", split)
    return [record.message for record in caplog.records]


def test_an_ordinary_folder_is_not_remarked_on(tmp_path, caplog):
    assert warnings(caplog, write(tmp_path / "images", both("train", "test"))) == []
    assert warnings(caplog, write(tmp_path / "flat", {"a/0.png": png(0), "b/0.png": png(0)})) == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "extra"])
def test_an_unlabelled_split_is_trained_on_without_labels(tmp_path, caplog, name, stream):
    more = {f"{name}/0.png": png((90, 0, 0)), f"{name}/a/1.png": png((91, 0, 0))}
    where = write(tmp_path / "images", both("train", "test") | more)
    train, test = (data.load(f"folder:{where}", split, stream=stream) for split in ("train", "test"))
    assert train.labels.tolist() == [-1, -1, 0, 1] and train.classes == ("a", "b") and len(test) == 2
    images = train.images.pictures(8) if stream else train.images
    assert images[:, 0, 0, 0].tolist() == [90, 91, 0, 10]
    assert not caplog.records


def test_what_is_left_out_is_said_in_at_most_four_lines(tmp_path, caplog):
    extra = {
        "spare/0.png": png(1),
        "spare/1.png": png(2),
        "lone.png": png(3),
        "train/a/deep/0.png": png(4),
        "train/x.npy": b"",
        "train/y.dcm": b"",
        "train/z.dcm": b"",
        ".git/readme": b"",
    }
    where = write(tmp_path / "images", both("train", "test") | extra)
    os.symlink("nowhere.png", tmp_path / "images" / "train" / "a" / "broken.png")
    said = warnings(caplog, where)
    assert len(said) == 4 and all(line.startswith(f"{where}: ") for line in said)
    assert said[0].endswith("left out 3 files that are no images by their suffix (2 .dcm, 1 .npy)")
    assert said[1].endswith("left out 1 names that lead to no file (train/a/broken.png)")
    assert "left out 3 images beside the splits test/, train/: spare/ (2), ./ (1)" in said[2]
    assert "1 images lie in folders below that of their class, such as train/a/deep/0.png" in said[3]


def test_folders_that_cannot_be_listed_are_said(tmp_path, caplog, monkeypatch):
    where = write(tmp_path / "images", {"a/0.png": png(1), "b/0.png": png(2), "c/0.png": png(3)})
    scandir, status = os.scandir, os.stat

    def listing(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    def stat(path, *arguments, **options):
        if str(path).endswith("/c"):
            raise OSError(116, "Stale file handle", str(path))
        return status(path, *arguments, **options)

    monkeypatch.setattr(os, "scandir", listing)
    monkeypatch.setattr(os, "stat", stat)
    (said,) = warnings(caplog, where)
    assert said.endswith("left out 2 folders that cannot be listed (c: Stale file handle)")


def test_links_in_a_circle_and_pipes_are_passed_over(tmp_path):
    root = tmp_path / "images"
    where = write(root, {"a/0.png": png((1, 0, 0)), "b/0.png": png((2, 0, 0)), "../shared/2.png": png((3, 0, 0))})
    os.symlink(root, root / "a" / "again")  # to a folder around it
    os.symlink("self.png", root / "a" / "self.png")
    os.mkfifo(root / "a" / "pipe.png")
    os.symlink(tmp_path / "shared", root / "b" / "elsewhere")  # these are meant
    os.link(root / "a" / "0.png", root / "b" / "1.png")
    train = data.load(f"folder:{where}", "train")
    assert shade(train) == [1, 2, 1, 3] and train.labels.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_an_archive_is_read_as_it_would_be_unpacked(tmp_path, kind):
    """Links are followed, and of a file that is stored twice the last counts; in memory and streamed."""
    file = tmp_path / f"images.{kind}"
    with tarfile.open(file, f"w:{kind.partition('.')[2]}") as tar:
        for name, value in (("a/0.png", 1), ("b/0.png", 2), ("a/0.png", 3)):
            content = png((value, 0, 0))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target, kind_of in (
            ("b/hard.png", "a/0.png", tarfile.LNKTYPE),
            ("b/soft.png", "../a/0.png", tarfile.SYMTYPE),
            ("b/nowhere.png", "none.png", tarfile.SYMTYPE),
            ("b/round.png", "round.png", tarfile.SYMTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind_of, target
            tar.addfile(member)
    train = data.load(f"folder:{file}", "train")
    assert shade(train) == [3, 2, 3, 3] and train.labels.tolist() == [0, 1, 1, 1]
    if kind == "tar":
        listed = data.load(f"folder:{file}", "train", stream=True)
        np.testing.assert_array_equal(listed.images.pictures(8), train.images)
        assert listed.labels.tolist() == train.labels.tolist()


def members(file, files: list[str], links: list[tuple[str, str, bytes]] = ()) -> str:
    """An archive of images of one shade each, from 0 on, and of links and devices."""
    with tarfile.open(file, f"w:{'gz' if file.name.endswith('gz') else ''}") as tar:
        for number, name in enumerate(files):
            content, member = png((number, 0, 0)), tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return str(file)


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_members_outside_of_an_archive_are_counted(tmp_path, caplog, kind):
    """Nothing outside is read; what is named from / on is read as tar unpacks it."""
    files = ["/x/a/0.png", "/x/b/0.png", "../a/1.png", "x/a/../../../c.png", "../../note.txt", "../.hidden.png"]
    links = [
        ("/x/b/1.png", "../a/0.png", tarfile.SYMTYPE),
        ("/x/b/2.png", "/x/b/0.png", tarfile.LNKTYPE),
        ("/x/b/3.png", "/x/b/0.png", tarfile.SYMTYPE),  # as unpacked, another file
        ("/x/b/4.png", "../../../b.png", tarfile.SYMTYPE),
        ("/x/b/pipe.png", "", tarfile.FIFOTYPE),
        ("/x/c", "a", tarfile.SYMTYPE),
    ]
    where = members(tmp_path / f"images.{kind}", files, links)
    for stream in (False, True) if kind == "tar" else (False,):
        for _ in range(2):  # the second time from the index
            caplog.clear()
            train = data.load(f"folder:{where}", "train", stream=stream, size=8)
            shades = train.images.pictures(8)[:, 0, 0, 0].tolist() if stream else shade(train)
            assert shades == [0, 1, 0, 1] and train.labels.tolist() == [0, 1, 1, 1]
            (said,) = [record.message for record in caplog.records if "members" in record.message]
            assert said.endswith(
                "of the members of the archive 2 lie outside of it and are left out, 4 lead to no file in it and are "
                "left out, 7 are named from / on, which is dropped"
            )


def test_an_archive_of_nothing_but_strangers_says_so(tmp_path):
    where = members(tmp_path / "images.tar", ["../a/0.png", "../a/1.png"])
    for act in (lambda: data.splits(f"folder:{where}"), lambda: data.load(f"folder:{where}", "train", stream=True)):
        with pytest.raises(UserError, match=r"There are no images in .* 2 lie outside of it and are left out"):
            act()


def test_a_zip_is_read_as_a_tar(tmp_path, caplog):
    """In memory and streamed alike; what is outside, a link, encrypted or packed in another way is not read."""
    file = tmp_path / "images.zip"
    link, locked = zipfile.ZipInfo("a/link.png"), zipfile.ZipInfo("a/locked.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(["/a/0.png", "a\\1.png", "b/0.png", "../a/2.png", "a/x.txt", "__MACOSX/._0.png"]):
            archive.writestr(name, png((number, 0, 0)))
        archive.writestr("b/stored.png", png((6, 0, 0)), zipfile.ZIP_STORED)
        archive.writestr("b/strange.png", png((7, 0, 0)), zipfile.ZIP_BZIP2)
        archive.writestr(link, "../b/0.png")
        archive.writestr(locked, png(8))
    content = file.read_bytes()
    for mark, at in ((b"PK\1\2", 46), (b"PK\3\4", 30)):  # the flag of encryption, in both of its headers
        place = next(
            i for i in range(len(content)) if content[i:].startswith(mark) and content[i + at :].startswith(b"a/locked")
        )
        flags = place + (8 if mark == b"PK\1\2" else 6)
        content = content[:flags] + bytes([content[flags] | 1]) + content[flags + 1 :]
    file.write_bytes(content)
    said = warnings(caplog, str(file))
    assert "left out 1 files that are no images by their suffix (1 .txt)" in said[0]
    assert said[1].endswith("of the members of the archive are left out: 1 outside of it, 1 links, 1 encrypted")
    assert "left out 1 unreadable images" in said[2] and "packed by method 12" in said[2]
    train = data.load(f"folder:{file}", "train")
    assert shade(train) == [0, 1, 2, 6] and train.labels.tolist() == [0, 0, 1, 1] and train.classes == ("a", "b")
    listed = data.load(f"folder:{file}", "train", stream=True)
    np.testing.assert_array_equal(listed[:4].images.pictures(8), train.images)
    assert listed.names(np.array([3])).tolist() == [f"{file}:b/stored.png"]


def test_a_zip_that_is_damaged_or_unpacks_to_very_much_is_no_end(tmp_path, monkeypatch):
    layout = {
        f"{c}/{i}.png": png(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8))
        for c in "ab"
        for i in (0, 1)
    }
    whole = pathlib.Path(pack(tmp_path / "images.zip", layout))
    content = bytearray(whole.read_bytes())
    content[content.index(b"a/1.png") + 20] ^= 0xFF
    (tmp_path / "hurt.zip").write_bytes(content)
    assert len(data.load(f"folder:{tmp_path}/hurt.zip", "train")) in (3, 4)
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cut\.zip is no readable \.zip file"):
        data.load(f"folder:{tmp_path}/cut.zip", "train")
    monkeypatch.setattr(files, "_MOST_BYTES", 100)
    with pytest.raises(UserError, match="unpacks to more than 100 bytes"):
        data.load(f"folder:{whole}", "train", cache=str(tmp_path / "other"))


def test_a_path_that_nothing_is_looked_for_in_is_refused(tmp_path):
    where = write(tmp_path / "images", both("train", "test"))
    for source in ("digits", "photo_tiles", f"folder:{where}", "digits,digits:inverted"):
        with pytest.raises(
            UserError, match=r"config.data.path is '/elsewhere', where .* not looked for: leave it unset"
        ):
            prepare(tiny.config("simclr", **{"data.source": source, "data.path": "/elsewhere"}), jax.devices()[:1])
    fields = {"data.source": "folder", "data.path": where, "data.holdout": 0.0}
    assert len(prepare(tiny.config("rotation", batch_size=2, **fields), jax.devices()[:1]).train) == 2


@pytest.mark.parametrize("shape", [(3, 6000), (6000, 3), (8, 65), (65, 8)])
def test_a_strip_is_cut_before_it_is_resized(shape, monkeypatch):
    """The middle is the same but for a fraction of a pixel, and no large image is made on the way."""
    y, x = np.indices(shape)
    smooth = (127 + 80 * np.sin(x / 2) * np.cos(y / 2)).astype(np.uint8)
    largest = []
    resize = Image.Image.resize
    spy = lambda self, size, *args, **options: largest.append(max(size)) or resize(self, size, *args, **options)  # noqa: E731
    monkeypatch.setattr(Image.Image, "resize", spy)
    found = np.asarray(decode.fit(Image.fromarray(smooth), 32)).astype(int)
    assert found.shape == (32, 32) and max(largest) <= 260
    monkeypatch.setattr(decode, "_STRIP", 10**6)
    whole = np.asarray(decode.fit(Image.fromarray(smooth), 32)).astype(int)
    assert np.abs(found - whole).mean() < 8 and np.corrcoef(found.ravel(), whole.ravel())[0, 1] > 0.98


def test_an_empty_place_is_still_an_error(tmp_path):
    with pytest.raises(UserError, match="no images in"):
        data.load(f"folder:{write(tmp_path / 'none', {'a/x.txt': b'-'})}", "train")


def deep(kind: str, low: float, high: float) -> bytes:
    """A ramp of pixels of more than eight bits."""
    values = np.linspace(low, high, 1024).reshape(32, 32)
    image = Image.fromarray(values.astype({"16": np.uint16, "32": np.int32, "float": np.float32}[kind]))
    out = io.BytesIO()
    image.save(out, "PNG" if kind == "16" else "TIFF")
    return out.getvalue()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "low", "high", "levels", "told"),
    [
        ("16", 0, 4095, 256, "pixels from 0 to 4095 become 0 to 255"),
        ("16", 0, 10000, 150, "pixels from 0 to 16383"),
        ("16", 0, 60000, 230, ""),
        ("32", -2000, 3000, 250, "pixels from -2000 to 3000"),
        ("float", 0.0, 1.0, 256, "pixels from 0 to 1"),
        ("float", -7.0, 93.0, 250, "pixels from -6.9 to 92.9"),
    ],
)
def test_the_range_of_deep_pixels_is_kept(tmp_path, caplog, kind, low, high, levels, told, stream):
    where = write(
        tmp_path / "images", {f"a/{n}.{'png' if kind == '16' else 'tif'}": deep(kind, low, high) for n in "01"}
    )
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        train = data.load(f"folder:{where}", "train", size=32, stream=stream)
    images = train.images.pictures(32) if stream else train.images
    assert len(np.unique(images)) >= levels and (np.diff(images[0, :, 0, 0].astype(int)) >= 0).all()
    assert told in caplog.text and bool(told) == bool(caplog.text)
    chosen = data.load(f"folder:{where}", "train", size=32, stream=stream, range=(low, (low + high) / 2))
    images = chosen.images.pictures(32) if stream else chosen.images
    assert (images[:, 16:] == 255).mean() > 0.9
    assert chosen.content != train.content


def test_the_test_images_have_the_range_of_the_training_images(tmp_path):
    layout = {"train/a/0.png": deep("16", 0, 4095), "test/a/0.png": deep("16", 0, 900)}
    where = write(tmp_path / "images", layout)
    assert data.load(f"folder:{where}", "test").images.max() == 56


def test_a_range_is_two_numbers_in_order(tmp_path):
    where = write(tmp_path / "images", {"a/0.png": png(0)})
    with pytest.raises(UserError, match=r"data.range is \(5, 2\): give the two ends"):
        data.load(f"folder:{where}", "train", range=(5, 2))


def test_why_no_image_can_be_read_is_said(tmp_path):
    where = write(tmp_path / "images", {"a/0.png": b"x", "a/1.png": b"y"})
    with pytest.raises(UserError, match=r"None of the 2 images .* can be read \(a/0.png: cannot identify"):
        data.load(f"folder:{where}", "train")


def test_pages_and_frames_are_said(tmp_path, caplog):
    out = io.BytesIO()
    frames = [Image.new("L", (8, 8), value) for value in (10, 20)]
    frames[0].save(out, "TIFF", save_all=True, append_images=frames[1:])
    where = write(tmp_path / "images", {"a/0.tif": out.getvalue()})
    assert warnings(caplog, where) == [
        f"{where}: some images have several frames or pages, of which the first is used (--config.data.pages=all)"
    ]
    assert shade(data.load(f"folder:{where}", "train")) == [10]


def test_grey_images_are_what_the_views_want(tmp_path):
    """A preset of colour takes them, in memory as from a stream; one that predicts colours does not."""
    where = write(tmp_path / "grey", {f"{n % 2}/{n}.png": png(n, "L") for n in range(20)})
    changes = {"data.source": f"folder:{where}", "data.size": 32, "data.holdout": 0.0}
    changes["method.view.mean"] = (0.5,) * 3
    changes["method.view.std"] = (0.2,) * 3
    resident = prepare(tiny.config("rotation", **changes), jax.devices()[:1])
    streamed = data.load(f"folder:{where}", "train", size=32, stream=True)
    assert resident.train.image_shape == streamed.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(resident.train.images, streamed.images.pictures(32))
    with pytest.raises(UserError, match="predicts colours"):
        prepare(tiny.config("split_brain", **{"data.source": f"folder:{where}", "data.size": 32}), jax.devices()[:1])


def test_other_data_are_evaluated_whatever_the_runs_own_wanted():
    run = prepare(tiny.config("rotation"), jax.devices()[:1])
    run.config.data.stream, run.config.data.range = "always", (0.0, 4.0)
    assert len(context.load_images(run, "digits")[0]) == len(run.train)


def test_several_folders_of_one_split_are_said(tmp_path, caplog):
    layout = both("train", "val") | {f"{name}/{c}/9.png": png(5) for name in ("Train", "valid") for c in "ab"}
    said = warnings(caplog, write(tmp_path / "images", layout))
    assert len(said) == 1
    assert said[0].endswith("Train/, train/, val/, valid/ are taken together, since they are names of one split")
    more = {"train/x.dcm": b"", "lone.png": png(1), "train/a/deep/0.png": png(2)}
    where = write(tmp_path / "more", layout | more)
    os.symlink("nowhere.png", tmp_path / "more" / "train" / "broken.png")
    said = warnings(caplog, where)
    assert len(said) == 4 and "names of one split; 1 images lie in folders below" in said[3]


def test_a_compressed_archive_called_tar_is_no_stream(tmp_path):
    """Held in memory it is read; where in it an image begins cannot be told."""
    plain = pack(tmp_path / "images.tar", both("train", "test"))
    os.rename(plain, tmp_path / "plain")
    (tmp_path / "images.tar").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    assert shade(data.load(f"folder:{plain}", "train")) == [0, 10]
    with pytest.raises(UserError, match=r"images.tar is compressed, so that images cannot be read in any order"):
        data.load(f"folder:{plain}", "train", stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_names_that_are_no_text_are_escaped(tmp_path, stream):
    """They are classes of their own, and can be printed and written."""
    where = write(tmp_path / "images", {f"{c}/0.png": png(n) for n, c in enumerate("abc")})
    os.rename(f"{where}/b", os.fsdecode(f"{where}/x".encode() + b"\xff"))
    os.rename(f"{where}/c", f"{where}/y\nz")
    train = data.load(f"folder:{where}", "train", stream=stream)
    assert train.classes == ("a", "x\\udcff", "y\\nz") and train.labels.tolist() == [0, 1, 2]
    if stream:
        assert train.names(np.arange(3)).tolist() == ["a/0.png", "x\\udcff/0.png", "y\\nz/0.png"]
        assert train.images.pictures(8)[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_labels_come_from_a_table(tmp_path, caplog, stream):
    """By path, by the end of a path or without the suffix; with a heading or none; what has no row is unlabelled."""
    layout = {
        "x/0.png": png((0, 0, 0)),
        "x/1.png": png((1, 0, 0)),
        "y/z/2.png": png((2, 0, 0)),
        "y/3.png": png((3, 0, 0)),
    }
    where = write(tmp_path / "images", layout)
    table = tmp_path / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbfid;species\r\n./x/0.png;two words\r\n2.png;cat\r\n1;cat\r\nnone.png;cat\r\n")

    def found(**more):
        return data.load(f"folder:{where}", "train", stream=stream, labels=str(table), size=8, **more)

    train = found()
    assert train.classes == ("cat", "two words") and train.labels.tolist() == [-1, 0, 0, 1]
    shades = train.images.pictures(8)[:, 0, 0, 0].tolist() if stream else shade(train)
    assert shades == [3, 1, 2, 0]
    (said,) = [record.message for record in caplog.records]
    assert f"1 images have no row in {table} and count as unlabelled" in caplog.text and said.endswith(
        f"1 rows of {table} name no image"
    )
    assert found(per_class=1).labels.tolist() == [0, 1]
    table.write_text("x/0.png,dog\nx/1.png,cat")  # decoded images are kept, and labels are not those of before
    other = found()
    assert other.classes == ("cat", "dog") and other.labels.tolist() == [-1, -1, 0, 1]
    assert other.content != train.content
    assert data.load(f"folder:{where}", "train").classes == ("x", "y")


def test_a_table_of_both_splits(tmp_path):
    where = write(tmp_path / "images", {"train/0.png": png(0), "train/1.png": png(1), "test/0.png": png(2)})
    table = write(tmp_path / "t", {"a.csv": b"train/0.png,a\ntrain/1.png,b\ntest/0.png,b\n"}) + "/a.csv"
    config = tiny.config("simclr", **{"data.source": f"folder:{where}", "data.labels": table, "batch_size": 2})
    run = prepare(config, jax.devices()[:1])
    assert run.train.labels.tolist() == [0, 1] and run.test.labels.tolist() == [1]
    assert len(context.load_images(run, "digits")[0].classes) == 10


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"0.png,a\n", r"'0\.png' in .* may be a/0\.png or b/0\.png: say which"),
        (b"a/0.png,x\na/0.png,y\n", r"several labels for 'a/0\.png'"),
        (b"a/0.png,1,0,0\n", "row 1 of .* has 4 columns: it must have two"),
        (b"a/0.png\n", "row 1 of .* has 1 columns"),
        (b"q.png,x\nr.png,y\n", r"no row of .*, such as 'q\.png', names an image, such as a/0\.png"),
        (b"", "no row of .*, of which it has none, names an image"),
        (b"\xff\xfe\x00", "cannot be read as a table"),
        (None, "cannot be read as a table"),
    ],
)
def test_a_table_that_says_nothing_certain_is_refused(tmp_path, content, words):
    where = write(tmp_path / "images", {"a/0.png": png(0), "b/0.png": png(1)})
    table = tmp_path / "labels.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(UserError, match=words):
        data.load(f"folder:{where}", "train", labels=str(table))
    with pytest.raises(UserError, match=r"config\.data\.labels is for the images of a folder, and digits"):
        data.load("digits", "train", labels=str(table))
