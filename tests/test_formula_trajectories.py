"""Whole trajectories of methods without a recorded one: against the authors' formulas, written down here once more.

Loss, gradient by its definition, SGD with its buffer, decay and rates, and what a method keeps from update to update,
in NumPy and float64. The starting weights are the package's.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from test_trajectories import Pixelwise, double  # noqa: F401

from ssl_jax import batch, data, dist, mesh, optim, recipes
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint import npid, pirl
from ssl_jax.methods.pretext import counting
from ssl_jax.recipes import base
from ssl_jax.run import Run
from ssl_jax.state import TrainState, specs
from ssl_jax.step import replica_step

pytestmark = pytest.mark.usefixtures("quick_compilation")
EXAMPLES, SIZE, SIDE, PER_EPOCH, UPDATES = 12, 4, 6, 3, 10
SOON = {"optim.default.milestones": (2, 3), "optim.default.warmup_epochs": 1.0}  # in epochs of three updates
ROWS = np.random.default_rng(0).permuted(np.tile(np.arange(EXAMPLES), (UPDATES, 1)), axis=1)[:, :SIZE]
IMAGES = np.random.default_rng(1).standard_normal((UPDATES, SIZE, SIDE, SIDE, 3))
NOISE = np.random.default_rng(2).integers(0, EXAMPLES, (SIZE, 5))


def ours(monkeypatch, name, preset, peak, **fields):
    """The starting point, and of each update the rate, the loss, the weights and the state."""
    config = base.changed(recipes.get_config(name, preset), {**SOON, **fields})
    method = build.method(config.method, Pixelwise())
    info = Info(EXAMPLES, SIZE, PER_EPOCH, PER_EPOCH * config.epochs)
    devices = mesh.make(config.mesh, jax.devices()[:1])
    first = {"view": jnp.asarray(IMAGES[0]), "large": jnp.asarray(IMAGES[0])}
    params, state = jax.tree.map(lambda x: x.astype(jnp.float64), method.init(jax.random.key(0), first, info))
    built = optim.build(config.optim, method.groups(params), config.batch_size, info.steps_per_epoch, info.total_steps)
    nothing = data.Dataset("given", np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32), ())
    run = Run(config, nothing, None, method, devices, info, None, *built, None)
    monkeypatch.setattr(batch, "maker", lambda run: lambda rng, number, rows, given: (given, rng))
    laid, split = specs(method), P(dist.AXIS)
    step = dist.map_replicas(replica_step(run), devices, (laid, split, P(None, dist.AXIS)), (laid, P()))
    ts = TrainState(
        jnp.zeros((), jnp.int32), jax.random.key_data(jax.random.key(0)), params, state, built[0].init(params), {}
    )
    begun, found = jax.device_get((params, state)), []
    for rows, images in zip(ROWS, IMAGES, strict=True):
        given = {
            "view": jnp.asarray(images),
            "large": jnp.asarray(images),
            "index": jnp.asarray(rows, jnp.int32),
            "position": jnp.arange(SIZE),
        }
        ts, metrics = step(ts, given | {"label": jnp.full(SIZE, -1)}, jnp.arange(SIZE)[None])
        given_rate = float(metrics["lr/default"])  # in single precision
        np.testing.assert_allclose(given_rate, rate(peak, len(found)), rtol=1e-6)
        found.append((given_rate, *jax.device_get((metrics["loss"], ts.params, ts.state))))
    return begun, found


def features(p, images):
    """The stand-in's features [n, 12], and what takes a gradient of them to its weights and bias."""
    lin = p["backbone"]["lin"]
    before = images @ lin["kernel"] + lin["bias"]

    def back(g):
        g = np.broadcast_to(g[:, None, None] / SIDE**2, before.shape) * (before > 0)
        return {"backbone": {"lin": {"kernel": np.einsum("nijc,nijd->cd", images, g), "bias": g.sum((0, 1, 2))}}}

    return np.maximum(before, 0).mean((1, 2)), back


def near(found, wanted, share):
    """Nothing is further away than a share of the largest value of its array."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=share * np.abs(b).max()), found, wanted)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def descend(p, grads, kept, speed, momentum, decay):
    """PyTorch's SGD: decay is part of the gradient, the buffer sums gradients, the rate multiplies the buffer."""

    def move(w, g, b):
        b[...] = momentum * b + g + decay * w
        return w - speed * b

    return jax.tree.map(move, p, grads, kept)


def rate(peak, update):
    """Linear warm-up from 0 over the first epoch, then a tenth from each milestone on."""
    if update < PER_EPOCH:
        return peak * update / PER_EPOCH
    return peak * 0.1 ** sum(update >= m * PER_EPOCH for m in (2, 3))


def test_rotation(monkeypatch):
    """The stand-in forgets where pixels are: the quarters of an image are the four rotations' features alike.

    The classifier computes in single precision.
    """
    (p, _), found = ours(monkeypatch, "rotation", "imagenet", 0.1)
    kept = jax.tree.map(np.zeros_like, p)
    for images, (speed, loss, after, _) in zip(IMAGES, found, strict=True):
        turned = np.stack([np.rot90(images, k, (1, 2)) for k in range(4)], 1).reshape(-1, SIDE, SIDE, 3)
        h, back = features(p, turned)
        head = next(iter(p["classifier"].values()))
        chances = softmax(h @ head["kernel"] + head["bias"])
        answer = np.tile(np.arange(4), SIZE)
        np.testing.assert_allclose(loss, -np.log(chances[np.arange(4 * SIZE), answer]).mean(), rtol=1e-6)
        g = (chances - np.eye(4)[answer]) / len(answer)
        grads = back(g @ head["kernel"].T)
        grads["classifier"] = {next(iter(p["classifier"])): {"kernel": h.T @ g, "bias": g.sum(0)}}
        p = descend(p, grads, kept, speed, 0.9, 1e-4)
        near(after, p, 1e-6)


@pytest.mark.parametrize(("preset", "noise"), [("cifar10", 0), ("imagenet", NOISE.shape[1])])
def test_npid(monkeypatch, preset, noise):
    """The full softmax of cifar.py, and the noise-contrastive estimate of main.py, with their bank and Z."""
    drawn = lambda rng, given, count, n: jnp.concatenate([given["index"][:, None], NOISE], 1)  # noqa: E731
    monkeypatch.setattr(npid, "noise_index", drawn)
    (p, state), found = ours(monkeypatch, "npid", preset, 0.03, **{"method.noise": noise, "method.out": 5})
    kept, bank, z, t = jax.tree.map(np.zeros_like, p), state["bank"].copy(), 0.0, 0.07 if noise else 0.1
    for rows, images, (speed, loss, after, state) in zip(ROWS, IMAGES, found, strict=True):
        h, back = features(p, images)
        head = next(iter(p["projector"].values()))
        y = h @ head["kernel"] + head["bias"]
        length = np.linalg.norm(y, axis=1, keepdims=True)
        v = y / length
        if noise:
            chosen = bank[np.c_[rows, NOISE]]
            scores = np.exp(np.einsum("nkd,nd->nk", chosen, v) / t)
            z = z or scores.mean() * EXAMPLES
            likely, share = scores / z, noise / EXAMPLES
            wanted = -(np.log(likely[:, 0] / (likely[:, 0] + share + 1e-7)).sum()) / SIZE
            wanted -= np.log(share / (likely[:, 1:] + share + 1e-7)).sum() / SIZE
            slope = likely / (likely + share + 1e-7)  # of the logarithm of the denominator
            slope[:, 0] -= 1
            g = np.einsum("nk,nkd->nd", slope, chosen) / t / SIZE
        else:
            chances = softmax(v @ bank[:EXAMPLES].T / t)
            wanted = -np.log(chances[np.arange(SIZE), rows]).mean()
            g = (chances - np.eye(EXAMPLES)[rows]) @ bank[:EXAMPLES] / t / SIZE
        np.testing.assert_allclose(loss, wanted, rtol=1e-9)
        g = (g - v * (g * v).sum(1, keepdims=True)) / length
        grads = back(g @ head["kernel"].T)
        grads["projector"] = {next(iter(p["projector"])): {"kernel": h.T @ g, "bias": g.sum(0)}}
        p = descend(p, grads, kept, speed, 0.9, 5e-4 if preset == "cifar10" else 1e-4)
        moved = 0.5 * bank[rows] + 0.5 * v
        bank[rows] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        near(after, p, 1e-9)
        np.testing.assert_allclose(state["bank"], bank, rtol=0, atol=1e-9)
        np.testing.assert_allclose(state["z"], z, rtol=1e-9)


def quarters(images):
    """The four tiles of images, the last one first, so that an order is one of the formula's."""
    half = SIDE // 2
    tiles = [images[:, y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    return np.stack(tiles[::-1], 1) if isinstance(images, np.ndarray) else jnp.stack(tiles[::-1], 1)


def test_pirl(monkeypatch):
    """VISSL's NCE with memory on an image and on its tiles together; the bank moves with the image alone.

    Tiles come without colours of their own and in one order; the gradient is JAX's, of the formula written here.
    """
    drawn = lambda rng, given, count, n: jnp.concatenate([given["index"][:, None], NOISE], 1)  # noqa: E731
    monkeypatch.setattr(pirl, "noise_index", drawn)
    monkeypatch.setattr(pirl.PIRL, "_jigsaw", lambda self, large, keys: quarters(large))
    sizes = {"method.grid": 2, "method.large.size": SIDE, "method.out": 5, "method.noise": NOISE.shape[1]}
    plain = {"schedule": "steps", "scaling": "none", "per_epoch": False}
    fields = sizes | {f"optim.default.{name}": value for name, value in plain.items()}
    (p, state), found = ours(monkeypatch, "pirl", "imagenet", 0.03, **fields)
    kept, bank, z, t = jax.tree.map(np.zeros_like, p), state["bank"].copy(), 0.0, 0.07

    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def through(layer, x):
        (layer,) = layer.values()
        return x @ layer["kernel"] + layer["bias"]

    def pooled(p, images):
        lin = p["backbone"]["lin"]
        return jnp.maximum(images @ lin["kernel"] + lin["bias"], 0).mean((-3, -2))

    def embedded(p, images):
        tiles = through(p["patch"], pooled(p, quarters(images)))
        return unit(through(p["image"], pooled(p, images))), unit(through(p["jigsaw"], tiles.reshape(SIZE, -1)))

    def nce(scores, z):
        likely, share = scores / z, NOISE.shape[1] / EXAMPLES
        found = jnp.log(likely[:, 0] / (likely[:, 0] + share + 1e-7)).sum()
        return -(found + jnp.log(share / (likely[:, 1:] + share + 1e-7)).sum()) / SIZE

    def loss_of(p, images, chosen, z):
        image, jigsaw = (jnp.exp(jnp.einsum("nkd,nd->nk", chosen, e) / t) for e in embedded(p, images))
        return 0.5 * nce(jigsaw, z) + 0.5 * nce(image, z)

    for rows, images, (speed, loss, after, state) in zip(ROWS, IMAGES, found, strict=True):
        chosen = bank[np.c_[rows, NOISE]]
        image, jigsaw = (np.asarray(e) for e in embedded(p, images))
        z = z or np.exp(np.einsum("nkd,nd->nk", chosen, jigsaw) / t).mean() * EXAMPLES
        wanted, grads = jax.value_and_grad(loss_of)(p, images, chosen, z)
        np.testing.assert_allclose(loss, wanted, rtol=1e-9)
        decayed = jax.tree.map(lambda g, w: np.asarray(g + 1e-4 * w * (w.ndim > 1)), grads, p)
        p = descend(p, decayed, kept, speed, 0.9, 0.0)
        moved = 0.5 * bank[rows] + 0.5 * image
        bank[rows] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        near(after, p, 1e-9)
        np.testing.assert_allclose(state["bank"][:EXAMPLES], bank[:EXAMPLES], rtol=0, atol=1e-9)
        np.testing.assert_allclose(state["z"], z, rtol=1e-9)


def test_counting(monkeypatch):
    """Tiles' counts add up to the halved image's and not to another's; images are halved by area.

    The other image is the next one. Counts are in single precision, of which Adam would make whole steps where a
    gradient is zero: here it is SGD.
    """
    halved = jnp.asarray(np.repeat(np.eye(SIDE // 2), 2, 1)[None].repeat(4, 0) / 2)
    monkeypatch.setattr(counting, "halvings", lambda size: halved)
    turned = np.roll(np.arange(SIZE), -1)
    monkeypatch.setattr(counting, "pairing", lambda rng, rows, gray: (jnp.zeros(SIZE, bool), jnp.asarray(turned)))
    fields = {"method.view.size": SIDE, "method.hidden": (), "method.out": 7, "method.margin": 3.0}
    fields |= {"optim.default.schedule": "steps", "optim.default.learning_rate": 0.01, "optim.default.name": "sgd"}
    (p, _), found = ours(monkeypatch, "counting", "imagenet", 0.01, **fields)

    def counts(p, images):
        lin, (head,) = p["backbone"]["lin"], p["count"].values()
        h = jnp.maximum(images @ lin["kernel"] + lin["bias"], 0).mean((-3, -2))
        return jnp.maximum(h @ head["kernel"] + head["bias"], 0)

    def loss_of(p, images):
        whole = counts(p, images.reshape(SIZE, SIDE // 2, 2, SIDE // 2, 2, 3).mean((2, 4)))
        tiles = counts(p, quarters(images)).sum(1)
        other = jnp.square(whole[turned] - tiles).sum(1)
        return jnp.mean(jnp.square(whole - tiles).sum(1) + jnp.maximum(3.0 - other, 0))

    kept = jax.tree.map(np.zeros_like, p)
    for images, (speed, loss, after, _) in zip(IMAGES, found, strict=True):
        wanted, grads = jax.value_and_grad(loss_of)(p, images)
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)
        p = descend(p, jax.tree.map(np.asarray, grads), kept, speed, 0.9, 0.0)
        near(after, p, 1e-5)
