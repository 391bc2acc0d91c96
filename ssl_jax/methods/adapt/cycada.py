"""CyCADA: source images that are made to look like the target, and a network that learns their labels.

Hoffman et al. 2018 (arXiv 1711.03213), on CycleGAN (Zhu et al. 2017, arXiv 1703.10593). Two generators translate
between the domains. Each is to deceive a discriminator of patches, in least squares, and an image that is translated
there and back is to be itself, in L1. A classifier of the source, which learns from the source alone, is to give a
translated image the class that it gives the image: that is semantic consistency, and has no gradient for the
classifier. The network that is evaluated learns the labels of the source on its translated images. Follows the code of
both papers (pytorch-CycleGAN-and-pix2pix, jhoffman/cycada_release): the discriminator's loss is halved, it sees an
image that was made earlier half of the time, and there is no loss of identity, `identity_weight`, which CycleGAN has at
5.
With `semantic_weight=0` and `identity_weight=5` this is CycleGAN. Decisions:

- all networks learn at once, where the authors train the classifier of the source, the generators and the network one
  after the other; semantic consistency begins after `pretrained` of the run;
- generators and discriminators move by gradients of the same weights, where the code moves the generators first;
- the images made earlier are a part of the state, and images enter it in the order of the batch;
- networks are smaller, and a generator doubles its map by repeating pixels;
- left out: the adaptation of features that follows, which is another run (`adda` with `config.init_from`).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.view import pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Metric, Picture
from ssl_jax.methods.shared.two_domains import TwoDomains
from ssl_jax.models.parts import apply, initialise
from ssl_jax.models.translator import PatchDiscriminator, Translator
from ssl_jax.runtime.errors import UserError

OTHER = {"source": "target", "target": "source"}


def generator_loss(made: jax.Array) -> jax.Array:
    """Least squares of a discriminator's answers to made images, which are to be 1."""
    return jnp.mean(jnp.square(made - 1))


def discriminator_loss(real: jax.Array, made: jax.Array) -> jax.Array:
    """Half the least squares of answers to real images, which are to be 1, and to made ones, which are to be 0."""
    return (jnp.mean(jnp.square(real - 1)) + jnp.mean(jnp.square(made))) / 2


def exchanged(pool: jax.Array, filled: jax.Array, made: jax.Array, rng: jax.Array) -> tuple[Any, jax.Array]:
    """Images for the discriminator, of which half were made earlier once the pool is full.

    Each image in turn fills a place of the pool and is given back; once there is none, it is given back, or, as likely,
    takes the place of a random one, which is given back instead.

    Args:
      pool: earlier images [P, ...].
      filled: how many of them there are.
      made: new images [n, ...] in order.
      rng: a key.

    Returns:
      `(pool, filled)` afterwards, and the images [n, ...].
    """
    number, (of_swap, of_place) = jnp.arange(len(made)), jax.random.split(rng)
    fresh = filled + number < len(pool)
    place = jnp.where(fresh, filled + number, jax.random.randint(of_place, fresh.shape, 0, len(pool)))
    swapped = jax.random.bernoulli(of_swap, shape=fresh.shape) & ~fresh
    stored = fresh | swapped

    def latest(chosen: jax.Array, images: jax.Array) -> jax.Array:
        """For each row the last new image that is chosen, or its own."""
        last = jnp.where(chosen, number, -1).max(1)
        return jnp.where(last.reshape(-1, *[1] * (made.ndim - 1)) >= 0, made[last], images)

    # What lies in an image's place at its turn: an image of this batch that was put there before, or an earlier one.
    there = latest(stored & (place[:, None] == place) & (number < number[:, None]), pool[place])
    given = jnp.where(swapped.reshape(-1, *[1] * (made.ndim - 1)), there, made)
    pool = latest(stored & (place == jnp.arange(len(pool))[:, None]), pool)
    return (pool, jnp.minimum(filled + len(made), len(pool))), given


@dataclasses.dataclass(frozen=True)
class CyCADA(TwoDomains):
    """Generators between two domains, and a network that learns from the source's images in the target's look."""

    width: int = 64  # channels of the generators at full size
    blocks: int = 9  # residual blocks of the generators
    halvings: int = 2  # of the images in the generators, before those blocks
    judge: tuple[int, ...] = (64, 128, 256)  # channels of the discriminators' layers
    cycle_weight: float = 10.0  # of the L1 of images there and back
    identity_weight: float = 0.0  # of the L1 of images of a generator's own domain; CycleGAN: 5
    semantic_weight: float = 1.0  # of semantic consistency
    pretrained: float = 0.1  # share of the run before semantic consistency begins
    pool: int = 50  # earlier images of each domain that the discriminators see again

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        deepest = max(len(self.judge), self.halvings)
        if self.view.size >> deepest < 2:
            raise UserError(
                f"config.method.judge has {len(self.judge)} layers and halvings is {self.halvings}: each halves the "
                f"{self.view.size} pixels of an image, of which 2 or more must stay."
            )

    def _parts(self) -> dict[str, nn.Module]:
        dtype = self.backbone.dtype
        makers = {f"to_{name}": Translator(self.width, self.blocks, self.halvings, dtype) for name in OTHER}
        return makers | {f"judge_{name}": PatchDiscriminator(self.judge, dtype) for name in OTHER}

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        again, own = super().init(jax.random.fold_in(rng, 1), batch, info)
        params = params | {f"source_{name}": value for name, value in again.items()}
        stats = state["stats"] | {f"source_{name}": value for name, value in own["stats"].items()}
        for i, (name, part) in enumerate(self._parts().items()):
            params = params | initialise({name: part}, jax.random.fold_in(rng, 2 + i), batch["view"])[0]
        pool = {name: jnp.zeros((self.pool, *batch["view"].shape[1:])) for name in OTHER}
        return params, {"stats": stats, "pool": pool, "filled": jnp.zeros((), jnp.int32)}

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        for prefix, group in (("to_", "generators"), ("judge_", "discriminators")):
            for name in OTHER:
                labels[prefix + name] = jax.tree.map(lambda _, group=group: group, params[prefix + name])
        return labels

    def _run(self, params: Any, name: str, x: jax.Array) -> jax.Array:
        return apply(self._parts()[name], name, params, {}, x, train=False)[0]

    def _seen(self, images: jax.Array) -> jax.Array:
        """Images in [-1, 1] as the view normalises them."""
        return ((images + 1) / 2 - jnp.asarray(self.view.mean)) / jnp.asarray(self.view.std)

    def _drawn(self, batch: Batch, name: str, count: int | None = None) -> jax.Array:
        """The first images of a domain, in [-1, 1] as the generators have them."""
        return 2 * pixels(self.view, batch[name]["view"][:count]) - 1

    def _told(self, params, stats, prefix, x, info, train):  # type: ignore[no-untyped-def]
        """Features, logits and statistics of the network, or, with the prefix `source_`, of the source's."""
        h, stats = apply(self.backbone, f"{prefix}backbone", params, stats, x, train=train)
        logits, stats = apply(self.classifier(info), f"{prefix}classifier", params, stats, h, train=train)
        return h, logits.astype(jnp.float32), stats

    def _translation(self, params: Any, real: dict[str, jax.Array]) -> tuple[Any, Any, dict[str, Metric]]:
        """Images made to look like each domain, the generators' loss but for semantic consistency, and metrics."""
        fixed = jax.lax.stop_gradient(params)
        made = {name: self._run(params, f"to_{name}", real[OTHER[name]]) for name in OTHER}
        back = {name: self._run(params, f"to_{name}", made[OTHER[name]]) for name in OTHER}
        deceived = sum(generator_loss(self._run(fixed, f"judge_{name}", made[name])) for name in OTHER)
        cycle = sum(jnp.mean(jnp.abs(back[name] - real[name])) for name in OTHER)
        loss = deceived + self.cycle_weight * cycle
        metrics = {"generator_loss": Metric(deceived, kind="value"), "cycle_l1": Metric(cycle, kind="value")}
        if self.identity_weight:
            same = sum(jnp.mean(jnp.abs(self._run(params, f"to_{name}", real[name]) - real[name])) for name in OTHER)
            loss, metrics["identity_l1"] = loss + self.identity_weight * same, Metric(same, kind="value")
        return made, loss, metrics

    def _judged(self, params, state, real, made, batch, rng, train):  # type: ignore[no-untyped-def]
        """The discriminators' loss, the share of patches that they tell, and the state with its pools moved on."""
        loss, right, pools, filled = jnp.zeros(()), [], {}, state["filled"]
        for i, name in enumerate(OTHER):
            images = jax.lax.stop_gradient(made[name])
            if train:
                # In the order of the global batch, whichever device has which rows.
                order = jnp.argsort(dist.gather(batch[OTHER[name]]["position"]))
                key, everywhere = jax.random.fold_in(rng, i), dist.gather(images)[order]
                (pools[name], filled), given = exchanged(state["pool"][name], state["filled"], everywhere, key)
                images = given[jnp.argsort(order)][dist.positions(len(images))]
            yes, no = (self._run(params, f"judge_{name}", x) for x in (real[name], images))
            loss = loss + discriminator_loss(yes, no)
            right += [jnp.mean(yes > 0.5), jnp.mean(no < 0.5)]
        moved = {"pool": pools, "filled": filled} if train else {}
        return loss, jnp.mean(jnp.stack(right).astype(jnp.float32)), {**state, **moved}

    def _consistent(self, params, stats, batch, made, info):  # type: ignore[no-untyped-def]
        """Cross-entropy of translated images with the classes of the images, by the source's classifier as it is."""
        fixed, total = jax.lax.stop_gradient(params), jnp.zeros(())
        for name in OTHER:
            wanted = self._told(fixed, stats, "source_", batch[name]["view"], info, False)[1].argmax(-1)
            answer = self._told(fixed, stats, "source_", self._seen(made[OTHER[name]]), info, False)[1]
            total = total + losses.cross_entropy(answer, wanted)
        return total

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        stats, labels = state["stats"], batch["source"]["label"]
        real = {name: self._drawn(batch, name) for name in OTHER}
        made, loss, metrics = self._translation(params, real)
        against, told, state = self._judged(params, state, real, made, batch, rng, train)
        if self.semantic_weight:
            consistency = self._consistent(params, stats, batch, made, info)
            begun = step >= self.pretrained * info.total_steps
            loss = loss + jnp.where(begun, self.semantic_weight, 0.0) * consistency
            metrics["semantic_loss"] = Metric(consistency, kind="value")
        _, own, stats = self._told(params, stats, "source_", batch["source"]["view"], info, train)
        translated = self._seen(jax.lax.stop_gradient(made["target"]))
        h, logits, stats = self._told(params, stats, "", translated, info, train)
        own_loss, of_source = self.label_metrics(own, labels, info)
        label_loss, found = self.label_metrics(logits, labels, info)
        metrics |= {f"source_{name}": metric for name, metric in of_source.items()} | found
        metrics |= {
            "discriminator_loss": Metric(against, kind="value"),
            "patches_told_apart": Metric(told, chance=0.5),
        }
        aux = Aux(metrics, jax.lax.stop_gradient(h), labels)
        return loss + against + own_loss + label_loss, ({**state, "stats": stats}, aux)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Images of each domain, in the look of the other, and back."""
        del state, rng
        found = []
        for name, other in OTHER.items():
            real = self._drawn(batch, name, 8)
            made = self._run(params, f"to_{other}", real)
            columns = [real, made, self._run(params, f"to_{name}", made)]
            shown = np.stack([np.asarray(((x + 1) / 2).clip(0, 1)) for x in columns], 1)
            found.append(Picture(f"Images of the {name} as of the {other}", (name, f"as {other}", "back"), shown))
        return found

    def chance(self, info: Info) -> None:  # type: ignore[override]
        """None: an adversary's loss has no bound that an answer by chance would reach."""
        del info
