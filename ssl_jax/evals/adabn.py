"""AdaBN: the network with the BatchNorm statistics of the target, on the target's test images.

Li et al. 2016 (arXiv 1603.04779). Every running mean and variance becomes that of the target's images, which need no
labels; weights, scales and offsets stay. The target is that of a run that has one, or `config.eval.adapt_to`, another
data set of the same classes. What is measured is the method's own classifier, where there is one, and the nearest
neighbours of the source, whose own features are those of the network as it was trained.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.render import render_batch
from ssl_jax.evals import adapt, classifier
from ssl_jax.evals.context import LABELLED, Context, Network, in_memory
from ssl_jax.evals.features import extractor
from ssl_jax.metrics import adaptation
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.parts import apply
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "AdaBN", LABELLED, False, True

_BLOCK = 256  # images whose statistics are taken at once


def measure(context: Context) -> list[Result]:
    """Accuracy on the target before and after, of each network that has BatchNorm."""
    target = adapt.target(context)
    images, labels = in_memory(target, context.config.run.eval_images, context.run.eval_side)
    source_y = context.features.labels[0]
    rows = evenly_spaced(np.arange(len(source_y)), context.config.eval.adapt_images)
    found, chance = [], 1 / context.features.classes
    for of, network in context.networks.items():
        if not network.variables["batch_stats"]:
            print(f"adabn: {of} left out, its network has no BatchNorm")
            continue
        adapted = with_statistics(network, images)
        source = context.features.backbones()[of][0][rows]
        for name, which in (("before", network), ("after", adapted)):
            extract = extractor(which.run.method, which.run.eval_view, which.run.mesh)
            features = extract(which.ts.params, which.ts.state, images)
            guess = adaptation.nearest(source.astype(float), source_y[rows], features.astype(float))
            found.append(Result(f"adabn/nearest_{name}", float(np.mean(guess == labels)), of, chance=chance))
            answer = classifier.answers_of(which, target.classes)
            if answer is not None:
                top1 = float(np.mean(answer(images) == labels))
                found.append(Result(f"adabn/classifier_{name}", top1, of, chance=chance))
    return found


def pooled(means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance [C] of all rows from those of batches of one size [B, C].

    The variance is the mean of the batches' variances and the variance of their means.
    """
    return means.mean(0), variances.mean(0) + means.var(0)


def with_statistics(network: Network, images: np.ndarray) -> Network:
    """The network with the running statistics of some images, uint8 [N, H, W, C], in one pass in training mode.

    Each batch is normalised by its own statistics; of N images that do not divide into batches the last few are left
    out.
    """
    run, ts = network.run, network.ts
    devices = run.mesh.devices.size
    size = min(_BLOCK, len(images)) // devices * devices
    if not size:
        raise UserError(f"AdaBN has {len(images)} images of the target for {devices} devices: use more images.")
    before = network.variables["batch_stats"]

    @functools.partial(
        dist.map_replicas, mesh=run.mesh, in_specs=(P(), P(), P(dist.AXIS)), out_specs=P(), mapping=run.config.mapping
    )
    def moved(params: Any, stats: Any, part: jax.Array) -> Any:
        keys = dist.example_keys(jax.random.key(0), dist.positions(len(part)))
        x = render_batch(run.eval_view, keys, part, cropped=False)
        return apply(run.method.backbone, "backbone", {"backbone": params}, {"backbone": stats}, x, train=True)[1]

    params, zero = network.variables["params"], jax.tree.map(jnp.zeros_like, before)
    parts = []
    for start in range(0, len(images) - size + 1, size):
        part = dist.lay(images[start : start + size], run.mesh, P(dist.AXIS))
        # From zero, what a running value becomes is the batch's own times its weight.
        found = jax.device_get(moved(params, zero, part)["backbone"])
        parts.append(jax.tree.map(lambda x: np.asarray(x, np.float64) / (1 - BatchNorm.momentum), found))
    new = _pooled(jax.tree.map(lambda *x: np.stack(x), *parts), before)
    state = {**ts.state, "stats": {**ts.state["stats"], "backbone": new}}
    return Network(run, dataclasses.replace(ts, state=state))


def _pooled(stacked: Any, before: Any) -> Any:
    """`pooled` of each layer's 'mean' and 'var' in a tree, in the types that they had."""
    if "mean" in stacked and "var" in stacked:
        mean, var = pooled(stacked["mean"], stacked["var"])
        return {
            "mean": jnp.asarray(mean, before["mean"].dtype),
            "var": jnp.asarray(var, before["var"].dtype),
        }
    return {name: _pooled(part, before[name]) for name, part in stacked.items()}
