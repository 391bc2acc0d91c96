"""Targets follow the crop and the flip of their view; views over further axes."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import batch, dist
from ssl_jax.augment import draws, geometry
from ssl_jax.augment.boxes import Placed, placed
from ssl_jax.augment.render import render, render_views
from ssl_jax.augment.targets import Field, draw_targets, drawn
from ssl_jax.augment.view import View
from ssl_jax.data import loader
from ssl_jax.data.dataset import Dataset
from ssl_jax.methods.joint.simclr import SimCLR
from ssl_jax.run import _check_targets
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

VIEW = View(size=24, flip=0.5, area=(0.1, 1.0), mean=(0.0,), std=(1.0,))
PLACES = [((0, 0, 40, 48), False), ((3, 7, 20, 25), True), ((10, 4, 29, 13), False), ((17, 20, 8, 9), True)]


def mask(height=40, width=48, classes=7, seed=0):
    return np.random.default_rng(seed).integers(-1, classes, (height, width), np.int32)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def seen(view, key, height, width):
    """Box and flip of a key, as plain numbers."""
    box, flip = placed(view, draws.from_key(view, key), height, width)
    return tuple(int(x) for x in box), bool(flip)


def one(field, view, key, target, image=(40, 48)):
    """A target of one image, drawn in a batch."""
    views, stream = {"view1": view}, jax.random.fold_in(key, 0)
    where = seen(view, jax.random.fold_in(stream, 5), *image)
    found = jax.jit(lambda x: draw_targets({"t": field}, views, key, jnp.array([5]), image, {field.name: x[None]}))
    return np.asarray(found(jnp.asarray(target))["t"][0]), where


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.float32])
@pytest.mark.parametrize(("box", "flip"), PLACES)
def test_a_mask_is_drawn_as_an_image_with_nearest_neighbours(box, flip, kind):
    """Pillow's, of the same crop. No class that was not there is invented."""
    labels = np.abs(mask()).astype(kind)
    top, left, height, width = box
    wanted = Image.fromarray(labels).crop((left, top, left + width, top + height))
    wanted = np.asarray(wanted.resize((24, 24), Image.Resampling.NEAREST))[:, :: -1 if flip else 1]
    where = Placed(box, flip)
    found = drawn(Field("mask", like="view1"), VIEW, where, jnp.asarray(labels))
    assert found.dtype == (np.float32 if kind == np.float32 else np.int32)
    np.testing.assert_array_equal(found, wanted)


def test_a_mask_keeps_to_the_pixels_of_its_view():
    """Regions of one colour each: where the view shows one of the colours unmixed, the mask has its number."""
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 9, (4, 5)), np.ones((10, 10), int)).astype(np.int32)
    colours = rng.uniform(0.1, 0.9, 9).astype(np.float32)
    image = np.repeat(colours[labels][..., None], 3, -1)
    for key in keys(12):
        found, _ = one(Field("mask", like="view1"), VIEW, key, labels, (40, 50))
        own = jax.random.fold_in(jax.random.fold_in(key, 0), 5)
        gaps = np.abs(np.asarray(render(VIEW, own, jnp.asarray(image)))[..., :1] - colours)
        unmixed = gaps.min(-1) < 1e-5
        assert unmixed.mean() > 0.4
        np.testing.assert_array_equal(found[unmixed], gaps.argmin(-1)[unmixed])


@pytest.mark.parametrize(("box", "flip"), PLACES)
def test_depth_is_drawn_as_an_image_is_bilinearly(box, flip):
    depth = np.random.default_rng(0).uniform(0, 1, (40, 48)).astype(np.float32)
    wanted = geometry.resized_crop(jnp.asarray(depth)[..., None], box, 24, antialias=False, flip=flip)[..., 0]
    field = Field("depth", like="view1", kind="bilinear")
    normals = np.stack([depth, -depth], -1)
    np.testing.assert_allclose(drawn(field, VIEW, Placed(box, flip), jnp.asarray(depth)), wanted, atol=1e-5)
    found = drawn(field, VIEW, Placed(box, flip), jnp.asarray(normals))
    np.testing.assert_allclose(found, np.stack([wanted, -wanted], -1), atol=1e-5)


@pytest.mark.parametrize("kind", ["nearest", "bilinear"])
def test_beyond_the_image_nothing_is_known(kind):
    view = View(size=44, crop="shift", pad=4, flip=1.0)
    target = np.abs(mask()).astype(np.float32)
    found = drawn(Field("mask", "view1", kind), view, Placed((-3, 2, 44, 44), True), jnp.asarray(target))
    np.testing.assert_allclose(found[3:43, ::-1], target[:, 2:46], atol=1e-5)
    assert (found[:3] == -1).all() and (found[43:] == -1).all()


def test_boxes_follow_the_crop_and_the_flip():
    """A box painted into the image, drawn, and measured again."""
    field, rng, shown = Field("boxes", like="view1", kind="boxes"), np.random.default_rng(0), 0
    for number, key in enumerate(keys(40)):
        top, left = rng.integers(0, 30), rng.integers(0, 36)
        box = np.array([top, left, top + rng.integers(6, 11), left + rng.integers(6, 13), 3], np.float32)
        given = np.stack([box, np.full(5, -1, np.float32)])
        found, (where, _) = one(field, VIEW, key, given)
        assert found.shape == (2, 5) and (found[1] == -1).all()
        painted = np.zeros((40, 48), np.int32)
        painted[int(box[0]) : int(box[2]), int(box[1]) : int(box[3])] = 1
        rows, columns = np.nonzero(one(Field("mask", like="view1"), VIEW, key, painted)[0])
        if not len(rows):
            area = (found[0, 2] - found[0, 0]) * (found[0, 3] - found[0, 1])
            assert (found[0] == -1).all() or area < max(24 / where[2], 24 / where[3]) * 24, number
            continue
        shown += 1
        measured = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(found[0, :4], measured, atol=max(1, 12 / min(where[2:])))
        assert found[0, 4] == 3 and found.min(initial=0, where=found != -1) >= 0 and found.max() <= 24
    assert shown > 15


def test_a_box_outside_the_crop_is_marked():
    boxes = jnp.array([[0, 0, 5, 5, 1], [10, 10, 12, 30, 2], [0, 20, 10, 22, 4]])
    where = Placed((10, 20, 20, 20), False)
    found = drawn(Field("boxes", "view1", "boxes"), View(size=40), where, boxes)
    np.testing.assert_array_equal(found, [[-1] * 5, [0, 0, 4, 20, 2], [-1] * 5])
    mirrored = drawn(Field("boxes", "view1", "boxes"), View(size=40), where._replace(flip=True), boxes)
    np.testing.assert_array_equal(mirrored, [[-1] * 5, [0, 20, 4, 40, 2], [-1] * 5])


CHECKS = [
    (Field("mask", like="view2"), "'m' is drawn like 'view2', which is no view. .*view1"),
    (Field("mask", like="view1", kind="nearst"), "kind 'nearst'.*Did you mean 'nearest'"),
    (Field("mask", like="turned"), "config.method.turned.affine is 0.5, .*config.method.turned.affine to 0"),
]


@pytest.mark.parametrize(("field", "message"), CHECKS)
def test_what_cannot_be_drawn_is_refused(field, message):
    views = {"view1": VIEW, "turned": dataclasses.replace(VIEW, affine=0.5, order=("affine", "crop", "flip"))}
    Field("mask", like="view1").check("m", views)
    with pytest.raises(UserError, match=message):
        field.check("m", views)


# Further axes.


def clips(shared):
    view = dataclasses.replace(VIEW, size=8, jitter=1.0, brightness=0.4, shared=shared)
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    images = jnp.asarray(np.broadcast_to(image, (2, 3, 40, 48, 3)))  # the same frame all over
    positions = jnp.arange(6).reshape(2, 3)
    return {"view1": view}, positions, images


@pytest.mark.parametrize("shared", [False, True])
def test_frames_of_a_clip_are_drawn_alike_where_the_view_is_shared(shared):
    views, positions, images = clips(shared)
    found = np.asarray(jax.jit(lambda x: render_views(views, jax.random.key(0), positions, x))(images)["view1"])
    assert found.shape == (2, 3, 8, 8, 3)
    for clip in found:
        assert np.array_equal(clip[0], clip[1]) == np.array_equal(clip[0], clip[2]) == shared
    assert not np.array_equal(found[0, 0], found[1, 0])
    flat = render_views(views, jax.random.key(0), jnp.arange(6), images.reshape(6, 40, 48, 3))["view1"]
    np.testing.assert_allclose(found[:, 0], np.asarray(flat)[::3], atol=1e-5)  # the first frame's own key


@pytest.mark.parametrize("shared", [False, True])
def test_targets_of_a_clip_follow_its_frames(shared):
    views, positions, _ = clips(shared)
    labels = np.broadcast_to(mask(), (2, 3, 40, 48))
    field = Field("mask", like="view1")
    found = draw_targets({"m": field}, views, jax.random.key(0), positions, (40, 48), {"mask": jnp.asarray(labels)})[
        "m"
    ]
    assert found.shape == (2, 3, 8, 8)
    for (b, t), position in np.ndenumerate(positions):
        own = positions[b, 0] if shared else position
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), own)
        where = placed(views["view1"], draws.from_key(views["view1"], key), 40, 48)
        np.testing.assert_array_equal(found[b, t], drawn(field, views["view1"], where, jnp.asarray(labels[b, t])))


def test_ready_crops_of_clips_have_their_colours_drawn():
    views, positions, images = clips(shared=True)
    crops = {"view1": images[..., :8, :8, :]}
    found = np.asarray(render_views(views, jax.random.key(0), positions, crops)["view1"])
    assert found.shape == (2, 3, 8, 8, 3)
    np.testing.assert_array_equal(found[:, 0], found[:, 2])


def test_targets_of_a_part_are_named_within_it():
    targets = {
        "all": Field("mask", like="view"),
        "source/seen": Field("mask", like="source/view"),
        "target/seen": Field("depth", like="view", kind="bilinear"),
    }
    wanted = {"all": Field("mask", like="view"), "seen": Field("mask", like="view")}
    assert batch.targets_of(targets, "source") == wanted
    assert batch.targets_of(targets, "") == targets


# In a run.


@dataclasses.dataclass(frozen=True)
class Segmenting(SimCLR):
    def targets(self):
        return {"seen": Field("mask", like="view2"), "found": Field("box", like="view2", kind="boxes")}


def with_fields(run):
    """The run's data with the image's first channel for mask, and one box over its left half."""
    images = run.train.images
    height, width = images.shape[1:3]
    box = np.tile(np.array([[0, 0, height, width / 2, 1]], np.float32), (len(images), 1, 1))
    return dataclasses.replace(run.train, fields={"mask": images[..., 0].astype(np.int32), "box": box})


def test_a_batch_has_the_targets_of_its_method():
    run = tiny.run("simclr")
    plain = View(size=8, area=(0.3, 0.9), flip=0.5, mean=(0.0,), std=(1.0,))
    method = Segmenting(run.method.backbone, view1=plain, view2=plain)
    run = dataclasses.replace(run, train=with_fields(run), method=method)
    data, make = loader.on_devices(run.train, run.mesh), batch.maker(run)
    rows = jnp.arange(8) + 3

    def made(raw, rows, data):
        return make(jax.random.wrap_key_data(raw), 0, rows, data)[0]

    raw = jax.random.key_data(jax.random.key(1))
    found = dist.map_replicas(made, run.mesh, (P(), P(dist.AXIS), P()), P(dist.AXIS))(raw, rows, data)
    views = method.views()
    wanted = draw_targets(method.targets(), views, jax.random.key(1), jnp.arange(8), run.train.image_shape[:2],
                          {name: jnp.asarray(x[rows]) for name, x in run.train.fields.items()})  # fmt: skip
    for name in ("seen", "found"):
        np.testing.assert_array_equal(found[name], wanted[name])
    assert found["seen"].shape == (8, 8, 8) and found["found"].shape == (8, 1, 5)
    # As near to the view's own pixels as the nearest of them can be.
    shown = 255 * np.asarray(found["view2"])[..., 0]
    assert np.corrcoef(shown.ravel(), np.asarray(found["seen"]).ravel())[0, 1] > 0.9
    _, example = batch.example(run, 0, 4)
    assert example["seen"].shape == (4, 8, 8) and example["mask"].shape == run.train.fields["mask"][:4].shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "wants the field 'mask', but the images of .* have no fields"),
        ({"mask": np.zeros((2, 4, 4), np.int32)}, r"'mask' of .* is \(4, 4\) and its images are \(8, 8\)"),
    ],
)
def test_data_without_the_targets_is_refused(fields, message):
    config = tiny.config("simclr")
    images = np.zeros((2, 8, 8, 1), np.uint8)
    dataset = Dataset("digits", images, np.zeros(2, np.int32), ("a",), fields)
    with pytest.raises(UserError, match=message):
        _check_targets(config, Segmenting(None), dataset)
