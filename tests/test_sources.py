"""Sources and their cards: what a card says is what the data are."""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image
import pytest

from ssl_jax import data
from ssl_jax.data import arrays, loading, prepared
from ssl_jax.data.dataset import DoesNotFit
from ssl_jax.runtime.errors import UserError


@pytest.mark.fast
@pytest.mark.parametrize("name", loading.names())
def test_a_source_has_what_the_protocol_says(name):
    module, _ = loading.find(name)
    assert isinstance(module.CARD, data.Card) and module.CARD.origin
    assert callable(module.load) and callable(module.splits)
    for card in (module.CARD, *getattr(module, "CARDS", {}).values()):
        assert len(card.mean) == len(card.std) == (card.channels if card.mean else 0)
        if card.count:
            assert card.classes is not None and card.licence and card.mirrors is not None


def agree(card: data.Card, train: data.Dataset, test: data.Dataset) -> None:
    """Asserts that the whole of a data set is as its card says."""
    assert (len(train), len(test)) == (card.count, card.test_count)
    assert train.image_shape == test.image_shape and train.image_shape[2] == card.channels
    assert card.side is None or train.image_shape[:2] == (card.side, card.side)
    assert len(train.classes) == card.classes and train.card == test.card == card
    pixels = train.images.reshape(-1, card.channels)
    np.testing.assert_allclose(pixels.mean(0) / 255, card.mean, atol=6e-5)
    np.testing.assert_allclose(pixels.std(0) / 255, card.std, atol=6e-5)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["digits", "photo_tiles"])
def test_cards_agree_with_the_images(name):
    agree(data.card(name), data.load(name, "train"), data.load(name, "test"))


@pytest.mark.fast
def test_scenes_know_everything_about_themselves():
    d = data.load("scenes:6", "train", size=64)
    assert d.images.shape == (12, 64, 64, 3) and d.fields["boxes"].shape == (12, 4, 5)
    again = data.load("scenes:3", "train", size=64)
    np.testing.assert_array_equal(again.images, d.images[:6])  # few scenes are the first of many
    mask, depth, normals, boxes = (d.fields[name] for name in ("mask", "depth", "normals", "boxes"))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
    floor = mask == 0
    for i in range(len(d)):  # all of the floor is one plane
        assert np.ptp(normals[i][floor[i]], 0).max(initial=0) < 1e-5
        # Each object that is seen is within a box of its class, which touches it on all sides.
        for kind in (0, 1):
            inside = np.zeros((64, 64), bool)
            for top, left, bottom, right, _ in boxes[i][boxes[i, :, 4] == kind].astype(int):
                part = mask[i, top:bottom, left:right] == 2 + kind
                inside[top:bottom, left:right] = True
                assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
            assert ((mask[i] == 2 + kind) & ~inside).mean() < 0.01
        assert (d.labels[i] + 1) == (boxes[i, :, 4] >= 0).sum()
    assert 0.002 < d.fields["boundary"].mean() < 0.1 and depth.min() > 0
    with pytest.raises(UserError, match="scenes:few does not say how many"):
        data.load("scenes:few", "train")


@pytest.mark.fast
def test_depth_and_motion_take_one_frame_of_a_scene_to_the_other():
    """A camera of known focal length: each point of the first frame is where the second one has it."""
    from ssl_jax.data import scene

    draw = np.random.RandomState(3)
    papers = scene.photographs("test")
    room, camera = scene._room(draw, papers, 3), scene._camera(draw)._replace(tilt=0.0)
    motion = np.array([0.3, 0.2, 0.15])
    first = scene.seen(room, camera, 96, 3, motion)
    second = scene.seen(room, scene.moved(camera, motion), 96, 3, -scene._turned(motion))
    for one, other in ((first, second), (second, first)):
        v, u = ((np.mgrid[:96, :96] + 0.5) / 96 - 0.5) / camera.focal
        points = np.stack([u, v, np.ones_like(u)], -1) * one.depth[..., None]
        right, forward, turn = one.motion
        points = points - [right, 0, forward]
        c, s = np.cos(turn), np.sin(turn)
        x, z = c * points[..., 0] - s * points[..., 2], s * points[..., 0] + c * points[..., 2]
        place = (np.stack([points[..., 1], x], -1) / z[..., None] * camera.focal + 0.5) * 96
        row, column = np.floor(place).astype(int).transpose(2, 0, 1)
        there = (row >= 0) & (row < 96) & (column >= 0) & (column < 96) & (z > 0.1)
        gap = np.abs(other.depth[row[there], column[there]] - z[there]) / z[there]
        assert there.mean() > 0.5 and np.median(gap) < 0.01 and (gap < 0.05).mean() > 0.85
        same = other.mask[row[there], column[there]] == one.mask[there]
        assert same.mean() > 0.95


@pytest.mark.fast
def test_a_card_needs_no_files():
    assert data.card("tfds:imagenet2012").count == 1_281_167
    assert data.card("tfds:something").count is None and "tensorflow" in data.card("tfds:something").origin
    assert data.card("cifar10").side == 32
    with pytest.raises(UserError, match=f"A folder or an archive is named folder:{pathlib.Path(__file__).parent}"):
        data.card(str(pathlib.Path(__file__).parent))
    with pytest.raises(UserError, match="Did you mean 'cifar10'"):
        data.card("cifar")


@pytest.mark.fast
def test_a_source_may_be_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "noise.py").write_text(
        """
import numpy as np
from ssl_jax.data import Card, Dataset

CARD = Card(side=4, channels=1, origin="made up")

def splits(where, path):
    return ("train",)

def load(where, path, request):
    return Dataset("noise", np.full((int(where), 4, 4, 1), 7, np.uint8), np.zeros(int(where), np.int32), ("one",))
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = data.load("my_project.noise:5", "train")
    assert found.images.shape == (5, 4, 4, 1) and data.splits("my_project.noise:5") == ("train",)
    assert not data.streams("my_project.noise") and data.streams("folder:x")
    with pytest.raises(UserError, match=r"no data source 'my_project\.music'"):
        data.load("my_project.music", "train")


@pytest.mark.fast
def test_rows_and_resizing_keep_the_fields():
    images = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4, 1)
    mask = np.arange(6 * 4 * 4).reshape(6, 4, 4)
    d = data.Dataset(
        "some", images, np.array([0, 1, 0, 1, 0, 1], np.int32), ("a", "b"), {"mask": mask, "clip": mask[:, 0, 0]}
    )
    some = d[np.array([4, 1])]
    assert some.labels.tolist() == [0, 1] and some.fields["clip"].tolist() == [64, 16]
    np.testing.assert_array_equal(some.fields["mask"], some.images[..., 0])
    np.testing.assert_array_equal(d[:3].fields["mask"], mask[:3])
    with pytest.raises(ValueError, match="6 images but 5 values of 'pose'"):
        data.Dataset("some", images, d.labels, (), {"pose": np.zeros(5)})


@pytest.mark.fast
def test_a_resized_field_keeps_its_values_and_its_place():
    """A field of every pixel is cut and resized as the images are, but never interpolated."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 5, (3, 6, 8), np.uint8)
    mask = blocks.repeat(4, 1).repeat(4, 2)  # 24 x 32
    d = data.Dataset("some", mask[..., None] * 50, np.zeros(3, np.int32), ("a",), {"mask": mask.astype(np.int32)})
    small = arrays.requested(d, data.Request("train", size=6))
    assert small.fields["mask"].shape == (3, 6, 6) and small.fields["mask"].dtype == np.int32
    np.testing.assert_array_equal(small.fields["mask"], blocks[:, :, 1:7])  # the centre, as of the images
    few = arrays.requested(d[np.array([0, 0, 1, 2])], data.Request("train", per_class=2))
    np.testing.assert_array_equal(few.fields["mask"], mask[[0, 0]])


# --- files in a place that the user names


@pytest.fixture
def wave2(photographs) -> pathlib.Path:
    place = photographs / "wave2"
    if not place.is_dir():
        pytest.skip("the second set of archives is not on this machine")
    return place


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", ""),
        ("usps", "usps.npz"),
        ("mnist_m", ""),
        ("omniglot", ""),
        ("omniglot:rotated", ""),
        ("coil100", "coil100_10views.npz"),
        ("coil100:unseen", "coil100_10views.npz"),
        ("camvid", "camvid_240x180.tar"),
        ("davis", "davis2016_val_180p.tar"),
        ("kitti", "kitti00_100stereo_half.tar"),
        ("bsds", ""),
    ],
)
def test_cards_agree_with_real_images(wave2, name, file):
    where = str(wave2 / file)
    train, test = (data.load(name, split, path=where) for split in ("train", "test"))
    if ":" not in name:
        assert len(data.load(f"{name}:{where}", "test")) == len(test)
    agree(data.card(name), train, test)
    assert data.splits(name, where) == ("train", "test") and train.name == test.name == name
    if data.card(name).new_classes and train.classes:
        assert not set(train.labels.tolist()) & set(test.labels.tolist())


@pytest.mark.fast
def test_real_masks_name_what_is_seen(wave2):
    """The sky is above the road, and bright; the share of pixels that are the object of a video is known."""
    streets = data.load("camvid", "test", path=str(wave2))
    mask, names = streets.fields["mask"], streets.card.mask_classes
    rows = {name: np.nonzero(mask == names.index(name))[1].mean() for name in ("sky", "road", "car")}
    assert rows["sky"] < rows["car"] < rows["road"] and mask.max() == len(names)
    assert streets.images[mask == names.index("sky")].mean() > 1.5 * streets.images[mask == names.index("road")].mean()
    assert np.bincount(streets.fields["domain"]).tolist() == [171, 62]
    videos = data.load("davis", "train", path=str(wave2))
    assert set(np.unique(videos.fields["mask"])) == {0, 1} and 0.02 < videos.fields["mask"].mean() < 0.2
    # Frames of a video are neighbours, in order: they differ less from each other than from the first.
    clip = videos.images[videos.fields["clip"] == 0].astype(float)
    assert np.all(np.diff(videos.fields["clip"]) >= 0)
    near, far = np.abs(np.diff(clip, axis=0)).mean(), np.abs(clip[1:] - clip[0]).mean()
    assert near < 0.8 * far


@pytest.mark.fast
def test_real_omniglot_is_that_of_the_archive(wave2):
    stored = np.load(wave2 / "omniglot_small1.npz")
    found = data.load("omniglot", "train", path=str(wave2))
    np.testing.assert_array_equal(found.images[..., 0], stored["x28"])
    np.testing.assert_array_equal(found.fields["drawer"], stored["drawer"])
    test = data.load("omniglot", "test", path=str(wave2))
    assert {name.partition("/")[0] for name in np.array(test.classes)[np.unique(test.labels)]} == {
        "Japanese_(katakana)",
        "Sanskrit",
        "Tagalog",
    }
    large = data.load("omniglot", "test", path=str(wave2), size=105)
    assert large.image_shape == (105, 105, 1) and set(np.unique(large.images)) == {0, 255}


def digits_file(place: pathlib.Path, name: str, side: int) -> pathlib.Path:
    """A tiny `name`.npz of three training and two test digits."""
    images = np.arange(5 * side * side, dtype=np.uint8).reshape(5, side, side)
    labels = np.array([3, 1, 4, 1, 5])
    arrays = {"x_train": images[:3], "y_train": labels[:3], "x_test": images[3:], "y_test": labels[3:]}
    place.mkdir(exist_ok=True)
    np.savez(place / f"{name}.npz", **arrays)
    return place / f"{name}.npz"


@pytest.mark.fast
@pytest.mark.parametrize(("name", "side"), [("mnist", 28), ("usps", 16)])
def test_digits_are_read_from_a_file_or_its_folder(tmp_path, name, side):
    file = digits_file(tmp_path, name, side)
    for source, path in (
        (name, str(tmp_path)),
        (name, str(file)),
        (f"{name}:{file}", None),
        (f"{name}:{tmp_path}", "-"),
    ):
        test = data.load(source, "test", path=path)
        assert test.images.shape == (2, side, side, 1) and test.labels.tolist() == [1, 5]
    assert test.labels.dtype == np.int32 and test.card == data.card(name)
    assert data.load(name, "train", path=str(file), size=8, per_class=1).image_shape == (8, 8, 1)


@pytest.mark.fast
def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"'usps' does not say where.*usps:PATH.*usps\.npz or its folder"):
        data.load("usps", "train")
    with pytest.raises(UserError, match=r"needs mnist\.npz, and there is no file .*nowhere"):
        data.splits("mnist", str(tmp_path / "nowhere"))
    digits_file(tmp_path, "mnist", 28)
    with pytest.raises(UserError, match=r"needs bsds500_train_images\.tar"):
        data.load("mnist_m", "train", path=str(tmp_path))
    (tmp_path / "usps.npz").write_bytes(b"PK and nothing")
    with pytest.raises(UserError, match=r"usps\.npz is no readable \.npz file"):
        data.load("usps", "train", path=str(tmp_path))
    np.savez(tmp_path / "usps.npz", x_train=np.zeros((2, 4), np.uint8), y_train=np.zeros(2))
    with pytest.raises(UserError, match=r"usps\.npz does not hold train images uint8 \[N, H, W\]"):
        data.load("usps", "train", path=str(tmp_path))
    with pytest.raises(UserError, match="has no array 'x_test', only x_train, y_train"):
        data.load("usps", "test", path=str(tmp_path))


def pack(file: pathlib.Path, images: dict[str, np.ndarray]) -> str:
    with tarfile.open(file, "w") as tar:
        for name, pixels in images.items():
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "png")  # whatever its name says, so that no pixel changes
            member = tarfile.TarInfo(name)
            member.size = stream.tell()
            stream.seek(0)
            tar.addfile(member, stream)
    return str(file)


@pytest.mark.fast
def test_mnist_m_blends_each_digit_with_a_patch(tmp_path):
    """Of photographs of one colour the patch is known wherever it is taken from."""
    digits_file(tmp_path, "mnist", 28)
    colour = np.array([200, 100, 0], np.uint8)
    photographs = {f"bsds500_train/{i}.jpg": np.broadcast_to(colour, (40, 30, 3)) for i in range(3)}
    pack(tmp_path / "bsds500_train_images.tar", photographs)
    found, grey = (data.load(name, "test", path=str(tmp_path)) for name in ("mnist_m", "mnist"))
    np.testing.assert_array_equal(found.images, np.abs(colour.astype(int) - grey.images.astype(int)))
    np.testing.assert_array_equal(found.labels, grey.labels)
    noise = {f"{i}.jpg": np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8) for i in range(3)}
    pack(tmp_path / "bsds500_train_images.tar", noise)
    one, two = (data.load("mnist_m", "train", path=str(tmp_path)) for _ in range(2))
    np.testing.assert_array_equal(one.images, two.images)  # every start sees the same
    # Each is a patch of a photograph: found again by looking everywhere.
    digit = data.load("mnist", "train", path=str(tmp_path)).images
    for image, pixels in zip(one.images, digit.astype(int), strict=True):
        windows = [
            np.lib.stride_tricks.sliding_window_view(x, (28, 28, 3)).reshape(-1, 28, 28, 3) for x in noise.values()
        ]
        blended = np.abs(np.concatenate(windows)[:, :2].astype(int) - pixels[:2])
        assert (blended == image[:2]).all((1, 2, 3)).sum() == 1


def omniglot_file(file: pathlib.Path, characters: list[str], drawers: int = 2) -> None:
    names = sorted({name.partition("/")[0] for name in characters})
    y = np.repeat(np.arange(len(characters)), drawers)
    ink = np.zeros((len(y), 105, 105), np.uint8)
    for row in range(len(y)):
        ink[row, row] = 1
    np.savez(
        file,
        x105_bits=np.packbits(ink.reshape(len(y), -1), axis=-1),
        y=y,
        alphabet=np.array([names.index(characters[i].partition("/")[0]) for i in y]),
        drawer=np.tile(np.arange(1, drawers + 1), len(characters)),
        alphabet_names=np.array(names),
        character_names=np.array(characters),
    )


@pytest.mark.fast
def test_omniglot_tests_on_characters_of_new_alphabets(tmp_path):
    omniglot_file(tmp_path / "omniglot_small1.npz", ["Greek/character01", "Latin/character01", "Latin/character02"])
    assert data.splits("omniglot", str(tmp_path)) == ("train",)
    with pytest.raises(UserError, match=r"no test images: there is no omniglot_small2\.npz"):
        data.load("omniglot", "test", path=str(tmp_path))
    omniglot_file(tmp_path / "omniglot_small2.npz", ["Latin/character01", "Tagalog/character07"])
    train, test = (data.load("omniglot", split, path=str(tmp_path), size=105) for split in ("train", "test"))
    assert (
        train.classes
        == test.classes
        == (
            "Greek/character01",
            "Latin/character01",
            "Latin/character02",
            "Tagalog/character07",
        )
    )
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and test.labels.tolist() == [3, 3]
    assert train.fields["alphabet"].tolist() == [0, 0, 1, 1, 1, 1] and test.fields["alphabet"].tolist() == [2, 2]
    assert test.fields["character"].tolist() == [7, 7] and test.fields["drawer"].tolist() == [1, 2]
    assert [np.flatnonzero(image.any((1, 2))).tolist() for image in test.images] == [[2], [3]]
    alone = str(tmp_path / "omniglot_small1.npz")
    assert data.splits("omniglot", alone) == ("train",) and data.load("omniglot", "train", path=alone).classes[3:] == ()


@pytest.mark.fast
def test_every_turn_of_a_character_is_a_class(tmp_path):
    omniglot_file(tmp_path / "omniglot_small1.npz", ["Greek/character01", "Latin/character01"])
    omniglot_file(tmp_path / "omniglot_small2.npz", ["Latin/character01", "Tagalog/character07"])
    name, options = "omniglot:rotated", {"path": str(tmp_path), "size": 105}
    for split in ("train", "test"):
        plain, turned = data.load("omniglot", split, **options), data.load(name, split, **options)
        assert len(turned) == 4 * len(plain) and turned.name == name and data.splits(name, str(tmp_path))[-1] == "test"
        for row, (image, label) in enumerate(zip(turned.images, turned.labels, strict=True)):
            turns, first = divmod(row, len(plain))
            np.testing.assert_array_equal(image, np.rot90(plain.images[first], turns))
            assert turned.classes[label] == f"{plain.classes[plain.labels[first]]}/{90 * turns}"
            assert turned.fields["degrees"][row] == 90 * turns
            assert turned.fields["drawer"][row] == plain.fields["drawer"][first]
    assert data.load(name, "train", per_class=1, **options).labels.tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    with pytest.raises(DoesNotFit):
        data.load(name, "train", max_gib=1e-4, **options)


@pytest.mark.fast
def test_coil100_holds_out_every_fifth_view(tmp_path):
    x = np.arange(20 * 4 * 4).astype(np.uint8).reshape(20, 4, 4)
    np.savez(tmp_path / "coil100_10views.npz", x=x, y=np.repeat([0, 1], 10), pose_index=np.tile(np.arange(10), 2))
    train, test = (data.load("coil100", split, path=str(tmp_path)) for split in ("train", "test"))
    np.testing.assert_array_equal(test.images[..., 0], x[[4, 9, 14, 19]])
    assert test.fields["pose"].tolist() == [20, 45, 20, 45] and test.labels.tolist() == [0, 0, 1, 1]
    assert len(train) == 16 and not set(train.fields["pose"].tolist()) & {20, 45}
    train, test = (data.load("coil100:unseen", split, path=str(tmp_path)) for split in ("train", "test"))
    assert train.labels.tolist() == [0] * 10 and test.labels.tolist() == [1] * 10 and test.classes == train.classes
    np.testing.assert_array_equal(test.images[..., 0], x[10:])


def street(number: int) -> dict[str, np.ndarray]:
    return {"jpg": np.full((6, 8, 3), number, np.uint8), "png": np.full((6, 8), number % 12, np.uint8)}


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_camvid_has_masks_sequences_and_the_hour(tmp_path, kind):
    names = ["train/0016E5_00390", "train/0001TP_006690", "test/Seq05VD_f00000", "val/0016E5_07959"]
    files = {f"{name}.{kind}": x for i, name in enumerate(names) for kind, x in street(10 + i).items()}
    where = pack(tmp_path / "camvid.tar", files)
    if kind == "folder":
        with tarfile.open(where) as tar:
            tar.extractall(tmp_path / "camvid", filter="data")
        where = str(tmp_path / "camvid")
    train, test = (data.load("camvid", split, path=where) for split in ("train", "test"))
    assert train.images[:, 0, 0, 0].tolist() == [11, 10] and train.fields["mask"][:, 0, 0].tolist() == [11, 10]
    assert train.fields["domain"].tolist() == [1, 0] and train.fields["clip"].tolist() == [0, 2]
    assert test.images[:, 0, 0, 0].tolist() == [12] and test.fields["clip"].tolist() == [3] and test.classes == ()
    small = data.load("camvid", "train", path=where, size=3)
    assert small.images.shape == (2, 3, 3, 3) and small.fields["mask"].shape == (2, 3, 3)
    del files["val/0016E5_07959.png"]
    with pytest.raises(UserError, match=r"val/0016E5_07959\.jpg in .* has no mask"):
        data.load("camvid", "train", path=pack(tmp_path / "bare.tar", files))


@pytest.mark.fast
def test_bsds_is_central_squares_and_shares_of_annotators(tmp_path):
    wide, high = np.zeros((4, 6, 3), np.uint8), np.full((6, 4, 3), 200, np.uint8)
    drawn = np.tile(np.array([0, 51, 102, 153, 204, 255], np.uint8), (4, 1))
    files = {"val/1.jpg": wide, "val/1.png": drawn, "val/2.jpg": high, "val/2.png": drawn.T}
    where = pack(tmp_path / "bsds.tar", files)
    assert data.splits("bsds", where) == ("train",)
    found = data.load("bsds", "train", path=where)
    assert found.images.shape == (2, 4, 4, 3) and found.images[:, 0, 0, 0].tolist() == [0, 200]
    shares = np.tile(np.float32([0.2, 0.4, 0.6, 0.8]), (4, 1))
    np.testing.assert_allclose(found.fields["boundary"], [shares, shares.T], atol=1e-6)
    with pytest.raises(UserError, match="has no folder test/"):
        data.load("bsds", "test", path=where)
    (tmp_path / "elsewhere").mkdir()
    pack(tmp_path / "elsewhere" / "others.tar", {"val/3.jpg": wide})
    (tmp_path / "bsds.tar").rename(tmp_path / "elsewhere" / "bsds500_boundaries_half.tar")
    assert len(data.load("bsds", "train", path=str(tmp_path / "elsewhere"))) == 2


@pytest.mark.fast
def test_davis_is_its_frames_in_order(tmp_path):
    files = {}
    for sequence, count in (("cows", 2), ("bear", 3), ("dog", 2)):
        for frame in range(count):
            files[f"{sequence}/{frame:05}.jpg"] = np.full((4, 6, 3), 10 * len(files), np.uint8)
            files[f"{sequence}/{frame:05}.png"] = np.eye(4, 6).astype(bool)
    where = pack(tmp_path / "davis.tar", files)
    train, test = (data.load("davis", split, path=where) for split in ("train", "test"))
    assert train.fields["clip"].tolist() == [0, 0, 0, 1, 1] and test.fields["clip"].tolist() == [2, 2]
    assert train.images[:, 0, 0, 0].tolist() == [40, 60, 80, 0, 20]
    np.testing.assert_array_equal(test.fields["mask"][1], np.eye(4, 6, dtype=np.uint8))
    assert test.fields["mask"].dtype == np.uint8 and set(train.labels.tolist()) == {-1}


@pytest.mark.fast
def test_kitti_has_the_pose_of_each_frame(tmp_path):
    def drive(folder, poses, frames=10):
        (tmp_path / folder / "left").mkdir(parents=True)
        for frame in range(frames):
            grey = Image.fromarray(np.full((4, 6), 20 * frame, np.uint8))
            grey.save(tmp_path / folder / "left" / f"{frame:06}.jpg")
        (tmp_path / folder / "poses.txt").write_text(poses)
        return str(tmp_path / folder)

    lines = "".join(" ".join(str(12 * frame + i) for i in range(12)) + "\n" for frame in range(10))
    train, test = (data.load("kitti", split, path=drive(split, lines)) for split in ("train", "test"))
    assert train.images.shape == (8, 4, 6, 1) and test.images[:, 0, 0, 0].tolist() == [160, 180]
    np.testing.assert_array_equal(train.fields["pose"], np.arange(96, dtype=np.float32).reshape(8, 12))
    np.testing.assert_array_equal(test.fields["pose"][0], np.arange(96, 108))
    with pytest.raises(UserError, match=r"has 9 frames left/FRAME\.jpg, and 10 poses"):
        data.load("kitti", "train", path=drive("short", lines, frames=9))
    for folder, text in (("words", "one two"), ("odd", "1 2 3 4 5\n")):
        with pytest.raises(UserError, match=r"no poses\.txt of twelve numbers a frame"):
            data.load("kitti", "train", path=drive(folder, text))


@pytest.mark.fast
def test_of_several_image_features_the_one_called_image_is_taken(tmp_path):
    def meant(given, found):
        return prepared._meant(given, "image", found, [*found, "bands"], tmp_path)

    assert meant(None, ["depth_mask", "image"]) == "image"
    assert meant(None, ["picture"]) == "picture"
    assert meant(None, []) is None
    assert meant("right", ["left", "right"]) == "right" and meant("bands", ["image"]) == "bands"
    with pytest.raises(UserError, match=r"several image features \(left, right\) .*--config.data.image=left"):
        meant(None, ["left", "right"])
    with pytest.raises(UserError, match=r"config.data.image is 'up', .* only left, bands"):
        meant("up", ["left"])
