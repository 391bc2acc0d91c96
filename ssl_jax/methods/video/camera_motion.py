"""Camera motion: how did the camera move between two frames of a drive?

Egomotion where the camera is known (Agrawal, Carreira, Malik 2015, arXiv 1505.01596, sec. 4.2 on KITTI): two copies of
the network see two frames that are at most `gap` apart, and a head that reads both features tells how far the camera
went to the right and ahead, and how far it turned, each as one of `bins` equal parts of a range. `egomotion` makes its
motions itself. Decisions:

- the ranges are fields; the authors take those of their training set. What lies outside belongs to the last bin;
- the later frame is the second of a pair;
- frames are seen as they are: a crop or a flip would be another motion;
- hidden layers of the head have BatchNorm, theirs dropout.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.view import View, pixels
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Clips, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import Several
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

PARTS = ("right", "down", "ahead", "turn")
WHOLE = View(size=227, crop="centre", order=("crop",), mean=(0.3702,), std=(0.3013,))


def relative(first: jax.Array, second: jax.Array) -> jax.Array:
    """The motion from one camera to another, as the first sees it.

    Args:
      first: poses [..., 12], the rows of 3x4 matrices from the camera (x right, y down, z ahead) to the world.
      second: likewise.

    Returns:
      [..., 4]: to the right, down and ahead, in the unit of the poses, and the turn to the right, degrees.
    """
    a, b = (pose.reshape(*pose.shape[:-1], 3, 4) for pose in (first, second))
    way = jnp.einsum("...ji,...j->...i", a[..., :3], b[..., 3] - a[..., 3], precision="highest")
    turned = jnp.einsum("...ji,...jk->...ik", a[..., :3], b[..., :3], precision="highest")
    turn = jnp.rad2deg(jnp.arctan2(turned[..., 0, 2], turned[..., 2, 2]))
    return jnp.concatenate([way, turn[..., None]], -1)


def bin_of(value: jax.Array, span: tuple[float, float], bins: int) -> jax.Array:
    """Which of `bins` equal parts of a range a value is in; those outside are in the first or the last."""
    low, high = span
    return jnp.clip(jnp.floor((value - low) / (high - low) * bins), 0, bins - 1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class CameraMotion(Method):
    """Classification of the motion of a camera whose poses are known; the ranges suit frames of KITTI."""

    view: View = WHOLE
    gap: int = 7  # largest, frames from one to the other
    bins: Several = 20  # of each answer
    right: float = 1.0  # largest, to the right or left, in the unit of the poses; 0: is not asked
    down: float = 0.0  # likewise, down or up
    ahead: float = 8.0  # largest, from 0 on
    turn: float = 10.0  # to the right or left, degrees
    hidden: tuple[int, ...] = (1000,)  # of the head

    needs = frozenset({"clips"})

    def _asked(self) -> dict[str, tuple[float, float]]:
        """Name and range of each answer."""
        most = {name: getattr(self, name) for name in PARTS}
        return {name: (0.0 if name == "ahead" else -value, value) for name, value in most.items() if value}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not self._asked():
            raise UserError("config.method.right, .down, .ahead and .turn are all 0: set the largest of one at least.")

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if "pose" not in data.fields:
            raise UserError(
                "The method camera_motion needs the pose of the camera for each frame, and the training images have "
                "none: choose a source that has, such as kitti."
            )
        return Clips.of(data, "camera_motion", info.batch_size, self.gap + 1, 1, "kitti")

    def _head(self) -> nn.Module:
        out = self.bins * len(self._asked())
        return MLP(self.hidden, out, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        body, head = jax.random.split(rng)
        params, stats = initialise({"backbone": self.backbone}, body, batch["view"])
        h = jax.eval_shape(lambda: self.backbone.init_with_output(body, batch["view"], train=True)[0])
        more, also = initialise({"head": self._head()}, head, jnp.zeros((len(h), 2 * h.shape[-1])))
        return params | more, {"stats": stats | also}

    def _pairs(self, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Two frames of each clip [n, 2, H, W, C], and the motion [n, 4] from the first to the second."""
        keys = dist.example_keys(rng, batch["position"][:, 0])
        later = jax.vmap(lambda key: jax.random.randint(key, (), 1, self.gap + 1))(keys)
        rows = jnp.arange(len(later))
        x, pose = batch["view"], batch["pose"]
        return jnp.stack([x[:, 0], x[rows, later]], 1), relative(pose[:, 0], pose[rows, later])

    def _logits(self, params, stats, frames, train):
        """Logits [n, answers, bins] for pairs [n, 2, H, W, C], features [2 n, D] and the running statistics."""
        h, stats = apply(self.backbone, "backbone", params, stats, frames.reshape(-1, *frames.shape[2:]), train=train)
        out, stats = apply(self._head(), "head", params, stats, h.reshape(len(frames), -1), train=train)
        return out.astype(jnp.float32).reshape(len(frames), -1, self.bins), h, stats

    def _answers(self, motion: jax.Array) -> jax.Array:
        """The bins [n, answers] of motions [n, 4]."""
        asked = self._asked().items()
        return jnp.stack([bin_of(motion[:, PARTS.index(name)], span, self.bins) for name, span in asked], 1)

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        frames, motion = self._pairs(batch, rng)
        logits, h, stats = self._logits(params, state["stats"], frames, train)
        answers = self._answers(motion)
        loss = losses.cross_entropy(logits, answers) * len(self._asked())
        metrics = {
            f"{name}_top1": Metric(losses.accuracy(logits[:, i], answers[:, i]), chance=1 / self.bins)
            for i, name in enumerate(self._asked())
        }
        labels = batch["label"][:, 0]
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h[::2]), labels))

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Pairs of frames, how the camera moved, and what the network says."""
        frames, motion = self._pairs({name: x[:8] for name, x in batch.items()}, rng)
        said = np.argmax(self._logits(params, state["stats"], frames, False)[0], -1)
        words = []
        for moved, bins in zip(np.asarray(motion), said, strict=True):
            parts = []
            for (name, (low, high)), k in zip(self._asked().items(), bins, strict=True):
                middle = low + (k + 0.5) * (high - low) / self.bins
                parts.append(f"{name} {moved[PARTS.index(name)]:.2g} (network: {middle:.2g})")
            words.append(("", ", ".join(parts)))
        shown = np.asarray(pixels(self.view, frames).clip(0, 1))
        return [Picture("How the camera moved between two frames", ("before", "after"), shown, tuple(words))]

    def chance(self, info: Info) -> float:
        """All bins as likely."""
        del info
        return len(self._asked()) * math.log(self.bins)
