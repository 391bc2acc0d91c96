"""The accuracy of a method's own classifier, on its own images, another's classes, and in two domains."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from ssl_jax import recipes
from ssl_jax.augment.render import render_batch
from ssl_jax.data import train_test
from ssl_jax.evals import classifier, context
from ssl_jax.run import prepare

pytestmark = pytest.mark.usefixtures("quick_compilation")


def given(run, images=None, *, pretrained=None, **networks):
    """What the evaluation reads of a context."""
    ts = run.init() if pretrained is None else pretrained
    networks = {"pretrained": context.Network(run, ts), **networks}
    return context.Context(networks, images or context.with_labels(context.load_images(run)), None)


def answers(run, ts, d):
    """Classes of all images of a data set at once."""
    keys = jax.random.split(jax.random.key(0), len(d))
    return np.argmax(run.method.predict(ts.params, ts.state, render_batch(run.eval_view, keys, d.images)), -1)


@pytest.fixture(scope="module")
def supervised():
    run = tiny.run("supervised", 2)
    ts, _ = tiny.steps("supervised", 120)
    return run, tiny.place(run, ts)


def test_top1_is_the_share_of_right_answers_of_all_images(supervised):
    run, ts = supervised
    found, untrained = classifier.measure(given(run, pretrained=ts, untrained=context.Network(run, run.init())))
    assert (found.name, untrained.name) == ("classifier/top1", "classifier/top1_untrained")
    assert found.value == pytest.approx(np.mean(answers(run, ts, run.test) == run.test.labels))
    assert found.value > untrained.value + 0.1 and found.chance == pytest.approx(0.1)


def test_some_classes_in_another_order(supervised):
    """Logits are read by the names of the classes, and other classes are no answer."""
    run, ts = supervised
    kept = np.isin(run.test.labels, (7, 2))
    test = dataclasses.replace(
        run.test[kept], labels=np.where(run.test.labels[kept] == 7, 0, 1).astype(np.int32), classes=("7", "2")
    )
    (found,) = classifier.measure(given(run, (test, test), pretrained=ts))
    assert found.chance == 0.5
    keys = jax.random.split(jax.random.key(0), len(test))
    logits = run.method.predict(ts.params, ts.state, render_batch(run.eval_view, keys, test.images))
    assert found.value == pytest.approx(np.mean(np.argmax(logits[:, [7, 2]], -1) == test.labels))


def test_the_target_is_beside_the_source():
    config = recipes.get_config("dann", "digits_inverted")
    config.batch_size, config.model.width = 16, 4
    run = prepare(config, jax.devices()[:1])
    ts = run.init()
    found = {result.name: result.value for result in classifier.measure(given(run, pretrained=ts))}
    domain = run.test.fields["domain"]
    for name, number in (("source", 0), ("target", 1)):
        part = run.test[domain == number]
        assert found.pop(f"classifier/{name}_top1") == pytest.approx(np.mean(answers(run, ts, part) == part.labels))
    assert not found
    config.data.target = None
    plain = train_test.load(config.data)  # other images are of no domain of this run
    assert [r.name for r in classifier.measure(given(run, plain, pretrained=ts))] == ["classifier/top1"]


@pytest.mark.parametrize("name", ["rotation", "multitask"])
def test_without_a_classifier_there_is_nothing_to_measure(name, capsys):
    assert classifier.measure(given(tiny.run(name))) == []
    assert f"{name} has no classifier of the classes of" in capsys.readouterr().out


def test_strange_classes_are_no_answer(supervised, capsys):
    run, ts = supervised
    strange = dataclasses.replace(run.test, classes=tuple("abcdefghij"))
    assert classifier.measure(given(run, (strange, strange), pretrained=ts)) == []
    assert "supervised has no classifier" in capsys.readouterr().out
