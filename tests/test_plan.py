"""Sizing a run from its compiled program."""

import dataclasses
import json
import logging
import math
import subprocess
import sys

from absl.testing import flagsaver
import numpy as np
import pytest
import tiny

from ssl_jax.batch import index as batch_index
from ssl_jax.plan import __main__ as command_line
from ssl_jax.plan import hlo, plan, words
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step

EXAMPLE = plan.Plan(
    topology="v5e:4x4",
    chip="TPU v5 lite",
    chips=16,
    batch_size=4096,
    views=8192,
    fits=True,
    memory=8 * 2**30,
    held=2**30,
    held_whole=2**32,
    flops=512 * 24e9,
    bytes=512 * 320e6,
    main_memory=512 * 290e6,
    collectives={"all-reduce": (3, 100e6), "all-gather": (2, 4e6)},
    compile_seconds=100.0,
    steps=1000,
)


@pytest.mark.fast
def test_roofline_and_summary():
    times = words.roofline(EXAMPLE)
    np.testing.assert_allclose(times["arithmetic"], 512 * 24e9 / 197e12)
    np.testing.assert_allclose(times["memory"], 512 * 290e6 / 819e9)
    np.testing.assert_allclose(times["links"], 104e6 / 200e9)
    row = words.summarise(EXAMPLE, efficiency=0.5)
    assert row["bound_by"] == "memory"
    np.testing.assert_allclose(row["gflop_per_view"], 24)
    np.testing.assert_allclose((row["mb_per_view"], row["main_mb_per_view"]), (320, 290))
    np.testing.assert_allclose(row["step_ms"], 1e3 * 512 * 290e6 / 819e9 / 0.5)
    np.testing.assert_allclose(row["chip_hours"], 16 * row["hours"])
    np.testing.assert_allclose(row["hours"] * 3600, row["step_ms"])  # a thousand steps
    np.testing.assert_allclose(row["views_per_second_per_chip"], 512 / row["step_ms"] * 1e3)
    assert "bound by memory" in words.describe([row]) and "fits" in words.describe([row])
    rows = words.describe([row, words.summarise(dataclasses.replace(EXAMPLE, fits=False), 0.5)]).splitlines()
    assert len(rows) == 4 and "does not fit" in rows[3] and len({line.count("|") for line in rows}) == 1


@pytest.mark.fast
def test_no_time_for_a_chip_whose_rates_are_unknown():
    row = words.summarise(dataclasses.replace(EXAMPLE, chip="abacus"), 0.5)
    assert "step_ms" not in row and "'abacus'" in words.describe([row])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", 20.5 * 2**30),
        ("the total memory required for HLO temporaries (512.00M) exceeds available HBM (15.75G).", 2**29),
        ("no figure", math.inf),
    ],
)
def test_what_a_step_that_does_not_fit_wanted(message, wanted):
    assert plan.wanted_memory(f"RESOURCE_EXHAUSTED: {message}") == wanted


@pytest.mark.fast
def test_data_that_is_not_here_has_its_shape():
    config = get_config("simclr", "imagenet")
    train_split, _ = plan.stand_in(config, None)
    assert len(train_split.images) == 1_281_167 and len(train_split.classes) == 1000
    assert train_split.streamed and train_split.image_shape[-1] == 3
    config.data.source, config.data.size = "folder:nowhere", 256
    assert plan.stand_in(config, 5000)[0].images.shape == (5000, 256, 256, 3)
    config.data.stream = "always"
    assert plan.stand_in(config, 5000)[0].streamed
    config.data.size = None
    with pytest.raises(UserError, match="size"):
        plan.stand_in(config, 5000)
    with pytest.raises(UserError, match="nowhere"):
        plan.stand_in(config, None)


@pytest.fixture(scope="module")
def local():
    return plan.plan(tiny.config("simclr"), "local")


def test_local_plan_is_that_of_the_step_that_runs(local):
    """Shapes alone give the same program as the arrays that training feeds in."""
    assert local.fits and local.chips == 8 and local.views == 2 * tiny.BATCH
    run, step, data = tiny.compiled("simclr", 8)
    compiled = step.lower(tiny.fresh(run), data, batch_index(run, 0)).compile()
    text = compiled.as_text()
    assert local.flops == compiled.cost_analysis()["flops"] + hlo.loop_flops(text)
    assert local.collectives == hlo.collectives(text)
    # Two views are gathered forwards and scattered back; their sizes are those of the embeddings.
    width = run.method.out
    assert local.collectives["all-gather"] == (2, 2 * tiny.BATCH * width * 4)


def test_what_a_chip_holds_with_fsdp_and_without(monkeypatch):
    """Of the same model; without fsdp all of it."""
    monkeypatch.setattr("ssl_jax.mesh.LEAST_BYTES", 0)
    config = tiny.config("simclr")
    whole = plan.held(prepare(config), "fsdp")
    config.mesh.fsdp = 4
    run = prepare(config)
    assert plan.held(run) == whole
    assert whole / 4 < plan.held(run, "fsdp") < 0.4 * whole
    row = {**words.summarise(EXAMPLE, 0.5)}
    assert "1.00 GiB of parameters, state and optimiser (4.00 GiB without fsdp)" in words.describe([row])


def test_streamed_images_come_as_crops():
    config = get_config("simclr", "cifar10_small")
    config.batch_size, config.model.name, config.data.stream = 16, "convnet", "always"
    run = prepare(config, splits=plan.stand_in(config, None))
    _, given, index = plan.arguments(run)
    assert {name: x.shape for name, x in given["image"].items()} == dict.fromkeys(
        ("view1", "view2"), (1, 16, 32, 32, 3)
    )
    assert given["label"].shape == index.shape == (1, 16)
    mapped_step(run).trace(*plan.arguments(run))


def test_micro_batches_are_counted(local):
    """Twice the images in two micro-batches: twice the work, by the loop's number of turns."""
    twice = plan.plan(tiny.config("simclr", batch_size=2 * tiny.BATCH, accumulate=2), "local")
    np.testing.assert_allclose(twice.flops, 2 * local.flops, rtol=0.01)
    assert twice.views == 2 * local.views and twice.steps < local.steps


def test_tpu_slice_without_a_tpu(tmp_path):
    """The command line, on the smallest preset, for a slice that is not there."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    path = tmp_path / "plans.jsonl"
    command = [sys.executable, "-m", "ssl_jax.plan", "--config=configs/simclr.py:digits", "--topology=v5e:2x2"]
    command += ["--config.model.width=8", f"--json={path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "4 x TPU v5 lite" in done.stdout and "chip-hours" in done.stdout
    assert "TPU_" not in done.stderr and "E0000" not in done.stderr, "libtpu alarms where nothing is wrong"
    row = json.loads(path.read_text())
    assert row["fits"] and row["chips"] == 4 and row["bound_by"] in ("arithmetic", "memory", "links")
    assert row["collectives"]["all-gather"]["count"] == 2
    assert (
        row["mb_per_view"] > row["main_mb_per_view"] > 0 and row["gflop_per_view"] > 0 and math.isfinite(row["hours"])
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v5e:4x4x4x4"], "no TPU slice"),
        (["--topology=abacus:2x2"], "no TPU slice"),
        (["--topology=v5e:2x2", "--config.batch_size=6"], "does not divide"),
        (["--efficiency=2"], "share"),
    ],
)
def test_mistakes_are_said_in_a_sentence(arguments, words):
    if any("topology" in a for a in arguments):
        pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    command = [sys.executable, "-m", "ssl_jax.plan", "--config=configs/simclr.py:digits", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


VIEWS = """
import jax, jax.numpy as jnp
from ssl_jax.plan import chips
from ssl_jax.augment import recipes
from ssl_jax.augment.render import render_views
place = jax.sharding.SingleDeviceSharding(chips.find_devices("v5e:1x1")[0])
shaped = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=place)
for view in (recipes.SIMCLR, recipes.PIRL):
    def views(rng, position, crops):
        found = render_views({"view": view}, jax.random.wrap_key_data(rng), position, {"view": crops})
        return found["view"].astype(jnp.bfloat16)
    shapes = shaped((2,), jnp.uint32), shaped((64,), jnp.int32), shaped((64, 224, 224, 3), jnp.uint8)
    cost = jax.jit(views).trace(*shapes).lower(lowering_platforms=("tpu",)).compile().cost_analysis()
    print(cost["bytes accessed"] / 64 / 1e6)
"""


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections loads the config so
def test_what_was_compiled_is_printed_before_a_mistake(monkeypatch, capsys, tmp_path):
    row = {"topology": "v5e:2x2"}

    def planned(config, topology, images):
        if topology != "v5e:2x2":
            raise UserError("no such slice")
        return row

    monkeypatch.setattr(command_line, "plan", planned)
    monkeypatch.setattr(command_line, "summarise", lambda found, efficiency: found)
    monkeypatch.setattr(command_line, "describe", lambda rows: f"{len(rows)} row")
    arguments = ["plan", "--config=configs/simclr.py:digits", f"--json={tmp_path / 'rows'}"]
    with flagsaver.flagsaver():
        assert command_line.main([*arguments, "--topology=v5e:2x2,v9"]) == 2
    told = capsys.readouterr()
    assert told.out == "1 row\n" and "no such slice" in told.err
    assert json.loads((tmp_path / "rows").read_text()) == row
    with flagsaver.flagsaver():
        assert command_line.main([*arguments[:2], f"--json={tmp_path}/none/rows", "--topology=v5e:2x2"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_views_move_few_bytes_on_a_tpu():
    """MB a view of 224 pixels, from uint8 crops: SimCLR's took 310 when its jitter stacked its ops, PIRL's 98."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    done = subprocess.run([sys.executable, "-c", VIEWS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    moved = [float(line) for line in done.stdout.split()]
    assert moved[0] < 22 and moved[1] < 28


TAKING = """
import functools, importlib
import jax
from ssl_jax.data import loader
from ssl_jax.plan import chips, plan
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
config = get_config("simclr", "cifar10")
run = prepare(config, chips.find_devices("v5e:1x1")[:1], plan.stand_in(config, None))
_, data, index = plan.arguments(run)
images = data["image"]
take = functools.partial(loader.take, shape=run.train.image_shape)
program = jax.jit(lambda images, index: take(images, index).mean((-3, -2))).trace(images, index).lower().compile()
print(images.shape[0], program.cost_analysis()["bytes accessed"] / 1e6, program.memory_analysis().temp_size_in_bytes)
"""


def test_taking_some_images_does_not_read_them_all_on_a_tpu():
    """512 of CIFAR-10's 50,000, 154 MB: kept as [M, H, W, C] they took 909 MB of traffic and 614 of memory."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    done = subprocess.run([sys.executable, "-c", TAKING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, moved, kept = map(float, done.stdout.split())
    assert count == 50_000 and moved < 80 and kept < 1e6


PIECES = """
import jax, jax.numpy as jnp
from ssl_jax import dist
from ssl_jax.plan import chips
from ssl_jax.augment import patches
from ssl_jax.methods.pretext.colorization import Colorization
place = jax.sharding.SingleDeviceSharding(chips.find_devices("v5e:1x1")[0])

def moved(function, *shapes):
    given = [jax.ShapeDtypeStruct(shape, kind, sharding=place) for shape, kind in shapes]
    program = jax.jit(function).trace(*given).lower(lowering_platforms=("tpu",)).compile()
    print(program.cost_analysis()["bytes accessed"])

def puzzle(keys, images):
    cells = patches.grid(images, 10, 10)
    return patches.cut(jax.random.wrap_key_data(keys), cells, 8).mean((2, 3))

class Colours(Colorization):  # whose parameters are the network's answer
    def _predict(self, params, stats, images, train):
        return images, images, params, stats

def colours(logits, images):
    state = {"stats": {}, "prior": jnp.zeros(313), "batches": jnp.zeros(())}
    def loss(logits, images):
        return Colours(None).loss(logits, state, {"view": images}, rng=None, step=0, info=None)[0]
    replicas = jax.vmap(loss, axis_name=dist.AXIS)
    return jax.value_and_grad(lambda x: replicas(x[None], images[None]).mean())(logits)

moved(puzzle, ((64, 2), jnp.uint32), ((64, 30, 30, 3), jnp.float32))
moved(colours, ((64, 8, 8, 313), jnp.float32), ((64, 32, 32, 3), jnp.float32))
"""


def test_patches_and_colours_are_not_fetched_one_by_one_on_a_tpu():
    """By indices the former moved 681 MB and the latter, colorization's loss, 2,753."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    done = subprocess.run([sys.executable, "-c", PIECES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    puzzle, colours = map(float, done.stdout.split())
    assert puzzle < 100e6 and colours < 250e6


@pytest.mark.fast
def test_a_program_that_cannot_be_read_still_has_a_plan(caplog):
    with caplog.at_level(logging.WARNING, "ssl_jax"):
        assert plan._main_memory("ENTRY %main () -> f32[] {\n  %y = f32[] sine(%x)\n}\n", {"bytes accessed": 8.0}) == 8
    assert "cannot be read off" in caplog.text
    assert math.isnan(plan._main_memory("", {}))
