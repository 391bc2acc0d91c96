"""Streaming: the same views as on the device, whoever decodes them; damage, archives, resuming and evaluation."""

import dataclasses
import io
import json
import logging
import pathlib
import shutil
import tarfile
import tracemalloc

import jax
import jax.numpy as jnp
import joblib
import numpy as np
from PIL import Image
import pytest
from sklearn.datasets import load_sample_images
from test_data import tiny_tfds  # noqa: F401
import tiny

from ssl_jax import data, dist, epoch, train
from ssl_jax.augment import recipes
from ssl_jax.augment.render import render_views
from ssl_jax.augment.view import View, evaluation
from ssl_jax.data import cutter, files, lazy, loader, train_test
from ssl_jax.data.crop import Crop
from ssl_jax.data.cutter import Cutter, Pass, Training, share
from ssl_jax.data.lazy import Images
from ssl_jax.data.prefetch import blocks
from ssl_jax.data.samplers import Shuffled
from ssl_jax.evals.features import extractor
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import TryAgain, UserError
from ssl_jax.state import TrainState
from ssl_jax.workdir.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = np.asarray(jax.random.key_data(jax.random.key(3)))
VIEWS = {"a": View(size=16, flip=0.5), "b": View(size=12, crop="tf", interpolation="bicubic")}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "cache"))


def cuttings(count: int, size: tuple[int, int] | None, kind: str, seed: int = 0) -> list[bytes]:
    """Encoded pieces of a photograph, of one size or of any."""
    rng, files = np.random.default_rng(seed), []
    for _ in range(count):
        height, width = size or rng.integers(20, 90, 2)
        top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
        file = io.BytesIO()
        Image.fromarray(load_sample_images().images[seed % 2][top : top + height, left : left + width]).save(file, kind)
        files.append(file.getvalue())
    return files


def layout(size: tuple[int, int] | None = None, kind: str = "jpeg") -> dict[str, bytes]:
    """Two classes, 16 training and 8 test images each."""
    sets = {(s, c): n for s, n in (("train", 16), ("test", 8)) for c in "xy"}
    return {
        f"{split}/{name}/{i:02}.{kind}": file
        for seed, ((split, name), n) in enumerate(sets.items())
        for i, file in enumerate(cuttings(n, size, kind, seed))
    }


def write(root: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def pack(file: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> pathlib.Path:
    """A folder of images that differ in size."""
    return write(tmp_path_factory.mktemp("mixed"), layout())


@pytest.fixture(scope="module")
def even(tmp_path_factory) -> pathlib.Path:
    """A folder of images of one size, without loss of compression."""
    return write(tmp_path_factory.mktemp("even"), layout((24, 32), "png"))


def listed(place, split="train", **options) -> data.Dataset:
    return data.load(f"folder:{place}", split, stream=True, **options)


def made(images: Images, workers: int = 0, plan=None, own=None, views=VIEWS) -> list:
    plan = plan or Pass(KEY, len(images), 10)
    return list(blocks(Cutter(images, views, plan, np.arange(plan.size) if own is None else own), workers))


def training(count: int, size: int, start: int, stop: int, seed: int = 0) -> Training:
    return Training(Shuffled(count, size), "", None, seed, KEY, start, stop)


def same(left: list, right: list) -> None:
    for a, b in zip(left, right, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


# What is seen.


def test_batches_do_not_depend_on_who_decodes_them(mixed):
    images = listed(mixed).images
    plan = training(len(images), 20, 1, 4, seed=5)  # over the end of an epoch of one batch
    alone = made(images, 0, plan)
    assert [rows.tolist() for _, rows, _ in alone] == [plan[i].rows.tolist() for i in range(3)]
    for workers in (1, 2):
        same(made(images, workers, plan), alone)


def test_a_block_is_a_function_of_its_step(mixed):
    images = listed(mixed).images
    whole = made(images, plan=training(len(images), 12, 0, 5, seed=5))
    same(made(images, plan=training(len(images), 12, 3, 5, seed=5)), whole[3:])
    assert not np.array_equal(whole[0][0]["a"], whole[2][0]["a"])


@pytest.mark.parametrize(
    "view",
    [
        View(size=16, flip=0.5),
        View(size=16, crop="byol", interpolation="bicubic", flip=0.5),
        View(size=16, crop="tf", area=(0.3, 0.9)),
        View(size=26, crop="shift", pad=3, flip=0.5),
        View(size=16, crop="centre", centre=0.875),
        dataclasses.replace(recipes.SIMCLR, size=16, taps=3),
        dataclasses.replace(recipes.MOCO_V2, size=16, taps=3),
    ],
)
def test_views_are_those_of_the_device(even, view):
    """Same key, same crop, same colours: what differs is rounding to uint8 (and by contrast, a little more of it)."""
    views = {"one": view, "two": view}
    held, streamed = data.load(f"folder:{even}", "train"), listed(even)
    rng = jax.random.key(9)
    plan = Pass(np.asarray(jax.random.key_data(rng)), 32, 32)
    ((crops, rows, _),) = made(streamed.images, plan=plan, views=views)
    render = jax.jit(lambda images: render_views(views, rng, jnp.asarray(rows), images))
    wanted, found = render(held.images[rows]), render({name: jnp.asarray(x) for name, x in crops.items()})
    for name in views:
        gap = np.abs(np.asarray(wanted[name]) - found[name]) * np.asarray(view.std)
        # An odd rounding of exp may move one box by a pixel; the images would then differ by far more.
        close = gap.mean((1, 2, 3)) < 1 / 255
        assert close.mean() > 0.95 and np.median(gap.mean((1, 2, 3))) < 0.7 / 255
    assert not np.allclose(found["one"], found["two"]) or view.crop == "centre"


@pytest.mark.parametrize("shared", [False, True])
def test_frames_of_a_streamed_clip_are_cropped_alike_where_the_view_is_shared(even, shared):
    """As on the device: four clips of two frames, each twice the same file."""

    @dataclasses.dataclass(frozen=True)
    class Clips:
        parts = {"": (4, 2)}  # noqa: RUF012

        def __call__(self, seed, step):
            return {"": np.repeat(np.arange(4), 2).reshape(4, 2)}

    views = {"one": View(size=16, flip=0.5, shared=shared)}
    plan = Training(Clips(), "", None, 0, KEY, 3, 4)
    ((crops, rows, _),) = made(listed(even).images, plan=plan, views=views)
    clips = crops["one"].reshape(4, 2, 16, 16, 3)
    assert [np.array_equal(*clip) for clip in clips] == [shared] * 4
    held = data.load(f"folder:{even}", "train").images[rows].reshape(4, 2, 24, 32, 3)
    rng = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(KEY)), 3)
    positions = jnp.arange(8).reshape(4, 2)
    render = jax.jit(lambda images: render_views(views, rng, positions, images)["one"])
    gap = np.abs(np.asarray(render(held) - render({"one": jnp.asarray(clips)}))) * np.asarray(views["one"].std)
    assert np.median(gap.mean((2, 3, 4))) < 0.7 / 255 and (gap.mean((2, 3, 4)) < 1 / 255).mean() > 0.7


@pytest.mark.fast
@pytest.mark.parametrize("processes", [[0], [0, 1], [0, 0, 1, 1], [1, 0, 1, 0], [2, 0, 1]])
def test_shares_are_disjoint_and_cover_the_batch(processes):
    rows, columns = 3, 12
    shares = [share(processes, own, rows, columns) for own in sorted(set(processes))]
    assert sorted(np.concatenate(shares)) == list(range(rows * columns))
    for own, entries in enumerate(shares):
        assert np.all(np.diff(entries) > 0)
        devices = entries % columns // (columns // len(processes))
        assert {processes[d] for d in devices} == {own}


def test_processes_make_the_parts_of_one_batch(mixed):
    images, plan = listed(mixed).images, training(32, 16, 0, 2)
    whole = made(images, plan=plan)
    for own in (0, 1):
        entries = share([1, 0, 0, 1], own, 2, 8)
        for (crops, rows, _), (all_crops, all_rows, _) in zip(made(images, plan=plan, own=entries), whole, strict=True):
            np.testing.assert_array_equal(rows, all_rows[entries])
            np.testing.assert_array_equal(crops["b"], all_crops["b"][entries])


def test_batches_lie_on_the_devices_as_indices_do(mixed):
    dataset, mesh = listed(mixed), dist.make_mesh(jax.devices()[:4])
    plan = training(32, 16, 0, 1)
    ((crops, labels, index),) = loader.streamed(dataset.images, dataset.labels, VIEWS, plan, mesh, 2, 0)
    assert crops["a"].shape == (2, 8, 16, 16, 3) and crops["a"].dtype == jnp.uint8
    assert crops["a"].sharding.spec == jax.P(None, "data")
    np.testing.assert_array_equal(index, plan[0].rows.reshape(2, 8))
    np.testing.assert_array_equal(labels, dataset.labels[plan[0].rows].reshape(2, 8))


# What is read.


class Counted:
    """Files that count how often they are read."""

    def __init__(self, files, count):
        self.files, self.count, self.reads = files, count, 0

    def read(self, row):
        self.reads += 1
        return self.files.read(row % len(self.files))

    def name(self, row):
        return str(row)

    def __len__(self):
        return self.count


@dataclasses.dataclass(frozen=True)
class Away:
    """Files of which one cannot be had now."""

    files: lazy.Files

    def read(self, row):
        if row == 3:
            raise TimeoutError("no answer")
        return self.files.read(row)

    def name(self, row):
        return str(row)

    def __len__(self):
        return len(self.files)


def test_only_a_few_images_are_in_memory(mixed, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    files = Counted(listed(mixed).images.files, 5000)
    images = Images(files, np.arange(5000))
    assert len(images[1::2]) == 2500 and files.reads == 0
    made_ahead = blocks(Cutter(images, {"a": View(size=4)}, Pass(KEY, 5000, 32), np.arange(32)), 0)
    for _ in range(3):
        next(made_ahead)
    made_ahead.close()
    assert 3 * 32 <= files.reads <= 3 * 32 + 8 * cutter.PIECE


def test_unreadable_images_are_replaced_named_and_counted(mixed, tmp_path, caplog):
    broken = pathlib.Path(shutil.copytree(mixed, tmp_path / "broken"))
    for name, content in (("x/15", b""), ("y/00", b"no image"), ("y/15", None)):
        file = broken / f"train/{name}.jpeg"
        file.write_bytes(file.read_bytes()[:400] if content is None else content)
    images = listed(broken).images
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        first = made(images)
        assert len(caplog.records) == 3
        second = made(images, 1)
        assert len(caplog.records) == 3  # each is named once
    same(first, second)
    text = caplog.text
    assert all(f"train/{name}.jpeg" in text for name in ("x/15", "y/00", "y/15")) and "3 so far" in text
    seen = {int(r): int(s) for _, rows, found in first for r, s in zip(rows, found, strict=True)}
    assert {row: found for row, found in seen.items() if row != found} == {15: 17, 16: 17, 31: 0}


@pytest.mark.fast
def test_a_crop_costs_the_same_of_many_images(mixed):
    images = Images(Counted(listed(mixed).images.files, 10**7), np.arange(10**7))
    tracemalloc.start()
    images.cut(10**7 - 1, lambda height, width: [Crop(0, 0, height, width, 4)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6  # one number an image would be 80 MB


def test_a_disk_that_is_away_is_an_error(mixed, monkeypatch):
    """And no damaged image, whose place another takes."""
    monkeypatch.setattr(files, "_PAUSES", ())
    images = listed(mixed).images
    away = dataclasses.replace(images, files=Away(images.files))
    with pytest.raises(TryAgain, match=r"^3 could not be read in 1 attempts \(TimeoutError: no answer\).* again\.$"):
        made(away)


@pytest.mark.fast
def test_no_end_of_damaged_images_is_an_error(mixed, monkeypatch):
    monkeypatch.setattr(lazy, "MOST_SKIPPED", 4)
    images = listed(mixed).images
    gone = dataclasses.replace(images, files=dataclasses.replace(images.files, root="/nowhere"))
    with pytest.raises(UserError, match=r"None of 4 images, of 32, can be read \(train/x/05\.jpeg: .*No such file"):
        gone.cut(5, lambda height, width: [])


def test_the_listing_tells_one_set_of_files_from_another(mixed, tmp_path):
    """The features of images that changed or moved are extracted anew."""
    copied = pathlib.Path(shutil.copytree(mixed, tmp_path / "copied"))
    before = listed(copied).images.content
    assert before == listed(copied).images.content != ""
    (copied / "train/x/15.jpeg").rename(copied / "train/y/99.jpeg")
    assert listed(copied).images.content != before


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_to_read_is_an_error(tmp_path, workers):
    place = write(tmp_path / "bad", {f"{i}.png": b"bad" for i in range(3)})
    with pytest.raises(UserError, match="None of 3 images, of 3, can be read"):
        made(listed(place).images, workers, Pass(KEY, 3, 3))


def test_archives_hold_the_same_images_as_folders(mixed, tmp_path, monkeypatch):
    files = layout()
    wanted = made(listed(mixed, "test").images)
    single = pack(tmp_path / "all.tar", files)
    wrapped = pack(tmp_path / "wrapped.tar", {f"set-1.0/{name}": file for name, file in files.items()})
    shards = tmp_path / "shards"
    for split in ("train", "test"):
        below = {name.removeprefix(f"{split}/"): file for name, file in files.items() if name.startswith(split)}
        for part in range(3):
            pack(shards / split / f"{part:03}.tar", dict(list(below.items())[part::3]))
    for place in (single, wrapped, shards):
        dataset = listed(place, "test")
        assert dataset.classes == ("x", "y") and np.bincount(dataset.labels).tolist() == [8, 8]
        same(made(dataset.images), wanted)
    same(made(listed(shards, "test").images, 1), wanted)

    held = data.load(f"folder:{shards}", "test", size=20)  # shards are read into memory as well
    np.testing.assert_array_equal(held.images, data.load(f"folder:{mixed}", "test", size=20).images)
    # Headers are read once.
    monkeypatch.setattr(tarfile.TarFile, "next", None)
    same(made(listed(shards, "test").images), wanted)


def test_a_compressed_archive_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is compressed.*gunzip"):
        listed(pack(tmp_path / "all.tar.gz", layout()))


def test_array_records_are_streamed(tiny_tfds):  # noqa: F811
    where = {"path": str(tiny_tfds), "size": 8}
    held = data.load("tfds:toy", "train", **where)
    dataset = data.load("tfds:toy", "train", stream=True, **where)
    np.testing.assert_array_equal(dataset.labels, held.labels)
    assert dataset.classes == held.classes
    plan, views = Pass(KEY, len(held.images), len(held.images)), {"a": View(size=8, crop="centre")}
    for workers in (0, 1):
        ((crops, _, _),) = made(dataset.images, workers, plan, views=views)
        np.testing.assert_array_equal(crops["a"], held.images)
    few = data.load("tfds:toy", "train", stream=True, per_class=1, **where)
    assert few.labels.tolist() == [0, 1] and len(few.images) == 2


@pytest.mark.fast
def test_what_cannot_be_streamed_is_explained(tmp_path):
    with pytest.raises(UserError, match="digits is small"):
        data.load("digits", "train", stream=True)
    with pytest.raises(UserError, match=r"config\.method\.v\.order has 'jitter' before 'crop'"):
        cutter.check({"v": dataclasses.replace(recipes.WMSE_CIFAR)}, 32)
    with pytest.raises(UserError, match=r"set --config\.data\.size"):  # a crop without a scale
        cutter.check({"v": dataclasses.replace(recipes.ROTNET_CIFAR, order=("crop",))}, None)
    place = write(tmp_path / "small", dict(zip("ab", cuttings(2, (20, 20), "png"), strict=True)))
    (place / "a").rename(place / "a.png")
    with pytest.raises(UserError, match="None of 1 images"):  # 20 + 2 x 4 pixels hold no crop of 32
        made(listed(place).images, views={"v": View(size=32, crop="shift")}, plan=Pass(KEY, 1, 1))


# The loop.


def config(place, method="simclr", **changes):
    c = get_config(method, "cifar10_small")
    c.data.source, c.data.per_class, c.data.workers = f"folder:{place}", None, 0
    c.model.name, c.model.width, c.batch_size, c.epochs = "convnet", 4, 8, 2
    c.run.log_steps, c.run.eval_epochs = 1, 0.0
    for view in {"view", "view1", "view2"} & set(c.method):
        c.method[view].size, c.method[view].crop = 16, "torch"
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c


def metrics(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def last(like: TrainState, workdir) -> TrainState:
    checkpoints = Checkpoints(str(workdir))
    state = checkpoints.restore(like)[1]
    checkpoints.close()
    return jax.device_get(state)


def test_streamed_batches_come_one_by_one(even):
    with pytest.raises(UserError, match=r"config\.run\.steps_per_call is 2, .* streamed: set it to 1"):
        prepare(config(even, **{"data.stream": "always", "run.steps_per_call": 2}))


def test_a_streamed_run_learns_as_a_resident_one_and_resumes_bitwise(even, tmp_path, capsys, monkeypatch):
    # Without BatchNorm: over so few images it makes much of the least difference.
    changes = {"run.save_epochs": 1.5, "run.keep": 9, "accumulate": 2, "batch_size": 16, "epochs": 3}
    changes |= {"model.norm": "none", "optim.default.learning_rate": 0.02}
    streamed, held = (config(even, "rotation", **changes, **{"data.stream": how}) for how in ("always", "never"))
    traced = tiny.count_traces(monkeypatch)
    train.train(streamed, str(tmp_path / "streamed"))
    assert len(traced) == 1
    train.train(held, str(tmp_path / "held"))
    run = prepare(held)
    assert not run.train.streamed
    like = run.init()
    pairs = list(zip(metrics(tmp_path / "streamed"), metrics(tmp_path / "held"), strict=True))
    assert len(pairs) == 6 and all(0 <= a["input_wait"] <= 1 for a, _ in pairs)
    for a, b in pairs:
        assert a["loss"] == pytest.approx(b["loss"], abs=5e-3)
    tiny.assert_close(last(like, tmp_path / "streamed").params, last(like, tmp_path / "held").params, 0.02)

    # Without what came after update 3, which is within an epoch of two updates, and by a process instead.
    shutil.copytree(tmp_path / "streamed", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "6")
    assert (tmp_path / "resumed" / "checkpoints" / "3").is_dir()
    streamed.data.workers = 1
    train.train(streamed, str(tmp_path / "resumed"))
    assert "Resuming after update 3" in capsys.readouterr().err
    tiny.assert_same(last(like, tmp_path / "resumed"), last(like, tmp_path / "streamed"))


def test_images_of_several_sizes_are_streamed_unless_told_otherwise(mixed, even):
    assert train_test.load(config(mixed).data)[0].streamed
    assert not train_test.load(config(mixed, **{"data.size": 16}).data)[0].streamed
    assert not train_test.load(config(even).data)[1].streamed
    both = train_test.load(config(even, **{"data.max_gib": 1e-6}).data)
    assert both[0].streamed and both[1].streamed and both[0].image_shape[2] == 3
    with pytest.raises(UserError, match="differ in size"):
        train_test.load(config(mixed, **{"data.stream": "never"}).data)
    with pytest.raises(UserError, match="max_gib"):
        train_test.load(config("", **{"data.source": "digits", "data.size": 9, "data.max_gib": 1e-6}).data)
    with pytest.raises(UserError, match=r"config\.data\.stream is 'yes'"):
        train_test.load(config(even, **{"data.stream": "yes"}).data)


def test_features_and_embeddings_are_those_of_resident_images(even):
    runs = {name: prepare(config(even, **{"data.stream": name})) for name in ("never", "always")}
    ts = runs["never"].init()
    features, means = {}, {}

    def mean(params, state, batch):
        del params, state
        return batch["view1"].mean((1, 2)) + batch["view2"].mean((1, 2)) + batch["index"][:, None]

    for name, run in runs.items():
        assert run.train.streamed == (name == "always")
        extract = extractor(run.method, evaluation(run.method.view1, 0.875), run.mesh, batch_size=10)
        features[name] = extract(ts.params, ts.state, run.train.images[::2])
        means[name] = epoch.embedder(run)(mean, ts, run.train.images, jax.random.key(4))
    assert features["always"].shape == features["never"].shape and len(means["always"]) == 32
    np.testing.assert_allclose(features["always"], features["never"], atol=0.02 * np.abs(features["never"]).max())
    np.testing.assert_allclose(means["always"], means["never"], atol=0.02)
