"""The step's own arithmetic: accumulation, order of updates, probe, batches, and that broken variants are caught."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, losses, probe
from ssl_jax.batch import index as batch_index
from ssl_jax.batch import indices as batch_indices
from ssl_jax.data import loader
from ssl_jax.data.samplers import Shuffled
from ssl_jax.methods.contract import Aux
from ssl_jax.methods.joint import byol, simclr
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step, mapped_steps, replica_step
from ssl_jax.workdir import config as stored_config


@pytest.mark.fast
def test_batches_are_a_function_of_seed_and_step():
    sampler = Shuffled(100, 30)
    epoch = [sampler(3, step)[""] for step in range(3)]
    assert len(set(np.concatenate(epoch))) == 90  # each image at most once, the partial batch dropped
    assert not np.array_equal(epoch[0], sampler(3, 3)[""])  # another epoch, another order
    assert not np.array_equal(epoch[0], sampler(4, 0)[""])
    np.testing.assert_array_equal(sampler(3, 4)[""], Shuffled(100, 30)(3, 4)[""])


def test_accumulation_equals_the_whole_batch():
    """Without BatchNorm, a loss that is a mean over images has the same gradient in four micro-batches."""
    whole = tiny.run("rotation", **{"model.norm": "none"})
    parts = tiny.run("rotation", accumulate=4, **{"model.norm": "none"})
    states = []
    for run in (whole, parts):
        step = mapped_step(run)
        data = loader.on_devices(run.train, run.mesh)
        ts, _ = step(run.init(), data, batch_index(run, 0))
        # The online probe standardises each micro-batch by itself, as BatchNorm does.
        states.append(dataclasses.replace(jax.device_get(ts), probe={}))
    tiny.assert_close(states[1], states[0], 1e-5)


@pytest.mark.parametrize(("name", "mapping"), [("simclr", "shard_map"), ("simclr", "pmap"), ("vicreg", "shard_map")])
def test_embeddings_of_all_micro_batches_are_compared(name, mapping):
    """One big batch, whose BatchNorm groups are the micro-batches, takes the same step, on two devices."""
    params, found = [], []
    for changes in ({"model.bn_groups": 4}, {"accumulate": 4, "accumulate_loss": "whole"}, {"accumulate": 4}):
        run = tiny.run(name, 2, mapping, batch_size=32, **changes)
        step = mapped_step(run)
        data = loader.on_devices(run.train, run.mesh)
        ts, metrics = step(run.init(), data, batch_index(run, 0))
        params.append(jax.device_get(ts.params))
        found.append({key: float(value) for key, value in metrics.items() if key != "probe_top1"})
    whole, exact, apart = found
    tiny.assert_close(exact, whole, 1e-4)
    tiny.assert_close(params[1], params[0], 1e-4)
    assert abs(apart["loss"] - whole["loss"]) > 1e-3 * whole["loss"]


def test_accumulation_moves_state_once_a_micro_batch_and_the_target_once_an_update():
    run = tiny.run("byol", accumulate=2)
    before = jax.device_get(run.init())
    step = mapped_step(run)
    data = loader.on_devices(run.train, run.mesh)
    after, _ = step(run.init(), data, batch_index(run, 0))
    after = jax.device_get(after)
    # Four forward passes (two micro-batches of two views) at momentum 0.9 leave 0.9^4 of the initial variance 1.
    var = after.state["stats"]["backbone"]["stage1_norm"]["batch"]["var"]
    assert np.all(var >= 0.9**4 - 1e-6)
    assert np.all(var < 0.9**2)
    tau = float(byol.target_decay(run.method.tau, 0, run.info.total_steps))
    wanted = jax.tree.map(
        lambda xi, theta: tau * xi + (1 - tau) * theta,
        before.state["target"]["params"],
        {name: after.params[name] for name in ("backbone", "projector")},
    )
    tiny.assert_close(after.state["target"]["params"], wanted, 1e-6)


def test_byol_target_before_the_forward_pass():
    """A target that starts as a copy and moves before the forward pass has not moved after the first update."""
    run = tiny.run("byol", **{"method.update_target": "before", "method.copy_target": True})
    before = jax.device_get(run.init())
    step = mapped_step(run)
    data = loader.on_devices(run.train, run.mesh)
    after, _ = step(run.init(), data, batch_index(run, 0))
    tiny.assert_close(jax.device_get(after).state["target"]["params"], before.state["target"]["params"], 1e-6)
    assert not np.array_equal(after.params["projector"]["out"]["kernel"], before.params["projector"]["out"]["kernel"])


def test_views_of_an_image_differ_and_do_not_depend_on_the_devices():
    seen = {}
    for devices in (1, 4):
        run = tiny.run("simclr", devices)
        views = {}

        def record(self, params, state, batch, *, rng, step, info, train=True, views=views):
            views.update({k: jax.lax.all_gather(v, dist.AXIS, tiled=True) for k, v in batch.items()})
            raise StopIteration

        patched = type("Recorder", (simclr.SimCLR,), {"loss": record})
        method = patched(**{f.name: getattr(run.method, f.name) for f in dataclasses.fields(run.method)})
        seen[devices] = _rendered(dataclasses.replace(run, method=method), views)
    np.testing.assert_allclose(seen[4]["view1"], seen[1]["view1"], atol=1e-5)
    np.testing.assert_array_equal(seen[4]["index"], seen[1]["index"])
    assert not np.allclose(seen[1]["view1"], seen[1]["view2"])


def _rendered(run, views):
    """Runs the step up to the loss, which leaves what it saw in `views`."""

    def replica(ts, data, index):
        try:
            replica_step(run)(ts, data, index)
        except StopIteration:
            return dict(views)

    specs = (P(), P(), P(None, dist.AXIS))
    mapped = jax.jit(jax.shard_map(replica, mesh=run.mesh, in_specs=specs, out_specs=P(), check_vma=False))
    data = loader.on_devices(run.train, run.mesh)
    return jax.device_get(mapped(run.init(), data, batch_index(run, 0)))


def test_local_negatives_are_caught(monkeypatch):
    """SimCLR without the gather sees only its own replica's negatives: the replicas no longer agree."""
    right = simclr.nt_xent
    monkeypatch.setattr(simclr, "nt_xent", lambda *a, **k: right(*a, **(k | {"axis_name": None})))
    metrics = []
    for devices in (1, 2):
        run = tiny.run("simclr", devices)
        data = loader.on_devices(run.train, run.mesh)
        _, m = mapped_step(run)(run.init(), data, batch_index(run, 0))
        metrics.append(float(m["loss"]))
    assert metrics[1] < metrics[0] - 0.3  # ln(2N - 1) falls with N


@pytest.mark.parametrize("name", ["byol", "npid"])  # with a target; with a bank that is spread over the devices
def test_several_updates_a_call_on_several_devices(name):
    run = tiny.run(name, 4)
    data = loader.on_devices(run.train, run.mesh)
    step, singles, ts = mapped_step(run), [], tiny.fresh(run)
    for number in range(2):
        ts, metrics = step(ts, data, batch_index(run, number))
        singles.append(metrics)
    together, metrics = mapped_steps(run)(tiny.fresh(run), data, batch_indices(run, 0, 2))
    tiny.assert_close(jax.device_get(together), jax.device_get(ts), 1e-4)
    assert int(together.step) == 2
    for name, values in jax.device_get(metrics).items():
        np.testing.assert_allclose(values, [float(m[name]) for m in singles], rtol=1e-4, atol=1e-6)


def last_metrics(run, updates):
    """The metrics of the last of so many updates from a fresh start."""
    step = mapped_step(run)
    data = loader.on_devices(run.train, run.mesh)
    ts = run.init()
    for number in range(updates):
        ts, metrics = step(ts, data, batch_index(run, number))
    return {name: float(value) for name, value in metrics.items()}


def test_byol_without_stop_gradient_and_predictor_collapses(monkeypatch):
    """The right one keeps its spread; with the gradient let into the target and no predictor it loses it."""

    def broken_loss(self, params, state, batch, *, rng, step, info, train=True):
        stats, z = state["stats"], {}
        for v in ("view1", "view2"):
            h, stats = byol.apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            z[v], stats = byol.apply(self._head(), "projector", params, stats, h, train=train)
        u = {v: x / jnp.linalg.norm(x, axis=-1, keepdims=True) for v, x in z.items()}
        loss = 4 * jnp.mean(jnp.sum(jnp.square(u["view1"] - u["view2"]), -1))
        aux = Aux({"projection_std": losses.spread(z["view1"], dist.AXIS)}, jax.lax.stop_gradient(h))
        return loss, ({**state, "stats": stats}, aux)

    changes = {"epochs": 4, "optim.default.learning_rate": 0.5}
    right = last_metrics(tiny.run("byol", **changes), 60)["projection_std"]
    monkeypatch.setattr(byol.BYOL, "loss", broken_loss)
    broken = last_metrics(tiny.run("byol", **changes), 60)["projection_std"]
    healthy = 1 / np.sqrt(64)
    assert right > 0.5 * healthy
    assert broken < 0.2 * healthy


def test_rotation_with_shuffled_answers_learns_nothing(monkeypatch):
    from ssl_jax.methods.pretext import rotation

    right = rotation.rotations

    good = last_metrics(tiny.run("rotation"), 80)["loss"]
    # All four "rotations" alike: no network can tell them apart.
    monkeypatch.setattr(rotation, "rotations", lambda x: jnp.repeat(right(x)[:, :1], 4, axis=1))
    broken = last_metrics(tiny.run("rotation"), 80)["loss"]
    assert good < np.log(4) - 0.2
    assert broken > np.log(4) - 0.05


def test_unlabelled_rows_do_not_move_the_probe():
    run, _, _ = tiny.compiled("rotation")
    nothing, _ = tiny.steps("rotation", 1, labels=np.full_like(run.train.labels, -1))
    tiny.assert_same(nothing.probe["params"], jax.device_get(run.init().probe["params"]))


def test_the_probe_does_not_mind_the_scale_of_the_features():
    """Standardised, features of any scale and offset train alike, and constant ones train nothing."""
    x = tiny.generator(64, 8, 0.1).astype(np.float32)
    labels = jnp.arange(64) % 3
    params = {"kernel": jnp.zeros((8, 3)), "bias": jnp.zeros(3)}

    mapped = dist.map_replicas(
        probe.gradient, dist.make_mesh(jax.devices()[:2]), (P(), P(dist.AXIS), P(dist.AXIS)), (P(), P())
    )

    def gradient(features):
        return mapped(params, jnp.asarray(features), labels)[0]

    grads = gradient(x)
    for other in (1e-3 * x, 100 * x + 10):
        np.testing.assert_allclose(gradient(other)["kernel"], grads["kernel"], rtol=2e-3, atol=2e-5)
    z = (x - x.mean(0)) / x.std(0)
    wanted = z.T @ (1 / 3 - np.eye(3)[np.arange(64) % 3]) / 64
    np.testing.assert_allclose(grads["kernel"], wanted, rtol=1e-3, atol=1e-5)
    assert not np.any(gradient(np.ones((64, 8), np.float32))["kernel"])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 5000}, "more than the 1352 training images"),
        ({"batch_size": 15}, "does not divide over 2 device"),
        ({"accumulate": 3}, "3 micro-batch"),
        ({"accumulate_loss": "both"}, "use 'micro' or 'whole'"),
        ({"run.log_steps": 0}, "log_steps"),
        ({"run.stop_epoch": 0}, "stop_epoch is 0: it must be at least 1"),
        ({"mapping": "vmap"}, "config.mapping is 'vmap'"),
        ({"model.name": "resnet19"}, "Did you mean 'resnet18'"),
        ({"model.norm": "btach"}, "Did you mean 'batch'"),
        ({"method.name": "simclear"}, "Did you mean 'simclr'"),
        ({"method.view1.hue": 0.1}, "has no meaning on images of 1 channel"),
        ({"method.view1.crop": "torhc"}, "Did you mean 'torch'"),
        ({"optim.default.name": "lasr"}, "Did you mean 'lars'"),
        ({"data.source": "digit"}, "Did you mean 'digits'"),
    ],
)
def test_mistakes_are_explained(changes, words):
    with pytest.raises(UserError, match=words):
        mapped_step(tiny.run("simclr", 2, **changes))


@pytest.mark.fast
def test_only_embeddings_can_be_compared_over_micro_batches():
    with pytest.raises(UserError, match="rotation has no `embed`"):
        tiny.run("rotation", accumulate=2, accumulate_loss="whole")


@pytest.mark.fast
def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'cifar10'"):
        get_config("simclr", "cifar1O")


@pytest.mark.fast
def test_a_workdir_of_another_config_is_refused(tmp_path):
    config = tiny.config("simclr")
    stored_config.check(str(tmp_path), config)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    config.run.log_steps = 7
    stored_config.check(str(tmp_path), config)  # how it is logged may change
    config.method.temperature = 0.3
    with pytest.raises(UserError, match=r"method\.temperature: 0\.2 there, 0\.3 now"):
        stored_config.check(str(tmp_path), config)
