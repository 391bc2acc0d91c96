"""Losses of adaptation by training: reference values, and what each method must leave alone."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from test_metric_meta_adapt import wave2  # noqa: F401
import tiny

from ssl_jax import dist
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.epoch import begin_epoch
from ssl_jax.methods.adapt import adda, dan, deep_coral, domain_confusion, dsbn, generalisation, self_training
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step

TWO_DOMAINS = ("adda", "dan", "dann", "deep_coral", "domain_confusion", "dsbn", "self_training")


@pytest.mark.parametrize(
    ("loss", "value", "grad"),
    [(dan.mmd, "dan_5kernel", "dan_bandwidth_stopped"), (deep_coral.coral, "deep_coral", "deep_coral")],
)
def test_distances_of_domains_agree(wave2, loss, value, grad):  # noqa: F811
    given = {name: jnp.asarray(x) for name, x in wave2("mmd_coral").items()}
    found, grads = jax.value_and_grad(loss, (0, 1))(given["a"], given["b"])
    np.testing.assert_allclose(found, given[value], rtol=1e-7)
    for name, x in zip("ab", grads, strict=True):
        np.testing.assert_allclose(x, given[f"grad_{name}_{grad}"], atol=1e-8)
    # Other estimators of the same name are far from it.
    others = {"tll_3kernel", "domainbed_7kernel", "tll_coral"}
    assert all(abs(float(found) - float(given[name])) > 0.02 for name in others)
    if loss is dan.mmd:
        assert np.abs(grads[0] - given["grad_a_dan_bandwidth_differentiated"]).max() > 1e-3
    assert float(loss(given["a"], given["a"])) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(loss(given["a"] + 3, given["b"] + 3), found, rtol=1e-9)


@pytest.mark.parametrize("loss", [dan.mmd, deep_coral.coral])
def test_distances_are_those_of_the_whole_batch(loss):
    draw = np.random.default_rng(0)
    w, a, b = draw.normal(size=(5, 4)), draw.normal(size=(16, 5)), draw.normal(1, 2, size=(16, 5))

    def over(count):
        def replica(w, a, b):
            value, grad = jax.value_and_grad(lambda w: dist.mean(loss(a @ w, b @ w, dist.AXIS)))(w)
            return value, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:count])
        return dist.map_replicas(replica, mesh, (P(), P(dist.AXIS), P(dist.AXIS)), P())(w, a, b)

    with jax.enable_x64(True):
        for found, wanted in zip(over(8), over(1), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        assert abs(float(over(1)[0]) - float(loss(a[:2] @ w, b[:2] @ w))) > 1e-3


def test_adda_agrees(wave2):  # noqa: F811
    given = {name: jnp.asarray(x) for name, x in wave2("adda").items()}

    def told(x, v1=given["V1"], v2=given["V2"]):
        return jax.nn.relu(x @ v1) @ v2

    source, target = given["f_source"], given["f_target"]
    against, grads = jax.value_and_grad(lambda v: adda.adversary_loss(told(source, *v), told(target, *v)))(
        (given["V1"], given["V2"])
    )
    np.testing.assert_allclose(against, given["adversary"], rtol=1e-9)
    for name, grad in zip(("V1", "V2"), grads, strict=True):
        np.testing.assert_allclose(grad, given[f"grad_{name}"], atol=1e-9)
    mapping, grad = jax.value_and_grad(lambda x: adda.mapping_loss(told(source), told(x)))(target)
    np.testing.assert_allclose(mapping, given["mapping_authors"], rtol=1e-9)
    np.testing.assert_allclose(grad, given["grad_target_authors"], atol=1e-9)
    np.testing.assert_allclose(2 * grad, given["grad_target_only"], atol=1e-9)
    assert abs(float(mapping) - float(given["mapping_target_only"])) > 0.1


def test_confusion_is_least_where_the_domains_cannot_be_told_apart():
    even, sure = jnp.zeros((4, 2)), jnp.array([[3.0, -3.0]] * 4)
    assert float(domain_confusion.confusion(even)) == pytest.approx(np.log(2))
    assert float(domain_confusion.confusion(sure)) > 3
    assert float(domain_confusion.confusion(sure)) == pytest.approx(float(domain_confusion.confusion(-sure)))
    np.testing.assert_allclose(jax.grad(domain_confusion.confusion)(even), 0, atol=1e-7)


@pytest.mark.fast
def test_the_surest_answers_of_each_class_become_labels():
    confidence = np.array([0.9, 0.5, 0.8, 0.4, 0.7])
    answers = np.array([0, 0, 0, 1, 1])
    assert self_training.surest(confidence, answers, 0.5).tolist() == [0, -1, 0, -1, 1]
    assert self_training.surest(confidence, answers, 1.0).tolist() == answers.tolist()
    assert self_training.surest(confidence, answers, 0.01).tolist() == [0, -1, -1, -1, 1]


@pytest.mark.fast
def test_norms_are_found_by_their_statistics():
    params = {
        "conv": {"kernel": 1},
        "norm": {"scale": 2, "bias": 3},
        "block": {"norm": {"scale": 4}, "dense": {"w": 5}},
    }
    stats = {"norm": {"mean": 0, "var": 0}, "block": {"norm": {"mean": 0, "var": 0}}}
    own = dsbn.norms(params, stats)
    assert own == {"norm": {"scale": 2, "bias": 3}, "block": {"norm": {"scale": 4}}}
    other = {"norm": {"scale": 7, "bias": 8}, "block": {"norm": {"scale": 9}}}
    assert dsbn.merged(params, other) == {
        "conv": {"kernel": 1},
        "norm": {"scale": 7, "bias": 8},
        "block": {"norm": {"scale": 9}, "dense": {"w": 5}},
    }
    assert dsbn.merged(params, own) == params and dsbn.norms(params, {}) == {}


def loss_of(name, **changes):
    """A method's compiled loss and gradient, its state and its batch of 32 images."""
    run = tiny.run(name, batch_size=32, epochs=4, **changes)
    ts = run.init()
    loss = tiny.loss_function(run)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return run, ts, tiny.batch_of(run, 32), functools.partial(step)


def test_statistics_of_one_domain_are_not_moved_by_the_other():
    _, ts, batch, step = loss_of("dsbn")
    (_, (first, _)), _ = step(ts.params, ts.state, batch, jnp.zeros((), jnp.int32))
    other = {**batch, "target": {**batch["target"], "view": batch["target"]["view"] * 3 + 1}}
    (_, (second, _)), _ = step(ts.params, ts.state, other, jnp.zeros((), jnp.int32))
    tiny.assert_same(second["stats"]["source"], first["stats"]["source"])
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first["stats"], second["stats"])["backbone"]
    assert max(jax.tree.leaves(gaps)) > 0.01


def test_the_source_network_of_adda_stays_once_the_adversary_begins():
    run, ts, batch, step = loss_of("adda")
    switch = run.info.total_steps // 2
    moved = jax.tree.map(lambda x: x + 0.1, ts.params)
    for number, follows in ((switch - 1, True), (switch, False)):
        _, state = run.method.after_update(moved, ts.state, jnp.asarray(number), run.info)
        wanted = moved if follows else ts.params
        tiny.assert_same(state["source"]["params"]["backbone"], wanted["backbone"])
    # The first part is plain training on the source; the second reads no label.
    target = {**batch, "target": {**batch["target"], "view": batch["target"]["view"] + 1}}
    first = [step(ts.params, ts.state, b, jnp.asarray(switch - 1)) for b in (batch, target)]
    tiny.assert_same(first[1][1]["backbone"], first[0][1]["backbone"])
    unlabelled = {**batch, "source": {**batch["source"], "label": (batch["source"]["label"] + 1) % 10}}
    second = [step(ts.params, ts.state, b, jnp.asarray(switch)) for b in (batch, unlabelled)]
    tiny.assert_same(second[1][1], second[0][1])
    assert all(np.any(np.asarray(x)) for x in jax.tree.leaves(second[0][1]["adversary"]))


@pytest.mark.parametrize("name", [name for name in TWO_DOMAINS if name not in ("adda", "dsbn")])
def test_without_weight_the_backbone_learns_from_the_source_alone(name):
    """Two batches of the same pixels whose target rows trade places give one gradient: no label of the target acts."""
    run, ts, batch, step = loss_of(name, **{"method.weight": 0.0})
    _, grads = step(ts.params, ts.state, batch, jnp.asarray(run.info.total_steps - 1))
    strange = {**batch, "target": {**batch["target"], "label": jnp.arange(16) % 10}}
    _, same = step(ts.params, ts.state, strange, jnp.asarray(run.info.total_steps - 1))
    tiny.assert_same(same, grads)
    plain, own = loss_of("dann", **{"method.weight": 0.0})[2:]
    _, wanted = own(
        {**ts.params, "discriminator": tiny.fresh(tiny.run("dann")).params["discriminator"]}, ts.state, plain, 0
    )
    tiny.assert_close(grads["backbone"], wanted["backbone"], 1e-5)


@pytest.mark.parametrize("name", TWO_DOMAINS)
def test_no_label_of_the_target_is_seen(name):
    """Even where the data had them: permuted, the parameters stay the same to the bit."""
    run, _, _ = tiny.compiled(name)
    assert (run.train.labels[run.train.fields["domain"] == 1] == -1).all()
    true, _ = tiny.steps(name, 3)
    labels = run.train.labels.copy()
    rows = np.flatnonzero(run.train.fields["domain"] == 1)
    labels[rows] = np.random.default_rng(0).integers(0, 10, len(rows))
    changed, _ = tiny.steps(name, 3, labels=labels)
    tiny.assert_same(changed.params, true.params)
    tiny.assert_same(changed.state, true.state)


def few_labels(name, count=2, devices=1, **changes):
    """A run in which images of the target have labels, its compiled step and its data."""
    run = tiny.run(name, devices, **{"data.target_labels": count, **changes})
    return run, mapped_step(run), loader.on_devices(run.train, run.mesh)


def trained(run, step, data, count):
    """State and metrics after some updates."""
    ts, begin = run.init(), begin_epoch(run)
    for number in range(count):
        ts, metrics = step(begin(ts, data["image"], number), data, batch_index(run, number))
    return jax.device_get((ts, metrics))


@pytest.mark.fast
def test_few_labels_of_the_target_are_drawn_by_class_and_seed():
    def known(count, seed=0):
        run = tiny.run("dann", **{"data.target_labels": count, "data.holdout_seed": seed})
        target = run.train.fields["domain"] == 1
        rows = np.flatnonzero(target & (run.train.labels >= 0))
        np.testing.assert_array_equal(run.train.labels[rows], run.train.fields["target_label"][rows])
        assert np.bincount(run.train.labels[rows], minlength=10).tolist() == [count] * 10
        assert (run.train.labels[~target] >= 0).all()
        drawn = run.sampler(0, 0)
        assert set(drawn) == ({"source", "target", "known"} if count else {"source", "target"})
        assert {int(row) for row in drawn.get("known", [])} <= set(rows.tolist()) and run.info.target_labels == count
        return set(rows.tolist())

    assert not known(0) and known(1) < known(3) < known(5) and known(3) == known(3) != known(3, seed=1)
    for changes, words in (
        ({"data.target_labels": -1}, "at least 0"),
        ({"data.target_labels": 1, "data.target": None}, "wants a target"),
    ):
        with pytest.raises(UserError, match=words):
            tiny.run("dann", **changes)


@pytest.mark.parametrize("name", TWO_DOMAINS)
def test_few_labels_of_the_target_are_learned_and_no_other_is_seen(name):
    run, step, data = few_labels(name)
    target = np.flatnonzero(run.train.fields["domain"] == 1)
    known = target[run.train.labels[target] >= 0]
    labels, others = run.train.labels.copy(), np.setdiff1d(target, known)
    labels[others] = np.random.default_rng(0).integers(0, 10, len(others))
    true, metrics = trained(run, step, data, 3)
    strange, _ = trained(run, step, data | {"label": dist.replicate(labels, run.mesh)}, 3)
    tiny.assert_same((strange.params, strange.state), (true.params, true.state))
    labels[known] = (labels[known] + 1) % 10
    wrong, _ = trained(run, step, data | {"label": dist.replicate(labels, run.mesh)}, 3)
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), wrong.params["backbone"], true.params["backbone"])
    assert max(jax.tree.leaves(gaps)) > 1e-6
    without = tiny.compiled(name)[0]
    assert run.method.chance(run.info) == pytest.approx(without.method.chance(without.info) + np.log(10))
    assert metrics["target_label_top1/chance"] == pytest.approx(0.1)


@pytest.mark.parametrize("name", TWO_DOMAINS)
def test_few_labels_on_eight_devices_are_those_on_one(name):
    one, eight = (trained(*few_labels(name, devices=devices), 2) for devices in (1, 8))
    tiny.assert_close(eight[0].params, one[0].params, 2e-3)
    for key, value in one[1].items():
        assert eight[1][key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_few_labels_are_fitted_beside_the_source():
    run, step, data = few_labels("deep_coral", 1, epochs=20, batch_size=64, **{"model.width": 8})
    first, last = (trained(run, step, data, count)[1] for count in (1, 150))
    assert last["target_label_loss"] < 0.3 * first["target_label_loss"] and last["target_label_top1"] > 0.8


def test_moments_agree_with_domainbed(wave2):  # noqa: F811
    given = {name: jnp.asarray(x) for name, x in wave2("mmd_coral").items()}
    found, grads = jax.value_and_grad(generalisation.moments_gap, (0, 1))(given["a"], given["b"])
    np.testing.assert_allclose(found, given["tll_coral"], rtol=1e-7)
    for name, x in zip("ab", grads, strict=True):
        np.testing.assert_allclose(x, given[f"grad_{name}_tll_coral"], atol=1e-8)
    assert abs(float(found) - float(given["deep_coral"])) > 0.1


def test_alignment_of_several_domains():
    draws = {}
    for align in ("none", "coral", "dann"):
        run, ts, batch, step = loss_of("generalisation", **{"method.align": align})
        assert set(batch) == {"domain0", "domain1"}
        (value, (_, metrics)), grads = step(ts.params, ts.state, batch, jnp.asarray(run.info.total_steps - 1))
        draws[align] = float(value), float(metrics["label_loss"]), grads["backbone"], metrics
    assert draws["none"][0] == pytest.approx(draws["none"][1], rel=1e-6)
    assert draws["coral"][0] == pytest.approx(draws["coral"][1] + float(draws["coral"][3]["moments_gap"]), rel=1e-6)
    assert draws["dann"][0] == pytest.approx(draws["dann"][1] + float(draws["dann"][3]["domain_loss"]), rel=1e-6)
    for align in ("coral", "dann"):
        gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), draws[align][2], draws["none"][2])
        assert max(jax.tree.leaves(gaps)) > 1e-4


@pytest.mark.fast
def test_generalisation_wants_labelled_domains_alone():
    for change, words in (
        ({"data.target": "digits:inverted", "data.source": "digits"}, "no config.data.target"),
        ({"method.domains": 3}, "there are 2"),
        ({"data.source": "digits"}, "there are 1"),
        ({"method.align": "both"}, "use none, coral, dann"),
        ({"data.source": "digits,photo_tiles", "data.size": 32}, "images of different classes"),
    ):
        with pytest.raises(UserError, match=words):
            tiny.run("generalisation", **change)
