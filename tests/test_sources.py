"""Sources and their cards: what a card says is what the data are."""

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.data import arrays, loading
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", loading.names())
def test_a_source_has_what_the_protocol_says(name):
    module, _ = loading.find(name)
    assert isinstance(module.CARD, data.Card) and module.CARD.origin
    assert callable(module.load) and callable(module.splits)
    for card in (module.CARD, *getattr(module, "CARDS", {}).values()):
        assert len(card.mean) == len(card.std) == (card.channels if card.mean else 0)
        if card.count:
            assert card.classes and card.licence and card.mirrors is not None


def agree(card: data.Card, train: data.Dataset, test: data.Dataset) -> None:
    """Asserts that the whole of a data set is as its card says."""
    assert (len(train), len(test)) == (card.count, card.test_count)
    assert train.image_shape == test.image_shape == (card.side, card.side, card.channels)
    assert len(train.classes) == card.classes and train.card == test.card == card
    pixels = train.images.reshape(-1, card.channels)
    np.testing.assert_allclose(pixels.mean(0) / 255, card.mean, atol=6e-5)
    np.testing.assert_allclose(pixels.std(0) / 255, card.std, atol=6e-5)


@pytest.mark.parametrize("name", ["digits", "photo_tiles"])
def test_cards_agree_with_the_images(name):
    agree(data.card(name), data.load(name, "train"), data.load(name, "test"))


def test_a_card_needs_no_files():
    assert data.card("tfds:imagenet2012").count == 1_281_167
    assert data.card("tfds:something").count is None and "tensorflow" in data.card("tfds:something").origin
    assert data.card("cifar10").side == 32
    with pytest.raises(UserError, match="Did you mean 'cifar10'"):
        data.card("cifar")


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
