"""DeepCluster: k-means of all features before every epoch, and predicting the clusters in it.

Caron, Bojanowski, Joulin, Douze 2018 (arXiv 1807.05520). Follows the authors' code (facebookresearch/deepcluster):
before each epoch the features of all images, seen without augmentation and with running statistics, are whitened by
PCA, divided by their length and clustered anew by k-means from other rows; a cluster that becomes empty takes half of
another. The classifier begins anew with each epoch, since the clusters have new numbers. Features are what precedes
the projector's last ReLU, and the classifier sees what follows it. Decisions:

- images are weighted by the inverse of the size of their cluster, where their code draws them uniformly over the
  clusters, which sec. 3.3 calls equivalent: the gradient is the same on average, and an epoch shows every image once;
- the largest cluster is split, where theirs is drawn by size;
- features are those of the whole centre square, where theirs have 87.5 % of its side;
- the projector has BatchNorm, where their AlexNet has dropout;
- a direction whose variance is rounding is left out by the whitening.

With `sobel` the network sees two edge maps of the grey image, as in the paper, and so do evaluations.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Embed, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import Several
from ssl_jax.methods.shared import memory_bank
from ssl_jax.methods.shared.kmeans import kmeans
from ssl_jax.models.heads import MLP, Classifier
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


@functools.partial(jax.jit, static_argnames=("count", "width"))
def whitened(x: jax.Array, *, count: int, width: int) -> jax.Array:
    """Rows as their first principal components, each of variance one, divided by the row's length.

    Args:
      x: rows [M, D].
      count: the first rows, which are measured; the rest is padding.
      width: components, at most D. The largest come last, and their signs are arbitrary.

    Returns:
      [M, width]; padding becomes 0.
    """
    real = (jnp.arange(len(x)) < count)[:, None]
    centred = jnp.where(real, x - jnp.sum(x, 0, where=real) / count, 0.0)
    covariance = jnp.matmul(centred.T, centred, precision="highest") / count
    variances, directions = jnp.linalg.eigh(covariance)
    variances, directions = variances[-width:], directions[:, -width:]
    known = variances > len(covariance) * jnp.finfo(x.dtype).eps * variances[-1]
    scale = jnp.where(known, jax.lax.rsqrt(jnp.where(known, variances, 1.0)), 0.0)
    return losses.l2_normalize(jnp.matmul(centred, directions * scale, precision="highest"))


def edges(images: jax.Array) -> jax.Array:
    """Horizontal and vertical edges [B, H, W, 2] of images [B, H, W, C]: Sobel's filters of the mean of the channels.

    Beyond the border images are 0, as the authors pad them.
    """
    grey = jnp.pad(images.mean(-1), ((0, 0), (1, 1), (1, 1)))
    rows = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    columns = grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
    return jnp.stack([rows[:, :, :-2] - rows[:, :, 2:], columns[:, :-2] - columns[:, 2:]], -1)


def weights_of(sizes: jax.Array, clusters: jax.Array) -> jax.Array:
    """Weights [n] of images for which all clusters that are not empty count alike; their mean over all images is 1.

    Args:
      sizes: images of each cluster, int [K].
      clusters: of the images [n].
    """
    return sizes.sum() / (jnp.sum(sizes > 0) * sizes[clusters]).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class DeepClusterV1(Method):
    """DeepCluster."""

    needs = frozenset({"index"})

    view: View = recipes.ROTNET  # sec. 3.4: random crops and flips
    sobel: bool = True  # sec. 3.3
    hidden: tuple[int, ...] = (4096,)  # of the projector, models/alexnet.py
    out: int = 4096  # width of the features
    pca: int = 256  # components that are clustered, clustering.py
    clusters: Several = 10000  # K, sec. 4.1
    iterations: int = 20  # of k-means, clustering.py
    reassign: int = 1  # epochs from one clustering to the next, main.py; more where an epoch has few updates

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.pca > self.out:
            raise UserError(
                f"config.method.pca is {self.pca}, more than the {self.out} features of config.method.out: lower it."
            )

    def _projector(self) -> MLP:
        return MLP(self.hidden, self.out, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def _seen(self, images: jax.Array) -> jax.Array:
        return edges(images) if self.sobel else images

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        if self.clusters > info.num_examples:
            raise UserError(
                f"config.method.clusters is {self.clusters}, more than the {info.num_examples} training images to be "
                "clustered: lower it."
            )
        rng, key = jax.random.split(rng)
        parts = {"backbone": self.backbone, "projector": self._projector(), "classifier": Classifier(self.clusters)}
        params, stats = initialise(parts, rng, self._seen(batch["view"]))
        return {**params, "classifier": _fresh(key, params["classifier"])}, {
            "stats": stats,
            "key": jax.random.key_data(key),  # of the classifiers of later epochs
            "cluster": jnp.zeros(info.num_examples, jnp.int32),
            "sizes": jnp.zeros(self.clusters, jnp.int32).at[0].set(info.num_examples),
        }

    def on_epoch(self, params: Any, state: Any, *, rng: jax.Array, step: int, info: Info, embed: Embed) -> Any:
        if step // info.steps_per_epoch % self.reassign:
            return state
        features = embed(self._features, {"view": self.eval_view(1.0)})
        padded = jnp.pad(features, ((0, memory_bank.size(info.num_examples) - len(features)), (0, 0)))
        rows = whitened(padded, count=info.num_examples, width=self.pca)
        options = {"clusters": self.clusters, "iterations": self.iterations, "spherical": False}
        _, cluster = kmeans(rows, rng, count=info.num_examples, **options)
        return {**state, "cluster": cluster, "sizes": jnp.bincount(cluster, length=self.clusters).astype(jnp.int32)}

    def _features(self, params: Any, state: Any, batch: Batch) -> jax.Array:  # -> [n, D]
        return self._embedded(params, state["stats"], batch["view"], False)[1].astype(jnp.float32)

    def _embedded(self, params, stats, images, train):
        h, stats = apply(self.backbone, "backbone", params, stats, self._seen(images), train=train)
        z, stats = apply(self._projector(), "projector", params, stats, h, train=train)
        return h, z, stats

    def _classified(self, params, stats, images, train):
        h, z, stats = self._embedded(params, stats, images, train)
        active = jax.nn.relu(z)
        logits, stats = apply(Classifier(self.clusters), "classifier", params, stats, active, train=train)
        return h, z, logits, stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        h, z, logits, stats = self._classified(params, state["stats"], batch["view"], train)
        cluster = state["cluster"][batch["index"]]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, cluster)
        loss = jnp.mean(weights_of(state["sizes"], cluster) * each)
        metrics = {
            "cluster_top1": Metric(losses.accuracy(logits, cluster)),
            "projection_std": Metric(losses.spread(z, dist.AXIS), kind="std"),
            "largest_cluster": Metric(jnp.max(state["sizes"]) / info.num_examples, kind="value"),
        }
        return loss, ({**state, "stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        """The classifier begins anew after the last update with the clusters that it knows; not where the run ends."""
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), step)
        last = ((step + 1) % (self.reassign * info.steps_per_epoch) == 0) & (step + 1 < info.total_steps)
        # No branch, before which a GPU would ask the host: the draw is small beside the update.
        fresh = _fresh(key, params["classifier"])
        classifier = jax.tree.map(lambda new, old: jnp.where(last, new, old), fresh, params["classifier"])
        return {**params, "classifier": classifier}, state

    def encode(self, variables, images, **options):
        return super().encode(variables, self._seen(images), **options)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Images with their cluster and the one that the network says."""
        x, own = batch["view"][:8], np.asarray(state["cluster"])[np.asarray(batch["index"])[:8]]
        said = np.argmax(self._classified(params, state["stats"], x, False)[2], -1)
        shown = np.clip(pixels(self.view, x), 0, 1)[:, None]
        captions = tuple((f"cluster {a}; network: {b}",) for a, b in zip(own, said, strict=True))
        return [Picture("Images are told by the cluster of their features.", ("image",), np.asarray(shown), captions)]

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        return {**labels, "classifier": jax.tree.map(lambda _: "classifier", params["classifier"])}

    def chance(self, info: Info) -> float:
        """All clusters as likely."""
        return math.log(self.clusters)


def _fresh(key: jax.Array, classifier: Any) -> Any:
    """A classifier as it begins an epoch: weights of N(0, 0.01), no biases (main.py)."""
    kernel, bias = classifier["linear"]["kernel"], classifier["linear"]["bias"]
    return {
        "linear": {"kernel": 0.01 * jax.random.normal(key, kernel.shape, kernel.dtype), "bias": jnp.zeros_like(bias)}
    }
