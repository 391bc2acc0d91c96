"""Samplers: pure functions of the seed and the step, with the shapes and the composition that they promise."""

import numpy as np
import pytest
import tiny

from ssl_jax.data.samplers import (
    Clips,
    Episodes,
    Joined,
    PerClass,
    Shuffled,
    TaskSequence,
    check,
)
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.fast

LABELS = np.repeat(np.arange(12), 10).astype(np.int32)
CLIP = np.repeat(np.arange(6), [20, 7, 3, 30, 1, 19])
KINDS = {
    "shuffled": Shuffled(120, 16),
    "joined": Joined({"labelled": np.arange(10), "unlabelled": np.arange(10, 120)}, {"labelled": 8, "unlabelled": 24}),
    "per_class": PerClass(LABELS, 4, 4),
    "episodes": Episodes(LABELS, 4, 5, 1, 3),
    "clips": Clips(CLIP, 8, 3, 2),
    "tasks": TaskSequence((np.arange(60), np.arange(60, 120)), 16, 2),
    "rehearsed": TaskSequence((np.arange(60), np.arange(60, 120)), 16, 2, memory=4, kept=10),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_a_function_of_seed_and_step(name):
    sampler = KINDS[name]
    check(sampler, len(LABELS), 1)
    for step in (0, 3, 57):
        one, again = sampler(5, step), sampler(5, step)
        assert one.keys() == set(sampler.parts)
        for part, shape in sampler.parts.items():
            assert one[part].shape == shape and one[part].dtype == np.int32
            np.testing.assert_array_equal(one[part], again[part])
    part = next(iter(sampler.parts))
    assert not np.array_equal(sampler(5, 0)[part], sampler(6, 0)[part])
    assert not np.array_equal(sampler(5, 0)[part], sampler(5, 1)[part])


def test_joined_sets_each_come_once_in_an_epoch_of_their_own():
    sampler = KINDS["joined"]
    drawn = [sampler(0, step) for step in range(20)]
    labelled = np.concatenate([d["labelled"] for d in drawn])
    others = np.concatenate([d["unlabelled"] for d in drawn])
    for start in range(0, 160, 10):
        assert sorted(labelled[start : start + 10]) == list(range(10))
    assert sorted(others[:110]) == list(range(10, 120)) and sorted(others[110:220]) == list(range(10, 120))
    assert sampler.steps_per_epoch == 5


def test_classes_come_with_their_images_and_take_turns():
    sampler = KINDS["per_class"]
    for step in range(3):
        labels = LABELS[sampler(1, step)[""]].reshape(4, 4)
        assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == 4
        assert len(set(sampler(1, step)[""])) == 16
    seen = np.concatenate([np.unique(LABELS[sampler(1, step)[""]]) for step in range(3)])
    assert sorted(seen) == list(range(12))


def test_episodes_have_their_classes_and_no_image_twice():
    rows = KINDS["episodes"](2, 4)[""]
    assert rows.shape == (4, 5, 4)
    for episode in rows:
        assert (LABELS[episode] == LABELS[episode[:, :1]]).all()
        assert len(set(LABELS[episode[:, 0]])) == 5 and len(np.unique(episode)) == 20


def test_clips_never_cross_a_cut():
    sampler = KINDS["clips"]
    starts = []
    for step in range(sampler.steps_per_epoch):
        rows = sampler(0, step)[""]
        np.testing.assert_array_equal(np.diff(rows, axis=1), 2)
        assert (CLIP[rows] == CLIP[rows[:, :1]]).all()
        starts += rows[:, 0].tolist()
    assert len(set(starts)) == len(starts)
    # A video of L frames has L - 4 places for three frames that are two apart.
    assert len(starts) == (16 + 3 + 0 + 26 + 0 + 15) // 8 * 8


def test_tasks_come_one_after_the_other():
    for name in ("tasks", "rehearsed"):
        sampler = KINDS[name]
        total = sampler.steps_per_epoch * 2
        for step in range(total):
            drawn = sampler(0, step)
            new = drawn.get("", drawn.get("new"))
            assert set(new // 60) == {sampler.task(step)}
        assert sampler.task(0) == 0 and sampler.task(total - 1) == 1
    remembered = set(sampler.remembered(0, 0).tolist())
    assert len(remembered) == 10 and remembered <= set(range(60))
    assert set(sampler(0, total - 1)["memory"].tolist()) <= remembered


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PerClass(LABELS, 13, 4), "only 12 classes"),
        (lambda: PerClass(LABELS, 4, 11), "only 0 classes"),
        (lambda: PerClass(LABELS, 4, 1), "no pair"),
        (lambda: Episodes(LABELS, 1, 5, 8, 3), "only 0 classes"),
        (lambda: Episodes(LABELS, 1, 5, 0, 3), "1 shot"),
        (lambda: Clips(CLIP, 8, 31), "0 places"),
        (lambda: Clips(CLIP, 8, 0), "at least 1"),
        (lambda: Joined({"a": np.arange(0)}, {"a": 4}), "part 'a'"),
        (lambda: TaskSequence((np.arange(3), np.arange(9)), 8, 1), "Task 0"),
        (lambda: TaskSequence((np.arange(9),), 8, 1, memory=2), "both zero"),
        (lambda: check(Shuffled(120, 10), 120, 4), "multiple of 4"),
        (lambda: check(Shuffled(5, 10), 5, 1), "no whole batch"),
    ],
)
def test_what_the_data_cannot_give_is_said(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.fast
@pytest.mark.parametrize(("name", "images"), [("simclr", 16), ("protonet", 16 * 5 * 4), ("shuffle_and_learn", 16 * 5)])
def test_a_run_counts_the_images_of_an_update(name, images):
    run = tiny.run(name)
    drawn = run.sampler(0, 0)
    assert run.images_per_update == images == sum(rows.size for rows in drawn.values())
