"""Health of the features: rank of each stage, and what several views of one image have in common."""

import dataclasses

import numpy as np

from ssl_jax.data import Dataset
from ssl_jax.evals.context import Context, Network, in_memory
from ssl_jax.evals.features import extractor
from ssl_jax.metrics import health
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.workdir.results import Result

NEEDS: frozenset[str] = frozenset()
TITLE, DEFAULT, LARGE = "health of the features", True, True

_IMAGES, _VIEWS = 1000, 5  # of LiDAR; the paper's 50 views each would take as long as all other evaluations


def measure(context: Context) -> list[Result]:
    """Health of each backbone, which needs no labels."""
    found = []
    limit = context.config.run.eval_images
    for of, network in context.networks.items():
        last, stages = context.features.backbones()[of][0], context.features.stages[of]
        values = {name.removeprefix("health/"): v for name, v in health.summary(evenly_spaced(last, limit)).items()}
        values |= {f"rank/{n}": health.rankme(evenly_spaced(x, limit)) for n, (x, _) in enumerate(stages, 1)}
        views = _views(network, context.images[0])
        values["alignment"] = health.alignment(views[:, 0], views[:, 1])
        values["lidar"] = health.lidar(views)
        kinds = {"feature_std": "std", "dead_units": "share"}
        found += [Result(f"health/{name}", x, of, kind=kinds.get(name, "value")) for name, x in values.items()]
    return found


def _views(network: Network, images: Dataset) -> np.ndarray:
    """Features [N, views, D] of some training images in several views, drawn as the method's own view is."""
    run, ts = network.run, network.ts
    seen = run.eval_view
    drawn = dataclasses.replace(run.method.primary_view(), size=seen.size, mean=seen.mean, std=seen.std)
    extract = extractor(run.method, drawn, run.mesh)
    some = evenly_spaced(in_memory(images, _IMAGES, run.eval_side)[0], _IMAGES)
    return np.stack([extract(ts.params, ts.state, some, draw=i) for i in range(_VIEWS)], 1)
