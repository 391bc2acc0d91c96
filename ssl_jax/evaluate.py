"""Measures what a pretrained backbone is worth: `python -m ssl_jax.evaluate --workdir=runs/a`.

Reads the newest checkpoint of a finished or a running run, extracts the features of its data set (or of another,
--data) once, from the trained backbone and from the same one untrained, and prints and stores a table for each
protocol. Results go to results.json in the workdir, under flat names such as knn/top1 and knn/top1_untrained; features
are kept in its folder features/. Numbers of neighbours, epochs and draws are those of the run's config.eval, or of
--config.eval.FIELD=VALUE, as --config.eval.knn_k=20. On several machines it is started on each of them, like
ssl_jax.main; the first one prints and writes.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
import re
import sys
import time
from types import MappingProxyType
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from ssl_jax.evals import context, external
from ssl_jax.evals.cache import FeatureCache, fingerprint
from ssl_jax.evals.context import Features, Images, Network, Subject
from ssl_jax.evals.features import spread
from ssl_jax.evals.protocols import DEFAULT, LARGE, PROTOCOLS
from ssl_jax.evals.table import table
from ssl_jax.metrics import health
from ssl_jax.run import Run, prepare
from ssl_jax.runtime import compile_cache, malloc, processes
from ssl_jax.runtime.errors import UserError, explained, nearest
from ssl_jax.state import TrainState
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.config import load as load_config
from ssl_jax.workdir.log import speak_plainly
from ssl_jax.workdir.results import Results, versions


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
    workdir: str,
    evals: Sequence[str] | None = None,
    *,
    backbone: str | None = None,
    source: str | None = None,
    path: str | None = None,
    classes: Sequence[int] = (),
    supervised: str | None = None,
    tune_epochs: int | None = None,
    frozen: Sequence[int] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Evaluates a run, prints the tables and stores the results in `workdir/results.json`.

    Results of other protocols that are stored already stay if they are of the same weights and data; otherwise the
    file is set aside under another name first, and comes back when the same are evaluated again.

    Args:
      workdir: of the run; with `backbone`, a folder for the results, made if absent.
      evals: names of `protocols.PROTOCOLS`; None: all but fine-tuning that suit the data set. What turns out not to
        apply to it is then skipped with a line, where a name would raise.
      backbone: a file with a backbone, to evaluate instead of a run.
      source: another data set to evaluate on, as `config.data.source`.
      path: where to look for it or for the run's own, as `config.data.path`.
      classes: labels to evaluate on; (): all.
      supervised: workdir of a run of the method supervised, to compare with.
      tune_epochs: of fine-tuning, for each share of the labels; None: `fine_tune.EPOCHS`.
      frozen: numbers of stages that fine-tuning copies, frozen and tuned (Yosinski et al. 2014).
      settings: fields of `config.eval` and their values, where they shall not be those of the run.

    Returns:
      what was stored.

    Raises:
      UserError: for a workdir without a run or a checkpoint, an unknown evaluation, or data without what it needs.
    """
    _check(evals or (), tune_epochs, frozen)
    began = time.time()
    if backbone is None:
        config = load_config(workdir)
        if path is not None and source is None:
            config.data.path = path
        run = prepare(_with_settings(config, settings))
        ts = restore(run, workdir)
    else:
        run, ts = _from_file(backbone, workdir, evals or (), source, path)
        _with_settings(run.config, settings)
        source = None
    other = None if supervised is None else _yardstick(supervised, run)
    images = context.load_images(run, source, path)
    counts = [len(split.images) for split in images]
    named = evals is not None
    if evals is None:
        evals = _default(backbone, images)
    name = images[0].name + (f", classes {','.join(map(str, classes))}" if classes else "")
    if classes or any("labels" in PROTOCOLS[name].needs for name in evals):
        images = context.with_labels(images, classes)
    network = fingerprint(run.method.variables(ts.params, ts.state))
    results = Results(workdir, int(ts.step), name, run.train.name, network, counts)
    # All images of all stages would be twice what the last one takes, and the probe of each stage alone asks for them.
    crowded = len(images[0].images) > LARGE and "layers" not in evals
    what = context.prepare(
        run,
        ts,
        images,
        cache=FeatureCache(workdir),
        few=run.config.run.eval_images if crowded else None,
        supervised=other,
        tune_epochs=tune_epochs,
        frozen=frozen,
    )
    # Always there: they cost next to nothing.
    results.add(health.summary(spread(what.features.pretrained[0], run.config.run.eval_images)))
    results.add({"seconds/extraction": time.time() - began, **_circumstances(run, ts)})
    for name in evals:
        try:
            _measure(name, what, results)
        except UserError as error:
            if named:
                raise
            print(f"{name}: skipped, {error}")
    _conclude(run, results)
    results.add({"evaluation_seconds": time.time() - began})
    print(f"Results are in {results.path}.")
    return results.values


def _check(evals: Sequence[str], tune_epochs: int | None, frozen: Sequence[int]) -> None:
    for name in evals:
        if name not in PROTOCOLS:
            raise UserError(f"There is no evaluation '{name}'. {nearest(name, PROTOCOLS)}")
    if (frozen or tune_epochs is not None) and "fine_tune" not in evals:
        raise UserError("--frozen and --fine_tune_epochs are about fine-tuning: add fine_tune to --evals.")
    if tune_epochs is not None and tune_epochs < 1:
        raise UserError(f"--fine_tune_epochs is {tune_epochs}: make it at least 1.")


def _with_settings(config: ConfigDict, settings: Mapping[str, str]) -> ConfigDict:
    """The config with some fields of `config.eval` changed, in place."""
    for name, text in settings.items():
        if name not in config.eval:
            raise UserError(f"There is no field config.eval.{name}. {nearest(name, config.eval.keys())}")
        try:
            config.eval[name] = type(config.eval[name])(text)
        except ValueError as error:
            raise UserError(f"config.eval.{name} is '{text}': give it a number like {config.eval[name]}.") from error
    return config


def _from_file(
    backbone: str, workdir: str, evals: Sequence[str], source: str | None, path: str | None
) -> tuple[Run, TrainState]:
    """A backbone without its run, and a folder for what is found out about it."""
    if source is None:
        raise UserError("--backbone needs the data set to evaluate on: add --data.")
    if "pretext" in evals:
        raise UserError(
            "pretext is about a run's own task, and a backbone in a file has none: leave it out of --evals."
        )
    folder = epath.Path(workdir)
    if (folder / "config.json").exists():
        raise UserError(f"{workdir} is a run's own folder: choose another --workdir for the results of --backbone.")
    network = external.load(backbone, source, path)
    folder.mkdir(parents=True, exist_ok=True)
    return network.run, network.ts


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


def _circumstances(run: Run, ts: TrainState) -> dict[str, Any]:
    return {
        "epoch": int(ts.step) / run.info.steps_per_epoch,
        "seed": run.config.seed,
        "config": run.config.to_dict(),
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _measure(name: str, what: Subject, results: Results) -> None:
    """Runs one protocol, stores what it found and prints it."""
    protocol = PROTOCOLS[name]
    began = time.time()
    values = protocol.measure(what)
    results.add(values | {f"seconds/{name}": time.time() - began})
    if protocol.title and values:
        print(table(protocol.title, values, protocol.percent), end="\n\n")


def _conclude(run: Run, results: Results) -> None:
    """Says what is wrong with the run, if anything is."""
    values = results.values
    chance = run.method.chance(run.info)
    if "pretext/loss" in values and chance is not None:
        values = values | {"loss": values["pretext/loss"], "chance": chance, "best": run.method.best(run.info)}
    if trouble := health.diagnose(values):
        print(trouble)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ssl_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Callable[..., Any] = parser.add_argument
    add("--workdir", required=True, help="folder of the run; with --backbone, where the results go")
    add("--backbone", help="evaluate this file of ssl_jax.export instead of a run, on --data")
    add("--evals", help=f"some of {','.join(PROTOCOLS)} (default: all but fine_tune, and on large data but L-BFGS)")
    add("--data", help="evaluate on this data set: digits, cifar10, folder:PATH, tfds:NAME ... (default: the run's)")
    add("--data_path", help="where to look for it or for the run's own, as config.data.path")
    add("--classes", type=_numbers, default=(), help="evaluate on these classes alone, for example 5,6,7,8,9")
    add("--supervised", help="folder of a run of the method supervised, to compare with")
    add("--fine_tune_epochs", type=int, help="passes over the labelled images (default: few; see evals/fine_tune.py)")
    add("--frozen", type=_numbers, default=(), help="fine-tune behind so many copied stages as well, for example 1,2,3")
    return parser


def _default(backbone: str | None, images: Images) -> tuple[str, ...]:
    """What is measured unasked of a run, or of a backbone in a file, on some images."""
    names = [name for name in DEFAULT if backbone is None or name != "pretext"]
    if lacking := context.lacking(images):
        names = [name for name in names if not PROTOCOLS[name].needs & lacking]
        print(f"{images[0].name} lacks {' and '.join(sorted(lacking))}: only {', '.join(names)} can be measured.")
    count = len(images[0].images)
    if count > LARGE and (left := [name for name in names if not PROTOCOLS[name].large]):
        print(f"{', '.join(left)} would take hours on {count} training images: ask for them with --evals.")
        names = [name for name in names if name not in left]
    return tuple(names)


def _settings(flags: Sequence[str]) -> dict[str, str]:
    """What flags of the form --config.eval.FIELD=VALUE say."""
    found = {}
    for flag in flags:
        match = re.fullmatch(r"--config\.eval\.(\w+)=(.+)", flag)
        if match is None:
            raise UserError(
                f"{flag} means nothing to ssl_jax.evaluate: see --help; of the config, only --config.eval.FIELD=VALUE "
                "may differ from the run's."
            )
        found[match[1]] = match[2]
    return found


@explained
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    args, flags = _parser().parse_known_args(argv)
    settings = _settings(flags)
    processes.start()
    if not processes.first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the end of the process)
    evaluate(
        args.workdir,
        tuple(args.evals.split(",")) if args.evals else None,
        backbone=args.backbone,
        source=args.data,
        path=args.data_path,
        classes=args.classes,
        supervised=args.supervised,
        tune_epochs=args.fine_tune_epochs,
        frozen=args.frozen,
        settings=settings,
    )
    return 0


if __name__ == "__main__":
    malloc.keep()
    compile_cache.keep()
    processes.run(lambda argv: main(argv[1:]))
