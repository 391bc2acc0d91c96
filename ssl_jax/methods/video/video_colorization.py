"""Video colorization: the colours of a frame are copied from earlier frames, to where the features say.

Vondrick, Shrivastava, Fathi, Guadarrama, Murphy 2018 (arXiv 1806.09594). Frames are seen in grey; a place of the target
frame attends to all places of the reference frames by inner products of features, a softmax (eq. 1), and predicts
their colours, of 16 clusters found by k-means (sec. 3.2). The loss is the cross-entropy of the clusters (eq. 2):
-log of the attention that falls on places of the right one. (A public re-implementation feeds these probabilities to a
second softmax, whose loss cannot fall below 1.87.) Decisions:

- the clusters are found once, before the first update, among places of all training frames;
- the map is as fine as the backbone's last stage, and its colours are means over what a place of it covers;
- `temperature` divides the inner products; theirs is 1.

Features see the lightness of an image.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import lab
from ssl_jax.augment.view import View, pixels
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Clips, Sampler
from ssl_jax.methods.contract import Aux, Batch, Embed, Info, Method, Metric, Picture
from ssl_jax.methods.pretext.colorization import lightness
from ssl_jax.methods.ranges import Positive
from ssl_jax.models.heads import torch_uniform
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

SIDE = 8  # of the map of each frame's colours that the clusters are found from


@functools.partial(jax.jit, static_argnames=("clusters", "iterations"))
def kmeans(points: jax.Array, rng: jax.Array, *, clusters: int, iterations: int = 20) -> jax.Array:
    """Centroids [K, D] of points [N, D]: Lloyd's iterations from points drawn at random.

    A cluster that loses all its points keeps its centroid.
    """

    def move(_, centroids):
        members = jax.nn.one_hot(nearest(points, centroids), clusters, dtype=points.dtype)
        counts = members.sum(0)[:, None]
        means = jnp.matmul(members.T, points, precision="highest") / jnp.maximum(counts, 1)
        return jnp.where(counts > 0, means, centroids)

    first = points[jax.random.permutation(rng, len(points))[:clusters]]
    return jax.lax.fori_loop(0, iterations, move, first)


def nearest(points: jax.Array, centroids: jax.Array) -> jax.Array:
    """Number of the centroid [K, D] that each point [..., D] is nearest to."""
    return jnp.argmin(jnp.sum(jnp.square(points[..., None, :] - centroids), -1), -1)


def copied(target: jax.Array, reference: jax.Array, colours: jax.Array, temperature: float = 1.0) -> jax.Array:
    """What attention copies to each place of the target (eq. 1).

    Args:
      target: features [..., M, D].
      reference: features [..., R, D].
      colours: of the reference [..., R, K], such as clusters as one-hot vectors.
      temperature: divides the inner products.

    Returns:
      [..., M, K].
    """
    scores = jnp.einsum("...md,...rd->...mr", target, reference, precision="highest") / temperature
    return jax.nn.softmax(scores, -1) @ colours


def copy_loss(answer: jax.Array, cluster: jax.Array) -> jax.Array:
    """-log of the share [..., K] that the right cluster [...] got (eq. 2), the mean over places."""
    right = jnp.take_along_axis(answer, cluster[..., None], -1)[..., 0]
    return -jnp.mean(jnp.log(right + 1e-8))


class Places(nn.Module):
    """A linear layer at each place of a map."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.Dense(self.width, kernel_init=torch_uniform, name="linear")(x.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class VideoColorization(Method):
    """Colours that are copied from frame to frame."""

    view: View = View(size=256, area=(0.8, 1.0), flip=0.5, shared=True)  # noqa: RUF009
    references: int = 3  # frames that colours are copied from, sec. 3.3
    stride: int = 4  # frames from one to the next
    clusters: int = 16  # of colours, sec. 3.2
    out: int = 64  # width of the features that are compared, sec. 3.3
    temperature: Positive = 1.0

    needs = frozenset({"colour", "clips"})
    pools_map = True

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.references < 1 or self.clusters < 2 or self.temperature <= 0:
            raise UserError(
                f"config.method.references is {self.references}, .clusters {self.clusters} and .temperature "
                f"{self.temperature}: at least one frame, two clusters and a temperature above 0 are needed."
            )

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        return Clips.of(data, "video_colorization", info.batch_size, self.references + 1, self.stride)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        images = batch["view"].reshape(-1, *batch["view"].shape[-3:])[..., :1]
        parts = {"backbone": self.backbone, "projector": Places(self.out)}
        params, stats = initialise(parts, rng, images, pool=False)
        angle = 2.4 * np.arange(self.clusters)  # until the clusters are found, points of a spiral
        start = 60 * np.sqrt(np.arange(self.clusters) / self.clusters)
        centroids = np.stack([start * np.cos(angle), start * np.sin(angle)], 1)
        return params, {"stats": stats, "centroids": jnp.asarray(centroids, jnp.float32)}

    def on_epoch(self, params: Any, state: Any, *, rng: jax.Array, step: int, info: Info, embed: Embed) -> Any:
        if step:
            return state
        sampled, seed = embed(self._colours), jax.random.fold_in(rng, 1)
        points = sampled.reshape(-1, 2)
        if len(points) > 100_000:
            points = points[jax.random.permutation(rng, len(points))[:100_000]]
        return {**state, "centroids": kmeans(points, seed, clusters=self.clusters)}

    def _colours(self, params: Any, state: Any, batch: Batch) -> jax.Array:
        """Colours [n, 64, 2] of the places of each image."""
        del params, state
        ab = _shrunk(lab.rgb_to_lab(pixels(self.view, batch["view"]))[..., 1:], (SIDE, SIDE))
        return ab.reshape(len(ab), -1, 2)

    def _encoded(self, params, stats, images, train):
        """Maps [n, h, w, D] of Lab images, pooled features and the running statistics."""
        h, stats = apply(self.backbone, "backbone", params, stats, lightness(images), train=train, pool=False)
        z, stats = apply(Places(self.out), "projector", params, stats, h, train=train)
        return z, h.mean((1, 2)), stats

    def _copied(self, params, state, images, train):
        """What is copied to the last frame [n, h w, K], clusters of all frames [n, T, h w]; of the map the rest."""
        n, frames = images.shape[:2]
        colours = lab.rgb_to_lab(pixels(self.view, images.reshape(-1, *images.shape[2:])))
        z, h, stats = self._encoded(params, state["stats"], colours, train)
        side = z.shape[1:3]
        cluster = nearest(_shrunk(colours[..., 1:], side), state["centroids"]).reshape(n, frames, -1)
        z = z.reshape(n, frames, -1, z.shape[-1])
        before = z[:, :-1].reshape(n, -1, z.shape[-1])
        shown = jax.nn.one_hot(cluster[:, :-1].reshape(n, -1), self.clusters)
        return copied(z[:, -1], before, shown, self.temperature), cluster, h, stats, side

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        answer, cluster, h, stats, _ = self._copied(params, state, batch["view"], train)
        truth, before = cluster[:, -1], cluster[:, :-1]
        counts = jax.nn.one_hot(before, self.clusters).sum((1, 2))  # of each clip's references
        prior = jnp.mean(truth == counts.argmax(-1)[:, None], dtype=jnp.float32)
        metrics = {
            "colour_top1": Metric(jnp.mean(answer.argmax(-1) == truth, dtype=jnp.float32), prior),
            "colour_top1_of_the_same_place": Metric(jnp.mean(before[:, -1] == truth, dtype=jnp.float32), prior),
        }
        return copy_loss(answer, truth), ({**state, "stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def encode(self, variables, images, **options):
        return super().encode(variables, lightness(lab.rgb_to_lab(pixels(self.view, images))), **options)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Frames whose colours are copied from the ones before."""
        x = batch["view"][:8]
        answer, _, _, _, side = self._copied(params, state, x, False)
        colours = lab.rgb_to_lab(pixels(self.view, x[:, -2:]))
        ab = (answer @ state["centroids"]).reshape(len(x), *side, 2)
        ab = jax.image.resize(ab, (*colours.shape[:1], *colours.shape[2:4], 2), "bilinear")
        last = colours[:, -1]
        columns = [colours[:, 0], jnp.concatenate([last[..., :1], ab], -1), last]
        shown = np.stack([np.asarray(lab.lab_to_rgb(c)) for c in columns], 1)
        return [Picture("Colours are copied from earlier frames.", ("the frame before", "copied", "truth"), shown)]

    def chance(self, info: Info) -> float:
        """All clusters as likely."""
        del info
        return math.log(self.clusters)


def _shrunk(ab: jax.Array, side: tuple[int, int]) -> jax.Array:
    """Colours [n, H, W, 2] as means over the places of a map, [n, h, w, 2]."""
    return jax.image.resize(ab, (len(ab), *side, 2), "bilinear", antialias=True)
