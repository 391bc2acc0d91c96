"""Whole trajectories of methods without a recorded one: against the authors' formulas, written down here once more.

Loss, gradient by its definition or JAX's of the formula written here, the optimiser with its buffers, decay and rates,
and what a method keeps from update to update, in float64. The starting weights are the package's.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from test_trajectories import Pixelwise, double  # noqa: F401

from ssl_jax import batch, data, dist, mesh, optim, recipes
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint import cpc, npid, pirl
from ssl_jax.methods.masked import mae
from ssl_jax.methods.pretext import counting, jigsaw
from ssl_jax.models import vit
from ssl_jax.recipes import base
from ssl_jax.run import Run
from ssl_jax.state import TrainState, specs
from ssl_jax.step import replica_step

pytestmark = pytest.mark.usefixtures("quick_compilation")
EXAMPLES, SIZE, SIDE, PER_EPOCH, UPDATES = 12, 4, 6, 3, 10
SOON = {"optim.default.milestones": (2, 3), "optim.default.warmup_epochs": 1.0}  # in epochs of three updates
EPOCHS = 4  # of which the run ends in the last
ROWS = np.random.default_rng(0).permuted(np.tile(np.arange(EXAMPLES), (EPOCHS, 1)), axis=1).reshape(-1, SIZE)[:UPDATES]
IMAGES = np.random.default_rng(1).standard_normal((UPDATES, SIZE, SIDE, SIDE, 3))
NOISE = np.random.default_rng(2).integers(0, EXAMPLES, (SIZE, 5))


def ours(monkeypatch, name, preset, schedule, *, network=None, parts=None, before=None, **fields):
    """The starting point, and of each update the rate of the formula, the loss, the weights and the state.

    Args:
      monkeypatch: of the test.
      name: of the method.
      preset: of the method.
      schedule: number of an update to its rate, which the package's must be.
      network: in place of the backbone; None: the stand-in.
      parts: what an update is given by name, for all updates; None: one image, under the names of most methods.
      before: what happens before an update, from method, mesh, weights, state, number and info to the state.
      **fields: of the config.
    """
    parts = parts or {"view": IMAGES, "large": IMAGES}
    config = base.changed(recipes.get_config(name, preset), {**SOON, **fields})
    method = build.method(config.method, network or Pixelwise())
    info = Info(EXAMPLES, SIZE, PER_EPOCH, PER_EPOCH * config.epochs)
    devices = mesh.make(config.mesh, jax.devices()[:1])
    first = {part: jnp.asarray(images[0][:2]) for part, images in parts.items()}
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
    for number, rows in enumerate(ROWS):
        if before:
            moved = before(method, devices, ts.params, ts.state, number, info)
            ts = dataclasses.replace(ts, state=moved)
        given = {part: jnp.asarray(images[number]) for part, images in parts.items()}
        given |= {"index": jnp.asarray(rows, jnp.int32), "position": jnp.arange(SIZE)}
        ts, metrics = step(ts, given | {"label": jnp.full(SIZE, -1)}, jnp.arange(SIZE)[None])
        np.testing.assert_allclose(metrics["lr/default"], schedule(number), rtol=1e-6)  # said in single precision
        found.append((schedule(number), *jax.device_get((metrics["loss"], ts.params, ts.state))))
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
    """Nothing is further away than a share of the largest value of its array, or of a hundredth if that is more."""

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=share * max(np.abs(b).max(), 1e-2))

    jax.tree.map(compare, found, wanted)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def descend(p, grads, kept, speed, momentum, decay):
    """PyTorch's SGD: decay is part of the gradient, the buffer sums gradients, the rate multiplies the buffer."""

    def move(w, g, b):
        b[...] = momentum * b + g + decay * w
        return w - speed * b

    return jax.tree.map(move, p, grads, kept)


def adam(p, grads, kept, speed, number, b2, decay):
    """AdamW: decay moves weights by itself; moments start at zero, which is made up for."""

    def move(w, g, m, v, decay):
        m[...] = 0.9 * m + 0.1 * g
        v[...] = b2 * v + (1 - b2) * g * g
        step = m / (1 - 0.9 ** (number + 1)) / (np.sqrt(v / (1 - b2 ** (number + 1))) + 1e-8)
        return w - speed * step - speed * decay * w

    return jax.tree.map(move, p, jax.tree.map(np.asarray, grads), *kept, decay)


def dropping(peak):
    """Linear warm-up from 0 over the first epoch, then a tenth from each milestone on."""

    def rate(update):
        if update < PER_EPOCH:
            return peak * update / PER_EPOCH
        return peak * 0.1 ** sum(update >= m * PER_EPOCH for m in (2, 3))

    return rate


def cosine(peak, final=0.0):
    """Linear warm-up from 0 over the first epoch, then half a cosine to `final` at the end of the run."""

    def rate(update):
        if update < PER_EPOCH:
            return peak * update / PER_EPOCH
        done = (update - PER_EPOCH) / (PER_EPOCH * (EPOCHS - 1))
        return final + (peak - final) * (1 + np.cos(np.pi * done)) / 2

    return rate


def linear(layer, x):
    """A dense layer, with or without a bias; the only one of a head."""
    layer = layer if "kernel" in layer else next(iter(layer.values()))
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def pooled(p, images):
    """The stand-in's features [n, 12]."""
    return jnp.maximum(linear(p["backbone"]["lin"], images), 0).mean((-3, -2))


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def batch_normal(layer, x):
    """Rows by their own mean and biased variance."""
    return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * layer["scale"] + layer["bias"]


def crossed(logits, answers):
    """Mean cross-entropy."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(answers)[:, None], 1).mean()


def test_rotation(monkeypatch):
    """The stand-in forgets where pixels are: the quarters of an image are the four rotations' features alike."""
    (p, _), found = ours(monkeypatch, "rotation", "imagenet", dropping(0.1))
    kept = jax.tree.map(np.zeros_like, p)
    for images, (speed, loss, after, _) in zip(IMAGES, found, strict=True):
        turned = np.stack([np.rot90(images, k, (1, 2)) for k in range(4)], 1).reshape(-1, SIDE, SIDE, 3)
        h, back = features(p, turned)
        head = next(iter(p["classifier"].values()))
        chances = softmax(h @ head["kernel"] + head["bias"])
        answer = np.tile(np.arange(4), SIZE)
        np.testing.assert_allclose(loss, -np.log(chances[np.arange(4 * SIZE), answer]).mean(), rtol=1e-10)
        g = (chances - np.eye(4)[answer]) / len(answer)
        grads = back(g @ head["kernel"].T)
        grads["classifier"] = {next(iter(p["classifier"])): {"kernel": h.T @ g, "bias": g.sum(0)}}
        p = descend(p, grads, kept, speed, 0.9, 1e-4)
        near(after, p, 1e-10)


@pytest.mark.parametrize(("preset", "noise"), [("cifar10", 0), ("imagenet", NOISE.shape[1])])
def test_npid(monkeypatch, preset, noise):
    """The full softmax of cifar.py, and the noise-contrastive estimate of main.py, with their bank and Z."""
    drawn = lambda rng, given, count, n: jnp.concatenate([given["index"][:, None], NOISE], 1)  # noqa: E731
    monkeypatch.setattr(npid, "noise_index", drawn)
    (p, state), found = ours(monkeypatch, "npid", preset, dropping(0.03), **{"method.noise": noise, "method.out": 5})
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
    (p, state), found = ours(monkeypatch, "pirl", "imagenet", dropping(0.03), **fields)
    kept, bank, z, t = jax.tree.map(np.zeros_like, p), state["bank"].copy(), 0.0, 0.07

    def embedded(p, images):
        tiles = linear(p["patch"], pooled(p, quarters(images)))
        return unit(linear(p["image"], pooled(p, images))), unit(linear(p["jigsaw"], tiles.reshape(SIZE, -1)))

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
    (p, _), found = ours(monkeypatch, "counting", "imagenet", dropping(0.01), **fields)

    def counts(p, images):
        return jnp.maximum(linear(p["count"], pooled(p, images)), 0)

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


def test_exemplar_triplets(monkeypatch):
    """TensorFlow's `triplet_semihard_loss` of three copies an image, of vectors of length one."""
    copies = {f"view{i + 1}": np.roll(IMAGES, i, 0) + 0.1 * i for i in range(3)}
    fields = {"method.copies": 3, "method.triplet": 5, "batch_size": 256}
    (p, _), found = ours(monkeypatch, "exemplar", "imagenet", dropping(0.1), parts=copies, **fields)
    label = np.repeat(np.arange(SIZE), 3)

    def loss_of(p, images):
        z = unit(linear(p["embedding"], pooled(p, images)))
        apart = jnp.square(z[:, None] - z).sum(-1)
        terms = []
        for anchor in range(len(z)):
            for positive in np.flatnonzero((label == label[anchor]) & (np.arange(len(z)) != anchor)):
                others, own = apart[anchor][label != label[anchor]], apart[anchor, positive]
                nearest = jnp.where(others > own, others, jnp.inf).min()  # of those further away than the positive
                negative = jnp.where(jnp.isinf(nearest), others.max(), nearest)
                terms.append(jnp.maximum(own - negative + 0.5, 0))
        return jnp.stack(terms).mean()

    kept = jax.tree.map(np.zeros_like, p)
    gradient = jax.jit(jax.value_and_grad(loss_of))
    for number, (speed, loss, after, _) in enumerate(found):
        images = np.stack([x[number] for x in copies.values()], 1).reshape(-1, SIDE, SIDE, 3)
        wanted, grads = gradient(p, images)
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)
        p = descend(p, jax.tree.map(lambda g, w: g + 1e-4 * w * (w.ndim > 1), grads, p), kept, speed, 0.9, 0.0)
        near(after, p, 1e-10)


def test_exemplar_classes(monkeypatch):
    """A softmax over all images behind the layer of 512, here of 5, without its dropout, which draws."""
    plain = {"optim.default.schedule": "steps", "method.dropout": 0.0, "method.hidden": 5, "batch_size": 256}
    views = {"view1": IMAGES}
    (p, _), found = ours(monkeypatch, "exemplar", "cifar10", dropping(0.06), parts=views, **plain)

    def loss_of(p, images, rows):
        hidden = jnp.maximum(linear(p["hidden"], pooled(p, images)), 0)
        return crossed(linear(p["classifier"], hidden), rows)

    kept = jax.tree.map(np.zeros_like, p)
    for rows, images, (speed, loss, after, _) in zip(ROWS, IMAGES, found, strict=True):
        wanted, grads = jax.value_and_grad(loss_of)(p, images, rows)
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)
        p = descend(p, grads, kept, speed, 0.9, 5e-4)
        near(after, p, 1e-10)


def test_jigsaw(monkeypatch):
    """Tiles by themselves, their vectors in a permutation's order, which is to be told; two permutations an image.

    VISSL's head and decay: BatchNorm behind a tile's vector, whose scale and offset are not decayed, and biases are.
    The tiles' places and the orders are given; each tile has mean 0 and variance 1, but for 1e-4.
    """
    orders = np.random.default_rng(3).integers(0, 6, (SIZE, 2))
    given = lambda self, images, keys: (jigsaw.normalised(quarters(images)), jnp.asarray(orders))  # noqa: E731
    monkeypatch.setattr(jigsaw.Jigsaw, "_puzzles", given)
    fields = {"method.view.size": SIDE, "method.grid": 2, "method.tile": 3, "method.aberration": 0}
    fields |= {"method.permutations": 6, "method.orders": 2, "method.tile_width": 5, "batch_size": 256}
    (p, _), found = ours(monkeypatch, "jigsaw", "imagenet", dropping(0.1), **fields)
    table = jigsaw.permutations(6, 4)

    def loss_of(p, images):
        tiles = quarters(images)
        tiles = (tiles - tiles.mean((2, 3), keepdims=True)) / np.sqrt(tiles.var((2, 3), keepdims=True) + 1e-4)
        z = pooled(p, tiles).reshape(SIZE * 4, -1) @ p["tile"]["out"]["kernel"]
        z = jnp.maximum(batch_normal(p["tile"]["out_norm"], z), 0).reshape(SIZE, 4, -1)
        puzzles = [jnp.concatenate([z[i, tile] for tile in table[order]]) for i in range(SIZE) for order in orders[i]]
        return crossed(linear(p["puzzle"], jnp.stack(puzzles)), orders.reshape(-1))

    kept = jax.tree.map(np.zeros_like, p)
    decay = jax.tree_util.tree_map_with_path(lambda path, _: 1e-4 * ("norm" not in jax.tree_util.keystr(path)), p)
    for images, (speed, loss, after, _) in zip(IMAGES, found, strict=True):
        wanted, grads = jax.value_and_grad(loss_of)(p, images)
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)
        p = descend(p, jax.tree.map(lambda g, w, d: np.asarray(g + d * w), grads, p, decay), kept, speed, 0.9, 0.0)
        near(after, p, 1e-10)


def test_cpc(monkeypatch):
    """Version 2: in each of four directions a masked network predicts the rows further on, among all patches.

    The pseudo-code of its appendix, whose losses are averaged here and summed there. Patches are not augmented.
    """
    count = SIDE - 1  # patches of two pixels along a side, which overlap by one

    def cut(images):
        rows = [[images[:, y : y + 2, x : x + 2] for x in range(count)] for y in range(count)]
        return jnp.stack([patch for row in rows for patch in row], 1)

    monkeypatch.setattr(cpc.CPC, "_patches", lambda self, images, keys: cut(images))
    fields = {"method.view.size": SIDE, "method.patch_size": 2, "method.stride": 1, "method.blocks": 2}
    fields |= {"method.hidden": 5, "method.out": 4, "optim.default.milestones": ()}
    rate = lambda update: 4e-4 * min(1, update / PER_EPOCH)  # noqa: E731
    (p, _), found = ours(monkeypatch, "cpc", "imagenet", rate, **fields)

    def masked(p, z):
        for block in ("block1", "block2"):
            c = jnp.maximum(z @ p[f"{block}_in"]["kernel"][0, 0] + p[f"{block}_in"]["bias"], 0)
            c, kernel = jnp.pad(c, ((0, 0), (0, 0), (1, 1), (0, 0))), p[f"{block}_row"]["kernel"][0]
            c = sum(c[:, :, i : i + count] @ kernel[i] for i in range(3)) + p[f"{block}_row"]["bias"]
            c, kernel = jnp.pad(c, ((0, 0), (1, 0), (0, 0), (0, 0))), p[f"{block}_above"]["kernel"][:, 0]
            c = sum(c[:, i : i + count] @ kernel[i] for i in range(2)) + p[f"{block}_above"]["bias"]
            z = z + jnp.maximum(c, 0) @ p[f"{block}_out"]["kernel"][0, 0] + p[f"{block}_out"]["bias"]
        return jnp.maximum(z, 0)

    def loss_of(p, images):
        z = pooled(p, cut(images)).reshape(SIZE, count, count, -1)
        sideways = z.transpose(0, 2, 1, 3)
        terms = []
        for number, seen in enumerate((z, z[:, ::-1], sideways, sideways[:, ::-1]), 1):
            own = p[f"predictor{number}"]
            context, targets = masked(own["context"], seen), linear(own["target"], seen).reshape(-1, 4)
            for place, ahead in enumerate((3, 4), 1):  # rows 1 and 2 ahead share pixels with what was seen
                guess = 0.1 * linear(own[f"ahead{place}"], context)[:, :-ahead].reshape(-1, 4)
                image, rest = np.divmod(np.arange(len(guess)), (count - ahead) * count)
                terms.append(crossed(guess @ targets.T, image * count * count + ahead * count + rest))
        return jnp.stack(terms).mean()

    kept = [jax.tree.map(np.zeros_like, p) for _ in range(2)]
    none = jax.tree.map(lambda _: 0.0, p)
    gradient = jax.jit(jax.value_and_grad(loss_of))
    for number, (images, (speed, loss, after, _)) in enumerate(zip(IMAGES, found, strict=True)):
        wanted, grads = gradient(p, images)
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)
        p = adam(p, grads, kept, speed, number, 0.999, none)
        near(after, p, 1e-10)


def positions(side, width):
    """Sines and cosines of the row, then of the column, in single precision; the class token's are zero."""
    speed = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    row, column = (np.ravel(x)[:, None] * speed for x in np.mgrid[:side, :side])
    table = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], 1)
    return np.concatenate([np.zeros((1, width)), table.astype(np.float32)])


def attention(q, k, v, mask=None):
    """What JAX's own computes, whose softmax is always in single precision [B, n, heads, D]."""
    del mask
    chances = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1]), -1)
    return jnp.einsum("bhnm,bmhd->bnhd", chances, v)


def test_mae(monkeypatch):
    """models_mae.py, main_pretrain.py and lr_sched.py: a small encoder and decoder, masks given."""
    side, hidden = SIDE // 2, 0.75
    noise = np.random.default_rng(4).random((SIZE, side * side))
    shuffle = np.argsort(noise, 1)
    restore, kept_patches = np.argsort(shuffle, 1), int(side * side * (1 - hidden))
    mask = np.take_along_axis(np.tile(np.arange(side * side) >= kept_patches, (SIZE, 1)), restore, 1) * 1.0
    given = (shuffle[:, :kept_patches], restore, mask)
    monkeypatch.setattr(mae, "random_masking", lambda keys, *_: tuple(jnp.asarray(x[: len(keys)]) for x in given))
    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    monkeypatch.setitem(vit.SIZES, "vit_micro", (12, 2, 3))
    network = vit.ViT("vit_micro", 2, 3, "sincos", "mae", dtype=jnp.float64)
    fields = {"method.view.size": SIDE, "method.width": 8, "method.depth": 1, "method.heads": 2}
    fields |= {"batch_size": 4096, "epochs": EPOCHS}
    peak = 1.5e-4 * 4096 / 256
    (p, _), found = ours(monkeypatch, "mae", "imagenet", cosine(peak), network=network, **fields)

    def layer_normal(layer, x):
        apart = x - x.mean(-1, keepdims=True)
        return apart / jnp.sqrt(jnp.square(apart).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]

    def block(p, x, heads):
        q, k, v = jnp.moveaxis(linear(p["qkv"], layer_normal(p["norm1"], x)).reshape(*x.shape[:2], 3, heads, -1), 2, 0)
        x = x + linear(p["proj"], attention(q, k, v).reshape(x.shape))
        y = linear(p["mlp1"], layer_normal(p["norm2"], x))
        return x + linear(p["mlp2"], y * (1 + jax.lax.erf(y / np.sqrt(2))) / 2)

    def loss_of(p, images):
        pixels = images.reshape(SIZE, side, 2, side, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(SIZE, side * side, -1)
        net, table = p["backbone"], positions(side, 12)
        x = linear(net["patch"], pixels) + table[1:]
        x = jnp.stack([x[i, shuffle[i, :kept_patches]] for i in range(SIZE)])
        x = jnp.concatenate([jnp.broadcast_to(net["token"], (SIZE, 1, 12)), x], 1)
        x = layer_normal(net["norm"], block(net["block2"], block(net["block1"], x, 3), 3))
        net, x = p["decoder"], linear(p["decoder"]["embed"], x)
        masks = jnp.broadcast_to(net["mask_token"], (SIZE, side * side - kept_patches, 8))
        whole = jnp.concatenate([x[:, 1:], masks], 1)
        whole = jnp.stack([whole[i, restore[i]] for i in range(SIZE)])
        x = block(net["block1"], jnp.concatenate([x[:, :1], whole], 1) + positions(side, 8), 2)
        guess = linear(net["out"], layer_normal(net["norm"], x))[:, 1:]
        target = (pixels - pixels.mean(-1, keepdims=True)) / jnp.sqrt(pixels.var(-1, keepdims=True, ddof=1) + 1e-6)
        return (jnp.square(guess - target).mean(-1) * mask).sum() / mask.sum()

    kept = [jax.tree.map(np.zeros_like, p) for _ in range(2)]
    decay = jax.tree.map(lambda w: 0.05 * (w.ndim > 1), p)
    gradient = jax.jit(jax.value_and_grad(loss_of))
    for number, (images, (speed, loss, after, _)) in enumerate(zip(IMAGES, found, strict=True)):
        wanted, grads = gradient(p, images)
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)
        p = adam(p, grads, kept, speed, number, 0.95, decay)
        near(after, p, 1e-9)  # Adam makes steps of what a bias of keys has for a gradient, which is rounding


def test_deepcluster(monkeypatch):
    """main_deepclusterv2.py: k-means of the bank before each epoch, its clusters as classes, LARC, and the new bank.

    Three heads on two crops; the rows that centroids start from are the package's draw.
    """
    draw = np.random.default_rng(5)
    parts = {
        "large1": IMAGES,
        "large2": np.roll(IMAGES, 1, 0),
        "small1": draw.standard_normal((UPDATES, SIZE, 4, 4, 3)),
    }
    first = draw.standard_normal((2, PER_EPOCH, SIZE, SIDE, SIDE, 3))
    key = jax.random.key(7)

    def before(method, devices, params, state, number, info):
        if number % PER_EPOCH:
            return state

        def embed(fn):
            mapped = dist.map_replicas(fn, devices, (P(), method.specs(), P(dist.AXIS)), P(dist.AXIS))
            batches = [{"large1": jnp.asarray(a), "large2": jnp.asarray(b)} for a, b in zip(*first, strict=True)]
            return jnp.concatenate([mapped(params, state, given) for given in batches])

        return method.on_epoch(params, state, rng=key, step=number, info=info, embed=embed)

    fields = {"method.small_crops": 1, "method.prototypes": 3, "method.hidden": 7, "method.out": 5}
    fields |= {"batch_size": 4096, "epochs": EPOCHS}
    rate = cosine(4.8, 0.0048)
    (p, _), found = ours(monkeypatch, "deepcluster", "imagenet", rate, parts=parts, before=before, **fields)

    def embedded(p, crops):
        head = p["projector"]
        y = jnp.concatenate([pooled(p, x) for x in crops]) @ head["dense1"]["kernel"]
        return unit(linear(head["out"], jnp.maximum(batch_normal(head["norm1"], y), 0))).reshape(len(crops), SIZE, -1)

    def clustered(rows, head):
        centres = rows[np.asarray(jax.random.permutation(jax.random.fold_in(key, head), EXAMPLES))[:3]]
        for _ in range(10):
            nearest = (rows @ centres.T).argmax(1)
            sums = np.stack([rows[nearest == k].sum(0) if (nearest == k).any() else centres[k] for k in range(3)])
            centres = np.asarray(unit(sums))
        return centres, (rows @ centres.T).argmax(1)

    def loss_of(p, crops, centres, targets):
        z = embedded(p, crops).reshape(3 * SIZE, -1)
        return sum(crossed(z @ c.T / 0.1, np.tile(t, 3)) for c, t in zip(centres, targets, strict=True)) / 3

    def larc(speed, w, g, b):
        lengths = np.linalg.norm(w), np.linalg.norm(g)
        if all(lengths):
            g = (g + 1e-6 * w) * 0.001 * lengths[0] / (lengths[1] + 1e-6 * lengths[0] + 1e-8)
        b[...] = 0.9 * b + g
        return w - speed * b

    kept = jax.tree.map(np.zeros_like, p)
    bank = np.concatenate([np.asarray(embedded(p, crops)).swapaxes(0, 1) for crops in first.swapaxes(0, 1)])
    for number, (rows, (speed, loss, after, state)) in enumerate(zip(ROWS, found, strict=True)):
        if number % PER_EPOCH == 0:
            centres, assigned = zip(*(clustered(bank[:, head % 2], head) for head in range(3)), strict=True)
        crops = [x[number] for x in parts.values()]
        wanted, grads = jax.value_and_grad(loss_of)(p, crops, centres, [a[rows] for a in assigned])
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)
        bank[rows] = np.asarray(embedded(p, crops))[:2].swapaxes(0, 1)
        p = jax.tree.map(functools.partial(larc, speed), p, jax.tree.map(np.asarray, grads), kept)
        near(after, p, 1e-10)
        np.testing.assert_array_equal(state["assignments"], assigned)
        np.testing.assert_allclose(state["prototypes"], centres, rtol=0, atol=1e-10)
        np.testing.assert_allclose(state["bank"][:EXAMPLES], bank, rtol=0, atol=1e-10)
