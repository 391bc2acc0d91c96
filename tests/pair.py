"""What each process of `test_processes.py` runs: a few updates of several methods on the devices of all processes.

`python tests/pair.py FOLDER METHOD...`: the first process writes FOLDER/METHOD.npz and FOLDER/rest.json;
FOLDER/images has images for a stream.
"""

import dataclasses
import json
import pathlib
import sys

import jax
from jax.experimental import multihost_utils
import numpy as np
import tiny

from ssl_jax import data, dist, epoch
from ssl_jax.augment.view import View, evaluation
from ssl_jax.batch import index as batch_index
from ssl_jax.data import cutter, loader
from ssl_jax.epoch import begin_epoch
from ssl_jax.evals import cache, context, fine_tune
from ssl_jax.monitor import Monitor
from ssl_jax.run import prepare
from ssl_jax.runtime import equality, processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step

UPDATES = 2


def leaves(tree):
    """Path to the whole array, on the host."""
    return {
        jax.tree_util.keystr(path): multihost_utils.process_allgather(x, tiled=True)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def updates(name):
    """The run, its data on the devices, and its state after a few updates from a fresh start."""
    run = tiny.run(name, 8)
    data = loader.on_devices(run.train, run.mesh)
    step, begin, ts = mapped_step(run), begin_epoch(run), run.init()
    for number in range(UPDATES):
        ts, _ = step(begin(ts, data["image"], number), data, batch_index(run, number))
    return run, data["image"], ts


class Silent:
    """Stands in for a log."""

    def write(self, *args, **kwargs):
        pass

    say = write


def others(run, images, ts):
    """What else looks at all devices: the online evaluation, the pass over the data set, the comparison of states."""
    equality.check_equal(ts, "After some updates")
    values = Monitor(run)(ts, UPDATES, Silent())
    embed = epoch.embedder(run, lambda: None)
    rows = embed(lambda params, state, batch: batch["index"], ts, images, jax.random.key(0))
    values["rows"] = float(jax.device_get(abs(rows - np.arange(len(run.train.images))).max()))
    assert (
        processes.decide(processes.first())
        and processes.all_say(True)
        and not processes.all_say(processes.first() is False)
    )
    assert int(processes.agree(7 * jax.process_index(), run.mesh)) == 7 * (jax.process_count() - 1)
    return values


def evaluated(run, ts, folder):
    """Features by way of their cache, and what fine-tuning on some images is worth."""
    images = context.with_labels(context.load_images(run))
    what = context.prepare(run, ts, images, cache=cache.FeatureCache(folder))
    pixels = run.train.images
    start = run.method.variables(ts.params, ts.state)
    tuner = fine_tune.Tuner(run.method, run.eval_view, run.mesh, 10)
    network = tuner(start, pixels[:64], run.train.labels[:64], 1, 0)
    test = images[1]
    return {
        "features": float(np.abs(what.features.pretrained[0]).mean()),
        "head": float(np.abs(multihost_utils.process_allgather(network[0]["head"]["kernel"], tiled=True)).mean()),
        "tuned": tuner.top1(network, test.images, test.labels),
    }


def streams(mesh, images):
    """Whether every device got the crops and rows of its own part of each block; images are as bright as their row."""
    dataset = data.load(f"folder:{images}", "train", stream=True)
    plan = cutter.Pass(np.zeros(2, np.uint32), len(dataset.images), 16)
    view = evaluation(View(size=8, mean=(0.0,) * 3, std=(1.0,) * 3), 1.0)
    given = loader.streamed(dataset.images, dataset.labels, {"view": view}, plan, mesh, 2, 0)
    for number, (crops, _, index) in enumerate(given):
        rows = plan[number].rows.reshape(2, 8)
        for shard, crop in zip(index.addressable_shards, crops["view"].addressable_shards, strict=True):
            np.testing.assert_array_equal(shard.data, rows[shard.index])
            np.testing.assert_array_equal(np.asarray(crop.data).mean((2, 3, 4)), rows[shard.index])


def diverge(run, ts):
    """The message on a state of which one process holds another version."""
    kernel = dist.lay(np.ones((2, 3), np.float32), run.mesh, jax.sharding.PartitionSpec())
    parts = [jax.device_put(np.full((2, 3), 1.0 + jax.process_index(), np.float32), d) for d in jax.local_devices()]
    wrong = jax.make_array_from_single_device_arrays((2, 3), kernel.sharding, parts)
    try:
        equality.check_equal({"a": kernel, "b": wrong, "c": ts.step}, "Here")
    except equality.Diverged as error:
        return str(error)
    return ""


def strangers(run):
    """The message where processes do not see the same images."""
    one = run.train.images.copy()
    one[3, 2, 2] += jax.process_index()
    try:
        prepare(run.config, splits=(dataclasses.replace(run.train, images=one), run.test))
    except UserError as error:
        return str(error)
    return ""


def main():
    jax.config.update("jax_disable_most_optimizations", True)
    processes.start()
    folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
    for number, name in enumerate(names):
        run, images, ts = updates(name)
        state = leaves(ts)
        rest = None
        if number == 0:
            rest = others(run, images, ts) | {"diverged": diverge(run, ts), "strangers": strangers(run)}
            streams(run.mesh, folder / "images")
        if name == "deepcluster":  # whose memory bank is in shares
            found = evaluated(run, ts, folder)
            if processes.first():
                (folder / "evaluated.json").write_text(json.dumps(found))
        if processes.first():
            np.savez(folder / f"{name}.npz", **state)
            if rest:
                (folder / "rest.json").write_text(json.dumps(rest))
    return 0


if __name__ == "__main__":
    processes.run(lambda argv: main())
