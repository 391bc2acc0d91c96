"""Pictures that evaluations keep: what is shown, how it is stored, and what the report makes of it."""

import json

from etils import epath
import numpy as np
import pytest

from ssl_jax.evals import pictures
from ssl_jax.metrics import retrieval, verification
from ssl_jax.report import evaluated, page, runs
from ssl_jax.workdir.results import Result, Results

pytestmark = pytest.mark.fast


def test_columns_of_other_sizes_become_one_grid():
    grey = np.linspace(0, 1, 5 * 8 * 8).reshape(5, 8, 8, 1)
    masks = pictures.coloured(np.tile(np.arange(4).reshape(2, 2), (5, 1, 1)), 3)
    found = pictures.beside("Masks.", {"image": grey, "truth": masks})
    assert found.images.shape == (5, 2, 8, 8, 3)
    assert (found.images[0, 0, 0, 1] == round(255 * grey[0, 0, 1, 0])).all()
    corners = found.images[0, 1][[0, 0, -1, -1], [0, -1, 0, -1]]
    assert len({tuple(c) for c in corners}) == 4 and tuple(corners[3]) == (255, 255, 255)  # 3 is no class
    assert (found.images[0, 1, :4, :4] == corners[0]).all()


def test_pictures_of_many_channels_show_the_first_three():
    five = np.zeros((1, 4, 4, 5), np.uint8)
    five[..., 1], five[..., 4] = 200, 90
    assert tuple(pictures.beside("Five.", {"image": five}).images[0, 0, 0, 0]) == (0, 200, 0)


def test_large_images_are_kept_small():
    assert max(pictures.beside("x", {"image": np.zeros((1, 200, 400, 3), np.uint8)}).images.shape[2:4]) == 160


def test_boxes_are_drawn_at_their_sides():
    found = pictures.boxed(np.zeros((20, 30, 1), np.uint8), np.array([[4, 10, 12, 25, 1]]), 2)
    rows, columns = np.nonzero(found.any(-1))
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (4, 10, 12, 25)
    assert not found[8, 15].any()


def stored(tmp_path, step=3):
    results = Results(str(tmp_path), step, "digits", "digits", "f", (4, 4))
    grid = pictures.grid("An episode.", ("a", "b"), np.full((4, 3, 3, 1), 51, np.uint8), (("x", ""), ("", "y")))
    file = pictures.store(str(tmp_path), "few_shot", results.key, [grid])
    results.add({"pictures": {"few_shot": file}})
    return tmp_path / file


def files(tmp_path):
    return runs.Files("run", str(tmp_path), None, [], json.loads((tmp_path / "results.json").read_text()))


def test_what_is_stored_is_shown(tmp_path):
    path = stored(tmp_path)
    (found,) = pictures.load(epath.Path(path))
    assert found.title == "An episode." and found.columns == ("a", "b") and found.captions == (("x", ""), ("", "y"))
    np.testing.assert_allclose(found.images, 0.2)
    assert "An episode." in evaluated.shown(files(tmp_path))
    path.write_bytes(path.read_bytes()[:40])
    assert "run ssl_jax evaluate --evals=few_shot" in evaluated.shown(files(tmp_path))


def test_pictures_of_other_weights_are_other_files(tmp_path):
    first = stored(tmp_path)
    second = stored(tmp_path, step=4)
    assert first != second and first.exists() and second.exists()
    assert evaluated.shown(files(tmp_path))


def test_without_pictures_the_section_is_absent(tmp_path):
    assert pictures.store(str(tmp_path), "knn", "0", []) is None
    with pytest.raises(page.Absent):
        evaluated.shown(runs.Files("run", str(tmp_path), None, [], {}))


def test_hardest_triplets_are_those_furthest_from_right_order():
    angles = np.array([0.0, 0.1, 2.0, 2.1, 1.95])  # the last one is of the first class, and lies in the second
    x, labels = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([0, 0, 1, 1, 0])
    rows, cosines = retrieval.hardest_triplets(x, labels, 2)
    assert rows.tolist() == [[4, 0, 2], [2, 3, 4]]
    np.testing.assert_allclose(cosines[0], [np.cos(1.95), np.cos(0.05)], atol=1e-6)
    assert len(retrieval.hardest_triplets(x[:2], labels[:2], 2)[0]) == 0  # one class


def test_accepted_pairs_stay_below_the_rate():
    distance = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    same = np.array([True, False, True, True, False, False])
    np.testing.assert_allclose(verification.accepted(distance, same, (0.1, 0.34, 0.7, 1.0)), [1 / 3, 1, 1, 1])


def test_curves_and_matrix_are_drawn_from_results(tmp_path):
    results = Results(str(tmp_path), 3, "digits", "digits", "f", (4, 4))
    found = [
        Result(f"verification/roc/{rate:g}", value, of)
        for of in ("pretrained", "untrained")
        for rate, value in ((0.001, 0.2), (0.1, 0.7))
    ]
    found += [Result(f"forgetting/after_{i}/task_{j}", 0.25 * (1 + i + j)) for i in range(2) for j in range(2)]
    results.record(found)
    run = files(tmp_path)
    assert evaluated.verification([run]).count("<svg") == 1
    text = evaluated.tasks(run)
    assert text.index("25.0") < text.index("50.0") < text.index("75.0")
    for none in (
        lambda: evaluated.verification([runs.Files("x", "", None, [], {})]),
        lambda: evaluated.tasks(runs.Files("x", "", None, [], {})),
    ):
        with pytest.raises(page.Absent):
            none()
