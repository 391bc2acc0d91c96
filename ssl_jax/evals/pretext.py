"""The method's own task (pretext task) on images it was not trained on."""

from collections.abc import Callable
import dataclasses
from operator import itemgetter
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist, streams
from ssl_jax.augment.render import render_views
from ssl_jax.batch import maker, rows_of
from ssl_jax.data import Dataset, loader, samplers
from ssl_jax.data.samplers import Shuffled
from ssl_jax.evals.context import Context, in_memory
from ssl_jax.methods.contract import Info, Method, Metric, measured
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.run import Run
from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "own task on test images", frozenset({"test images"}), True, True
FEATURES = False

MAX_IMAGES = 2048  # in two views and two networks each, as BYOL has it, some twenty seconds of two CPU cores
MAX_DRAWN = 8192  # likewise where batches are drawn: an answer takes several images, so that as many say less


def measure(context: Context) -> list[Result]:
    """The method's loss and metrics on the test images, compared with those of the untrained network and chance."""
    run, test = context.run, context.images[1]
    if "index" in run.method.needs:
        print(f"pretext: skipped, the loss of {run.config.method.name} is about the training images themselves")
        return []
    if not len(test.images):
        raise UserError(f"pretext needs test images, which {context.images[0].name} lacks: leave it out of --evals.")
    known, these = ((d.name, d.classes) for d in (run.train, context.images[0]))
    drawn = not isinstance(run.sampler, Shuffled) or bool(run.method.targets())
    relative = drawn and type(run.method).predict is Method.predict  # it tells any classes apart, and names none
    if "labels" in run.method.needs and known != these and not relative:
        # Its head would be asked for classes that it never saw.
        print(f"pretext: skipped, {run.config.method.name} answers with the labels of {run.train.name}, not with these")
        return []
    if drawn:
        measure = batch_measurer(run, test)
    else:
        images, labels = in_memory(test, context.config.run.eval_images, run.eval_side)
        measure_images = measurer(run.method, run.info, run.mesh, run.info.batch_size // run.config.accumulate)

        def measure(params: Any, state: Any, step: jax.Array) -> dict[str, Metric]:
            return measure_images(params, state, step, images, labels)

    found = []
    for of in ("pretrained", "untrained"):
        ts = context.networks[of].ts
        for name, metric in measure(ts.params, ts.state, ts.step).items():
            # Chance is a number of the task, whatever the network.
            chance = metric.chance if of == "pretrained" else None
            found.append(Result(f"pretext/{name}", metric.value, of, metric.kind, chance))
    return found


def batch_measurer(run: Run, test: Dataset) -> Callable[..., dict[str, Metric]]:
    """Compiles the method's loss on batches as in training: clips, episodes, several parts, targets beside the images.

    Views are drawn as in training, from a fixed key, and batches are the training's micro-batches. They are those of
    one epoch of the test data, but of at most `MAX_DRAWN` images.

    Args:
      run: whose method it is.
      test: what to draw from, held in memory; with the fields that the sampler reads.

    Returns:
      a function `(params, state, step) -> {'loss' and the method's metrics}`, means over all batches.

    Raises:
      UserError: if no batch can be drawn, or the images are streamed.
    """
    if test.streamed:
        raise UserError(
            f"pretext draws whole batches for {run.config.method.name}, and the images of {test.name} are streamed: "
            "make them fit in memory with --config.data.size or --config.data.max_gib, or leave it out of --evals."
        )
    try:
        sampler = run.method.sampler(test, dataclasses.replace(run.info, num_examples=len(test)))
        samplers.check(sampler, len(test), run.mesh.devices.size * run.config.accumulate)
    except UserError as error:
        raise UserError(f"The test images of {test.name} make no batch of {run.config.method.name}: {error}") from error
    own = dataclasses.replace(run, train=test, sampler=sampler)
    make, chance = maker(own), run.method.chance(run.info)

    def replica(params, state, step, data, rows, update, number):
        batch, key = make(jax.random.fold_in(jax.random.key(0), update), number, rows, data)
        loss, (_, aux) = run.method.loss(params, state, batch, rng=key, step=step, info=run.info, train=False)
        return dist.mean(measured({"loss": Metric(loss, chance, "loss"), **aux.metrics}))

    in_specs = (P(), run.method.specs(), P(), P(), P(dist.AXIS), P(), P())
    mapped = dist.map_replicas(replica, run.mesh, in_specs, P())
    data = loader.on_devices(test, run.mesh)
    images = sum(int(np.prod(shape)) for shape in sampler.parts.values())
    updates = min(sampler.steps_per_epoch, max(MAX_DRAWN // images, 1))

    def measure(params: Any, state: Any, step: jax.Array) -> dict[str, Metric]:
        found = []
        places = [(update, number) for update in range(updates) for number in range(run.config.accumulate)]
        with progress.counted(len(places), "batches"):
            for update, number in places:
                rows = jax.tree.map(itemgetter(number), rows_of(own, update))
                laid = samplers.each(lambda rows: dist.lay(rows, run.mesh, P(dist.AXIS)), rows)
                place = np.int32(update), np.int32(number)
                found.append(jax.device_get(mapped(params, state, step, data, laid, *place)))
                progress.tick()
        return jax.tree.map(lambda *values: float(np.mean(values)), *found)

    return measure


def measurer(method: Method, info: Info, mesh: Mesh, batch_size: int) -> Callable[..., dict[str, Metric]]:
    """Compiles the method's loss without training: running statistics, and nothing is moved.

    Views are rendered as in training, from a fixed key, and batches are of the training's size, which contrastive
    losses depend on. The images are at most `MAX_IMAGES` (or one batch), evenly spaced and shuffled; the last partial
    batch is dropped, and fewer images than one batch are repeated to fill it.

    Args:
      method: whose loss is wanted.
      info: of the run.
      mesh: batches are laid over its devices.
      batch_size: images a batch, a multiple of the devices.

    Returns:
      a function `(params, state, step, images uint8 [N, H, W, C], labels [N]) -> {'loss' and the method's metrics}`,
      means over all images.

    Raises:
      UserError: if the loss is about the training images themselves (memory banks, one class an image).
    """
    if "index" in method.needs:
        raise UserError(
            f"The loss of {type(method).__name__} compares training images with what it stored of them, so that it "
            "has no meaning for test images: leave pretext out of --evals."
        )
    views, chance = method.views(), method.chance(info)

    def replica(params, state, step, images, labels, number):
        place = number * batch_size + dist.positions(len(images))
        rng = jax.random.key(0)
        batch = render_views(views, rng, place, images) | {"position": dist.positions(len(images)), "label": labels}
        key = jax.random.fold_in(jax.random.fold_in(rng, streams.loss(views)), number)
        loss, (_, aux) = method.loss(params, state, batch, rng=key, step=step, info=info, train=False)
        return dist.mean(measured({"loss": Metric(loss, chance, "loss"), **aux.metrics}))

    in_specs = (P(), method.specs(), P(), P(dist.AXIS), P(dist.AXIS), P())
    mapped = dist.map_replicas(replica, mesh, in_specs, P())
    sharding = NamedSharding(mesh, P(dist.AXIS))

    def measure(params: Any, state: Any, step: jax.Array, images: np.ndarray, labels: np.ndarray) -> dict[str, Metric]:
        blocks = _blocks(len(images), batch_size)
        found = []
        with progress.counted(len(blocks), "batches"):
            for number, rows in enumerate(blocks):
                on_device = jax.device_put((images[rows], labels[rows]), sharding)
                found.append(jax.device_get(mapped(params, state, step, *on_device, np.int32(number))))
                progress.tick()
        return jax.tree.map(lambda *values: float(np.mean(values)), *found)

    return measure


def _blocks(count: int, batch_size: int) -> np.ndarray:
    """Rows [batches, images] of the evaluated images."""
    rows = evenly_spaced(np.random.default_rng(0).permutation(count), max(MAX_IMAGES, batch_size))
    rows = np.resize(rows, max(batch_size, len(rows)))
    return rows[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
