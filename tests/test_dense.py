"""Evaluations of dense prediction and detection, on a few rendered scenes."""

import dataclasses

import numpy as np
import pytest
import tiny

from ssl_jax import data
from ssl_jax.data import Dataset
from ssl_jax.data.dataset import Card
from ssl_jax.evals import (
    boundaries,
    context,
    depth,
    detection,
    knn_segmentation,
    normals,
    propagation,
    segmentation_heads,
)
from ssl_jax.evals.find import options
from ssl_jax.metrics import patch_knn
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("one_device")


def described(run, images, **settings):
    """What an evaluation is given of an untrained network."""
    with run.config.unlocked():
        run.config.eval.update(options() | {"dense_batch": 8, "dense_heads": "linear"} | settings)
    return context.Context({"pretrained": context.Network(run, run.init())}, images, None)


@pytest.fixture(scope="module")
def run():
    return tiny.run("rotation", **{"data.source": "photo_tiles", "model.name": "convnet", "model.width": 8})


@pytest.fixture(scope="module")
def rooms():
    train = data.load("scenes:16", "train", size=64)
    return train, train[np.arange(24)]


def measured(module, what):
    return {r.name: r for r in module.measure(what)}


def test_depth_is_learnt(run, rooms):
    found = measured(depth, described(run, rooms, dense_iterations=120))
    rmse = found["depth/linear/rmse"]
    assert rmse.value < rmse.chance and rmse.kind == "value"
    assert found["depth/linear/delta1"].kind == "share" and found["depth/linear/delta3"].detail
    bins = measured(depth, described(run, rooms, dense_iterations=120, depth_answer="bins"))
    assert bins["depth/linear/rmse"].value < bins["depth/linear/rmse"].chance
    with pytest.raises(UserError, match="depth_answer is 'metres': use 'log' or 'bins'"):
        depth.measure(described(run, rooms, depth_answer="metres"))


def test_normals_are_learnt(run, rooms):
    found = measured(normals, described(run, rooms, dense_iterations=120))
    assert found["normals/linear/mean_angle"].value < 0.8 * found["normals/linear/mean_angle"].chance


def test_boundaries_are_learnt(run, rooms):
    found = measured(boundaries, described(run, rooms, dense_iterations=60))["boundaries/linear/average_precision"]
    assert found.value > 2 * found.chance
    bare = dataclasses.replace(rooms[0], fields={})
    with pytest.raises(UserError, match=r"boundaries needs images in memory with boundary, and scenes has no field"):
        boundaries.measure(described(run, (bare, bare)))


def test_heads_are_trained_frozen_and_with_the_backbone(run, rooms):
    what = described(run, rooms, dense_iterations=40, dense_heads="linear,fcn_tuned")
    found = measured(segmentation_heads, what)
    for kind in ("linear", "fcn_tuned"):
        assert found[f"segmentation_heads/{kind}/miou"].value > found[f"segmentation_heads/{kind}/miou"].chance
    with pytest.raises(UserError, match="dense_heads has 'linear_frozen'"):
        segmentation_heads.measure(described(run, rooms, dense_heads="linear_frozen"))
    with pytest.raises(UserError, match="only a ResNet can have another"):
        segmentation_heads.measure(described(run, rooms, output_stride=8))


def test_objects_are_found(run, rooms):
    """Trained with the backbone, the few images are soon known by heart; nothing is known without training."""
    images = rooms[0][np.arange(8)], rooms[0][np.arange(8)]
    found = measured(detection, described(run, images, dense_iterations=250, detection_width=16))
    assert found["detection/tuned/ap50"].value > 0.3
    assert found["detection/tuned/train_ap50"].value == found["detection/tuned/ap50"].value  # the same images
    assert "detection/frozen/ap" in found


@pytest.mark.fast
def test_nearest_patches_vote_for_each_of_their_pixels():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (4, 8, 12)).astype(np.uint8)
    labels = patch_knn.patch_labels(masks, (2, 3))
    np.testing.assert_array_equal(labels[1, 4], masks[1, 4:8, 4:8].ravel())
    np.testing.assert_array_equal(patch_knn.whole(labels, (2, 3), (8, 12)), masks)
    maps = rng.normal(size=(4, 2, 3, 5)).astype(np.float32)
    hidden = masks.copy()
    hidden[0, :4, :4] = 255
    bank = patch_knn.bank(maps, hidden, 100, 0)
    assert len(bank.labels) == 23
    for distance in patch_knn.DISTANCES:
        one, three = patch_knn.segmented(bank, bank.features, 3, distance, (1, 3))
        np.testing.assert_array_equal(one, bank.labels)  # each is its own nearest
        far = np.square(bank.features[7] - bank.features).sum(1)
        cosine = bank.features @ bank.features[7] / np.linalg.norm(bank.features, axis=1)
        nearest = np.argsort(far if distance == "l2" else -cosine)[:3]
        votes = (bank.labels[nearest][..., None] == np.arange(3)).sum(0)
        np.testing.assert_array_equal(three[7], votes.argmax(1))


def test_segmentation_by_nearest_patches(run, rooms):
    found = measured(knn_segmentation, described(run, rooms))
    assert found["knn_segmentation/miou"].value > 2 * found["knn_segmentation/miou"].chance
    assert "neighbours" in found["knn_segmentation/choice"].value


def test_a_mask_is_carried_through_a_video(run):
    """Squares of one texture that move over another."""
    rng = np.random.default_rng(0)
    card = Card(mask_classes=("background", "object"))

    def video(seed):
        ground, thing = (rng.integers(low, low + 80, (64, 64, 3)) for low in (20, 150))
        images, masks = np.repeat(ground[None], 6, 0), np.zeros((6, 64, 64), np.uint8)
        for t in range(6):
            images[t, 16:48, 8 * t : 8 * t + 24] = thing[16:48, :24]
            masks[t, 16:48, 8 * t : 8 * t + 24] = 1
        fields = {"mask": masks, "clip": np.full(6, seed, np.int32)}
        return Dataset("squares", images.astype(np.uint8), np.full(6, -1, np.int32), (), fields, card)

    found = measured(propagation, described(run, (video(0), video(1))))
    assert found["propagation/j"].value > found["propagation/j"].chance + 0.1
    assert found["propagation/jf"].value == pytest.approx(
        (found["propagation/j"].value + found["propagation/f"].value) / 2
    )
    still = dataclasses.replace(video(0), fields={"mask": video(0).fields["mask"]})
    with pytest.raises(UserError, match="propagation needs videos"):
        propagation.measure(described(run, (still, still)))
