"""Learning to count: the features of an image's four tiles add up to those of the whole.

Noroozi, Pirsiavash, Favaro 2017 (arXiv 1708.06734). Whatever is counted in an image is counted in its four tiles
together, and is in general not what is counted in another image. No code by the authors is known; details are the
paper's, and the loss takes the norm over all counts before its hinge, as eq. 4 says (a widely used port takes the
hinge of each element, and does not converge). Decisions:

- images are halved by one of four ways of resampling, drawn for each image: one way alone would give away which of
  the images was halved (sec. 3.2);
- two images of three are grey, and an image is compared with a random one that is grey if it is;
- the two streams pass through the network together, so that statistics of BatchNorm are theirs in common;
- any backbone, and BatchNorm in the head phi; the backbone sees images of half the view's size in training and whole
  ones in evaluation.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.patches import grid
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

# One mean and deviation for all channels, so that an image may also turn grey after it was normalised.
VIEW = View(size=224, crop="shift", pad=0, order=("crop",), mean=(0.449,), std=(0.226,))


def distances(whole: jax.Array, tiles: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared distances [n] of the tiles' counts [n, D] to those of their own image [n, D] and of another [n, D]."""
    return jnp.sum(jnp.square(whole - tiles), -1), jnp.sum(jnp.square(other - tiles), -1)


def counting_loss(whole: jax.Array, tiles: jax.Array, other: jax.Array, margin: float = 10.0) -> jax.Array:
    """Contrastive counting loss (eq. 4), the mean over images; without any counts it is the margin.

    Args:
      whole: phi(D x) [n, D], the counts of the halved images.
      tiles: the sum over tiles j of phi(T_j x) [n, D].
      other: phi(D y) [n, D] of other images.
      margin: M.

    Returns:
      |whole - tiles|^2 + max(0, M - |other - tiles|^2).
    """
    near, far = distances(whole, tiles, other)
    return jnp.mean(near + jax.nn.relu(margin - far))


def halvings(size: int) -> jax.Array:
    """Four matrices [4, size / 2, size] that halve one axis: bicubic, bilinear, Lanczos and area."""
    shape, identity = (size // 2, size), jnp.eye(size)
    resized = [jax.image.resize(identity, shape, method) for method in ("cubic", "linear", "lanczos3")]
    return jnp.stack([*resized, identity.reshape(size // 2, 2, size).mean(1)])


def pairing(rng: jax.Array, positions: jax.Array, gray: float) -> tuple[jax.Array, jax.Array]:
    """Decides which images are grey, and which other image each is compared with: another that is grey if it is.

    Args:
      rng: a key that all replicas share.
      positions: positions [N] of all rows of the global batch.
      gray: share of the images that are grey, rounded to whole images.

    Returns:
      grey or not [N], and the row [N] of the other image.

    Raises:
      UserError: if the grey or the coloured images are a single one.
    """
    count = len(positions)
    coloured = round((1 - gray) * count)
    if 1 in (coloured, count - coloured):
        raise UserError(
            f"A batch of {count} image(s) has a single one that is in colour, or in grey, and nothing to compare it "
            "with: raise config.batch_size, or set config.method.gray to 0 or 1."
        )
    order = dist.random_order(rng, positions)
    place = np.arange(count)
    following = np.where(place == coloured - 1, 0, np.where(place == count - 1, coloured, place + 1))
    other = jnp.zeros(count, order.dtype).at[order].set(order[following])
    return jnp.zeros(count, bool).at[order].set(place >= coloured), other


@dataclasses.dataclass(frozen=True)
class Counting(Method):
    """Learning to count."""

    view: View = VIEW  # x, out of 256 pixels, sec. 4
    gray: float = 0.67  # share of grey images, sec. 4
    margin: float = 10.0  # M, sec. 4
    hidden: tuple[int, ...] = (4096, 4096)  # of phi, fig. 3
    out: int = 1000  # counts, fig. 3

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.view.size % 2 or self.view.size < 4:
            raise UserError(f"config.method.view.size is {self.view.size}: halves want an even number, 4 or more.")
        if len(self.view.mean) > 1 or len(self.view.std) > 1:
            raise UserError(
                "config.method.view.mean and .std have one value a channel, but images turn grey after they were "
                "normalised: give one value for all."
            )
        if not 0 <= self.gray <= 1:
            raise UserError(f"config.method.gray is {self.gray}: it is a share of images, from 0 to 1.")

    def _head(self) -> MLP:
        return MLP(self.hidden, self.out, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        half = self.view.size // 2
        parts = {"backbone": self.backbone, "count": self._head()}
        params, stats = initialise(parts, rng, batch["view"][:, :half, :half])
        return params, {"stats": stats}

    def _streams(self, images: jax.Array, gray: jax.Array, keys: jax.Array) -> jax.Array:
        """[n, S, S, C] to [n, 5, S/2, S/2, C]: the halved image D x, and its tiles T_1 x to T_4 x."""
        images = jnp.where(gray[:, None, None, None], images.mean(-1, keepdims=True), images)
        size = self.view.size
        way = halvings(size)[jax.vmap(lambda key: jax.random.randint(key, (), 0, 4))(keys)]
        halved = jnp.einsum("nih,nhwc,njw->nijc", way, images, way, precision="highest")
        return jnp.concatenate([halved[:, None], grid(images, size // 2, size // 2)], 1)

    def _count(self, params, stats, streams, *, train):
        """Counts phi [n, 5, D] of streams [n, 5, h, h, C], their features [n, 5, F], and the statistics."""
        h, stats = apply(self.backbone, "backbone", params, stats, streams.reshape(-1, *streams.shape[2:]), train=train)
        phi, stats = apply(self._head(), "count", params, stats, h, train=train)
        n = len(streams)
        return jax.nn.relu(phi.astype(jnp.float32)).reshape(n, 5, -1), h.reshape(n, 5, -1), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        pairs, drawing = jax.random.split(rng)
        gray, other = pairing(pairs, dist.gather(batch["position"]), self.gray)
        here = dist.positions(len(batch["view"]))
        streams = self._streams(batch["view"], gray[here], dist.example_keys(drawing, batch["position"]))
        phi, h, stats = self._count(params, state["stats"], streams, train=train)
        whole, tiles = phi[:, 0], phi[:, 1:].sum(1)
        # The gather is differentiable: phi(D y) learns too.
        y = jax.lax.all_gather(whole, dist.AXIS, tiled=True)[other[here]]
        near, far = distances(whole, tiles, y)
        # Without any counts both are zero, and nothing is told apart.
        told = jnp.mean(near < far, dtype=jnp.float32)
        metrics = {
            "pair_accuracy": Metric(told, 1 / 2),
            # Of all counts; at the end few are not zero, sec. 5.
            "active_share": Metric(jnp.mean(phi > 0, dtype=jnp.float32)),
        }
        aux = Aux(metrics, jax.lax.stop_gradient(h[:, 0]))
        return counting_loss(whole, tiles, y, self.margin), ({"stats": stats}, aux)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Each halved image, its tiles and the next image, with the squared distances of their counts."""
        images = batch["view"][:8]
        keys = dist.example_keys(rng, batch["position"][: len(images)])
        streams = self._streams(images, jnp.zeros(len(images), bool), keys)
        phi, _, _ = self._count(params, state["stats"], streams, train=False)
        whole = phi[:, 0]
        near, far = distances(whole, phi[:, 1:].sum(1), jnp.roll(whole, -1, 0))
        seen = np.concatenate([streams, np.roll(streams[:, :1], -1, 0)], 1)
        columns = ("image, halved", "tile 1", "tile 2", "tile 3", "tile 4", "another image")
        captions = tuple(
            (f"distance {a:.2f}", "", "", "", "", f"distance {b:.2f}") for a, b in zip(near, far, strict=True)
        )
        title = "Squared distance of the tiles' counts together to the counts of their image, and of another"
        return [Picture(title, columns, np.asarray(pixels(self.view, jnp.asarray(seen)).clip(0, 1)), captions)]

    def chance(self, info: Info) -> float:
        """The margin: nothing is counted."""
        return self.margin
