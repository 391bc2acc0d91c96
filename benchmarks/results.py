"""What have all recorded runs reached?

`python benchmarks/results.py` writes docs/results.md and the table in README.md.

The records are docs/cifar_small.jsonl, a line a measurement of `benchmarks/cifar_small.py`, docs/runs.jsonl, a line a
run that was made by hand, and docs/office_caltech.jsonl, a line a pair of domains of `benchmarks/office_caltech.py`.
What stands between the tables is docs/results_text.md, in parts with the names below.
"""

import json
import pathlib
import re
import sys
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ssl_jax.workdir import results as stored
from ssl_jax.workdir import words

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROWS, RUNS = ROOT / "docs" / "cifar_small.jsonl", ROOT / "docs" / "runs.jsonl"
OFFICE = ROOT / "docs" / "office_caltech.jsonl"
TEXT, PAGE, README = ROOT / "docs" / "results_text.md", ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- python benchmarks/results.py writes from here -->\n", "<!-- to here -->\n"
GLANCE = ("simclr", "byol", "swav", "mocov2", "dino", "barlow_twins", "mae", "rotation", "colorization")
TASKS = {
    "context_prediction": "relative position",
    "rotation": "rotation",
    "colorization": "colorization",
    "exemplar": "exemplar",
}
TASK_COLUMNS = ("untrained", "pixels", "chance")
EPOCHS = ("0", "5", "10", "15", "20")

Row = dict[str, Any]


def rows(path: pathlib.Path = ROWS) -> list[Row]:
    """The lines of a file of records."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *lines))


def percent(results: Row, name: str, before: str | None = None) -> str:
    """A share in %, with that of the untrained backbone in brackets."""
    return f"{100 * results[name]:.1f}" + (f" ({100 * results[before]:.1f})" if before else "")


def few(results: Row, count: int) -> str:
    """Accuracy with so many labels per class, as `percent`."""
    return percent(results, f"few_label/{count}/pretrained", f"few_label/{count}/untrained")


def named(row: Row) -> str:
    """A row's method, with what its flags change."""
    return ", ".join([row["method"], *row["flags"]])


def ordered(found: list[Row]) -> list[Row]:
    """Rows by epoch, method and seed."""
    return sorted(found, key=lambda row: (row["epoch"], row["method"], row["seed"], row["flags"]))


def accuracy(found: list[Row]) -> str:
    """kNN, last stage and few labels of all rows, raw pixels first."""
    head = ["method", "epochs", "seed", "kNN", "linear", "1 label", "10 labels", "minutes"]
    r = found[0]["results"]
    pixels = [percent(r, name) for name in ("knn/top1_pixels", "few_label/1/pixels", "few_label/10/pixels")]
    lines = [["raw pixels", "", "", pixels[0], "", *pixels[1:], ""]]
    for row in ordered(found):
        r = row["results"]
        cells = [percent(r, name, f"{name}_untrained") for name in ("knn/top1", "layers/4/top1")]
        cells += [few(r, 1), few(r, 10)]
        lines.append([named(row), str(row["epoch"]), str(row["seed"]), *cells, str(row["minutes"])])
    return markdown(head, lines)


def stages(found: list[Row]) -> str:
    """The probe of each stage."""
    head = ["method", "epochs", "seed", *(f"stage {n}" for n in (1, 2, 3, 4))]
    lines = []
    for row in ordered(found):
        names = [f"layers/{n}/top1" for n in (1, 2, 3, 4)]
        cells = [percent(row["results"], name, f"{name}_untrained") for name in names]
        lines.append([named(row), str(row["epoch"]), str(row["seed"]), *cells])
    return markdown(head, lines)


def pretext(found: list[Row]) -> str:
    """Each method's own task, where an answer by chance is known."""
    lines = []
    for row in ordered(found):
        for name, value, untrained, chance in own_measures(row["results"]):
            cells = [f"{x:.3g}" for x in (value, untrained, chance)]
            gain = f"{10 * np.log10(chance / value):+.2f} dB" if name.endswith("_mse") else ""
            lines.append([named(row), str(row["epoch"]), str(row["seed"]), f"`{name}`", *cells, gain])
    return markdown(
        ["method", "epochs", "seed", "measure", "trained", "untrained", "chance", "over a mean fill"], lines
    )


def own_measures(results: Row) -> list[tuple[str, float, float, float]]:
    """Name, value, value of the untrained network and chance, of the measures of a method's own task."""
    found = {(r.measure, r.of): r for r in stored.numbers(results) if r.measure.startswith("pretext/")}
    return [
        (measure.removeprefix("pretext/"), r.value, found[measure, "untrained"].value, r.chance)
        for (measure, of), r in found.items()
        if of == "pretrained" and r.chance is not None and measure != "pretext/loss"
    ]


def trajectories(found: list[Row], runs: list[Row]) -> str:
    """KNN accuracy while training, of this package, of the reference and of lightly's own code."""
    lines = []
    for run in runs:
        if run["commit"] is None and "knn_top1" in run and set(EPOCHS) <= set(run["knn_top1"]):
            lines.append([run["config"], str(run["seed"]), *_curve(run["knn_top1"])])
    for row in ordered(found):
        if row["method"] in ("simclr", "byol") and row["epoch"] == 20 and not row["flags"]:
            lines.append([f"{row['method']}, this package", str(row["seed"]), *_curve(row["knn_online"])])
    return markdown(["run", "seed", "untrained", *(f"{n} epochs" for n in EPOCHS[1:])], lines)


def _curve(values: dict[str, float]) -> list[str]:
    return [f"{100 * values[epoch]:.1f}" for epoch in EPOCHS]


def together(found: list[Row]) -> str:
    """Several tasks on one backbone, compared with each alone for as many epochs in all."""
    lines = []
    for row in ordered(found):
        tasks = row["method"].removeprefix("multitask+").split("+")
        several = row["method"].startswith("multitask+")
        if row["flags"] or not (several or (tasks[0] in TASKS and row["epoch"] in (10, 15))):
            continue
        r = row["results"]
        cells = [percent(r, name) for name in ("knn/top1", "layers/4/top1")]
        cells += [percent(r, f"few_label/{count}/pretrained") for count in (1, 10)]
        lines.append([", ".join(TASKS[task] for task in tasks), str(row["epoch"]), *cells])
    return markdown(["tasks", "epochs", "kNN", "linear", "1 label", "10 labels"], lines)


def tries(runs: list[Row]) -> str:
    """Every run that was made by hand, with what it was."""
    lines = []
    for run in (run for run in runs if "knn_top1" in run):
        curve = ", ".join(f"{100 * value:.1f} ({epoch})" for epoch, value in run["knn_top1"].items())
        lines.append([run["config"].removeprefix("configs/"), str(run["seed"]), curve, run["note"]])
    return markdown(["run", "seed", "kNN, % (epoch)", "note"], lines)


def tasks(runs: list[Row]) -> str:
    """Runs on held-out data of some kind: a table a data set, with a row a config and a column a measure."""
    measured: dict[str, list[Row]] = {}
    for run in runs:
        if "results" in run:
            measured.setdefault(run["data"], []).append(run)
    return "\n".join(f"### {data}\n\n{_task_table(members)}" for data, members in measured.items())


def _task_table(runs: list[Row]) -> str:
    """What runs on one data set found: means over seeds, with their standard deviation or else a run's own interval."""
    names = list(dict.fromkeys(name for run in runs for name in run["results"]))
    lines = []
    for baseline in TASK_COLUMNS:
        cells = [_span(runs, name, baseline) for name in names]
        if any(cells):
            lines.append([baseline, "", "", *cells, ""])
    groups: dict[tuple[str, str], list[Row]] = {}
    for run in runs:
        groups.setdefault((run["config"], run["note"]), []).append(run)
    for (config, note), members in groups.items():
        seeds = ", ".join(str(run["seed"]) for run in members)
        minutes = f"{np.mean([run['minutes'] for run in members]):.2g}"
        config = config.removeprefix("--config=").replace(" --config.", " ")
        lines.append([f"`{config}`", seeds, minutes, *(_share(members, name) for name in names), note])
    head = ["run", "seeds", "minutes", *map(_heading, names), "note"]
    return markdown(head, lines)


def _span(runs: list[Row], name: str, baseline: str) -> str:
    """A baseline's share in %, from the least to the greatest where networks or draws differ."""
    found = [run["results"][name][baseline] for run in runs if baseline in run["results"].get(name, {})]
    return " to ".join(dict.fromkeys(f"{100 * value:.1f}" for value in (min(found), max(found)))) if found else ""


def _heading(name: str) -> str:
    """What a column's measure is called, with its group where the name alone does not tell."""
    told = words.of(name)
    return f"{words.group(name.split('/')[0])}: {told.title}" if told.name == "accuracy" else told.title


def _share(runs: list[Row], name: str) -> str:
    """A share in % and its spread."""
    found = [run["results"][name] for run in runs if name in run["results"]]
    values = [100 * x["value"] for x in found]
    if not values:
        return ""
    interval = 100 * found[0].get("interval", 0.0) if len(values) == 1 else np.std(values, ddof=1)
    return f"{np.mean(values):.1f}" + (f" ± {interval:.1f}" if interval else "")


def office() -> str:
    """Adaptation of fixed features on Office-Caltech10: one line a way of adapting, one column a pair of domains."""
    pairs = rows(OFFICE)
    head = ["way of adapting", *(f"{row['pair'][0]}→{row['pair'][1]}" for row in pairs), "mean"]
    lines = []
    for name in pairs[0]["accuracy"]:
        shares = [100 * row["accuracy"][name] for row in pairs]
        lines.append([f"`{name}`", *(f"{x:.1f}" for x in (*shares, np.mean(shares)))])
    return markdown(head, lines)


def glance(found: list[Row]) -> str:
    """The README's table: some methods after 20 epochs, with pixels and the untrained backbone."""
    chosen = {row["method"]: row for row in found if row["epoch"] == 20 and row["seed"] == 0 and not row["flags"]}
    r = chosen["simclr"]["results"]
    names = ("knn/top1", "few_label/1/", "few_label/10/", "few_label/all/")
    lines = [["raw pixels", percent(r, "knn/top1_pixels"), *(percent(r, f"{name}pixels") for name in names[1:])]]
    untrained = [percent(r, "knn/top1_untrained"), *(percent(r, f"{name}untrained") for name in names[1:])]
    lines.append(["untrained ResNet-18", *untrained])
    for method in GLANCE:
        r = chosen[method]["results"]
        lines.append([f"`{method}`", percent(r, "knn/top1"), *(percent(r, f"{name}pretrained") for name in names[1:])])
    return markdown(["", "kNN", "1 label per class", "10 labels per class", "all labels"], lines)


def page() -> str:
    """The whole page: the text, with the tables in the places that it names as {table}."""
    found, runs = rows(), rows(RUNS)
    tables = {
        "accuracy": accuracy(found),
        "stages": stages(found),
        "pretext": pretext(found),
        "trajectories": trajectories(found, runs),
        "together": together(found),
        "tasks": tasks(runs),
        "office": office(),
        "tries": tries(runs),
    }
    return re.sub(r"^\{(\w+)\}\n", lambda match: tables[match[1]], TEXT.read_text(), flags=re.M)


def readme() -> str:
    """The README with its table made anew."""
    before, rest = README.read_text().split(BEGIN)
    return before + BEGIN + glance(rows()) + END + rest.split(END)[1]


def write() -> None:
    """Writes the page and the README."""
    PAGE.write_text(page())
    README.write_text(readme())


if __name__ == "__main__":
    write()
