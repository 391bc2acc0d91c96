"""Metrics and losses of dense prediction and detection, against reference values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.metrics import affinity, boundaries, centernet, depth, detection, normals, propagation, ridge

pytestmark = pytest.mark.fast


def reference(golden, name):
    path = golden.parent / name
    if not path.exists():
        pytest.skip(f"reference numbers {name} are not on this machine")
    with np.load(path) as found:
        return dict(found)


def test_measures_of_depth_are_the_reference_ones(golden):
    want = reference(golden, "golden_wave2/depth_normals.npz")
    true = np.where(want["valid"], want["depth_true"], 0)
    found = depth.scores(want["depth_pred"], true)
    for name, value in found._asdict().items():
        np.testing.assert_allclose(value, want[name], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(depth.median_scale(want["depth_pred"], true), want["median_scale_per_image"], rtol=1e-12)


def test_the_loss_of_depth_is_the_reference_one(golden):
    want = reference(golden, "golden_wave2/depth_normals.npz")
    true = np.where(want["valid"], want["depth_true"], 0)
    with jax.enable_x64(True):
        given = jnp.asarray(want["depth_pred"])
        loss, grad = jax.value_and_grad(lambda d: depth.eigen_loss(jnp.log(d), true))(given)
    np.testing.assert_allclose(loss, want["eigen_si_lambda0_5"], rtol=1e-12)
    np.testing.assert_allclose(grad, want["grad_depth"], atol=1e-12)
    scaled = depth.eigen_loss(jnp.log(3 * want["depth_pred"]), true, weight=1.0)
    np.testing.assert_allclose(scaled, depth.eigen_loss(jnp.log(want["depth_pred"]), true, weight=1.0), rtol=1e-4)


def test_bins_and_the_loss_of_their_depth():
    rng = np.random.default_rng(0)
    logits, true = rng.normal(size=(2, 4, 5, 8)), rng.uniform(1, 9, (2, 4, 5))
    weights = np.maximum(logits, 0) + 0.1
    wanted = (weights / weights.sum(-1, keepdims=True)) @ np.linspace(0.5, 10, 8)
    found = depth.from_bins(jnp.asarray(logits), 0.5, 10)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    true[0, :2] = 0
    gap = (np.log(wanted + 1e-3) - np.log(true + 1e-3))[true > 0]
    loss = np.sqrt(gap.var(ddof=1) + 0.15 * gap.mean() ** 2)
    np.testing.assert_allclose(depth.sig_loss(found, jnp.asarray(true)), loss, rtol=1e-4)
    np.testing.assert_allclose(
        depth.sig_loss(found, jnp.asarray(true), warm=True), np.sqrt(0.15) * abs(gap.mean()), rtol=1e-4
    )
    perfect = jax.grad(lambda d: depth.sig_loss(d, jnp.asarray(true)))(jnp.asarray(true) + 0.0)
    assert np.isfinite(perfect).all()


def test_measures_of_normals_are_the_reference_ones(golden):
    want = reference(golden, "golden_wave2/depth_normals.npz")
    unknown = np.zeros((5, 3))
    p, t = (np.concatenate([want[name], unknown]) for name in ("normal_pred", "normal_true"))
    found = normals.scores(p, t)
    names = ("mean_angle", "median_angle", "within_11_25", "within_22_5", "within_30")
    np.testing.assert_allclose(found, [want[name] for name in names], rtol=1e-9)
    angles = np.degrees(np.arccos((want["normal_pred"] * want["normal_true"]).sum(-1)))
    loss = normals.loss(jnp.asarray(3 * p[None, None]), jnp.asarray(t[None, None]))
    np.testing.assert_allclose(loss, (1 - np.cos(np.radians(angles))).mean(), rtol=1e-5)


def test_boundaries_weigh_as_much_as_the_rest():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(2, 6, 7)), rng.choice([-1.0, 0.0, 0.25, 0.5, 1.0], (2, 6, 7))
    wanted = []
    for z, y in zip(logits, truth, strict=True):
        z, edge = z[y >= 0], y[y >= 0] >= 0.5
        beta, p = 1 - edge.mean(), 1 / (1 + np.exp(-z))
        wanted.append(-(beta * np.log(p[edge]).sum() + (1 - beta) * np.log(1 - p[~edge]).sum()) / len(z))
    found = boundaries.balanced_loss(jnp.asarray(logits), jnp.asarray(truth))
    np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5)


def test_a_boundary_may_lie_two_pixels_beside_the_true_one():
    truth = np.zeros((1, 30, 30))
    truth[0, :, 10] = 1.0
    for shift, right in ((0, True), (2, True), (3, False)):
        score = np.zeros((1, 30, 30))
        score[0, :, 10 + shift] = 1 + np.arange(30) / 100
        first = boundaries.average_precision(score, truth)
        assert (first > 0.3) == right, shift  # the first 30 of 150 right pixels, the others among the rest
    known = np.where(np.arange(30) < 20, truth, -1)
    assert boundaries.average_precision(truth, known) > boundaries.average_precision(truth, truth)


def test_average_precision_is_that_of_pycocotools(golden):
    want = reference(golden, "golden_wave2/detection_ap.npz")

    def boxes(kind, score):
        x, y, w, h = want[f"{kind}_xywh"].T
        return detection.Boxes(
            want[f"{kind}_image"], want[f"{kind}_class"], np.stack([y, x, y + h, x + w], 1), np.asarray(score)
        )

    found = detection.scores(boxes("det", want["det_score"]), boxes("gt", np.ones(len(want["gt_image"]))))
    names = ("coco_ap", "coco_ap50", "coco_ap75", "voc07_11point_50", "voc_all_point_50")
    np.testing.assert_allclose(found, [want[name] for name in names], rtol=1e-12)


def test_a_box_is_found_once():
    box = np.array([[0, 0, 10, 10]], float)
    true = detection.Boxes(np.zeros(1, int), np.zeros(1, int), box, np.ones(1))
    twice = detection.Boxes(np.zeros(2, int), np.zeros(2, int), box.repeat(2, 0), np.array([0.9, 0.8]))
    assert detection.scores(twice, true).ap == 1  # the second comes after full recall
    other = detection.Boxes(np.zeros(2, int), np.array([0, 1]), box.repeat(2, 0), np.ones(2))
    assert detection.scores(twice, other).ap == 0.5
    nothing = detection.Boxes(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    assert detection.scores(nothing, true).ap == 0


def test_targets_and_losses_of_centernet_are_the_reference_ones(golden):
    want = reference(golden, "golden_wave2/centernet.npz")
    np.testing.assert_allclose(
        centernet.radius(*jnp.asarray(want["sizes_hw"].T, float)), want["radius_authors"], rtol=1e-5
    )
    boxes = np.concatenate([want["boxes_xyxyc"][:, [1, 0, 3, 2, 4]], np.full((2, 5), -1)])
    found = centernet.targets(jnp.asarray(boxes), (16, 20), 2)
    np.testing.assert_allclose(found.heat, want["heatmap"], atol=1e-6)
    assert found.known.tolist() == [True] * 4 + [False] * 2
    np.testing.assert_array_equal(found.place[:4], want["index"])
    np.testing.assert_allclose(found.size[:4], want["wh"][:, ::-1], rtol=1e-5)
    np.testing.assert_allclose(found.offset[:4], want["offset"][:, ::-1], atol=1e-5)
    with jax.enable_x64(True):
        heat = jnp.asarray(want["heatmap"])
        loss, grad = jax.value_and_grad(centernet.focal_loss)(jnp.asarray(want["logits"]), heat)
        l1 = centernet.l1_loss(
            jnp.asarray(want["wh_prediction"])[None], jnp.asarray(want["wh"])[None], np.ones((1, 4), bool)
        )
    np.testing.assert_allclose(loss, want["focal"], rtol=1e-9)
    np.testing.assert_allclose(grad, want["grad_logits"], atol=1e-9)
    np.testing.assert_allclose(l1, want["l1_authors"], rtol=1e-9)


def test_centernet_answers_with_what_it_was_to_answer():
    boxes = np.array([[[1, 2, 6.5, 9, 1], [8, 10, 14, 16, 0], [-1] * 5]])
    wanted = jax.vmap(lambda b: centernet.targets(b, (16, 20), 3))(jnp.asarray(boxes))
    maps = {name: np.zeros((1, 16 * 20, 2), np.float32) for name in ("size", "offset")}
    for name, x in maps.items():
        x[0, wanted.place[0, :2]] = getattr(wanted, name)[0, :2]
    heat = jax.scipy.special.logit(jnp.clip(wanted.heat, 1e-4, 1 - 1e-4))
    answer = centernet.Answer(heat, *(jnp.asarray(x.reshape(1, 16, 20, 2)) for x in maps.values()))
    found, score = centernet.decode(answer, 5)
    order = np.argsort(-found[0, :2, 4])
    np.testing.assert_allclose(found[0, :2][order], boxes[0, :2], atol=1e-4)
    assert (score[0, :2] > 0.99).all() and (score[0, 2:] < 0.9).all()
    assert centernet.loss(answer, wanted) < 0.01
    empty = jax.vmap(lambda b: centernet.targets(b, (16, 20), 3))(jnp.full((1, 2, 5), -1.0))
    assert np.isfinite(centernet.loss(answer, empty)) and not empty.heat.any()


def test_masks_are_propagated_as_in_the_reference(golden):
    want = reference(golden, "golden_modern/label_propagation.npz")
    masks = want["segs"].transpose(0, 2, 3, 1).reshape(3, 12, 3)
    found = propagation.propagate(
        *(jnp.asarray(want[name]) for name in ("target", "features")), jnp.asarray(masks), shape=(3, 4), radius=1
    )
    soft = np.asarray(found).reshape(3, 4, 3)
    np.testing.assert_allclose(soft, want["result"].transpose(1, 2, 0), atol=2e-6)
    stretched = propagation.stretched(soft)
    np.testing.assert_allclose(stretched, want["result_norm_mask"].transpose(1, 2, 0), atol=5e-6)
    assert (stretched.argmax(-1) != soft.argmax(-1)).any()  # it changes the answer


def test_a_mask_follows_what_moves():
    rng = np.random.default_rng(0)
    texture = rng.normal(size=(12, 30, 6)).astype(np.float32)
    features = np.stack([texture[:, 12 - t : 24 - t] for t in range(9)])  # everything moves right by a patch a frame
    first = np.zeros((48, 48), int)
    first[8:24, 4:16] = 1
    found = propagation.carried(features, first, 2)
    for t in range(9):
        true = np.roll(first, 4 * t, 1).astype(bool)
        assert propagation.region(found[t] == 1, true) > 0.65, t


def test_region_and_boundary():
    a = np.zeros((100, 160), bool)
    a[20:60, 30:90] = True
    b = np.roll(a, 1, 1)
    assert propagation.region(a, a) == propagation.boundary(a, a) == 1
    assert propagation.region(a, b) == pytest.approx(59 / 61) and propagation.boundary(a, b) == 1  # 2 pixels are near
    assert propagation.boundary(a, np.roll(a, 30, 1)) < 0.7 and propagation.boundary(a, ~a) == 1
    none = np.zeros_like(a)
    assert propagation.boundary(none, none) == propagation.region(none, none) == 1
    assert propagation.boundary(none, a) == propagation.region(none, a) == 0


def test_affinities_are_the_reference_ones(golden):
    want = reference(golden, "golden_wave2/taskonomy_ahp.npz")
    np.testing.assert_allclose(affinity.ratios(want["win_rate"]), want["ratio"], rtol=1e-12)
    np.testing.assert_allclose(affinity.affinities(want["win_rate"]), want["priority"], rtol=1e-9)


def test_win_rates_count_images():
    losses = np.array([[1.0, 2, 3, 4], [2, 1, 3, 1e9], [5, 5, 5, 5]])
    found = affinity.win_rates(losses)
    np.testing.assert_allclose(found[0], [0.5, (2 + 0.5) / 4, 1])
    np.testing.assert_allclose(found + found.T, 1)
    order = np.random.default_rng(0).permutation(4)
    np.testing.assert_array_equal(affinity.win_rates(losses[:, order]), found)
    np.testing.assert_allclose(affinity.affinities(found).argsort(), [2, 1, 0])


@pytest.mark.parametrize("count", [6, 40])
def test_ridge_has_no_gradient_left(count):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(count, 12)), rng.integers(0, 3, count)
    w = ridge.weights(x, labels, 3, penalty=0.7)
    np.testing.assert_allclose(x.T @ (x @ w - (2 * np.eye(3)[labels] - 1)) + 0.7 * w, 0, atol=1e-10)


def test_ridge_does_not_mind_the_scale_of_features():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = rng.normal(size=(60, 5)) + 2 * np.eye(3)[labels] @ rng.normal(size=(3, 5))
    found = ridge.top1(x[:30], labels[:30], x[30:], labels[30:], 3)
    assert found == ridge.top1(x[:30] * 50 + 7, labels[:30], x[30:] * 50 + 7, labels[30:], 3) > 0.5
    rows = ridge.shots(np.array([0, 0, 0, 1, -1, 1, 1]), 2, [0])
    assert len(set(rows.tolist())) == 4 and 4 not in rows
