"""Evaluates a run, or a backbone in a file: restores it, extracts its features once, and measures."""

from collections.abc import Mapping, Sequence
import dataclasses
import time
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from ssl_jax.evals import context, external, pictures
from ssl_jax.evals.cache import FeatureCache
from ssl_jax.evals.context import Context, Features, Images, Network
from ssl_jax.evals.find import LARGE, evaluations, find, options
from ssl_jax.evals.table import table
from ssl_jax.metrics import health
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.run import Run, prepare
from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError, nearest
from ssl_jax.state import TrainState
from ssl_jax.weights import dense_head
from ssl_jax.workdir import images as stored_images
from ssl_jax.workdir import lock, trackers
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.config import load as load_config
from ssl_jax.workdir.fingerprint import fingerprint
from ssl_jax.workdir.results import Results, versions


@dataclasses.dataclass(frozen=True)
class On:
    """What is evaluated, and on which images."""

    backbone: str | None = None  # a file with a backbone, to evaluate instead of a run
    source: str | None = None  # another data set, as `config.data.source`; None: the run's own
    path: str | None = None  # where to look for it or for the run's own, as `config.data.path`
    classes: tuple[int, ...] = ()  # labels to evaluate on; (): all
    supervised: str | None = None  # workdir of a run of the method supervised, to compare with


@dataclasses.dataclass(frozen=True)
class Settings:
    """How it is evaluated."""

    tune_epochs: int | None = None  # of fine-tuning, for each share of the labels; None: `fine_tune.EPOCHS`
    frozen: tuple[int, ...] = ()  # numbers of stages that fine-tuning copies, frozen and tuned (Yosinski et al. 2014)
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of `config.eval`, not the run's


def restore(run: Run, workdir: str) -> TrainState:
    """Restores the newest checkpoint of a run, leaving its files as they are.

    Raises:
      UserError: if there is none that can be read.
    """
    checkpoints = Checkpoints(workdir)
    try:
        found = checkpoints.restore(run.shapes)
    finally:
        checkpoints.close()
    if found is None:
        raise UserError(f"There is no checkpoint in {workdir}/checkpoints: let the run write one first.")
    return found[1]


def extract(run: Run, ts: TrainState, images: Images | None = None) -> Features:
    """Extracts all representations of training and test images, without a cache.

    Args:
      run: from `run.prepare`.
      ts: its state.
      images: what to extract them of; None for the run's own labelled images.

    Raises:
      UserError: if the run's own images are asked for, and have no labels or no test split.
    """
    images = context.with_labels(context.load_images(run)) if images is None else images
    return context.prepare(run, ts, images).features


def evaluate(
    workdir: str, evals: Sequence[str] | None = None, on: On = On(), settings: Settings = Settings()
) -> dict[str, Any]:
    """Evaluates a run, prints the tables and stores the results in `workdir/results.json`.

    Results of other evaluations that are stored already stay if they are of the same weights and data; otherwise the
    file is set aside under another name first, and comes back when the same are evaluated again.

    Args:
      workdir: of the run; with `on.backbone`, a folder for the results, made if absent.
      evals: names of evaluations, files of ssl_jax/evals; None: all but fine-tuning that suit the data set. What turns
        out not to apply to it is then skipped with a line, where a name would raise.
      on: what is evaluated, and on which images.
      settings: how.

    Returns:
      what was stored.

    Raises:
      UserError: for a workdir without a run or a checkpoint, an unknown evaluation, or data without what it needs.
    """
    _check(evals or (), settings)
    began = time.time()
    network, images = _loaded(workdir, evals or (), on, settings)
    with lock.held(workdir, "evaluate"):
        return _evaluate(workdir, network, images, evals, on, settings, began)


def _evaluate(
    workdir: str,
    network: Network,
    images: Images,
    evals: Sequence[str] | None,
    on: On,
    settings: Settings,
    began: float,
) -> dict[str, Any]:
    """Measures what was loaded, from the time `began`."""
    run, ts = network.run, network.ts
    supervised = None if on.supervised is None else _yardstick(on.supervised, run)
    names = _default(on, images) if evals is None else tuple(evals)
    data = images[0].name + (f", classes {','.join(map(str, on.classes))}" if on.classes else "")
    counts = [len(split.images) for split in images]
    measured_on = f"{counts[1]} {'held-out' if images[1].held_out else 'test'} images of {images[0].name}"
    if images[1].held_out:
        print(f"Measured on {measured_on}, which comes without test images.")
    if on.classes or any("labels" in find(name).NEEDS for name in names):
        images = context.with_labels(images, on.classes)
    results = Results(workdir, int(ts.step), data, run.train.name, fingerprint(network.variables), counts)
    with progress.of("features"):
        what = _context(network, images, names, FeatureCache(workdir), supervised, settings)
    if what.features.pretrained[0].size:  # wherever there are features: they cost next to nothing
        results.add(health.summary(evenly_spaced(what.features.pretrained[0], run.config.run.eval_images)))
    results.add({"seconds/extraction": time.time() - began, "measured_on": measured_on, **_circumstances(run, ts)})
    for number, name in enumerate(names, 1):
        try:
            with progress.of(f"{name} ({number} of {len(names)})"):
                _measure(name, what, results, workdir)
        except UserError as error:
            if evals is not None:
                raise
            print(f"{name}: skipped, {error}")
    _conclude(run, results)
    results.add({"evaluation_seconds": time.time() - began})
    if on == On(path=on.path, supervised=on.supervised):  # a tracker's run is of its own network and data
        trackers.conclude(workdir, run.config, results.values)
    print(f"Results are in {results.path}. Next: ssl_jax report {workdir}")
    return results.values


def _context(
    network: Network,
    images: Images,
    names: Sequence[str],
    cache: FeatureCache,
    supervised: Network | None,
    settings: Settings,
) -> Context:
    """What the evaluations of these names are given."""
    # All images of all stages would be twice what the last one takes, and the probe of each stage alone asks for them.
    crowded = len(images[0].images) > LARGE and "layers" not in names
    return context.prepare(
        network.run,
        network.ts,
        images,
        cache=cache,
        few=network.run.config.run.eval_images if crowded else None,
        extracted=any(getattr(find(name), "FEATURES", True) for name in names),
        supervised=supervised,
        tune_epochs=settings.tune_epochs,
        frozen=settings.frozen,
    )


def _check(evals: Sequence[str], settings: Settings) -> None:
    for name in evals:
        find(name)
    epochs = settings.tune_epochs
    if (settings.frozen or epochs is not None) and "fine_tune" not in evals:
        raise UserError("--frozen and --fine_tune_epochs are about fine-tuning: add fine_tune to --evals.")
    if epochs is not None and epochs < 1:
        raise UserError(f"--fine_tune_epochs is {epochs}: make it at least 1.")


def _loaded(workdir: str, evals: Sequence[str], on: On, settings: Settings) -> tuple[Network, Images]:
    """What is evaluated, and the images that it is evaluated on."""
    if on.backbone is not None:
        network = _from_file(on.backbone, workdir, evals, on)
        _with_settings(network.run.config, settings.fields)
        return network, context.load_images(network.run)
    config = load_config(workdir)
    if on.path is not None and on.source is None:
        config.data.path = on.path
    run = prepare(_with_settings(config, settings.fields))
    stored_images.check(workdir, run.images, run.info.steps_per_epoch)
    return Network(run, restore(run, workdir)), context.load_images(run, on.source, on.path)


def _with_settings(config: ConfigDict, fields: Mapping[str, str]) -> ConfigDict:
    """The config with the evaluations' own options in `config.eval`, and some fields of it changed, in place."""
    with config.unlocked():
        config.eval.update({name: value for name, value in options().items() if name not in config.eval})
    for name, text in fields.items():
        if name not in config.eval:
            raise UserError(f"There is no field config.eval.{name}. {nearest(name, config.eval.keys())}")
        try:
            config.eval[name] = type(config.eval[name])(text)
        except ValueError as error:
            raise UserError(f"config.eval.{name} is '{text}': give it a number like {config.eval[name]}.") from error
    return config


def _from_file(backbone: str, workdir: str, evals: Sequence[str], on: On) -> Network:
    """A backbone without its run, and a folder for what is found out about it."""
    if on.source is None:
        raise UserError("--backbone needs the data set to evaluate on: add --data.")
    if "pretext" in evals:
        raise UserError(
            "pretext is about a run's own task, and a backbone in a file has none: leave it out of --evals."
        )
    folder = epath.Path(workdir)
    if (folder / "config.json").exists():
        raise UserError(f"{workdir} is a run's own folder: choose another --workdir for the results of --backbone.")
    network = external.load(backbone, on.source, on.path)
    folder.mkdir(parents=True, exist_ok=True)
    return network


def _yardstick(workdir: str, run: Run) -> Network:
    """The supervised run to compare with."""
    config = load_config(workdir)
    if config.method.name != "supervised":
        raise UserError(
            f"--supervised names {workdir}, a run of {config.method.name}: give it a run of the method supervised."
        )
    other = prepare(config)
    channels = [r.train.image_shape[-1] for r in (run, other)]
    if channels[0] != channels[1]:
        raise UserError(
            f"--supervised names {workdir}, whose images have {channels[1]} channel(s), and this run's {channels[0]}: "
            "train it on the same images."
        )
    ts = restore(other, workdir)
    seen = [f"{r.config.epochs} epochs of {r.info.num_examples} images" for r in (run, other)]
    print(f"The supervised run has {seen[1]}, this one {seen[0]}.")
    return Network(other, ts)


def _default(on: On, images: Images) -> tuple[str, ...]:
    """What is measured unasked of a run, or of a backbone in a file, on some images."""
    names = [name for name, module in evaluations().items() if module.DEFAULT]
    names = [name for name in names if on.backbone is None or name != "pretext"]
    lacking = context.lacking(images)
    if missing := [name for name in ("labels", "test images") if name in lacking]:
        names = [name for name in names if not find(name).NEEDS & lacking]
        print(f"{images[0].name} lacks {' and '.join(missing)}: only {', '.join(names)} can be measured.")
    names = [name for name in names if not find(name).NEEDS & lacking]
    count = len(images[0].images)
    if count > LARGE and (left := [name for name in names if not find(name).LARGE]):
        print(f"{', '.join(left)} would take hours on {count} training images: ask for them with --evals.")
        names = [name for name in names if name not in left]
    return tuple(names)


def _circumstances(run: Run, ts: TrainState) -> dict[str, Any]:
    return {
        "epoch": int(ts.step) / run.info.steps_per_epoch,
        "seed": run.config.seed,
        "config": run.config.to_dict(),
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _measure(name: str, what: Context, results: Results, workdir: str) -> None:
    """Measures, stores what was found and prints it."""
    evaluation, began = find(name), time.time()
    what = dataclasses.replace(what, pictures=[], heads=[])
    found = evaluation.measure(what)
    results.record(found, **{f"seconds/{name}": time.time() - began})
    if file := pictures.store(workdir, name, results.key, what.pictures):
        results.add({"pictures": results.values.get("pictures", {}) | {name: file}})
    if what.heads:
        files = dense_head.store(workdir, results.key, what.heads)
        results.add({dense_head.FOLDER: results.values.get(dense_head.FOLDER, {}) | files})
    if evaluation.TITLE and found:
        print(table(evaluation.TITLE, found), end="\n\n")


def _conclude(run: Run, results: Results) -> None:
    """Says what is wrong with the run, if anything is; without features nothing can be said."""
    if "rankme" not in (values := results.values):
        return
    chance = run.method.chance(run.info)
    if "pretext/loss" in values and chance is not None:
        values = values | {"loss": values["pretext/loss"], "chance": chance, "best": run.method.best(run.info)}
    if trouble := health.diagnose(values):
        print(trouble)
