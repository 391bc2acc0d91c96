"""Labels that are wrong, and classes that were not seen."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_evaluate import store
import tiny

from ssl_jax import evaluate
from ssl_jax.data import train_test
from ssl_jax.evals import zero_shot as evaluation
from ssl_jax.metrics import zero_shot
from ssl_jax.runtime.errors import UserError


@pytest.mark.fast
def test_a_share_of_the_labels_becomes_another_class():
    labels = np.r_[np.arange(1000, dtype=np.int32) % 10, -1]
    found = train_test.noisy(labels, 10, 0.4)
    assert np.sum(found != labels) == 400 and found[-1] == -1 and found.dtype == np.int32
    np.testing.assert_array_equal(found, train_test.noisy(labels, 10, 0.4))
    shift = ((found - labels) % 10)[found != labels]
    assert set(shift) == set(range(1, 10))  # any other class
    np.testing.assert_array_equal(train_test.noisy(labels, 10, 0.0), labels)
    for share, classes in ((1.5, 10), (0.5, 1)):
        with pytest.raises(UserError, match="label_noise"):
            train_test.noisy(labels, classes, share)


@pytest.mark.fast
def test_a_config_makes_training_labels_wrong_and_no_others():
    plain, test = train_test.load(tiny.config("supervised").data)
    noisy, same = train_test.load(tiny.config("supervised", **{"data.label_noise": 0.2}).data)
    assert np.mean(noisy.labels != plain.labels) == pytest.approx(0.2, abs=0.001)
    np.testing.assert_array_equal(same.labels, test.labels)
    np.testing.assert_array_equal(noisy.images, plain.images)


def test_symmetric_cross_entropy_is_the_sum_of_both():
    run = tiny.run("symmetric_ce", batch_size=32)
    ts, batch = run.init(), tiny.batch_of(run, 32)
    loss, (_, metrics) = jax.jit(tiny.loss_function(run))(ts.params, ts.state, batch)
    plain = tiny.run("supervised", batch_size=32)
    wanted, _ = jax.jit(tiny.loss_function(plain))(ts.params, ts.state, batch)
    x = batch["view"]
    features = run.method.backbone.apply(
        {"params": ts.params["backbone"], "batch_stats": ts.state["stats"]["backbone"]}, x, train=False
    )
    assert features.shape[0] == 32
    method = run.method
    reverse = float(metrics["reverse_loss"])
    assert float(loss) == pytest.approx(method.alpha * float(wanted) + method.beta * reverse, rel=1e-5)
    assert 0 < reverse < 4
    guess = method.alpha * math.log(10) + method.beta * 4 * 0.9
    assert method.chance(run.info) == pytest.approx(guess)


def test_the_reverse_loss_is_the_sum_over_classes():
    """-sum_k p_k log q_k with log 0 = -4, in NumPy; its gradient is bounded where the network is sure and wrong."""
    from jax.sharding import PartitionSpec as P

    from ssl_jax import dist
    from ssl_jax.methods.combine.symmetric_ce import reverse_cross_entropy

    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(8, 5)), np.array([0, 1, 2, 3, 4, 0, -1, -1])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    log_q = np.where(np.eye(5)[labels] == 1, 0.0, -4.0)
    wanted = -(p * log_q).sum(1)[:6].mean()

    def over(count):
        def replica(logits, labels):
            return dist.mean(reverse_cross_entropy(logits, labels, 4.0))

        mesh = dist.make_mesh(jax.devices()[:count])
        return dist.map_replicas(replica, mesh, (P(dist.AXIS), P(dist.AXIS)), P())(jnp.asarray(logits), labels)

    for count in (1, 8):
        np.testing.assert_allclose(over(count), wanted, rtol=1e-5)


@pytest.mark.fast
def test_attributes_are_predicted_as_the_formula_has_it():
    p = np.array([[0.9, 0.2], [0.1, 0.7]])
    classes, prior = np.array([[True, False], [False, True]]), np.array([0.5, 0.25])
    found = zero_shot.direct_attribute_prediction(p, classes, prior)
    by_hand = [
        [0.9 / 0.5 * 0.8 / 0.75, 0.1 / 0.5 * 0.2 / 0.25],
        [0.1 / 0.5 * 0.3 / 0.75, 0.9 / 0.5 * 0.7 / 0.25],
    ]
    np.testing.assert_allclose(np.exp(found), by_hand, rtol=1e-9)


def described(count=40):
    """Eight classes of three binary attributes; features are a turned copy of the attributes, with noise."""
    draw = np.random.default_rng(0)
    attributes = np.array([[i >> k & 1 for k in range(3)] for i in range(8)], float)
    labels = np.repeat(np.arange(8), count)
    turn = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    train, test = (attributes[labels] @ turn + draw.normal(size=(len(labels), 3)) * 0.1 for _ in range(2))
    return train, labels, test, labels, attributes


@pytest.mark.fast
def test_unseen_classes_are_told_apart_by_their_attributes():
    given = described()
    unseen = np.array([3, 6])
    found = zero_shot.zero_shot(*given, unseen)
    assert found["dap"] > 0.95 and found["linear_map"] > 0.95
    # Rows of unseen classes take no part in training: with wrong labels the result is the same.
    train, labels, *rest = given
    scrambled = np.where(np.isin(labels, unseen), 9 - labels, labels)
    assert zero_shot.zero_shot(train, scrambled, *rest, unseen) == found
    swapped = given[4].copy()
    swapped[unseen] = swapped[unseen[::-1]]
    assert max(zero_shot.zero_shot(*given[:4], swapped, unseen).values()) < 0.5
    with pytest.raises(UserError, match="two of each"):
        zero_shot.zero_shot(*given, np.array([3]))


def test_a_run_is_measured_on_unseen_classes(tmp_path, capsys):
    run = tiny.run("rotation", 1)
    store(run, tiny.steps("rotation", 1)[0], tmp_path / "run")
    file = tmp_path / "attributes.csv"
    # Strokes of a digit: closed loops, straight lines, open curves.
    file.write_text("0,1,0,0\n1,0,1,0\n2,0,1,1\n3,0,0,2\n4,1,2,0\n5,0,1,1\n6,1,0,1\n7,0,2,0\n8,2,0,0\n9,1,1,0\n")
    arguments = [f"--workdir={tmp_path / 'run'}", "--evals=zero_shot", f"--config.eval.attributes={file}"]
    assert evaluate.main([*arguments, "--config.eval.unseen=1,6,8"]) == 0
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["measures"]["zero_shot/dap"]["chance"] == pytest.approx(1 / 3)
    assert 0 <= stored["zero_shot/dap_pixels"] <= 1 and 0 <= stored["zero_shot/linear_map_untrained"] <= 1
    assert evaluate.main([*arguments, "--config.eval.unseen=1,ten"]) == 2
    assert "'ten', which is no class" in capsys.readouterr().err
    for text, words in (("", "lacks the class '0'"), ("0,1\n1,a\n", "CLASS,NUMBER"), ("0,1\n1,2,3\n", "different")):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            evaluation.read(str(file), ("0", "1"))
    with pytest.raises(UserError, match="zero_shot needs"):
        evaluation.read("", ("0",))
