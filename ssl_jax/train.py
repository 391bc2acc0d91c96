"""The training state, the training step and the only training loop."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import signal
import time
from typing import Any

from etils import epath
import flax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from ssl_jax import data, dist, models, optim
from ssl_jax.augment.view import View, render_views
from ssl_jax.data import loader, stream
from ssl_jax.data.samplers import batch_indices
from ssl_jax.evals.features import extractor, spread
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info, Method
from ssl_jax.metrics import health, knn
from ssl_jax.runtime import processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import config as stored_config
from ssl_jax.workdir.checkpoint import Checkpoints, out_of_space
from ssl_jax.workdir.log import Log

logger = logging.getLogger("ssl_jax")


class NotFinite(Exception):
    """The loss became NaN or infinite."""


class Stopped(Exception):
    """A signal asked the run to stop; it can be resumed."""


class _Interrupted(Exception):
    """Not to be waited for: a signal came."""


@flax.struct.dataclass
class TrainState:
    """Everything that changes while training, in one tree."""

    step: jax.Array  # updates done, int32
    rng: jax.Array  # the run's key as raw data, constant
    params: Any  # what the optimiser moves
    state: Any  # the method's other state
    opt_state: Any
    probe: Any  # the online probe's parameters and optimiser state; empty without labels


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config amounts to: everything that the loop and the evaluation share."""

    config: Any
    train: data.Dataset
    test: data.Dataset | None
    method: Method
    mesh: Mesh
    info: Info
    optimizer: optax.GradientTransformation
    schedules: dict[str, optim.Schedule]
    init: Callable[[], TrainState]

    @property
    def eval_view(self) -> View:
        """How evaluation sees an image."""
        return self.method.eval_view(self.config.data.eval_centre)

    @property
    def eval_side(self) -> int:
        """Of the square that evaluation cuts its view from, pixels."""
        return round(self.eval_view.size / self.config.data.eval_centre)

    @functools.cached_property
    def shapes(self) -> TrainState:
        """Shapes, types and layout of what `init` makes, without compiling or computing it."""
        return dist.shapes(jax.eval_shape(self.init), state_specs(self.method), self.mesh)


def prepare(
    config: Any,
    devices: list[jax.Device] | None = None,
    splits: tuple[data.Dataset, data.Dataset | None] | None = None,
) -> Run:
    """Loads the data and builds the method, optimiser and initialiser of a config.

    Args:
      config: as `configs/common.py` describes.
      devices: to train on; default all.
      splits: training and test data instead of those that the config names.

    Raises:
      UserError: for anything in the config that cannot be.
    """
    mesh = dist.make_mesh(devices)
    method = build.method(config.method, models.backbone(config.model))
    train, test = splits or load_data(config)
    _check_same(train)
    method.check(*train.image_shape)
    if config.accumulate_loss == "whole" and type(method).embed is Method.embed:
        raise UserError(
            f"config.accumulate_loss='whole' is for losses that compare embeddings, and {config.method.name} has no "
            "`embed`: use 'micro'."
        )
    if train.streamed:
        stream.check(method.views(), config.data.size)
        if config.run.steps_per_call > 1:
            raise UserError(
                f"config.run.steps_per_call is {config.run.steps_per_call}, which is for data that lives on the "
                "devices, and this is streamed: set it to 1."
            )
    info = _info(config, len(train.images), len(train.classes), mesh)
    channels = train.image_shape[-1]
    shapes = jax.eval_shape(lambda: _init_method(method, config, channels, info))
    labels = method.groups(shapes[0])
    optimizer, schedules = optim.build(config.optim, labels, config.batch_size, info.steps_per_epoch, info.total_steps)
    probe = _probe_optimizer(config)

    def init() -> TrainState:
        params, state = _init_method(method, config, channels, info)
        head = {}
        if (train.labels >= 0).any():
            side = next(iter(method.views().values())).size
            one = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
            width = jax.eval_shape(method.features, params, state, one).shape[-1]
            head = {"kernel": jnp.zeros((width, len(train.classes))), "bias": jnp.zeros(len(train.classes))}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            rng=jax.random.key_data(jax.random.key(config.seed)),
            params=params,
            state=state,
            opt_state=optimizer.init(params),
            probe={"params": head, "opt_state": probe.init(head)} if head else {},
        )

    # One compiled function for the whole state, so that no two leaves share a buffer (donation would fail).
    # It runs once, and on a CPU optimising it takes most of the time (SimCLR's `cifar10_small`: 7.2 s, not 2.3).
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = quick if mesh.devices.flat[0].platform == "cpu" else None
    compiled = jax.jit(init, out_shardings=dist.shardings(state_specs(method), mesh), compiler_options=options)
    return Run(config, train, test, method, mesh, info, optimizer, schedules, compiled)


def load_data(config: Any) -> tuple[data.Dataset, data.Dataset | None]:
    """Loads the training split, and the test split where the source has one; or lists them for streaming."""
    wanted, kind = config.data.stream, config.data.source.partition(":")[0]
    if wanted not in ("auto", "always", "never"):
        raise UserError(f"config.data.stream is '{wanted}': use 'auto', 'always' or 'never'.")
    if wanted == "always":
        return _load_splits(config, streamed=True)
    try:
        return _load_splits(config, streamed=False)
    except data.DoesNotFit:
        if wanted == "never" or kind not in data.STREAMED:
            raise
        return _load_splits(config, streamed=True)


def _load_splits(config: Any, streamed: bool) -> tuple[data.Dataset, data.Dataset | None]:
    c = config.data
    options = {"path": c.path, "size": c.size, "max_gib": c.max_gib, "stream": streamed}
    train = data.load(c.source, "train", per_class=c.per_class, **options)
    if "test" not in data.splits(c.source, c.path):
        return train, None
    test = data.load(c.source, "test", **options)
    if streamed:
        return train, test
    channels = max(train.images.shape[-1], test.images.shape[-1])  # all images of one split may happen to be gray
    train, test = (
        d if d.images.shape[-1] == channels else dataclasses.replace(d, images=np.repeat(d.images, channels, axis=-1))
        for d in (train, test)
    )
    if test.images.shape[1:] != train.images.shape[1:]:
        shapes = [" x ".join(map(str, d.images.shape[1:])) for d in (train, test)]
        raise data.DoesNotFit(
            f"The training images of {c.source} are {shapes[0]} but its test images {shapes[1]}: set "
            "--config.data.size to bring them to one size, or --config.data.stream=auto."
        )
    return train, test


def _check_same(d: data.Dataset) -> None:
    """Refuses data that another process sees otherwise: its weights would stay the same, so that nobody would notice.

    Raises:
      UserError: on all processes.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(d.labels.tobytes())
    if d.streamed:
        digest.update("\n".join(d.images.files.name(row) for row in d.images.rows.tolist()).encode())
    else:
        digest.update(np.ascontiguousarray(d.images).data)
    if not processes.all_have(digest.digest()[:8]):
        raise UserError(
            f"The processes of this run do not see the same training images of {d.name} ({len(d.images)} here): make "
            "the files the same on all machines, and empty their caches of decoded images."
        )


def _info(config: Any, num_examples: int, num_classes: int, mesh: Mesh) -> Info:
    batch, devices = config.batch_size, mesh.devices.size
    if batch < 1 or config.accumulate < 1 or config.epochs < 1:
        raise UserError("config.batch_size, config.accumulate and config.epochs must be at least 1.")
    for name in ("steps_per_call", "log_steps", "keep"):
        if config.run[name] < 1:
            raise UserError(f"config.run.{name} is {config.run[name]}: it must be at least 1.")
    if config.run.stop_epoch is not None and config.run.stop_epoch < 1:
        raise UserError("config.run.stop_epoch must be at least 1, or None to train to the last epoch.")
    if config.accumulate_loss not in ("micro", "whole"):
        raise UserError(f"config.accumulate_loss is '{config.accumulate_loss}': use 'micro' or 'whole'.")
    if batch > num_examples:
        raise UserError(
            f"config.batch_size is {batch}, more than the {num_examples} training images of "
            f"{config.data.source}: lower it."
        )
    if batch % (devices * config.accumulate):
        raise UserError(
            f"config.batch_size is {batch}, which does not divide over {devices} device(s) times "
            f"{config.accumulate} micro-batch(es): make it a multiple of {devices * config.accumulate}."
        )
    steps = num_examples // batch
    return Info(num_examples, batch, steps, steps * config.epochs, num_classes)


def _init_method(method: Method, config: Any, channels: int, info: Info) -> tuple[Any, Any]:
    # Only shapes matter; rendering real views would double the time to compile the initialisation.
    batch = {name: jnp.zeros((2, v.size, v.size, channels)) for name, v in method.views().items()}
    # The run's key goes to the steps; the weights take another stream of the same seed.
    return method.init(jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1), batch, info)


def replica_step(run: Run) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The training step as each replica runs it: a pure function over the axis `dist.AXIS`.

    Args:
      run: from `prepare`.

    Returns:
      a function `(train state, images, labels, index [K, n]) -> (train state, metrics)`, where `index` are the data
      set's rows of this replica in each of K micro-batches, and metrics are means over the global batch. Images and
      labels are the whole data set as `loader.on_devices` lays it; or those rows alone, as crops of each view, name to
      uint8 [K, n, side, side, C], and [K, n].
    """
    method, info, config = run.method, run.info, run.config
    probe_optimizer = _probe_optimizer(config)
    views, shape = method.views(), run.train.image_shape

    def seen(rng, number, rows, images, labels):
        """A micro-batch as the method gets it, and the key of its loss."""
        position = number * (info.batch_size // config.accumulate) + dist.positions(len(rows))
        batch = render_views(views, rng, position, images)
        batch |= {"index": rows, "position": position, "label": labels}
        return batch, jax.random.fold_in(jax.random.fold_in(rng, len(views)), number)

    def whole(ts: TrainState, rng, parts):
        """Loss and metrics of the whole batch's embeddings, and the gradient for those of each micro-batch."""

        def forward(state, x):
            batch, key = seen(rng, *x)
            z, (state, _) = method.embed(ts.params, state, batch, rng=key, step=ts.step, info=info)
            return state, z

        def compare(z):
            loss, metrics = method.compare(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), z))
            return dist.mean(loss), metrics

        _, z = jax.lax.scan(forward, ts.state, parts)
        (loss, metrics), pulls = jax.value_and_grad(compare, has_aux=True)(z)
        return {"loss": loss, **dist.mean(metrics)}, pulls

    def micro_batch(ts: TrainState, rng, state, x, pull=None):
        batch, key = seen(rng, *x)

        def loss_of(params):
            options = {"rng": key, "step": ts.step, "info": info}
            if pull is None:
                loss, extra = method.loss(params, state, batch, **options)
                return dist.mean(loss), extra
            # Linear in the embeddings, with the whole loss's gradient. Its sum over replicas and micro-batches is
            # wanted, where the former comes with the gradient and the latter are averaged.
            z, (moved, aux) = method.embed(params, state, batch, **options)
            products = jax.tree.map(jnp.vdot, z, pull)
            return config.accumulate * sum(jax.tree.leaves(products)), (moved, aux)

        (loss, (state, aux)), grads = jax.value_and_grad(loss_of, has_aux=True)(ts.params)
        # Exact under shard_map already; under pmap this is where the replicas meet.
        grads = dist.mean(grads)
        metrics = {"loss": loss, **dist.mean(aux["metrics"])} if pull is None else {}
        probe_grads: Any = {}
        if ts.probe:
            probe_grads, metrics["probe_top1"] = _probe(ts.probe["params"], aux["features"], batch["label"])
        return state, (grads, probe_grads, metrics)

    def step(ts: TrainState, images, labels, index):
        rng = jax.random.fold_in(jax.random.wrap_key_data(ts.rng), ts.step)
        given = (images, labels) if isinstance(images, dict) else (loader.take(images, index, shape), labels[index])
        parts = (jnp.arange(len(index)), index, *given)
        common, pulls = whole(ts, rng, parts) if config.accumulate_loss == "whole" else ({}, None)

        def one(state, x, pull=None):
            return micro_batch(ts, rng, state, x, pull)

        state, (grads, probe_grads, metrics) = _accumulate(one, ts.state, (parts, pulls) if common else (parts,))
        metrics |= common
        updates, opt_state = run.optimizer.update(grads, ts.opt_state, ts.params)
        params = optax.apply_updates(ts.params, updates)
        params, state = method.after_update(params, state, ts.step, info)
        probe = ts.probe
        if probe:
            moves, probe_state = probe_optimizer.update(probe_grads, probe["opt_state"])
            probe = {"params": optax.apply_updates(probe["params"], moves), "opt_state": probe_state}
        metrics["grad_norm"] = optax.tree.norm(grads)
        # Here and not where they are logged: what the host computed there would wait for the update that is running.
        metrics |= {f"lr/{group}": schedule(ts.step) for group, schedule in run.schedules.items()}
        return TrainState(ts.step + 1, ts.rng, params, state, opt_state, probe), metrics

    return step


def _accumulate(one: Callable[..., Any], state: Any, parts: tuple[Any, ...]) -> tuple[Any, Any]:
    """Runs `one(state, *part)` over micro-batches; state changes once each, results are averaged."""
    count = len(jax.tree.leaves(parts)[0])
    first = jax.tree.map(lambda x: x[0], parts)
    if count == 1:
        return one(state, *first)

    def body(carry, x):
        state, total = carry
        state, out = one(state, *x)
        return (state, jax.tree.map(jnp.add, total, out)), None

    _, shapes = jax.eval_shape(one, state, *first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (state, total), _ = jax.lax.scan(body, (state, zeros), parts)
    return state, jax.tree.map(lambda x: x / count, total)


def _probe_optimizer(config: Any) -> optax.GradientTransformation:
    return optax.adam(config.probe.learning_rate)


def _probe(params: Any, features: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
    """Gradient and accuracy of the online linear probe over the labelled rows of the global batch."""
    known = labels >= 0
    count = jnp.maximum(dist.total(known.sum()), 1)

    x = _standardised(features.astype(jnp.float32))

    def loss_of(params):
        logits = x @ params["kernel"] + params["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        correct = jnp.argmax(logits, -1) == labels
        share = dist.total(jnp.sum(correct, where=known)) / count
        return dist.total(jnp.sum(losses, where=known)) / count, share

    (_, top1), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return dist.mean(grads), top1


def _standardised(x: jax.Array) -> jax.Array:
    """Features [n, D] with the mean and the variance of the global batch taken out, channel by channel.

    Their scale differs between methods by orders of magnitude, and one learning rate has to suit them all. The probe
    only ever judges the batch it is given, so that there are no running statistics to keep.
    """
    x -= dist.mean(x.mean(0))
    variance = dist.mean(jnp.square(x).mean(0))
    # Relative, so that features of any scale are treated alike; the rest is for features that are all constant.
    return x * jax.lax.rsqrt(variance + 1e-5 * variance.mean() + 1e-30)


def state_specs(method: Method) -> Any:
    """How each part of the training state lies over the devices."""
    return TrainState(P(), P(), P(), method.specs(), P(), P())  # type: ignore[arg-type]


def mapped_step(run: Run) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`replica_step` mapped over the devices and compiled; the state's buffers are reused."""
    specs, split = state_specs(run.method), P(None, dist.AXIS)
    in_specs = (specs, split, split, split) if run.train.streamed else (specs, P(), P(), split)
    return dist.map_replicas(replica_step(run), run.mesh, in_specs, (specs, P()), mapping=_mapping(run), donate=(0,))


def mapped_steps(run: Run) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`mapped_step` several times in one call, for data that lives on the devices.

    Returns:
      a function `(train state, images, labels, indices [S, micro-batches, images]) -> (train state, metrics)`, which
      makes S updates; each metric is an array [S].
    """
    step, specs = replica_step(run), state_specs(run.method)

    def steps(ts: TrainState, images, labels, indices):
        # As many as the program was made for: of a number that it was given a GPU would ask the host after each.
        return jax.lax.scan(lambda ts, index: step(ts, images, labels, index), ts, indices)

    in_specs = (specs, P(), P(), P(None, None, dist.AXIS))
    return dist.map_replicas(steps, run.mesh, in_specs, (specs, P()), mapping=_mapping(run), donate=(0,))


def _mapping(run: Run) -> str:
    if run.config.mapping not in ("shard_map", "pmap"):
        raise UserError(f"config.mapping is '{run.config.mapping}': use 'shard_map' or 'pmap'.")
    return run.config.mapping


def begin_epoch(run: Run, between: Callable[[], None] = lambda: None) -> Callable[[TrainState, Any, int], TrainState]:
    """What happens before the first update of an epoch: the method's `on_epoch`.

    Args:
      run: from `prepare`.
      between: called after each block of images that is embedded; may raise, to end it early.

    Returns:
      a function `(train state, images, updates done) -> train state`, images being those of `loader.Feed`.
    """
    method, info, embedded = run.method, run.info, _embedder(run, between)
    shardings = dist.shardings(method.specs(), run.mesh)

    def begin(ts: TrainState, images: Any, step: int) -> TrainState:
        if step % info.steps_per_epoch:
            return ts
        # A stream of its own: the views of an update fold in small numbers.
        rng = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(ts.rng), step), 2**31 - 1)

        def embed(fn: Callable[..., jax.Array]) -> jax.Array:
            return embedded(fn, ts, images, jax.random.fold_in(rng, 0))

        key = jax.random.fold_in(rng, 1)
        state = method.on_epoch(ts.params, ts.state, rng=key, step=step, info=info, embed=embed)
        return ts if state is ts.state else dataclasses.replace(ts, state=jax.device_put(state, shardings))

    return begin


def _embedder(run: Run, between: Callable[[], None] = lambda: None) -> Callable[..., jax.Array]:
    """`(fn, train state, images, rng) -> fn(params, state, batch)` of every training image, in micro-batches."""
    count, block, views = run.info.num_examples, run.info.batch_size // run.config.accumulate, run.method.views()
    split = P(None, dist.AXIS)

    @functools.cache
    def compiled(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def replica(params, state, images, rng, index):
            rows = index[0]
            crops = {name: x[0] for name, x in images.items()} if isinstance(images, dict) else None
            chosen = crops or loader.take(images, rows, run.train.image_shape)
            # The image's number stands for its position: randomness does not depend on the block.
            batch = render_views(views, rng, rows, chosen)
            batch |= {"index": rows, "position": rows, "label": jnp.full(len(rows), -1)}
            return fn(params, state, batch)

        in_specs = (P(), run.method.specs(), split if run.train.streamed else P(), P(), split)
        return dist.map_replicas(replica, run.mesh, in_specs, P(dist.AXIS), mapping=run.config.mapping)

    def blocks(images: Any, rng: jax.Array) -> Iterator[tuple[Any, jax.Array]]:
        # Either way the last block is filled up with images from the front.
        if run.train.streamed:
            plan = stream.Pass(np.asarray(jax.random.key_data(rng)), count, block)
            many = loader.workers(run.config.data.workers)
            for crops, _, index in loader.streamed(images, run.train.labels, views, plan, run.mesh, 1, many):
                yield crops, index
        else:
            for rows in np.arange(-(-count // block) * block).reshape(-1, 1, block) % count:
                yield images, dist.lay(rows, run.mesh, split)

    def embedded(fn: Callable[..., jax.Array], ts: TrainState, images: Any, rng: jax.Array) -> jax.Array:
        parts = []
        for chosen, index in blocks(images, rng):
            part = compiled(fn)(ts.params, ts.state, chosen, rng, index)
            # One at a time: many programs in flight starve each other's collectives on simulated devices.
            parts.append(jax.block_until_ready(part))
            between()
        return jnp.concatenate(parts)[:count]

    return embedded


def batch_index(run: Run, step: int) -> jax.Array:
    """The images of one update, [micro-batches, images], laid over the devices."""
    return dist.lay(_rows(run, step), run.mesh, P(None, dist.AXIS))


def batch_indices_of(run: Run, step: int, count: int) -> jax.Array:
    """Those of the next `count` updates, as `mapped_steps` takes them."""
    rows = [_rows(run, step + number) for number in range(count)]
    return dist.lay(np.stack(rows), run.mesh, P(None, None, dist.AXIS))


def _rows(run: Run, step: int) -> np.ndarray:
    rows = batch_indices(run.config.seed, step, run.info.num_examples, run.info.batch_size)
    return rows.reshape(run.config.accumulate, -1)


def make_feed(run: Run, start: int) -> loader.Feed:
    """What gives the steps from `start` on their batches."""
    if not run.train.streamed:

        def index(step: int, count: int) -> jax.Array:
            return batch_index(run, step) if count == 1 else batch_indices_of(run, step, count)

        return loader.Resident(run.train, run.mesh, index, start)
    key = np.asarray(jax.random.key_data(jax.random.key(run.config.seed)))
    info = run.info
    plan = stream.Training(run.config.seed, key, info.num_examples, info.batch_size, start, info.total_steps)
    many = loader.workers(run.config.data.workers)
    return loader.Streamed(run.train, run.method.views(), plan, run.mesh, run.config.accumulate, many)


def train(config: Any, workdir: str) -> None:
    """Trains until the config's last epoch, or resumes what `workdir` holds.

    Args:
      config: as `configs/common.py` describes.
      workdir: folder for checkpoints, logs and the config; made if absent.

    Raises:
      UserError: for anything the user can put right.
      NotFinite: when the loss stopped being a number; names the step.
      Stopped: on SIGTERM or SIGINT, after a checkpoint.
      processes.Diverged: when processes that must hold the same state do not.
    """
    with processes.Stop(dist.make_mesh()) as stop:
        try:
            _train(config, workdir, stop)
        except Exception as error:
            if not out_of_space(error):
                raise
            raise UserError(
                f"The disk of {workdir} is full: make room and repeat the command, which goes on from the last "
                "checkpoint."
            ) from error


def _train(config: Any, workdir: str, stop: processes.Stop) -> None:
    stored_config.check(workdir, config)
    run = prepare(config)
    if processes.first():
        stored_config.store(workdir, config)
    checkpoints = Checkpoints(workdir, config.run.keep)
    start, ts = checkpoints.restore(run.shapes) or (0, run.init())
    log = Log(workdir, start, _end(run), run.info.batch_size, run.info.steps_per_epoch)
    _introduce(run, workdir, start, log)
    source = make_feed(run, start)
    with contextlib.ExitStack() as stack:
        for part in (checkpoints, log, source):
            stack.callback(part.close)
        _loop(run, ts, start, source, checkpoints, log, stop)


def _introduce(run: Run, workdir: str, start: int, log: Log) -> None:
    params = run.shapes.params
    lines = optim.describe(run.config.optim, run.method.groups(params), params)
    if processes.first():
        (epath.Path(workdir) / "parameters.txt").write_text("\n".join(lines) + "\n")
    excluded = sum(line.endswith("excluded") for line in lines)
    count = sum(x.size for x in jax.tree.leaves(params))
    devices = run.mesh.devices
    log.say(
        f"{run.config.method.name} on {run.config.data.source}: {run.info.num_examples} images, "
        f"{run.info.total_steps} updates of {run.info.batch_size} images, {count / 1e6:.2f} M parameters, "
        f"{devices.size} {devices.flat[0].device_kind} device(s) of {jax.process_count()} process(es)."
    )
    if run.train.streamed:
        many = loader.workers(run.config.data.workers)
        log.say(f"Images are streamed and decoded by {many} processes." if many else "Images are streamed.")
    log.say(
        f"{excluded} of {len(lines)} parameters are left out of weight decay and trust ratios; "
        f"{workdir}/parameters.txt lists them all."
    )
    if start:
        log.say(f"Resuming after update {start}.")
    log.say("Compiling; the first update takes a moment.")


def _loop(
    run: Run,
    ts: TrainState,
    start: int,
    source: loader.Feed,
    checkpoints: Checkpoints,
    log: Log,
    stop: processes.Stop,
) -> None:
    def between() -> None:
        if stop.now():
            raise _Interrupted

    end, done, pending, count = _end(run), start, None, 0
    most = run.config.run.steps_per_call
    one_update, several = mapped_step(run), mapped_steps(run)
    begin, watch, keep = begin_epoch(run, between), Watch(run, between), _keeper(run)
    eval_steps, save_steps = _intervals(run)
    between_calls = [n for n in (run.info.steps_per_epoch, eval_steps, save_steps) if n]  # updates from one to the next

    def settle() -> float | None:
        """Reads the metrics that are still out, and returns the loss among them."""
        nonlocal pending
        if pending is None:
            return None
        values = {name: np.atleast_1d(x) for name, x in jax.device_get(pending).items()}
        pending, loss = None, None
        numbers = range(done - count + 1, done + 1)
        pace = log.pace(done) if any(_logged(run, number) for number in numbers) else {}
        for place, number in enumerate(numbers):
            loss = _read(run, {name: float(x[place]) for name, x in values.items()}, number, log, pace)
        return loss

    try:
        due = eval_steps and (start % eval_steps == 0 or start == end)
        # A start from a checkpoint makes up for an evaluation that was cut short.
        if due and processes.decide(not log.has(start, "feature_std")):
            watch(ts, start, log)
        while done < end:
            ts = begin(ts, source.images, done)
            # What is left before an evaluation or a checkpoint comes one by one: a program is of one length.
            coming = most if most <= min(end - done, *(n - done % n for n in between_calls)) else 1
            asked = time.time()
            inputs = source(coming)
            log.waited(time.time() - asked)
            ts, metrics = several(ts, *inputs) if coming > 1 else one_update(ts, *inputs)
            settle()  # the loop reads the updates before while these run
            pending, done, count = metrics, done + coming, coming
            checkpoints.check()
            last, stopped = done == end, bool(stop.soon())
            save = last or (save_steps and done % save_steps == 0)
            evaluate = eval_steps and (done % eval_steps == 0 or last)
            if save or evaluate:
                loss = settle()
                paused = time.time()
                if save:
                    log.flush()
                    keep(checkpoints, done, ts)
                if evaluate and not stopped:
                    watch(ts, done, log, loss)
                log.skip_time(time.time() - paused)
            if stopped and not last:
                raise _Interrupted
    except _Interrupted:
        settle()
        if done > start:
            log.flush()
            keep(checkpoints, done, ts)
        name = signal.Signals(stop.now()).name
        raise Stopped(f"Stopped by {name} after update {done}; the same command resumes.") from None


def _end(run: Run) -> int:
    """Updates after which this start of the run ends; the schedules go on to `info.total_steps`."""
    epoch = run.config.run.stop_epoch
    total = run.info.total_steps
    return total if epoch is None else min(total, epoch * run.info.steps_per_epoch)


def _intervals(run: Run) -> tuple[int, int]:
    """Updates between online evaluations, and between checkpoints; 0: none."""
    epochs = run.config.run.eval_epochs, run.config.run.save_epochs
    evaluations, saves = (max(1, round(n * run.info.steps_per_epoch)) if n > 0 else 0 for n in epochs)
    return evaluations, saves


def _logged(run: Run, done: int) -> bool:
    return done % run.config.run.log_steps == 0 or done == _end(run)


def _keeper(run: Run) -> Callable[[Checkpoints, int, TrainState], None]:
    """A function that writes a checkpoint of a state that is fit for it."""
    stored = stored_config.plain(run.config)
    all_finite = jax.jit(lambda tree: jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])))

    def keep(checkpoints: Checkpoints, done: int, ts: TrainState) -> None:
        # The loss was computed before the update: a checkpoint also wants the weights after it to be numbers.
        if not all_finite(ts.params):
            raise NotFinite(_no_number("weights", done))
        processes.check_equal(ts, f"After update {done}")
        checkpoints.save(done, ts, stored)

    return keep


def _no_number(what: str, done: int) -> str:
    return (
        f"The {what} of update {done} became NaN or infinite; no checkpoint was written of it. Lower the learning rate "
        "(config.optim.*.learning_rate), lengthen its warm-up, or clip the gradient (config.optim.*.clip)."
    )


def _read(run: Run, values: dict[str, float], done: int, log: Log, pace: dict[str, float]) -> float:
    """Records the metrics of the step that made `done` updates; returns the loss, raises where it is no number."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise NotFinite(_no_number(name, done))
    log.advance(done, values["loss"])
    if _logged(run, done):
        log.write(done, {**values, **pace})
    return values["loss"]


class Watch:
    """Measures the frozen backbone as the run goes: kNN accuracy where there are labels, and health.

    Queries are the test split; without one, every tenth training image is a query and the rest the bank.

    Args:
      run: from `prepare`.
      between: called after each block of images; may raise, to end a measurement early.
    """

    def __init__(self, run: Run, between: Callable[[], None] = lambda: None) -> None:
        self._run = run
        workers = loader.workers(run.config.data.workers)
        self._extract = extractor(run.method, run.eval_view, run.mesh, workers=workers, between=between)
        limit = run.config.run.eval_images
        bank, queries = run.train, run.test
        # Evenly spaced, since images come sorted by class.
        rows = np.arange(len(bank.images))
        if queries is None:
            queries, query_rows = run.train, rows[::10]
            rows = np.setdiff1d(rows, query_rows)
        else:
            query_rows = np.arange(len(queries.images))
        rows, query_rows = spread(rows, limit), spread(query_rows, limit)
        self._bank = bank.images[rows], bank.labels[rows]
        self._queries = queries.images[query_rows], queries.labels[query_rows]
        self._classes = len(run.train.classes)
        self._scored = bool((self._bank[1] >= 0).any() and (self._queries[1] >= 0).any())

    def __call__(self, ts: TrainState, done: int, log: Log, loss: float | None = None) -> dict[str, float]:
        """Measures, records and returns the values after `done` updates, the last of which had this loss."""
        bank = self._extract(ts.params, ts.state, self._bank[0])
        values = health.summary(bank)
        show = {"std": f"{values['feature_std']:.3f}"}
        if self._scored:
            k = min(self._run.config.eval.knn_k, int((self._bank[1] >= 0).sum()))
            values["knn/top1"] = knn.top1(
                bank,
                self._bank[1],
                self._extract(ts.params, ts.state, self._queries[0]),
                self._queries[1],
                num_classes=self._classes,
                k=k,
                temperature=self._run.config.eval.knn_temperature,
            )
            show = {"kNN": f"{100 * values['knn/top1']:.1f}%", **show}
        log.write(done, values, show=show)
        method, info = self._run.method, self._run.info
        task = {} if loss is None else {"loss": loss, "chance": method.chance(info), "best": method.best(info)}
        trouble = health.diagnose(values | task)
        if trouble and done:
            log.say(trouble)
        return values
