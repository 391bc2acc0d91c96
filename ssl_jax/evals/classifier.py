"""Accuracy of the method's own classifier on the test images, of each domain where a run adapts to another."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.render import render_batch
from ssl_jax.data import Dataset
from ssl_jax.evals.context import LABELLED, Context, Network, in_memory
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "own classifier", LABELLED, True, True
FEATURES = False

_BLOCK = 512  # images at a time


def measure(context: Context) -> list[Result]:
    """Top-1 of each network that answers with the classes of these images, in each domain of an adapting run."""
    test = context.images[1]
    answers = {of: answers_of(network, test.classes) for of, network in context.networks.items()}
    if not any(answers.values()):
        name = context.config.method.name
        print(f"classifier: skipped, {name} has no classifier of the classes of {test.name}")
    found = []
    for domain, rows in _domains(context, test).items():
        part = test[rows]
        for of, answer in answers.items():
            if answer is None:
                continue
            side = context.networks[of].run.eval_side
            images, labels = in_memory(part, context.config.run.eval_images, side)
            top1 = float(np.mean(answer(images) == labels))
            found.append(Result(f"classifier/{domain}top1", top1, of, chance=1 / len(test.classes)))
    return found


def _domains(context: Context, test: Dataset) -> dict[str, Any]:
    """Prefix of the measure to the rows of a domain: the target is the last, and all others are sources."""
    if not context.config.data.get("target") or test.card.domains != context.run.train.card.domains:
        return {"": slice(None)}
    target = np.asarray(test.fields["domain"]) == len(test.card.domains) - 1
    rows = {"source_": np.flatnonzero(~target), "target_": np.flatnonzero(target)}
    return {name: these for name, these in rows.items() if len(these)}


def answers_of(network: Network, classes: tuple[str, ...]) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function of images uint8 [N, H, W, C] to the numbers of their classes [N]; None: it has no such classifier."""
    run, ts = network.run, network.ts
    one = jnp.zeros((1, run.eval_view.size, run.eval_view.size, run.train.image_shape[-1]))
    known = {name: number for number, name in enumerate(run.train.classes)}
    if jax.eval_shape(run.method.predict, ts.params, ts.state, one) is None or not set(classes) <= set(known):
        return None
    columns = np.array([known[name] for name in classes])  # of the logits, in the order of these labels
    block = -(-_BLOCK // run.mesh.devices.size) * run.mesh.devices.size

    @functools.partial(jax.jit, out_shardings=dist.shardings(P(), run.mesh))  # every process gets all answers
    def classify(params: Any, state: Any, images: jax.Array) -> jax.Array:
        keys = dist.example_keys(jax.random.key(0), jnp.arange(block))
        logits = run.method.predict(params, state, render_batch(run.eval_view, keys, images, cropped=False))
        assert logits is not None
        return logits[:, columns].argmax(-1)

    def found(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), block):
            part = images[start : start + block]
            padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * 3)
            laid = dist.lay(padded, run.mesh, P(dist.AXIS))
            parts.append(jax.device_get(classify(ts.params, ts.state, laid))[: len(part)])
        return np.concatenate(parts)

    return found
