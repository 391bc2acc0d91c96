"""Domains: sources joined into one data set, the labels of the target withheld; in memory and streamed."""

import dataclasses

import jax
import numpy as np
import pytest
from test_data import png, write
from test_sources import digits_file, wave2  # noqa: F401
import tiny

from ssl_jax import data
from ssl_jax.data import domains, train_test
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "cache"))


def made(name: str, shades: list[int], labels: list[int], classes=("a", "b"), channels=1, **fields) -> data.Dataset:
    images = np.broadcast_to(np.array(shades, np.uint8)[:, None, None, None], (len(shades), 4, 4, channels))
    fields = {key: np.array(values) for key, values in fields.items()}
    return data.Dataset(name, np.array(images), np.array(labels, np.int32), classes, fields)


def shade(dataset: data.Dataset) -> list[int]:
    return dataset.images[:, 0, 0, 0].tolist()


def section(source: str, target: str | None = None, **changes):
    """The section `data` of a config."""
    config = tiny.config("simclr", **{"data.source": source, "data.target": target})
    for name, value in changes.items():
        config.data[name] = value
    return config.data


def test_the_labels_of_the_target_are_withheld_and_kept():
    parts = [made("one", [1, 2], [0, 1]), made("two", [3], [1]), made("three", [4, 5], [1, 0])]
    train = domains.join(parts, target=True, withhold=True)
    assert shade(train) == [1, 2, 3, 4, 5] and train.fields["domain"].tolist() == [0, 0, 1, 2, 2]
    assert train.labels.tolist() == [0, 1, 1, -1, -1]
    assert train.fields["target_label"].tolist() == [-1, -1, -1, 1, 0]
    assert train.name == "one + two to three" and train.card.domains == ("one", "two", "three")
    for name in ("domain", "target_label"):
        assert train.fields[name].dtype == np.int32
    test = domains.join(parts, target=True)
    assert test.labels.tolist() == [0, 1, 1, 1, 0] and set(test.fields) == {"domain"}
    assert domains.join(parts, target=False).name == "one + two + three"


def test_classes_go_by_their_names():
    parts = [made("one", [1, 2], [0, 1], ("a", "b")), made("two", [3, 4, 5], [0, 1, -1], ("b", "a"))]
    joined = domains.join(parts, target=False)
    assert joined.labels.tolist() == [0, 1, 1, 0, -1] and joined.classes == ("a", "b")
    strange = made("three", [6], [2], ("a", "b", "c"))
    with pytest.raises(UserError, match=r"one and three cannot be joined.*\(c\)"):
        domains.join([parts[0], strange], target=True)
    bare = made("bare", [6], [-1], ())
    assert domains.join([parts[0], bare], target=True, withhold=True).fields["target_label"].tolist() == [-1, -1, -1]
    with pytest.raises(UserError, match="one and bare cannot be joined"):
        domains.join([parts[0], bare], target=False)


def test_without_a_target_the_classes_are_those_of_all_sources():
    parts = [made("one", [1, 2], [0, 1], ("a", "b")), made("two", [3, 4, 5], [0, 1, -1], ("c", "a"))]
    joined = domains.join(parts, target=False)
    assert joined.classes == ("a", "b", "c") and joined.labels.tolist() == [0, 1, 2, 0, -1]
    with pytest.raises(UserError, match="one and two cannot be joined"):
        domains.join([*parts, parts[0]], target=True)


def test_grey_images_become_colour_and_sizes_must_be_one():
    grey, colour = made("grey", [1, 2], [0, 1]), made("colour", [3], [0], channels=3)
    joined = domains.join([grey, colour], target=True)
    assert joined.images.shape == (3, 4, 4, 3) and joined.images.dtype == np.uint8
    assert joined.images[1].tolist() == np.full((4, 4, 3), 2).tolist()
    large = dataclasses.replace(colour, images=np.zeros((1, 5, 6, 3), np.uint8))
    with pytest.raises(data.DoesNotFit, match=r"grey: 4x4, colour: 6x5\): set --config\.data\.size"):
        domains.join([grey, large], target=True)
    with pytest.raises(data.DoesNotFit, match="max_gib"):
        domains.join([grey, colour], target=True, max_gib=100 / 2**30)


def test_fields_that_all_have_are_kept():
    parts = [made("one", [1, 2], [0, 1], pose=[10, 20], clip=[0, 0]), made("two", [3], [0], pose=[30])]
    joined = domains.join(parts, target=False)
    assert joined.fields["pose"].tolist() == [10, 20, 30] and set(joined.fields) == {"pose", "domain"}


def test_cards_say_what_holds_for_all():
    mirrors = [
        dataclasses.replace(made("x", [1], [0]), card=data.Card(mirrors=m, licence="MIT")) for m in (True, False)
    ]
    joined = domains.join(mirrors, target=False)
    assert joined.card.mirrors is False and joined.card.licence == "MIT" and joined.card.side == 4
    assert domains.join([mirrors[0], mirrors[0]], target=False).card.mirrors is True


def test_a_config_names_a_source_and_a_target(tmp_path):
    for name, side in (("mnist", 28), ("usps", 16)):
        digits_file(tmp_path, name, side)
    train, test = train_test.load(section("mnist", "usps", path=str(tmp_path), size=16))
    assert train.name == "mnist to usps" and train.image_shape == (16, 16, 1)
    assert train.labels.tolist() == [3, 1, 4, -1, -1, -1] and test.labels.tolist() == [1, 5, 1, 5]
    assert train.fields["target_label"].tolist() == [-1, -1, -1, 3, 1, 4]
    assert test.fields["domain"].tolist() == [0, 0, 1, 1]
    usps = data.load("usps", "train", path=str(tmp_path))
    np.testing.assert_array_equal(train.images[3:], usps.images)
    with pytest.raises(UserError, match=r"mnist: 28x28, usps: 16x16.*--config\.data\.size"):
        train_test.load(section("mnist", "usps", path=str(tmp_path)))
    both, _ = train_test.load(section(f"mnist:{tmp_path},usps:{tmp_path}", size=8))
    assert both.labels.tolist() == [3, 1, 4] * 2 and both.name == "mnist + usps"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("digits", ("digits",)),
        ("mnist,usps", ("mnist", "usps")),
        ("folder:a,b", ("folder:a,b",)),
        ("folder:a,folder:b,c", ("folder:a", "folder:b,c")),
        (("mnist", "digits"), ("mnist", "digits")),
    ],
)
def test_several_sources_have_commas_between(source, names):
    assert train_test.sources(source) == names


def folders(tmp_path, size=(8, 8)) -> tuple[str, str]:
    """Two domains of two classes; the second has no test images."""
    one = {
        f"{split}/{name}/{i}.png": png((40 * i + 10, 0, 0))
        for split in ("train", "test")
        for name in "ab"
        for i in (0, 1)
    }
    two = {f"train/{name}/{i}.png": png((40 * i + 100, 0, 0), size=size) for name in "ab" for i in (0, 1)}
    return f"folder:{write(tmp_path / 'one', one)}", f"folder:{write(tmp_path / 'two', two)}"


def test_different_classes_are_said_once(tmp_path, caplog):
    def folder(name, classes):
        found = {f"{split}/{label}/0.png": png((9, 0, 0)) for split in ("train", "test") for label in classes}
        return f"folder:{write(tmp_path / name, found)}"

    train, test = train_test.load(section(f"{folder('one', 'ab')},{folder('two', 'ca')}"))
    assert train.classes == test.classes == ("a", "b", "c")
    assert caplog.text.count("joined by name: 3 in all") == caplog.text.count("different classes") == 1
    caplog.clear()
    train_test.load(section(f"{folder('three', 'ab')},{folder('four', 'ba')}"))
    assert "different classes" not in caplog.text


def test_a_domain_without_test_images_keeps_its_number(tmp_path):
    source, target = folders(tmp_path)
    train, test = train_test.load(section(target, source, holdout=0.0))
    assert train.fields["domain"].tolist() == [0] * 4 + [1] * 4 and test.fields["domain"].tolist() == [1] * 4
    assert train_test.load(section(target, target, holdout=0.0))[1] is None


def test_images_are_held_out_of_a_domain_without_test_images(tmp_path):
    """Of each class; their labels are for measuring, as those of test images are."""
    source, target = folders(tmp_path)
    train, test = train_test.load(section(source, target))
    assert train.fields["domain"].tolist() == [0] * 4 + [1] * 2 and test.fields["domain"].tolist() == [0] * 4 + [1] * 2
    assert train.labels.tolist()[4:] == [-1, -1] and test.labels.tolist()[4:] == [0, 1] and test.held_out


def test_streamed_domains_are_those_in_memory(tmp_path):
    source, target = folders(tmp_path)
    held, streamed = (train_test.load(section(source, target, stream=how, holdout=0.0)) for how in ("never", "always"))
    for kept, listed in zip(held, streamed, strict=True):
        assert listed.streamed and listed.name == kept.name
        np.testing.assert_array_equal(listed.images.pictures(8), kept.images)
        np.testing.assert_array_equal(listed.labels, kept.labels)
        np.testing.assert_array_equal(listed.fields["domain"], kept.fields["domain"])
    names = [streamed[0].images.files.name(row) for row in streamed[0].images.rows]
    assert names == [f"train/{name}/{i}.png" for _ in range(2) for name in "ab" for i in (0, 1)]
    assert len({domains.join([a, b], False).images.content for a, b in ((streamed[0],) * 2, streamed)}) == 2


def test_domains_of_several_sizes_are_streamed(tmp_path):
    source, target = folders(tmp_path, size=(9, 12))
    assert train_test.load(section(source, target))[0].streamed
    assert train_test.load(section(source, target, size=8))[0].image_shape == (8, 8, 3)
    with pytest.raises(UserError, match="differ in size"):
        train_test.load(section(source, target, stream="never"))
    (file,) = [digits_file(tmp_path, "mnist", 28)]
    with pytest.raises(UserError, match=r"differ in their classes"):  # of what can be streamed and what cannot
        train_test.load(section(f"mnist:{file}", target, size=8))


def test_a_run_sees_the_classes_of_the_source(tmp_path):
    """What the method is told: all images, the classes of the source, the target unlabelled."""
    for name in ("mnist", "usps"):
        digits_file(tmp_path, name, 8)
    config = tiny.config(
        "simclr", batch_size=2, **{"data.source": "mnist", "data.target": "usps", "data.path": str(tmp_path)}
    )
    run = prepare(config, jax.devices()[:1])
    assert run.info.num_examples == 6 and run.info.num_classes == 10 and run.train.card.domains == ("mnist", "usps")


def test_real_digits_to_their_blended_twins(wave2):  # noqa: F811
    train, test = train_test.load(section("mnist", "mnist_m", path=str(wave2), per_class=50))
    assert train.images.shape == (1000, 28, 28, 3) and len(test) == 20_000
    assert np.bincount(train.fields["target_label"][500:]).tolist() == [50] * 10
    assert (train.labels[500:] == -1).all() and (train.labels[:500] >= 0).all()
    # The same digits, so the same labels, in another look.
    np.testing.assert_array_equal(train.fields["target_label"][500:], train.labels[:500])
    assert np.abs(train.images[500:].astype(int) - train.images[:500]).mean() > 50
