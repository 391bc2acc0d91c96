"""The first thing on the page: of one run three numbers and a verdict, of several one table of methods and measures."""

import html
import math

import numpy as np

from ssl_jax.metrics import health
from ssl_jax.report import bars, page
from ssl_jax.report.page import Empty
from ssl_jax.report.runs import Files, Group, groups
from ssl_jax.workdir import words
from ssl_jax.workdir.results import Result, numbers

# The measures that are quoted, in this order.
QUOTED = ("knn/top1", "linear/top1", "linear_lbfgs/top1", "few_label/1", "few_label/5", "few_label/10", "few_label/all")
_HERO = ("knn/top1", "linear/top1", "linear_lbfgs/top1", "few_label/1")
_CLEAR = 0.02  # a gain that is no accident of one seed


def about(run: Files) -> str:
    """Network, length and seed of a run, in words."""
    config, last = run.config, run.entries[-1] if run.entries else {"step": 0, "epoch": 0}
    network = f"{config.model.name} of width {config.model.width}"
    return (
        f"{network}, {last['epoch']:.0f} of {config.epochs} epochs, "
        f"{last['step']} updates of {config.batch_size} images, seed {config.seed}"
    )


def one(run: Files) -> str:
    """Three numbers with their gain over the untrained backbone, and what they say.

    Raises:
      Empty: before the run was evaluated on labels.
    """
    found = values(run)
    measured = [name for name in _HERO if (name, "pretrained") in found] or bars.headlines([run])
    shown = [name for name in measured if (name, "untrained") in found]
    if "linear/top1" in shown and "linear_lbfgs/top1" in shown:
        shown.remove("linear_lbfgs/top1")
    if not shown:
        raise Empty(f"Not evaluated on labels: run ssl_jax evaluate {run.workdir}.")
    cards = "".join(_card(found, name) for name in shown[:3])
    light, told = state(run)
    mark = f'<p class="light {light}">{html.escape(told)}</p>' if told else ""
    return f'<div class="hero">{cards}</div><p class="verdict">{html.escape(verdict(found, shown))}</p>{mark}'


def _card(found: dict[tuple[str, str], Result], name: str) -> str:
    value, before = (found[name, of].value for of in ("pretrained", "untrained"))
    mark = "good" if value > before else "bad"
    return (
        f'<div><b>{100 * value:.1f} %</b><span title="{html.escape(words.of(name).definition)}">'
        f"{html.escape(_title(name))}</span>"
        f'<i class="{mark}">{100 * (value - before):+.1f} points over untrained ({100 * before:.1f} %)</i></div>'
    )


def verdict(found: dict[tuple[str, str], Result], shown: list[str]) -> str:
    """What the numbers say, in a sentence or two."""
    gains = {name: found[name, "pretrained"].value - found[name, "untrained"].value for name in shown}
    if all(gain > _CLEAR for gain in gains.values()):
        told = "Pretraining helps: every number is above the untrained backbone."
    elif all(gain < _CLEAR for gain in gains.values()):
        told = "Pretraining has not helped yet: no number is clearly above the untrained backbone."
    else:
        best, worst = (pick(gains, key=lambda name: gains[name]) for pick in (max, min))
        more, less = f"{100 * gains[best]:+.1f} points", f"{100 * gains[worst]:+.1f} points"
        told = f"Pretraining helps with {_within(best)} ({more}), but not with {_within(worst)} ({less})."
    pixels = [name for name in shown if (name, "pixels") in found]
    below = [n for n in pixels if found[n, "pixels"].value > found[n, "pretrained"].value]
    if below:
        told += f" Raw pixels are better with {' and '.join(map(_within, below))}."
    return told


def state(run: Files) -> tuple[str, str]:
    """Whether the features are healthy: 'good' or 'bad', and what is wrong with them; nothing before evaluation."""
    plain = {k: v for k, v in run.results.items() if isinstance(v, int | float)}
    if not {"feature_std", "feature_std_healthy", "rankme"} <= plain.keys():
        return "", ""
    trouble = health.diagnose(plain)
    return ("bad", trouble) if trouble else ("good", "The features have not collapsed.")


def _within(measure: str) -> str:
    """A measure's name within a sentence."""
    title = _title(measure)
    if words.of(measure).name == "accuracy":
        return f"the {title[0].lower()}{title[1:]}"
    return title if title.startswith("kNN") else title[0].lower() + title[1:]


def values(run: Files) -> dict[tuple[str, str], Result]:
    """The results of a run by measure and representation."""
    return {(r.measure, r.of): r for r in numbers(run.results)}


def matrix(runs: list[Files], guess: float | None = None) -> str:
    """A row a method with the quoted measures, means and standard deviations over seeds; the best in bold.

    Args:
      runs: of any methods and seeds.
      guess: the accuracy of an answer by chance, in %.

    Raises:
      Empty: if no run was evaluated on labels.
    """
    found = [[values(run) for run in group.runs] for group in groups(runs)]
    measures = [m for m in QUOTED if any((m, "pretrained") in v for of_group in found for v in of_group)]
    measures = measures or bars.headlines(runs)
    if not measures:
        raise Empty("No run was evaluated on labels: run ssl_jax evaluate on each.")
    first = groups(runs)[0].name
    baselines = [_row(f"{of} ({first})", found[0], measures, of) for of in ("pixels", "untrained")]
    if guess is not None and measures[0] in QUOTED:
        baselines.insert(0, ("chance", [(guess / 100, 0.0)] * len(measures)))
    rows = [_row(_named(g), v, measures, "pretrained") for g, v in zip(groups(runs), found, strict=True)]
    best = [np.nanmax([cells[i][0] for _, cells in rows]) for i in range(len(measures))]
    head = "".join(
        f'<th data-column="{i}" title="{html.escape(words.of(m).definition)}">'
        f"<button>{html.escape(_title(m))}</button></th>"
        for i, m in enumerate(["", *measures])
    )
    body = "".join(_line(name, cells, None) for name, cells in baselines if any(not math.isnan(v) for v, _ in cells))
    body += "".join(_line(name, cells, best) for name, cells in rows)
    return f'<div class="scroll"><table class="matrix"><tr>{head}</tr>{body}</table></div>' + page.note(
        "Measured on test or held-out images, in %. The best of each column is bold. ± is the standard deviation over "
        "seeds. A heading sorts by its column."
    )


def _named(group: Group) -> str:
    return group.name + (f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else "")


def _title(measure: str) -> str:
    if not measure:
        return "run"
    told, group = words.of(measure), measure.partition("/")[0]
    if told.name != "accuracy":
        return told.name
    return words.group(group).split(" (")[0] if group == "linear" else words.group(group)


def _row(
    name: str, found: list[dict[tuple[str, str], Result]], measures: list[str], of: str
) -> tuple[str, list[tuple[float, float]]]:
    """A row's name, and mean and standard deviation of each measure."""
    cells = []
    for measure in measures:
        numbers = [v[measure, of].value for v in found if (measure, of) in v]
        spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
        cells.append((float(np.mean(numbers)) if numbers else math.nan, spread))
    return name, cells


def _line(name: str, cells: list[tuple[float, float]], best: list[float] | None) -> str:
    parts = [f"<td>{html.escape(name)}</td>"]
    for i, (value, spread) in enumerate(cells):
        text = "" if math.isnan(value) else f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if spread else "")
        bold = best is not None and value == best[i]
        parts.append(f'<td data-value="{value}">{f"<b>{text}</b>" if bold else text}</td>')
    return f"<tr{'' if best else ' class=baseline'}>{''.join(parts)}</tr>"
