"""Linear segmentation: the metrics against reference values, and an evaluation of data with masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.data import Dataset
from ssl_jax.data.dataset import Card
from ssl_jax.evals import context
from ssl_jax.evals import segmentation as evaluation
from ssl_jax.metrics import segmentation
from ssl_jax.runtime.errors import UserError


def reference(golden, folder):
    path = golden.parent / folder / "segmentation.npz"
    if not path.exists():
        pytest.skip(f"reference numbers {folder} are not on this machine")
    with np.load(path) as found:
        return dict(found)


@pytest.mark.fast
def test_scores_are_the_reference_ones(golden):
    want = reference(golden, "golden_wave2")
    counts = segmentation.confusion(want["labels"], want["prediction"], 4)
    np.testing.assert_array_equal(counts, want["confusion"])
    found = segmentation.scores(counts)
    np.testing.assert_allclose(found.iou, want["iou"], rtol=1e-12)
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        np.testing.assert_allclose(getattr(found, name), want[name], rtol=1e-12)


@pytest.mark.fast
def test_a_class_that_is_absent_does_not_count(golden):
    want = reference(golden, "golden_modern")
    found = segmentation.scores(segmentation.confusion(want["gt"], want["pred"], 5))
    np.testing.assert_allclose(found.iou, want["iou"], rtol=1e-12)
    assert np.isnan(found.iou).sum() == 1
    np.testing.assert_allclose((found.miou, found.pixel_accuracy), (want["miou"], want["aacc"]), rtol=1e-12)


@pytest.mark.fast
def test_loss_and_upsampling_are_the_reference_ones(golden):
    want = reference(golden, "golden_wave2")
    loss, grads = jax.value_and_grad(segmentation.cross_entropy)(jnp.asarray(want["logits"]), want["labels"])
    np.testing.assert_allclose(loss, want["ce_ignore255"], rtol=1e-6)
    np.testing.assert_allclose(grads, want["grad_logits"], atol=1e-7)
    maps = reference(golden, "golden_modern")
    found = segmentation.upsampled(jnp.asarray(maps["map3x3"])[None, ..., None], (6, 6))[0, ..., 0]
    np.testing.assert_allclose(found, maps["map6x6"], atol=1e-6)


@pytest.mark.fast
def test_order_of_the_classes_does_not_matter():
    rng = np.random.default_rng(0)
    labels, prediction = rng.integers(0, 5, (2, 3, 40, 40))
    labels[rng.random(labels.shape) < 0.1] = segmentation.IGNORE
    order = np.append(rng.permutation(5), np.zeros(251, int))
    order[255] = 255
    found = segmentation.scores(segmentation.confusion(labels, prediction, 5))
    moved = segmentation.scores(segmentation.confusion(order[labels], order[prediction], 5))
    np.testing.assert_allclose(moved.iou[order[:5]], found.iou)
    assert moved.miou == pytest.approx(found.miou)


@pytest.mark.fast
def test_a_probe_finds_what_is_linear_in_the_map_whatever_its_scale():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (24, 8, 10)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    maps = np.eye(3)[masks[:, ::4, ::4]] @ rng.normal(size=(3, 6)) + 0.05 * rng.normal(size=(24, 8, 10, 6))
    maps = (maps * 10 ** rng.uniform(-3, 3, 6) + 5).astype(np.float32)
    hidden = np.where(rng.random(masks.shape) < 0.2, segmentation.IGNORE, masks)
    probe = segmentation.Probe(maps[:16], hidden[:16], classes=3, epochs=60, seed=0)
    found = probe(maps[16:], masks.shape[1:])
    # Bilinear logits round off the corners of squares of 4 pixels.
    assert segmentation.scores(segmentation.confusion(masks[16:], found, 3)).pixel_accuracy > 0.85
    np.testing.assert_array_equal(found[:, 2::4, 2::4], masks[16:, 2::4, 2::4])


def street(count, seed):
    """Noisy halves: dark above a random horizon, bright below, void at the rim."""
    rng = np.random.default_rng(seed)
    masks = (np.arange(36)[None, :, None] > rng.integers(10, 26, count)[:, None, None]).astype(np.uint8)
    masks = np.broadcast_to(masks, (count, 36, 50)).copy()
    images = (60 + 120 * masks[..., None] + rng.integers(0, 30, (*masks.shape, 1))).astype(np.uint8)
    masks[:, :, :3] = 11  # of no class
    card = Card(mask_classes=("wall", "ground"))
    return Dataset("street", images, np.full(count, -1, np.int32), (), {"mask": masks}, card)


def test_masks_are_measured_beside_the_untrained_backbone():
    run = tiny.run("rotation")
    images = street(24, 0), street(10, 1)
    networks = {name: context.Network(run, tiny.fresh(run)) for name in ("pretrained", "untrained")}
    what = context.Context(networks, images, None)
    with run.config.unlocked():
        run.config.eval.update(evaluation.OPTIONS)
    found = {r.name: r for r in evaluation.measure(what)}
    assert found["segmentation/miou"].value > 0.8 and found["segmentation/iou/ground_untrained"].value > 0.8
    assert 0.2 < found["segmentation/miou"].chance < 0.4 < found["segmentation/pixel_accuracy"].chance < 0.7
    assert found["segmentation/miou"].value == found["segmentation/miou_untrained"].value  # the same weights
    bare = dataclasses.replace(images[0], fields={})
    assert context.lacking((bare, images[1])) == {"labels", "mask"}
    with pytest.raises(UserError, match="needs images with masks"):
        evaluation.measure(dataclasses.replace(what, images=(bare, images[1])))
