"""Small decoders on the frozen features of a backbone, with one budget for all of them."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.evals.context import Images, Network
from ssl_jax.evals.maps import maps
from ssl_jax.metrics.ridge import shots
from ssl_jax.metrics.segmentation import standardisation, upsampled
from ssl_jax.models.conv import Conv
from ssl_jax.transfer.targets import Target, seen

RATE = 1e-3  # of Adam, falling by a cosine
_BLOCK = 50  # images that are answered at a time


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every decoder has."""

    images: int = 400  # training images
    test_images: int = 200
    updates: int = 400
    batch: int = 32
    width: int = 64  # channels of the hidden layers
    seed: int = 0


class Decoder(nn.Module):
    """Two hidden layers, 3x3 convolutions of a map or dense layers of a vector, and a linear one.

    Attributes:
      out: channels of the answer.
      width: of the hidden layers.
      dense: whether the answer is a map.
    """

    out: int
    width: int
    dense: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in (1, 2):
            if self.dense:
                x = nn.relu(Conv(self.width, use_bias=True, name=f"hidden{i}")(x))
            elif i == 1:  # a perceptron of two layers
                x = nn.relu(nn.Dense(self.width, name="hidden1")(x))
        return nn.Dense(self.out, name="out")(x)


def losses(network: Network, images: Images, targets: Mapping[str, Target], budget: Budget) -> dict[str, np.ndarray]:
    """Losses of the test images [M] by target, of decoders that are trained on the training images.

    Args:
      network: whose backbone it is; frozen.
      images: training and test images.
      targets: what is learnt.
      budget: of each decoder.
    """
    kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    found = {}
    for name, target in targets.items():
        if target.of not in kept:
            turns = target.truth if target.of == "turned" else (None, None)
            given = (seen(d.images, target.of, t) for d, t in zip(images, turns, strict=True))
            kept[target.of] = _features(network, *given)
        found[name] = _learnt(target, kept[target.of], budget)
    return found


def _features(network: Network, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps of both splits, each channel standardised by the training images."""
    first = maps(network, train)
    mean, factor = standardisation(first)
    return (first - mean) * factor, (maps(network, test) - mean) * factor


def _learnt(target: Target, features: tuple[np.ndarray, np.ndarray], budget: Budget) -> np.ndarray:
    x, queries = (_input(target, part) for part in features)
    truth = target.truth[0]
    if target.shots:
        rows = shots(truth, target.shots, [budget.seed])
        x, truth = x[rows], truth[rows]
    decoder = Decoder(target.out, budget.width, target.dense)
    batch = min(budget.batch, len(x))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, budget.updates))
    params = decoder.init(jax.random.key(budget.seed), jnp.asarray(x[:1]))

    def answers(params: Any, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        y: Any = decoder.apply(params, x)
        return upsampled(y, (shape[1], shape[2])) if target.dense else y

    def mean_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return target.loss(answers(params, x, y.shape), y).mean()

    @jax.jit
    def update(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        moves, state = optimizer.update(jax.grad(mean_loss)(params, x, y), state)
        return optax.apply_updates(params, moves), state

    rng = np.random.default_rng(budget.seed)
    count = budget.updates * batch
    rounds = [rng.permutation(len(x)) for _ in range(-(-count // len(x)))]
    order = np.concatenate(rounds)[:count].reshape(budget.updates, batch)
    state = optimizer.init(params)
    for rows in order:  # not a loop of XLA's, in which its convolutions are slow on a CPU
        params, state = update(params, state, x[rows], truth[rows])
    measure = jax.jit(lambda params, x, y: target.loss(answers(params, x, y.shape), y))
    wanted = target.truth[1]
    blocks = [slice(i, i + _BLOCK) for i in range(0, len(queries), _BLOCK)]
    return np.concatenate([np.asarray(measure(params, queries[part], wanted[part])) for part in blocks])


def _input(target: Target, features: np.ndarray) -> np.ndarray:
    """What the decoder sees: maps, vectors, or the vectors of two images side by side."""
    if target.dense:
        return features
    vectors = features.mean((1, 2))
    return vectors.reshape(len(vectors) // 2, -1) if target.pairs else vectors
