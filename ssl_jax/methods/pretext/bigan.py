"""BiGAN: an encoder and a generator whose pairs of images and codes an adversary cannot tell apart.

Donahue, Krähenbühl, Darrell 2017 (arXiv 1605.09782). The discriminator sees pairs: an image and its code (x, E(x)), or
a made image and the code it was made of (G(z), z). At the optimum E inverts G (theorem 2). Follows the authors' code
(jeffdonahue/bigan): codes are uniform in [-1, 1]; encoder and generator are trained with the inverse labels, which
does not saturate; all three move at once, from one forward pass; each of the two cross-entropies has weight one half;
the code is added to every layer of the discriminator but the first, through a linear map of its own; sigmoids bound
what is made: images to those of pixels, codes of images to [-1, 1] (dist.py, `logits_to_recon`). Decisions:

- the backbone and a linear layer are the encoder, and its features those that are evaluated;
- discriminator and generator are convolutional, as the authors' for ImageNet (DCGAN's layers and initialisation), for
  images of all sizes, or `dense`, as theirs for MNIST, for which the backbone is an `mlp`.

`stochastic=True` is ALI (Dumoulin et al. 2017, arXiv 1606.00704): codes are normal, and the encoder draws its code from
a normal distribution, whose mean and log variance it predicts.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.conv import INITS, Conv
from ssl_jax.models.decoders import Decoder
from ssl_jax.models.mlp import DenseDiscriminator, DenseGenerator
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

CROP = View(size=64, crop="shift", pad=0, flip=0.5, mean=(0.5,), std=(0.5,))  # 64 of 72 pixels, the authors' code


def discriminator_loss(real: jax.Array, made: jax.Array) -> jax.Array:
    """Cross-entropy of logits [n] of true and of made pairs, each with weight one half: ln 2 at equilibrium."""
    return (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(made))) / 2


def encoder_generator_loss(real: jax.Array, made: jax.Array) -> jax.Array:
    """The same with the labels inverted."""
    return discriminator_loss(made, real)


class PairDiscriminator(nn.Module):
    """4x4 convolutions of stride 2 with leaky ReLUs over an image, to each of which but the first a code is added.

    Attributes:
      widths: channels of the convolutions.
      bn_groups: BatchNorm groups of the global batch.
      dtype: type that is computed in.
    """

    widths: tuple[int, ...]
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, code: jax.Array, train: bool) -> jax.Array:  # [B, H, W, C] -> float32 [B]
        def condition(width, name):
            return nn.Dense(width, False, self.dtype, kernel_init=INITS["dcgan"], name=name)(code)  # before a norm

        for i, width in enumerate(self.widths, 1):
            x = Conv(width, 4, 2, use_bias=i == 1, init_kind="dcgan", dtype=self.dtype, name=f"conv{i}")(x)
            if i > 1:
                x = x + condition(width, f"code{i}")[:, None, None]
                x = BatchNorm(self.bn_groups, dtype=self.dtype, name=f"norm{i}")(x, train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(len(x), -1)
        x = nn.Dense(self.widths[-1], False, self.dtype, kernel_init=INITS["dcgan"], name="dense")(x)
        x = BatchNorm(self.bn_groups, dtype=self.dtype, name="dense_norm")(
            x + condition(self.widths[-1], "code"), train
        )
        x = nn.leaky_relu(x, 0.2)
        return nn.Dense(1, dtype=self.dtype, kernel_init=INITS["dcgan"], name="out")(x)[:, 0].astype(jnp.float32)


class Generator(nn.Module):
    """A dense layer to a small map, and a decoder from it to an image.

    Attributes:
      widths: channels of the decoder's stages.
      side: of the image, pixels.
      out: channels of the image.
      bn_groups: BatchNorm groups of the global batch.
      dtype: type that is computed in.
    """

    widths: tuple[int, ...]
    side: int
    out: int
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:  # [B, D] -> [B, side, side, out]
        start = max(2, self.side >> len(self.widths))
        x = nn.Dense(start * start * self.widths[0], False, self.dtype, kernel_init=INITS["dcgan"], name="dense")(z)
        x = nn.relu(BatchNorm(self.bn_groups, dtype=self.dtype, name="dense_norm")(x, train))
        x = x.reshape(len(x), start, start, -1)
        decoder = Decoder(self.widths, self.side, self.out, "dcgan", self.bn_groups, self.dtype, name="decoder")
        return decoder(x, train=train)


class Code(nn.Module):
    """A linear layer to a code, in float32.

    Attributes:
      width: of the code.
      bias: which the norms of the discriminator cancel.
    """

    width: int
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.Dense(self.width, self.bias, kernel_init=INITS["dcgan"], name="linear")(x.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class BiGAN(Method):
    """Bidirectional generative adversarial networks."""

    view: View = CROP
    code: int = 200  # width D of z, sec. 4.3; 50 for MNIST
    widths: tuple[int, ...] = (256, 128, 64, 32)  # channels of the generator's stages
    judge: tuple[int, ...] = (64, 128, 256, 512)  # channels of the discriminator's layers
    dense: bool = False  # both of dense layers: then these are their widths, (1024, 1024) each for MNIST
    stochastic: bool = False  # ALI

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not self.dense and self.view.size < 2 ** len(self.judge):
            raise UserError(
                f"config.method.judge has {len(self.judge)} layers, too many for images of {self.view.size} pixels, "
                "which each of them halves: give fewer."
            )

    def _parts(self, channels: int) -> dict[str, nn.Module]:
        options: dict[str, Any] = {"bn_groups": self.backbone.bn_groups, "dtype": self.backbone.dtype}
        kinds: tuple[Any, Any] = (DenseGenerator, DenseDiscriminator) if self.dense else (Generator, PairDiscriminator)
        generator, discriminator = kinds
        return {
            "backbone": self.backbone,
            "encoder": Code(self.code * (2 if self.stochastic else 1), self.stochastic),
            "generator": generator(self.widths, self.view.size, channels, **options),
            "discriminator": discriminator(self.judge, **options),
        }

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        x, keys = batch["view"], jax.random.split(rng, 3)
        parts = self._parts(x.shape[-1])
        params, stats = initialise({name: parts[name] for name in ("backbone", "encoder")}, keys[0], x)
        z = jnp.zeros((len(x), self.code))
        for name, key, given, more in (("generator", keys[1], z, {}), ("discriminator", keys[2], x, {"code": z})):
            found, moving = initialise({name: parts[name]}, key, given, **more)
            params, stats = params | found, stats | moving
        return params, {"stats": stats}

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        return labels | {"discriminator": jax.tree.map(lambda _: "discriminator", params["discriminator"])}

    def _draw(self, keys: jax.Array) -> jax.Array:
        """A code [n, D] for each example."""
        if self.stochastic:
            return jax.vmap(lambda key: jax.random.normal(key, (self.code,)))(keys)
        return jax.vmap(lambda key: jax.random.uniform(key, (self.code,), minval=-1.0, maxval=1.0))(keys)

    def _encode(self, params, stats, x, keys, train):
        """Features, the code of images, the mean of it, and the running statistics."""
        parts = self._parts(x.shape[-1])
        h, stats = apply(parts["backbone"], "backbone", params, stats, x, train=train)
        code, stats = apply(parts["encoder"], "encoder", params, stats, h, train=train)
        if not self.stochastic:
            code = 2 * jax.nn.sigmoid(code) - 1
            return h, code, code, stats
        mean, log_variance = jnp.split(code, 2, -1)
        noise = jax.vmap(lambda key: jax.random.normal(key, (self.code,)))(keys)
        return h, mean + jnp.exp(log_variance / 2) * noise, mean, stats

    def _generate(self, params, stats, z, channels, train):
        """Images [n, H, W, C] of codes [n, D], normalised as the view is, and the running statistics."""
        made, stats = apply(self._parts(channels)["generator"], "generator", params, stats, z, train=train)
        return (jax.nn.sigmoid(made) - jnp.asarray(self.view.mean)) / jnp.asarray(self.view.std), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        x, parts = batch["view"], self._parts(batch["view"].shape[-1])
        drawn, noise = (dist.example_keys(jax.random.fold_in(rng, i), batch["position"]) for i in range(2))
        z = self._draw(drawn)
        h, code, _, stats = self._encode(params, state["stats"], x, noise, train)
        made, stats = self._generate(params, stats, z, x.shape[-1], train)

        def judged(images, codes, params, stats):
            return apply(parts["discriminator"], "discriminator", params, stats, images, train=train, code=codes)

        # The discriminator on pairs that it does not move, and the pairs against a discriminator that does not move.
        still, fixed = jax.lax.stop_gradient((code, made)), jax.lax.stop_gradient(params)
        real, stats = judged(x, still[0], params, stats)
        fake, stats = judged(still[1], z, params, stats)
        real_of_encoder, _ = judged(x, code, fixed, stats)
        fake_of_generator, _ = judged(made, z, fixed, stats)
        against = discriminator_loss(real, fake)
        loss = against + encoder_generator_loss(real_of_encoder, fake_of_generator)
        again, _ = self._generate(fixed, stats, still[0], x.shape[-1], False)
        right, others = jnp.concatenate([real > 0, fake < 0]), _next(x)
        metrics = {
            "pairs_told_apart": Metric(jnp.mean(right, dtype=jnp.float32), chance=0.5),
            "reconstruction_mse": Metric(squared(again, x), squared(again, others), "loss"),
            "reconstruction_distance": Metric(distance(again, x), distance(again, others), "loss"),
            "discriminator_loss": Metric(against, kind="loss"),
        }
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Images, what the generator makes of their codes, and what it makes of random ones."""
        x, stats = batch["view"][:8], state["stats"]
        keys = dist.example_keys(rng, batch["position"][: len(x)])
        mean = self._encode(params, stats, x, keys, False)[2]
        made = [self._generate(params, stats, z, x.shape[-1], False)[0] for z in (mean, self._draw(keys))]
        shown = np.stack([np.clip(pixels(self.view, images), 0, 1) for images in (x, *made)], 1)
        return [Picture("Images that codes stand for", ("image", "of its code", "of a random code"), shown)]

    def chance(self, info: Info) -> None:
        """None: an adversary's loss has no bound that an answer by chance would reach."""
        del info


def squared(made: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean squared difference of pixels."""
    return jnp.mean(jnp.square(made - truth))


def distance(made: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean Euclidean distance of images [n, H, W, C]: the authors' error of reconstructions."""
    return jnp.mean(jnp.sqrt(jnp.sum(jnp.square(made - truth), (1, 2, 3))))


def _next(x: jax.Array) -> jax.Array:
    """For each row the next one of the global batch, and for the last the first."""
    rows = dist.gather(x)
    return rows[(dist.positions(len(x)) + 1) % len(rows)]
