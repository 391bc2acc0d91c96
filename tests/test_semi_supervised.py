"""Semi-supervised methods: reference values, labels that must not be seen, and the supervised baseline."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, losses, optim
from ssl_jax.methods.combine.supervised import Supervised
from ssl_jax.methods.semi.fixmatch import FixMatch, cutout, fixmatch_loss
from ssl_jax.methods.semi.mean_teacher import MeanTeacher
from ssl_jax.methods.semi.pi_model import PiModel
from ssl_jax.methods.semi.pseudo_label import PseudoLabel, pseudo_label_loss
from ssl_jax.methods.shared.few_labels import consistency, labelled_rows, ramp_up
from ssl_jax.metrics.subset import some_of_each
from ssl_jax.recipes import base
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMES = ("fixmatch", "mean_teacher", "pi_model", "pseudo_label")


@pytest.fixture
def given(golden):
    file = golden.parent / "golden_wave2" / "semi_supervised.npz"
    if not file.is_file():
        pytest.skip("reference numbers are not on this machine")
    with np.load(file) as arrays, jax.enable_x64(True):
        yield {name: jnp.asarray(arrays[name]) for name in arrays}


@pytest.mark.fast
@pytest.mark.parametrize(("kind", "key"), [("mse", "mse_mean_over_classes"), ("kl", "kl")])
def test_consistency_agrees(given, kind, key):
    student, teacher = given["student"], jax.lax.stop_gradient(given["teacher"])
    value, grad = jax.value_and_grad(consistency)(student, teacher, kind)
    np.testing.assert_allclose(value, given[key], rtol=1e-7)
    np.testing.assert_allclose(grad, given[f"grad_{'mse' if kind == 'mse' else 'kl'}"], atol=1e-8)
    assert abs(float(consistency(teacher, student, "kl")) - float(given["kl"])) > 1e-3  # it has a direction


@pytest.mark.fast
def test_the_sum_over_classes_is_as_many_times_the_mean(given):
    found = consistency(given["student"], given["teacher"], "sum")
    np.testing.assert_allclose(found, 5 * given["mse_mean_over_classes"], rtol=1e-7)


@pytest.mark.fast
def test_fixmatch_agrees(given):
    def loss(labelled, strong, weak, over="all"):
        return losses.cross_entropy(labelled, given["y"]) + fixmatch_loss(weak, strong, 0.95, over=over)[0]

    args = given["labelled"], given["strong"], given["weak"]
    value, grads = jax.value_and_grad(loss, (0, 1, 2))(*args)
    np.testing.assert_allclose(value, given["fixmatch_tau0_95"], rtol=1e-7)
    np.testing.assert_allclose(grads[0], given["grad_labelled"], atol=1e-8)
    np.testing.assert_allclose(grads[1], given["grad_strong"], atol=1e-8)
    np.testing.assert_array_equal(grads[2], 0)
    np.testing.assert_array_equal(fixmatch_loss(args[2], args[1], 0.95)[1], given["mask"])
    # The mean over those that are kept is another loss: by the share that is.
    supervised = losses.cross_entropy(given["labelled"], given["y"])
    kept = (value - supervised) / given["mask"].mean()
    np.testing.assert_allclose(loss(*args, "kept") - supervised, kept, rtol=1e-7)


@pytest.mark.fast
def test_pseudo_labels_agree(given):
    value, grad = jax.value_and_grad(lambda x: pseudo_label_loss(x, 0.95)[0])(given["weak"])
    np.testing.assert_allclose(value, given["pseudo_label_loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, given["grad_pseudo"], atol=1e-8)
    assert np.abs(grad).max() > 0  # through the logits that made the label


@pytest.mark.fast
def test_a_probability_at_the_threshold():
    """FixMatch keeps it, the pseudo-labels of the same authors do not."""
    logits = jnp.zeros((1, 2))
    assert bool(fixmatch_loss(logits, logits, 0.5)[1][0]) and not bool(pseudo_label_loss(logits, 0.5)[1][0])


@pytest.mark.fast
def test_weights_and_rates_agree(given):
    np.testing.assert_allclose(ramp_up(given["steps"] / 40), given["sigmoid_rampup_40"], rtol=1e-7)
    np.testing.assert_allclose(ramp_up(jnp.array([-1, 0.25, 1, 2]), "linear"), [0, 0.25, 1, 1])
    config = base.optimizer(learning_rate=0.03, scaling="none", schedule="cosine_7_16")
    schedule = optim.learning_rate(config, 64, 10, 100)
    np.testing.assert_allclose([schedule(step) for step in given["steps"]], given["fixmatch_lr"], rtol=1e-6)


@pytest.mark.fast
def test_a_number_of_labels_of_each_class():
    labels = np.repeat(np.arange(10), 100)
    rows = some_of_each(labels, 10)
    np.testing.assert_array_equal(rows, labelled_rows(labels, 0.1))
    np.testing.assert_array_equal(np.bincount(labels[some_of_each(labels, 25)]), np.full(10, 25))
    np.testing.assert_array_equal(some_of_each(labels, 500), np.arange(1000))
    # The same in every run and version, or a run that is resumed would know other labels.
    np.testing.assert_array_equal(some_of_each(np.arange(20) % 2, 3), [3, 4, 7, 8, 11, 16])
    np.testing.assert_array_equal(some_of_each(np.arange(20) % 2, 3, seed=1), [4, 7, 11, 12, 18, 19])


@pytest.mark.fast
def test_a_hole_is_a_square_of_that_side():
    images = jnp.ones((64, 16, 16, 2))
    keys = jax.random.split(jax.random.key(0), 64)
    hidden = 1 - np.asarray(cutout(keys, images, 0.5))
    assert (hidden[..., 0] == hidden[..., 1]).all() and set(np.unique(hidden)) == {0, 1}
    sides = [hidden[..., 0].any(axis).sum(-1) for axis in (1, 2)]
    assert max(map(np.max, sides)) == 8 and np.mean([side == 8 for side in sides]) > 0.4
    np.testing.assert_array_equal(hidden[..., 0].sum((1, 2)), sides[0] * sides[1])
    assert len(np.unique(hidden.reshape(64, -1), axis=0)) > 50


@pytest.mark.parametrize("name", NAMES)
def test_hidden_labels_change_nothing(name):
    """The labels of images that are not among the labelled ones, bitwise."""
    run, _, _ = tiny.compiled(name)
    hidden = np.setdiff1d(np.arange(len(run.train.labels)), some_of_each(run.train.labels, 10))
    labels = run.train.labels.copy()
    labels[hidden] = np.random.default_rng(0).permutation(labels[hidden])
    assert (labels != run.train.labels).any()
    there, found = tiny.steps(name, 3)[0], tiny.steps(name, 3, labels=labels)[0]
    for part in ("params", "state", "opt_state"):
        tiny.assert_same(getattr(found, part), getattr(there, part))


@pytest.mark.parametrize("cls", [FixMatch, MeanTeacher, PiModel, PseudoLabel])
def test_without_weight_it_is_the_supervised_run(cls):
    """Loss, gradient and statistics are those of the method supervised on the labelled part, bitwise."""
    run = tiny.run("fixmatch")
    batch = tiny.batch_of(run, 16)
    for part in batch.values():
        part |= {"view1": part["view"], "view2": part["strong"]}
    method = cls(run.method.backbone, weight=0.0)
    params, state = method.init(jax.random.key(0), batch["labelled"], run.info)

    def gradient(method):
        def loss(params, state, batch):
            options = {"rng": jax.random.key(1), "step": 3, "info": run.info}
            value, (state, _) = method.loss(params, state, batch, **options)
            return dist.mean(value), dist.mean(state["stats"])

        mesh = dist.make_mesh(jax.devices()[:1])
        specs = (P(), P(), P(dist.AXIS))
        mapped = dist.map_replicas(jax.value_and_grad(loss, has_aux=True), mesh, specs, P())
        return lambda batch: mapped(params, state, batch)

    compiled = gradient(method)
    found = compiled(batch)
    tiny.assert_same(found, gradient(Supervised(run.method.backbone))(batch["labelled"]))
    noise = {name: jnp.zeros_like(x) for name, x in batch["unlabelled"].items()}
    tiny.assert_same(found, compiled(batch | {"unlabelled": noise}))


def gradient_of(method, run, batch):
    """Loss and gradient of fresh weights."""
    params, state = method.init(jax.random.key(0), batch["labelled"], run.info)
    run = dataclasses.replace(run, method=method)
    return jax.value_and_grad(tiny.loss_function(run), has_aux=True)(params, state, batch, 3)


def test_the_second_answer_may_be_a_constant():
    """The same loss, and another gradient."""
    run = tiny.run("pi_model")
    batch = tiny.batch_of(run, 16)
    values, grads = {}, {}
    for stop in (False, True):
        method = PiModel(run.method.backbone, ramp=0.0, stop=stop)
        (values[stop], _), grads[stop] = gradient_of(method, run, batch)
    assert float(values[True]) == pytest.approx(float(values[False]), rel=1e-6)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), grads[False], grads[True])
    assert max(jax.tree.leaves(gap)) > 1e-4


@pytest.mark.parametrize(
    ("name", "decays"), [("fixmatch", (1 / 10, 2 / 11, 3 / 12)), ("mean_teacher", (0, 1 / 2, 2 / 3))]
)
def test_the_decay_of_the_average_rises(name, decays):
    """TensorFlow's rule, or that of mean teacher's authors, until it reaches that of the config."""
    run, _, _ = tiny.compiled(name)
    average = tiny.steps(name, 0)[0].state["average"]
    for count, decay in enumerate(decays, 1):
        ts, _ = tiny.steps(name, count)
        average = jax.tree.map(lambda a, p, d=decay: d * np.asarray(a) + (1 - d) * np.asarray(p), average, ts.params)
        tiny.assert_close(ts.state["average"], average, 1e-5)
    zeros, ones = ({"w": jnp.full(1, x)} for x in (0.0, 1.0))
    _, late = run.method.after_update(ones, {"average": zeros}, jnp.asarray(10**6), run.info)
    np.testing.assert_allclose(late["average"]["w"], 1 - run.method.average, rtol=1e-3)


def test_the_average_is_what_is_evaluated():
    run, _, _ = tiny.compiled("fixmatch")
    ts, _ = tiny.steps("fixmatch", 3)
    variables = run.method.variables(ts.params, ts.state)
    tiny.assert_same(variables["params"], ts.state["average"]["backbone"])
    tiny.assert_same(variables["batch_stats"], ts.state["stats"]["backbone"])
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    logits = run.method.predict(ts.params, ts.state, images)
    head = ts.state["average"]["classifier"]["linear"]
    h = run.method.encode(variables, images)[0].pooled
    np.testing.assert_allclose(logits, h @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)
    plain = dataclasses.replace(run.method, average=0.0)
    params, state = plain.init(jax.random.key(0), {"view": images}, run.info)
    assert set(state) == {"stats"} and plain.after_update(params, state, 0, run.info) == (params, state)


def test_the_teacher_has_statistics_of_its_own():
    run, _, _ = tiny.compiled("mean_teacher")
    ts, _ = tiny.steps("mean_teacher", 2)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), ts.state["teacher_stats"], ts.state["stats"])
    assert max(jax.tree.leaves(gap)) > 1e-4
    tiny.assert_same(run.method.variables(ts.params, ts.state)["batch_stats"], ts.state["teacher_stats"]["backbone"])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fixmatch", {"method.ratio": 2}, "a multiple of 3"),
        ("fixmatch", {"method.over": "some"}, "use 'all' or 'kept'"),
        ("fixmatch", {"method.strong.size": 6}, "make them equal"),
        ("fixmatch", {"method.labels_per_class": 0}, "labels_per_class is 0: it must be at least 1"),
        ("pi_model", {"method.over": "max"}, "use 'mse' or 'sum'"),
        ("pi_model", {"method.average": 1.0}, "at least 0 and below 1"),
        ("mean_teacher", {"method.average": 0.0}, "set it above 0"),
        ("mean_teacher", {"method.cost": "l1"}, "use 'mse', 'sum' or 'kl'"),
        ("pseudo_label", {"method.threshold": 1.5}, "at least 0 and below 1"),
    ],
)
def test_fields_without_meaning_are_refused(name, changes, message):
    with pytest.raises(UserError, match=message):
        tiny.run(name, **changes)
