"""Methods of video: their losses against the reference values, and what they take from clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.data.sources import davis_tracks
from ssl_jax.methods.video import equivariance, tracking_triplets, video_colorization, watching_objects_move
from ssl_jax.methods.video.equivariance import Motion
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def reference(golden, name):
    with np.load(golden.parent / "golden_wave2" / f"{name}.npz") as file:
        return {key: file[key] for key in file}


@pytest.mark.fast
def test_triplets_have_the_reference_value_and_gradient(golden):
    want = reference(golden, "tracking_triplets_margin0.5")
    with jax.enable_x64(True):
        z, which = jnp.asarray(want["z"]), want["negatives"]
        loss = lambda z: tracking_triplets.triplet_loss(z, z[which[..., 0], which[..., 1]], 0.5)  # noqa: E731
        value, grad = jax.value_and_grad(loss)(z)
    np.testing.assert_allclose(value, want["loss"], rtol=1e-9)
    np.testing.assert_allclose(grad, want["grad"], rtol=1e-7, atol=1e-10)


@pytest.mark.fast
def test_pairs_without_a_negative_cost_nothing():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)))
    assert float(tracking_triplets.triplet_loss(z, z[:, :1], 0.5, jnp.zeros((3, 1), bool))) == 0


@pytest.mark.fast
def test_negatives_are_of_other_videos_and_the_hardest_come_first():
    far = jnp.array([[4.0, 0.9, 0.2, 4.0, 0.5, 1.5]])
    for seed in range(20):
        draws = jax.random.uniform(jax.random.key(seed), far.shape)
        chosen = np.asarray(tracking_triplets.choose(far, draws, 4, 2))[0]
        assert chosen[:2].tolist() == [2, 4] and sorted(chosen[2:].tolist()) == [1, 5]
        assert set(np.asarray(tracking_triplets.choose(far, draws, 3, 0))[0].tolist()) <= {1, 2, 4, 5}


@pytest.mark.fast
def test_equivariance_has_the_reference_value_and_gradients(golden):
    want = reference(golden, "equivariance_margin1")
    with jax.enable_x64(True):
        z, moved, maps = (jnp.asarray(want[name]) for name in ("z_before", "z_after", "M0"))
        maps = jnp.stack([maps, jnp.asarray(want["M1"])])
        value, grads = jax.value_and_grad(equivariance.equivariance_loss, (0, 1, 3))(z, moved, want["motion"], maps)
    np.testing.assert_allclose(value, want["loss"], rtol=1e-9)
    for found, name in zip(
        (grads[0], grads[1], grads[2][0], grads[2][1]), ("before", "after", "M0", "M1"), strict=True
    ):
        np.testing.assert_allclose(found, want[f"grad_{name}"], rtol=1e-7, atol=1e-9)


@pytest.mark.fast
def test_invariant_features_lose_the_negatives():
    """Where all features are alike the loss is what `chance` says, and the error that of invariance."""
    z = jnp.zeros((10, 3))
    motion, maps = jnp.arange(10) % 5, jnp.broadcast_to(jnp.eye(3), (5, 3, 3))
    assert float(equivariance.equivariance_loss(z, z, motion, maps)) == pytest.approx(4.0, rel=1e-4)


@pytest.mark.fast
def test_a_motion_moves_the_image_as_it_says():
    """A quarter turn is one of the picture, with y downwards; a shift moves to the right and down."""
    size = 8
    turn, shift = equivariance.motion_maps((Motion(90.0), Motion(right=0.25, down=0.125)), size)
    point = np.array([6.5, 4.0, 1.0])  # right of the centre
    back = turn @ np.array([4.0, 6.5, 1.0])  # below it
    np.testing.assert_allclose(back, point, atol=1e-5)
    np.testing.assert_allclose(shift @ np.array([6.0, 5.0, 1.0]), [4.0, 4.0, 1.0], atol=1e-6)


@pytest.mark.fast
def test_tracks_of_davis_show_the_object(golden):
    path = golden.parent / "data" / "wave2" / "davis2016_val_180p.tar"
    if not path.exists():
        pytest.skip("The videos of DAVIS are not there.")
    from ssl_jax import data

    train, test = (data.load("davis_tracks", split, path=str(path)) for split in ("train", "test"))
    assert train.images.shape == (637, 64, 64, 3) and test.images.shape == (330, 64, 64, 3)
    assert not set(train.fields["clip"]) & set(test.fields["clip"])
    np.testing.assert_allclose((train.images / 255).mean((0, 1, 2)), davis_tracks.CARD.mean, atol=1e-3)
    np.testing.assert_allclose((train.images / 255).std((0, 1, 2)), davis_tracks.CARD.std, atol=1e-3)


@pytest.mark.fast
def test_a_patch_stays_inside_the_frame():
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    mask = np.zeros((20, 30), bool)
    mask[0:4, 0:6] = True  # in the corner, so that 1.3 times its box reaches out
    assert davis_tracks._patch(image, mask).shape == (64, 64, 3)
    mask[:] = True  # as large as the frame
    assert davis_tracks._patch(image, mask).shape == (64, 64, 3)


@pytest.mark.fast
def test_colours_are_copied_as_the_reference_has_it(golden):
    want = reference(golden, "video_colorization")
    with jax.enable_x64(True):
        places, target = jnp.asarray(want["reference"]), jnp.asarray(want["target"])
        colours = jax.nn.one_hot(want["reference_cluster"], 5, dtype=jnp.float64)

        def loss(places, target):
            return video_colorization.copy_loss(
                video_colorization.copied(target, places, colours), jnp.asarray(want["target_cluster"])
            )

        value, grads = jax.value_and_grad(loss, (0, 1))(places, target)
    np.testing.assert_allclose(value, want["loss"], rtol=1e-9)
    assert abs(float(value) - float(want["loss_of_the_port"])) > 1  # probabilities are no logits
    for found, name in zip(grads, ("reference", "target"), strict=True):
        np.testing.assert_allclose(found, want[f"grad_{name}"], rtol=1e-7, atol=1e-9)


@pytest.mark.fast
def test_clusters_of_colours_are_means_of_their_points():
    draw = np.random.default_rng(0)
    centres = np.array([[0, 0], [50, 0], [0, 50], [-40, -40]])
    points = jnp.asarray(np.concatenate([c + draw.normal(size=(50, 2)) for c in centres]), jnp.float32)
    # Some start has a point of each group; from others Lloyd's iterations end in a worse place.
    found = [video_colorization.kmeans(points, jax.random.key(seed), clusters=4) for seed in range(8)]
    costs = [float(jnp.min(jnp.sum((points[:, None] - f) ** 2, -1), 1).mean()) for f in found]
    best = np.asarray(found[int(np.argmin(costs))])
    gaps = np.linalg.norm(best[:, None] - centres[None], axis=-1)
    assert min(costs) < 3 and sorted(gaps.argmin(1)) == [0, 1, 2, 3]


def test_the_camera_is_followed_and_the_object_found():
    """A camera that moves 2 down and 1 left, and a square that moves against it."""
    ground = np.random.default_rng(0).uniform(size=(40, 40, 3)).astype(np.float32)
    frames = np.stack([ground[8 + 2 * t : 32 + 2 * t, 8 - t : 32 - t].copy() for t in range(5)])
    masks = np.zeros((5, 24, 24), bool)
    for t in range(5):
        masks[t, 8:16, 7 + t : 15 + t] = True
        frames[t][masks[t]] = np.random.default_rng(t).uniform(size=(64, 3))
    grey = frames.mean(-1)
    shift = watching_objects_move.translation(jnp.asarray(grey[0]), jnp.asarray(grey[1]), 4)
    assert shift.tolist() == [-2, 1]
    objects, told = watching_objects_move.motion_targets(jnp.asarray(frames[None]), 0.1, 4)
    objects, told = np.asarray(objects[0]), np.asarray(told[0])
    assert told.mean() > 0.8
    both, either = (objects & masks[2] & told).sum(), ((objects | masks[2]) & told).sum()
    assert both / either > 0.7


@pytest.mark.fast
def test_only_a_plausible_region_is_an_object():
    masks = np.zeros((5, 20, 20), bool)
    masks[0, 5:10, 5:10] = True  # an object
    masks[0, 15:17, 15] = True  # and noise beside it
    masks[1, 3, 3] = True  # too small
    masks[2] = True  # too large
    masks[3, :, 8:11] = masks[3, 0, :] = True  # at three borders and more
    found = watching_objects_move.largest_region(jnp.asarray(masks))
    assert np.asarray(found)[0].sum() == 25 and not np.asarray(found)[4].any()
    assert watching_objects_move.plausible(found).tolist() == [True, False, False, False, False]


@pytest.mark.fast
def test_the_mask_loss_is_the_mean_over_pixels_that_are_told():
    draw = np.random.default_rng(0)
    logits, objects = draw.normal(size=(2, 4, 4)), draw.uniform(size=(2, 4, 4)) > 0.5
    told = draw.uniform(size=(2, 4, 4)) > 0.3
    wanted = np.log1p(np.exp(np.where(objects, -logits, logits)))[told].mean()
    found = watching_objects_move.mask_loss(*map(jnp.asarray, (logits, objects, told)))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert (
        float(watching_objects_move.mask_loss(jnp.asarray(logits), jnp.asarray(objects), jnp.zeros((2, 4, 4), bool)))
        == 0
    )


@pytest.mark.fast
def test_movers_have_the_masks_of_their_objects():
    from ssl_jax import data

    train = data.load("photo_movers", "train")
    assert len(train) == data.card("photo_movers").count and set(np.unique(train.fields["mask"])) == {0, 1}
    assert 0.05 < train.fields["mask"].mean() < 0.15
    np.testing.assert_allclose((train.images / 255).mean((0, 1, 2)), data.card("photo_movers").mean, atol=1e-3)
    test = data.load("photo_movers", "test")
    assert not {x.tobytes() for x in test.images} & {x.tobytes() for x in train.images}


@pytest.mark.fast
@pytest.mark.parametrize("name", ["tracking_triplets", "video_colorization", "watching_objects_move"])
def test_images_that_are_no_video_are_refused(name):
    with pytest.raises(UserError, match=r"needs (videos|tracks|clips)"):
        tiny.run(name, **{"data.source": "photo_tiles"})


def test_motions_of_a_run_are_matrices_that_learn():
    run = tiny.run("equivariance")
    ts, batch = run.init(), tiny.batch_of(run, 16)
    grads = jax.grad(lambda params: tiny.loss_function(run)(params, ts.state, batch)[0])(ts.params)
    assert grads["motions"].shape == ts.params["motions"].shape and bool(jnp.any(grads["motions"] != 0))
