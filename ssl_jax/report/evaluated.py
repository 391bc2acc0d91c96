"""What evaluations found besides single numbers: pictures, the curve of verification, tasks in sequence."""

import re

from etils import epath
import numpy as np

from ssl_jax.evals import pictures
from ssl_jax.report import draw, page
from ssl_jax.report.page import Absent
from ssl_jax.report.runs import Files
from ssl_jax.workdir import words
from ssl_jax.workdir.results import numbers

_ROC = re.compile(r"verification/roc/([\d.e-]+)")
_TASK = re.compile(r"forgetting/after_(\d+)/task_(\d+)")


def shown(run: Files) -> str:
    """The pictures that the evaluations of a run left in its workdir.

    Raises:
      Absent: there are none.
    """
    parts = []
    for name, file in run.results.get("pictures", {}).items():
        found = pictures.load(epath.Path(run.workdir) / file)
        if found is None:
            parts.append(page.note(f"The pictures of {name} are gone: run ssl_jax evaluate --evals={name}."))
        parts += map(page.picture, found or ())
    if not parts:
        raise Absent("No evaluation has left pictures: run ssl_jax evaluate on the same workdir.")
    return "".join(parts)


def verification(runs: list[Files]) -> str:
    """The receiver operating characteristic (ROC) of verification, on a logarithmic axis.

    Raises:
      Absent: no run was evaluated on pairs.
    """
    figure, axes = draw.axes("false accept rate (pairs of two classes)", "true accept rate, %", (7, 4))
    ends, told, baselines = [], {}, set()
    for number, run in enumerate(runs):
        lines: dict[str, list[tuple[float, float]]] = {}
        for r in numbers(run.results):
            if match := _ROC.fullmatch(r.measure):
                lines.setdefault(r.of, []).append((float(match[1]), 100 * r.value))
        for of, points in lines.items():
            if of != "pretrained" and of in baselines:
                continue
            baselines.add(of)
            x, y = zip(*sorted(points), strict=True)
            style = (draw.look(number) if of == "pretrained" else draw.baseline(of)).style
            name = run.name if of == "pretrained" and len(runs) > 1 else of
            told[name] = axes.plot(x, y, marker="o", markersize=3, **style)[0]
            ends.append((x[-1], y[-1], name, style["color"]))
    if not told:
        raise Absent("Verification was not measured: run ssl_jax evaluate --evals=verification.")
    axes.set_xscale("log")
    axes.set_xticks((1e-3, 1e-2, 1e-1), ("0.1 %", "1 %", "10 %"))
    draw.name_ends(axes, ends)
    return page.charts([draw.chart(figure, "Verification: pairs accepted against the false accept rate", told)])


def tasks(run: Files) -> str:
    """The accuracy on each task after each of a sequence, as a table whose cells are shaded.

    Raises:
      Absent: the run has no tasks in sequence.
    """
    cells = {
        (int(match[1]), int(match[2])): 100 * r.value
        for r in numbers(run.results)
        if r.of == "pretrained" and (match := _TASK.fullmatch(r.measure))
    }
    if not cells:
        raise Absent("The run has no sequence of tasks, or ssl_jax evaluate --evals=forgetting was not run.")
    count = 1 + max(i for i, _ in cells)
    matrix = np.array([[cells[i, j] for j in range(count)] for i in range(count)])
    low, high = matrix.min(), max(matrix.max(), matrix.min() + 1)

    def cell(i: int, j: int) -> str:
        share = (matrix[i, j] - low) / (high - low)
        shade = f"background:color-mix(in srgb, {draw.COLOURS[0]} {60 * share:.0f}%, transparent)"
        return f'<td style="{shade}">{matrix[i, j]:.1f}</td>'

    head = "<tr><th>after</th>" + "".join(f"<th>task {j + 1}</th>" for j in range(count)) + "</tr>"
    rows = "".join(
        f"<tr><th>task {i + 1}</th>" + "".join(cell(i, j) for j in range(count)) + "</tr>" for i in range(count)
    )
    text = "Accuracy in % on the test images of each task, after each task. Right of the diagonal: tasks to come."
    return page.note(f"{words.group('forgetting')}. {text}") + f'<div class="scroll"><table>{head}{rows}</table></div>'
