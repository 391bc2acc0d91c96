"""Our updates are those of lightly's CIFAR-10 benchmark, in double precision.

The models of its script (cifar10_benchmark.py in lightly's documentation) are put together from lightly's own heads,
losses and momentum updates, narrow; our side starts from their weights and sees the same images. Losses, weights,
running statistics, targets, queues and learning rates have to agree over two epochs. Where the method differs on
purpose, the model below is what our method is, and says so.
"""

from collections.abc import Callable
import copy
import dataclasses
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ssl_jax import dist, optim
from ssl_jax.methods.contract import Info
from ssl_jax.models.resnet import DEPTHS, ResNet
from ssl_jax.recipes import base, get_config

torch = pytest.importorskip("torch", reason="needs lightly, to compare with")
pytest.importorskip("lightly", reason="needs lightly, to compare with")
try:
    import torchvision  # noqa: F401
except RuntimeError:  # its compiled operators do not fit this torch; lightly only wants to import
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    missing_operators = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        missing_operators.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
from lightly import loss as criteria  # noqa: E402
from lightly.models import ResNetGenerator, modules, utils  # noqa: E402
from lightly.models.modules import heads  # noqa: E402

nn = torch.nn

BATCH, SIDE, STEPS, EPOCHS = 16, 8, 2, 2  # images, pixels, updates an epoch, epochs
GROUPS = 4  # of MoCo's BatchNorm
INFO = Info(BATCH * STEPS, BATCH, STEPS, STEPS * EPOCHS)
FEATURES, HIDDEN, OUT = 32, 24, 16  # widths of the backbone's output and of the heads
QUEUE = 4 * BATCH
TOLERANCE = 1e-8  # of weights, relative to how far they have moved

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning",
    "ignore:To copy construct from a tensor:UserWarning",  # in lightly's DCLW
)


@pytest.fixture(autouse=True)
def one_block_a_stage(monkeypatch):
    """The benchmark's ResNet-18 has two; the rest of it is the same, and compiles in half the time."""
    monkeypatch.setitem(DEPTHS, "resnet10", ((1, 1, 1, 1), False))


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


@dataclasses.dataclass
class Model:
    """A model of the benchmark. Parts and state have the names that they have with us."""

    parts: dict[str, Any]
    step: Callable[[Any, Any], Any]  # two views to the loss
    copies: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    queue: Any = None
    criterion: Any = None
    finish: Callable[[], None] = lambda: None  # what lightly does only when the next step begins


def backbone(splits=0):
    net = ResNetGenerator("resnet-9", width=FEATURES / 512, num_splits=splits)
    # As the script takes its last layer off; this loses the stem's ReLU.
    return nn.Sequential(*list(net.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def frozen_copy(module):
    module = copy.deepcopy(module)
    utils.deactivate_requires_grad(module)
    return module


def siamese(head, criterion):
    f = backbone()
    return Model({"backbone": f, "projector": head}, lambda x0, x1: criterion(head(f(x0)), head(f(x1))))


def simclr(criterion):
    return siamese(heads.SimCLRProjectionHead(FEATURES, HIDDEN, OUT), criterion)


def barlow_twins():
    head = [(FEATURES, HIDDEN, nn.BatchNorm1d(HIDDEN), nn.ReLU()), (HIDDEN, OUT, None, None)]
    return siamese(heads.ProjectionHead(head), criteria.BarlowTwinsLoss())


def byol():
    f = backbone()
    g, q = heads.BYOLProjectionHead(FEATURES, HIDDEN, OUT), heads.BYOLPredictionHead(OUT, HIDDEN, OUT)
    f_xi, g_xi, criterion = frozen_copy(f), frozen_copy(g), criteria.NegativeCosineSimilarity()

    def step(x0, x1):
        utils.update_momentum(f, f_xi, 0.99)
        utils.update_momentum(g, g_xi, 0.99)
        p0, z0, p1, z1 = q(g(f(x0))), g_xi(f_xi(x0)), q(g(f(x1))), g_xi(f_xi(x1))
        return (criterion(p0, z1) + criterion(p1, z0)) / 2

    parts = {"backbone": f, "projector": g, "predictor": q}
    return Model(parts, step, {"target": {"backbone": f_xi, "projector": g_xi}})


def simsiam():
    last = (HIDDEN, OUT, nn.BatchNorm1d(OUT), None)
    g = heads.ProjectionHead([(FEATURES, HIDDEN, nn.BatchNorm1d(HIDDEN), nn.ReLU()), last])
    f, h, criterion = backbone(), heads.SimSiamPredictionHead(OUT, HIDDEN, OUT), criteria.NegativeCosineSimilarity()

    def step(x0, x1):
        z0 = g(f(x0))
        p0 = h(z0)
        z1 = g(f(x1))
        p1 = h(z1)
        return (criterion(z0.detach(), p1) + criterion(z1.detach(), p0)) / 2

    return Model({"backbone": f, "projector": g, "predictor": h}, step)


def nnclr():
    last = (HIDDEN, OUT, nn.BatchNorm1d(OUT), None)
    g = heads.ProjectionHead([(FEATURES, HIDDEN, nn.BatchNorm1d(HIDDEN), nn.ReLU()), last])
    f, q, criterion = backbone(), heads.NNCLRPredictionHead(OUT, HIDDEN, OUT), criteria.NTXentLoss()
    bank = modules.NNMemoryBankModule(size=(QUEUE, OUT)).double()

    def step(x1, x0):
        """Lightly's second view, which the bank takes, is our first: which is which means nothing."""
        z1 = g(f(x1))
        p1 = q(z1)
        z0 = g(f(x0))
        p0 = q(z0)
        n0, n1 = bank(z0.detach(), update=False), bank(z1.detach(), update=True)
        return (criterion(n0, p1) + criterion(n1, p0)) / 2

    return Model({"backbone": f, "projector": g, "predictor": q}, step, queue=bank)


# Lightly's BatchNorm has every GROUPS-th image in a group, ours has neighbours: image t there is IMAGE[t] here.
IMAGE = np.arange(BATCH).reshape(GROUPS, -1).T.ravel()
PLACE = np.argsort(IMAGE)


def mocov2():
    f, g = backbone(GROUPS), heads.MoCoProjectionHead(FEATURES, HIDDEN, OUT)
    f_xi, g_xi = frozen_copy(f), frozen_copy(g)
    first = criteria.NTXentLoss(temperature=0.1, memory_bank_size=(QUEUE, OUT)).double()
    first.memory_bank.bank = nn.functional.normalize(first.memory_bank.bank, dim=1)  # was so in single precision
    orders = [dist.random_order(jax.random.fold_in(jax.random.key(1), i), jnp.arange(BATCH)) for i in range(2)]
    shuffles = [torch.tensor(PLACE[np.asarray(order)[IMAGE]]) for order in orders]

    def step(x0, x1):
        utils.update_momentum(f, f_xi, 0.99)
        utils.update_momentum(g, g_xi, 0.99)
        x0, x1 = x0[IMAGE], x1[IMAGE]
        # In the script the second direction meets the keys of the first in the bank, among them the one of its own
        # image and view. The authors' demo, and ours, enqueue all keys at the end.
        second = copy.deepcopy(first)
        keys = [utils.batch_unshuffle(g_xi(f_xi(x[s])), s) for x, s in zip((x1, x0), shuffles, strict=True)]
        loss = (first(g(f(x0)), keys[0]) + second(g(f(x1)), keys[1])) / 2
        first.memory_bank(nn.functional.normalize(keys[1], dim=1), update=True)
        return loss

    copies = {"key": {"backbone": f_xi, "projector": g_xi}}
    return Model({"backbone": f, "projector": g}, step, copies, queue=first.memory_bank)


def dino():
    """The script draws the teacher's head anew; here it starts as a copy, as the authors' does."""

    def network():
        head = heads.DINOProjectionHead(FEATURES, HIDDEN, OUT, 2 * OUT, batch_norm=True)
        blocks = [(FEATURES, HIDDEN, nn.BatchNorm1d(HIDDEN), nn.GELU()), (HIDDEN, OUT, None, None)]
        head.layers = heads.ProjectionHead(blocks).layers
        return nn.Sequential(backbone(), head)

    student, teacher, criterion = network(), network(), criteria.DINOLoss(output_dim=2 * OUT)
    teacher.load_state_dict(student.state_dict())
    utils.deactivate_requires_grad(teacher)

    def move():
        utils.update_momentum(student, teacher, 0.99)

    def step(x0, x1):
        move()
        return criterion([teacher(x0), teacher(x1)], [student(x0), student(x1)])

    copies = {"teacher": {"backbone": teacher[0], "head": teacher[1]}}
    return Model({"backbone": student[0], "head": student[1]}, step, copies, criterion=criterion, finish=move)


def swav():
    """Lightly's prototypes have offsets since they may have several heads; the authors' and ours have none."""
    f, g = backbone(), heads.SwaVProjectionHead(FEATURES, HIDDEN, OUT)
    c, criterion = heads.SwaVPrototypes(OUT, 2 * OUT), criteria.SwaVLoss()
    nn.init.zeros_(c.heads[0].bias).requires_grad_(False)
    c.normalize()  # with us they start so, in lightly they are so before they are used

    def step(x0, x1):
        c.normalize()
        return criterion([c(nn.functional.normalize(g(f(x)))) for x in (x0, x1)], [])

    return Model({"backbone": f, "projector": g, "prototypes": c}, step, finish=c.normalize)


def layers(part, module):
    """Name (with us) and module of the layers of a part."""
    if part == "backbone":
        yield from (("stem", module[0]), ("stem_norm/batch", module[1]))
        for i in range(1, 5):
            for j, block in enumerate(module[i + 1], 1):
                pairs = [("conv1", block.conv1, block.bn1), ("conv2", block.conv2, block.bn2)]
                for name, conv, norm in [*pairs, *([("shortcut", *block.shortcut)] if len(block.shortcut) else [])]:
                    yield from ((f"stage{i}_block{j}/{name}", conv), (f"stage{i}_block{j}/{name}_norm/batch", norm))
        return
    count, last = 0, sum(isinstance(x, nn.Linear) for x in module.layers)
    for layer in module.layers:
        if isinstance(layer, nn.Linear):
            count += 1
            end = "bottleneck" if part == "head" else "out"
            yield (end if count == last else f"dense{count}"), layer
        elif isinstance(layer, nn.BatchNorm1d):
            yield ("out_norm" if count == last else f"norm{count}"), layer
    if part == "head":
        yield "last_layer", module.last_layer


def variables(parts, params, stats):
    """Path (with us) to weights and running statistics."""
    found = {}
    for part, module in parts.items():
        if part == "prototypes":
            found[f"{params}/{part}"] = module.heads[0].weight
            continue
        for name, layer in layers(part, module):
            path = f"{params}/{part}/{name}"
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                if layer.affine:
                    found |= {f"{path}/scale": layer.weight, f"{path}/bias": layer.bias}
                for key, value in (("mean", layer.running_mean), ("var", layer.running_var)):
                    found[f"{stats}/{part}/{name}/{key}"] = value.reshape(-1, layer.num_features).mean(0)  # of splits
                continue
            weight = layer.weight_v if name == "last_layer" else layer.weight
            found[f"{path}/kernel"] = weight.permute(2, 3, 1, 0) if weight.ndim == 4 else weight.T
            if layer.bias is not None:
                found[f"{path}/bias"] = layer.bias
    return found


def snapshot(model):
    """Everything that a model consists of, by its path with us."""
    found = variables(model.parts, "params", "state/stats")
    for name, parts in model.copies.items():
        found |= variables(parts, f"state/{name}/params", f"state/{name}/stats")
    if model.queue is not None:
        rows = nn.functional.normalize(model.queue.bank, dim=1)  # lightly's NNCLR does so when it reads
        if "key" in model.copies:
            rows = rows.reshape(-1, BATCH, OUT)[:, PLACE].reshape(-1, OUT)
        found |= {"state/queue/rows": rows, "state/queue/pointer": model.queue.bank_ptr[0]}
    if model.criterion is not None:
        found["state/centre"] = model.criterion.center[0, 0]
    return {path: value.detach().numpy().copy() for path, value in found.items()}


def compare(name: str, build: Callable[[], Model], fields: dict[str, Any], shift: float = 0.0):
    config = get_config(name, "cifar10_lightly")
    config.epochs, config.batch_size = EPOCHS, BATCH
    base.update(config.method, **fields)
    groups = GROUPS if config.model.bn_groups > 1 else 1
    net = ResNet("resnet10", FEATURES // 8, config.model.stem, bn_groups=groups, dtype=jnp.float64)
    method = build.method(config.method, net)
    first_view, second_view = method.views()
    model = build()
    start = snapshot(model)

    # Ours, with lightly's weights. BatchNorm cancels the biases before it, which lightly leaves out.
    image = jnp.zeros((2, SIDE, SIDE, 3))
    shapes = jax.eval_shape(lambda key: method.init(key, dict.fromkeys(method.views(), image), INFO), jax.random.key(0))
    paths = paths_of(shapes)
    assert all(path.endswith("dense1/bias") for path in paths if path not in start), "what we have and lightly has not"
    assert set(start) - set(paths) <= {"params/projector/out/bias"}, "what lightly has, and BatchNorm does not cancel"
    leaves = [start.get(p, np.zeros(x.shape)) for p, x in paths.items()]  # Flax alone would have some in float32
    assert [x.shape for x in leaves] == [x.shape for x in paths.values()]
    params, state = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    optimizer, _ = optim.build(config.optim, method.groups(params), BATCH, INFO.steps_per_epoch, INFO.total_steps)
    loss = tiny.loss_function(types.SimpleNamespace(method=method, info=INFO))

    @jax.jit
    def update(params, state, opt_state, batch, step):
        (value, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(params, state, batch, step)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return *method.after_update(optax.apply_updates(params, updates), state, step, INFO), opt_state, value

    # Theirs: 0.06 times N / 128, but for SimSiam and SwAV; a cosine by epoch.
    weights = [p for part in model.parts.values() for p in part.parameters()]
    if name == "swav":
        theirs = torch.optim.Adam(weights, lr=1e-3 * BATCH / 128, weight_decay=1e-6)
    else:
        rate = 0.06 * (1 if name == "simsiam" else BATCH / 128)
        theirs = torch.optim.SGD(weights, lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, EPOCHS)

    # Placed as they come back, or the second step would compile anew.
    placed = dist.replicate((params, state, optimizer.init(params)), dist.make_mesh(jax.devices()[:1]))
    (params, state, opt_state), ours, wanted = placed, [], []
    views = np.random.default_rng(0).normal(size=(INFO.total_steps, 2, BATCH, SIDE, SIDE, 3))
    position = jnp.arange(BATCH)
    for step, (x0, x1) in enumerate(views):
        batch = {first_view: x0, second_view: x1, "index": position, "position": position, "label": position}
        params, state, opt_state, value = update(params, state, opt_state, batch, jnp.asarray(step, jnp.int32))
        ours.append(float(value))
        value = model.step(*(torch.tensor(x.transpose(0, 3, 1, 2).copy()) for x in (x0, x1)))
        theirs.zero_grad()
        value.backward()
        theirs.step()
        wanted.append(value.item() + shift)
        if step % STEPS == STEPS - 1:
            schedule.step()
    model.finish()

    np.testing.assert_allclose(ours, wanted, rtol=1e-10, atol=1e-10)
    found, end = paths_of((params, state)), snapshot(model)
    for path in paths:
        if path in end:
            moved = np.abs(end[path] - start[path]).max()
            assert moved > 0 or path.endswith("pointer"), f"{path} does not move"
            gap, scale = np.abs(found[path] - end[path]).max(), np.abs(end[path]).max()
            # Means that are zero have no scale of their own.
            assert gap <= TOLERANCE * max(moved, scale / 1000, 1e-6), f"{path} is off by {gap:.2g} of {moved:.2g}"


def paths_of(tree):
    """Leaves of `(params, state)` by path."""
    pairs = jax.tree_util.tree_leaves_with_path(dict(zip(("params", "state"), tree, strict=True)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


HEAD = {"hidden": (HIDDEN,), "out": OUT}


def test_simclr():
    compare("simclr", lambda: simclr(criteria.NTXentLoss()), HEAD)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_dcl(sigma):
    criterion = criteria.DCLWLoss(sigma=sigma) if sigma else criteria.DCLLoss()
    compare("dcl", lambda: simclr(criterion), HEAD | {"sigma": sigma})


def test_barlow_twins():
    compare("barlow_twins", barlow_twins, HEAD)


def test_byol():
    compare("byol", byol, {"hidden": HIDDEN, "out": OUT}, shift=1.0)  # 1 - cos and -cos


def test_simsiam():
    compare("simsiam", simsiam, HEAD | {"bottleneck": HIDDEN})


def test_nnclr():
    compare("nnclr", nnclr, HEAD | {"predictor_hidden": HIDDEN, "queue_size": QUEUE})


def test_mocov2():
    compare("mocov2", mocov2, HEAD | {"queue_size": QUEUE})


def test_dino():
    compare("dino", dino, {"hidden": (HIDDEN,), "bottleneck": OUT, "out": 2 * OUT})


def test_swav():
    compare("swav", swav, {"hidden": HIDDEN, "out": OUT, "prototypes": 2 * OUT})
