"""Camera motion: poses and what they mean, bins, pairs of frames, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import data
from ssl_jax.methods.video.camera_motion import PARTS, bin_of, relative
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def pose(turn, place):
    """A camera at a place that has turned to the right by some degrees, as 12 numbers."""
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return jnp.asarray(np.concatenate([rotation, np.array(place)[:, None]], 1).reshape(12), jnp.float32)


@pytest.mark.fast
def test_a_motion_is_as_the_first_camera_sees_it():
    """Turned to the right by a quarter, what lies ahead is the world's x."""
    found = relative(pose(90, [1.0, 2.0, 3.0]), pose(120, [5.0, 2.5, 2.0]))
    np.testing.assert_allclose(found, [1.0, 0.5, 4.0, 30.0], atol=1e-5)
    still = jnp.stack([pose(0, [0, 0, 0]), pose(10, [1, 0, 0])])
    np.testing.assert_allclose(relative(still, still), 0, atol=1e-5)
    # There and back again: the other way, as the second camera sees it.
    np.testing.assert_allclose(relative(pose(120, [5.0, 2.5, 2.0]), pose(90, [1.0, 2.0, 3.0]))[3], -30, atol=1e-4)


@pytest.mark.fast
def test_poses_of_kitti_are_read_as_they_are_meant(photographs):
    """From the first frame to the second: 86 cm ahead, and a turn by -2.07 mrad."""
    frames = data.load("kitti", "train", path=str(photographs / "wave2" / "kitti00_100stereo_half.tar"))
    right, down, ahead, turn = relative(*jnp.asarray(frames.fields["pose"][:2]))
    assert float(ahead) == pytest.approx(0.8587, abs=1e-4) and np.deg2rad(turn) == pytest.approx(-2.07e-3, abs=1e-5)
    assert abs(float(right)) < 0.05 and abs(float(down)) < 0.05


@pytest.mark.fast
def test_bins_are_equal_parts_of_a_range():
    values = jnp.asarray([-9.0, -1.0, -0.51, -0.49, 0.0, 0.99, 1.0, 9.0])
    np.testing.assert_array_equal(bin_of(values, (-1.0, 1.0), 4), [0, 0, 0, 1, 2, 3, 3, 3])


def test_pairs_are_frames_of_a_clip_with_the_motion_between():
    """Of a window over a photograph: what it shows has moved the other way."""
    run, _, _ = tiny.compiled("camera_motion")
    method = run.method
    batch = tiny.batch_of(run, 512)  # the 16 clips of the first update
    frames, motion = method._pairs(batch, jax.random.key(0))
    assert frames.shape[:2] == (16, 2) and motion.shape == (16, 4)
    np.testing.assert_array_equal(frames[:, 0], batch["view"][:, 0])
    lengths = np.hypot(motion[:, 0], motion[:, 1])
    assert 0 < lengths.min() < 6 and 10 < lengths.max() < 22  # from one frame to seven, up to 3 pixels each
    np.testing.assert_allclose(motion[:, 2:], 0, atol=1e-4)
    x = np.asarray(frames)
    for (one, two), (right, down, *_) in zip(x, np.asarray(motion), strict=True):
        dx, dy = round(float(right)), round(float(down))
        rows, columns = (slice(max(d, 0), 32 + min(d, 0)) for d in (dy, dx))
        back = [slice(max(-d, 0), 32 + min(-d, 0)) for d in (dy, dx)]
        np.testing.assert_allclose(one[rows, columns], two[back[0], back[1]], atol=1e-5)
    answers = np.asarray(method._answers(motion))
    assert answers.shape == (16, 2) and len(np.unique(answers[:, 0])) > 5
    (shown,) = method.pictures(tiny.fresh(run).params, tiny.fresh(run).state, batch, rng=jax.random.key(0))
    tiny.assert_picture(shown)
    assert "right" in shown.captions[0][1] and "turn" not in shown.captions[0][1]


@pytest.mark.fast
def test_what_is_not_known_or_not_asked_is_refused():
    run = tiny.run("camera_motion")
    method = run.method
    with pytest.raises(UserError, match="set the largest of one at least"):
        dataclasses.replace(method, **{name: 0.0 for name in PARTS}).check(32, 32, 3)
    assert dataclasses.replace(method, turn=5.0, ahead=3.0)._asked()["ahead"] == (0.0, 3.0)
    bare = dataclasses.replace(run.train, fields={"clip": run.train.fields["clip"]})
    with pytest.raises(UserError, match="such as kitti"):
        method.sampler(bare, run.info)
