"""Draws runs as one self-contained HTML page: `ssl_jax report runs/a [runs/b ...]`.

Numbers over time, results and configs are of all runs together; pictures (views, neighbours, maps, filters) are of
the first one. The page is written to report.html in the first workdir. It opens from disk without a network, and what
cannot be shown says why. A run that is still going on is drawn as far as it has come.
"""

import argparse
import functools
import html
import pathlib
import sys

from etils import epath

from ssl_jax import command_line
from ssl_jax.report import bars, curves, evaluated, maps, neighbours, network, page, runs, summary, tables
from ssl_jax.report.page import Absent, Empty, Section
from ssl_jax.runtime import modules
from ssl_jax.runtime.errors import UserError, explained
from ssl_jax.runtime.files import write
from ssl_jax.workdir.log import speak_plainly


def report(*workdirs: str, image: int = 0) -> epath.Path:
    """Writes `report.html` into the first workdir and returns its path.

    Args:
      *workdirs: of the runs, at least one.
      image: the test image whose feature maps are drawn.

    Raises:
      UserError: if a workdir holds no run.
    """
    files = runs.read(list(workdirs))
    first = _Pictures(files[0])
    path = epath.Path(workdirs[0]) / "report.html"
    text = page.page(_title(files), _lead(files), _sections(files, first, image), first.style())
    try:
        write(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make room, or the folder writable.") from error
    return path


def _sections(files: list[runs.Files], first: "_Pictures", image: int) -> list[Section]:
    """The parts of the page in their order: what is read first, then details, folded."""
    alone = len(files) == 1
    return [
        Section("Summary", lambda: summary.one(files[0]) if alone else summary.matrix(files, first.guess())),
        Section("Accuracy against labels", lambda: curves.over_labels(files, first.guess())),
        Section("Other evaluations", lambda: bars.others(files)),
        Section("Training", lambda: curves.training(files, first.chance() if alone else None)),
        Section("Differences between configs", lambda: tables.differences(files)),
        Section("What the network finds similar", first.similar),
        Section("Pictures of the evaluations", lambda: evaluated.shown(files[0])),
        Section("Verification", lambda: evaluated.verification(files)),
        Section("Tasks in sequence", lambda: evaluated.tasks(files[0])),
        Section("Views", lambda: network.views(first.network)),
        Section("What the pretext task looks like", lambda: network.pictures(first.network)),
        Section("All results", lambda: tables.results(files), folded=True),
        Section("Confusion matrix (kNN)", first.confusion, folded=True),
        Section("Further curves", lambda: curves.further(files), folded=True),
        Section("First filters", lambda: network.filters(first.network), folded=True),
        Section("Feature maps", lambda: network.feature_maps(first.network, image), folded=True),
        Section("Time and throughput", lambda: curves.pace(files), folded=True),
        Section("Records", lambda: tables.records(files), folded=True),
    ]


class _Pictures:
    """The first run's network and features, made when first asked for; without them each section says why."""

    def __init__(self, files: runs.Files) -> None:
        self._files = files

    @functools.cached_property
    def _network(self) -> network.Network | str:
        try:
            return network.restored(self._files)
        except UserError as error:
            return str(error)

    @property
    def network(self) -> network.Network:
        if isinstance(self._network, str):
            raise Empty(self._network)
        return self._network

    @functools.cached_property
    def sample(self) -> neighbours.Sample:
        return neighbours.sample(self.network)

    def chance(self) -> float | None:
        if isinstance(self._network, str):
            return None
        return self._network.run.method.chance(self._network.run.info)

    def guess(self) -> float | None:
        """The accuracy of a guess among classes of one size, in %; None where there are no labels."""
        if isinstance(self._network, str) or not len(self._network.run.train.classes):
            return None
        return 100 / len(self._network.run.train.classes)

    def similar(self) -> str:
        """Neighbours and maps beside each other."""
        try:
            drawn = maps.maps(self.sample)
        except Empty as reason:
            drawn = page.note(str(reason))
        return page.beside(neighbours.nearest(self.sample), drawn)

    def confusion(self) -> str:
        if not self.network.run.test:
            raise Absent("The kNN is measured on test or held-out images, and there are none.")
        config = self._files.config.eval
        return neighbours.confusion(self.sample, config.knn_k, config.knn_temperature)

    def style(self) -> str:
        return "" if isinstance(self._network, str) else maps.style(self.sample)


def _title(files: list[runs.Files]) -> str:
    first = files[0].config
    if len(files) == 1:
        return f"{first.method.name} on {first.data.source}"
    methods = list(dict.fromkeys(run.config.method.name for run in files))
    sources = ", ".join(dict.fromkeys(run.config.data.source for run in files))
    what = f"{len(methods)} methods" if len(methods) > 1 else f"{len(files)} runs of {methods[0]}"
    return f"Comparison of {what} on {sources}"


def _lead(files: list[runs.Files]) -> str:
    if len(files) == 1:
        measured_on = files[0].results.get("measured_on")
        where = f" Measured on {measured_on}." if measured_on else ""
        return page.note(f"Backbone: {summary.about(files[0])}.{where}")
    told = [(run.name, f"{run.config.method.name} on {run.config.data.source}: {summary.about(run)}.") for run in files]
    listed = "".join(f"<p><b>{html.escape(name)}</b>: {html.escape(text)}</p>" for name, text in told)
    return page.folded(f"The {len(files)} runs", listed) + page.note(
        f"Views, neighbours, maps and filters are those of {files[0].name}."
    )


def _address(path: epath.Path) -> str:
    """What a browser opens."""
    return str(path) if "://" in str(path) else pathlib.Path(path).absolute().as_uri()


@explained
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    parser = argparse.ArgumentParser(
        prog="ssl_jax report",
        usage="ssl_jax report WORKDIR [WORKDIR ...] [--image=N]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="folder of the run, also as the first argument")
    parser.add_argument("others", nargs="*", metavar="OTHER_RUN", help="folders of runs to compare it with")
    parser.add_argument("--image", type=int, default=0, help="test image whose feature maps are drawn (default: 0)")
    args = parser.parse_args(command_line.with_names(sys.argv[1:] if argv is None else argv, "workdir"))
    print(f"The report is {_address(report(args.workdir, *args.others, image=args.image))}")
    return 0


modules.make_callable(__name__, report)
