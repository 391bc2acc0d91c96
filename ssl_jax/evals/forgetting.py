"""Forgetting: the network after each task of a sequence, on the images of every task.

A matrix of accuracies, row by row after each task and column by column of the test images of each, by the nearest
neighbours among the training images of the same task. Of runs of the method sequence.
"""

from typing import Any

import jax
import numpy as np

from ssl_jax.data import loader
from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.evals.features import extractor
from ssl_jax.evals.table import aligned
from ssl_jax.metrics import continual, knn
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "sequence of tasks", LABELLED, False, False


def measure(context: Context) -> list[Result]:
    """Accuracies, forgetting and transfer; details are the cells of the matrix."""
    method: Any = context.run.method
    after = context.networks["pretrained"].ts.state
    if not isinstance(after, dict) or "after" not in after:
        raise UserError(
            f"forgetting is about a sequence of tasks, and this is a run of {context.config.method.name}: evaluate a "
            "run of the method sequence."
        )
    tasks = [method.task_of(split) for split in context.images]
    count = method.task_count
    rows = [_accuracies(context, _features(context, number), tasks) for number in range(count)]
    untrained = np.array(_accuracies(context, context.features.untrained, tasks))
    matrix = np.array(rows)
    found = {
        "average": continual.average_accuracy(matrix),
        "forgetting": continual.forgetting(matrix),
        "backward_transfer": continual.backward_transfer(matrix),
        "forward_transfer": continual.forward_transfer(matrix, untrained),
    }
    results = [Result(f"forgetting/{name}", value) for name, value in found.items()]
    results.append(Result("forgetting/average", float(untrained.mean()), "untrained"))
    cells = [(i, j, matrix[i, j]) for i in range(count) for j in range(count)]
    results += [Result(f"forgetting/after_{i}/task_{j}", float(value), detail=True) for i, j, value in cells]
    print(f"\n{_table(matrix, untrained)}\n")
    return results


def _features(context: Context, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of training and test images of the network as it was after a task."""
    network, run = context.networks["pretrained"], context.run
    state = network.ts.state
    kept: Any = jax.tree.map(lambda x: x[number], state["after"])
    params = {**network.ts.params, **kept["params"]}
    learner = {**state["learner"], "stats": kept["stats"]}
    extract = extractor(run.method, run.eval_view, run.mesh, workers=loader.workers(run.config.data.workers))
    train, test = (extract(params, {**state, "learner": learner}, split.images) for split in context.images)
    return train, test


def _accuracies(context: Context, features: tuple[np.ndarray, np.ndarray], tasks: list[np.ndarray]) -> list[float]:
    """Accuracy on each task's test images, by neighbours among its training images."""
    config, labels = context.config.eval, context.features.labels
    found = []
    for number in range(context.config.method.task_count):
        bank, queries = (evenly_spaced(np.flatnonzero(of == number), context.config.run.eval_images) for of in tasks)
        found.append(
            knn.top1(
                features[0][bank],
                labels[0][bank],
                features[1][queries],
                labels[1][queries],
                num_classes=context.features.classes,
                k=min(config.knn_k, len(bank)),
                temperature=config.knn_temperature,
            )
        )
    return found


def _table(matrix: np.ndarray, untrained: np.ndarray) -> str:
    """The matrix in %, a row after each task, the untrained network first."""
    rows = [("untrained", untrained), *((f"after task {i}", row) for i, row in enumerate(matrix))]
    head = ["accuracy, %", *(f"task {j}" for j in range(len(matrix)))]
    return aligned([head, *([name, *(f"{100 * x:.1f}" for x in row)] for name, row in rows)])
