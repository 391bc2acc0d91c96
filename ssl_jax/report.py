"""Draws a run as one self-contained HTML page: `python -m ssl_jax.report --workdir=runs/a`.

The page holds curves of loss, online accuracy and health, accuracy against the number of labels, and the views as
the network sees them. It opens from disk without a network.
"""

import argparse
import base64
import html
import io
import json
import sys
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from ssl_jax import train
from ssl_jax.augment.view import render_batch
from ssl_jax.errors import UserError
from ssl_jax.evaluate import load_config
from ssl_jax.log import speak_plainly

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #ffffff; --line: #d7dce5; --soft: #5b6577; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --paper: #12161d; --line: #333b49; --soft: #9aa5b8; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, figcaption { color: var(--soft); } figure { margin: 1rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
.charts figure { margin: 0; }
img, svg { max-width: 100%; height: auto; } img.views { image-rendering: pixelated; width: 100%; }
.chart { background: #ffffff; border-radius: 6px; padding: 4px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
summary { cursor: pointer; font-weight: 600; margin-top: 2.2rem; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: .8rem; font-size: .85rem; }
"""
# The Okabe-Ito colours, which colour-blind readers can tell apart.
_COLOURS = {"pixels": "#999999", "pca": "#56B4E9", "untrained": "#E69F00", "pretrained": "#0072B2"}


def report(workdir: str) -> epath.Path:
    """Writes `report.html` into a workdir and returns its path.

    Raises:
      UserError: if the workdir holds no run.
    """
    config = load_config(workdir)
    folder = epath.Path(workdir)
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    stored = folder / "results.json"
    results = json.loads(stored.read_text()) if stored.exists() else {}
    run = train.prepare(config)
    sections = [_summary(config, entries, results), _tables(results), _curves(entries, run), _views(run)]
    sections.append(
        f"<details><summary>Config</summary><pre>{html.escape(json.dumps(config.to_dict(), indent=2))}</pre></details>"
    )
    title = html.escape(f"{config.method.name} on {config.data.source}")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{''.join(sections)}</body></html>\n"
    )
    path = folder / "report.html"
    path.write_text(page)
    return path


def _summary(config: Any, entries: list[dict[str, Any]], results: dict[str, Any]) -> str:
    last = entries[-1] if entries else {"step": 0, "epoch": 0}
    parts = [f"{last['step']} updates of {config.batch_size} images, {last['epoch']:.0f} of {config.epochs} epochs"]
    parts.append(f"{config.model.name} of width {config.model.width}")
    parts.append(f"seed {config.seed}")
    if results:
        parts.append(f"evaluated on {results['device']}")
    return f"<p>{html.escape('; '.join(parts))}.</p>"


def _tables(results: dict[str, Any]) -> str:
    if not results:
        return "<p>Not evaluated yet: run python -m ssl_jax.evaluate with the same --workdir.</p>"
    rows: list[tuple[str, ...]] = []
    for name, title in (("knn", "weighted kNN"), ("linear", "linear probe")):
        if f"{name}/top1" in results:
            rows.append(
                (
                    title,
                    f"{100 * results[f'{name}/top1_untrained']:.1f}",
                    f"{100 * results[f'{name}/top1']:.1f}",
                )
            )
    parts = []
    if rows:
        parts.append("<h2>Frozen features, test accuracy in %</h2>" + _table(("", "untrained", "pretrained"), rows))
    counts = [c for c in ("1", "5", "10", "all") if f"few_label/{c}/pretrained" in results]
    if counts:
        cells = [(c, *(_spread(results, f"few_label/{c}/{name}") for name in _COLOURS)) for c in counts]
        parts.append(
            "<h2>Few labels</h2><p>Test accuracy in % of logistic regression on so many labelled images a class, "
            f"mean ± standard deviation over {results['config']['eval']['draws']} draws.</p>"
        )
        parts.append(_table(("labels a class", *_COLOURS), cells))
        parts.append(_figure(_label_chart(results, counts), "Accuracy against labels"))
    return "".join(parts)


def _spread(results: dict[str, Any], name: str) -> str:
    std = results[f"{name}_std"]
    return f"{100 * results[name]:.1f}" + (f" ± {100 * std:.1f}" if std else "")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f'<div class="scroll"><table>{line(head, "th")}{"".join(line(r, "td") for r in rows)}</table></div>'


def _axes(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label_chart(results: dict[str, Any], counts: list[str]) -> Figure:
    figure, axes = _axes("", "labelled images a class", "test accuracy, %")
    for name, colour in _COLOURS.items():
        means = [100 * results[f"few_label/{c}/{name}"] for c in counts]
        spreads = [100 * results[f"few_label/{c}/{name}_std"] for c in counts]
        axes.errorbar(counts, means, spreads, label=name, color=colour, marker="o", capsize=3)
    axes.legend()
    return figure


def _curves(entries: list[dict[str, Any]], run: train.Run) -> str:
    charts = [
        ("Loss", ("loss",), ""),
        ("Accuracy while training", ("knn/top1", "probe_top1"), "share"),
        ("Spread of the features", ("feature_std", "feature_std_healthy"), "standard deviation"),
        ("Effective rank of the features", ("rankme",), "RankMe"),
    ]
    figures = []
    for title, names, unit in charts:
        if not any(n in e for e in entries for n in names):
            continue
        figure, axes = _axes(title, "epoch", unit)
        for name in names:
            points = [(e["epoch"], e[name]) for e in entries if name in e]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    label=name,
                    marker="o" if len(points) < 40 else None,
                    markersize=3,
                )
        if title == "Loss":
            axes.axhline(run.method.chance(run.info), color="#999999", linestyle="--", label="knows nothing")
        axes.legend()
        figures.append(_figure(figure, title))
    return '<h2>Training</h2><div class="charts">' + "".join(figures) + "</div>"


def _figure(figure: Figure, title: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return f'<figure class="chart" role="img" aria-label="{html.escape(title)}">{svg[svg.index("<svg") :]}</figure>'


def _views(run: train.Run, count: int = 12) -> str:
    """A grid: the first row are images as they are, each further row one view of them."""
    rows = np.linspace(0, len(run.train.images) - 1, count).astype(int)
    side = max(view.size for view in run.method.views().values())
    images = jnp.asarray(run.train.pictures(rows, side))
    grid = [_row(np.asarray(images) / 255.0)]
    for stream, view in enumerate(run.method.views().values()):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), stream), count)
        x = np.asarray(render_batch(view, keys, images))
        grid.append(_row(x * np.asarray(view.std) + np.asarray(view.mean)))
    width = max(row.shape[1] for row in grid)
    grid = [_resized(row, width) for row in grid]
    names = ", ".join(run.method.views())
    source = _png(np.concatenate(grid))
    return (
        f'<h2>Views</h2><figure><img class="views" alt="augmented views" src="{source}">'
        f"<figcaption>Top: images of the training set. Below: {html.escape(names)}, as the network sees them before "
        "normalisation.</figcaption></figure>"
    )


def _row(images: np.ndarray) -> np.ndarray:
    """[B, H, W, C] in [0, 1] to one uint8 RGB strip with a gap between images."""
    images = np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[-1] == 1 else images
    gap = max(1, images.shape[1] // 16)
    padded = np.pad(images, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=0.5)
    return (np.clip(np.concatenate(padded, 1), 0, 1) * 255).round().astype(np.uint8)


def _resized(row: np.ndarray, width: int) -> np.ndarray:
    height = round(row.shape[0] * width / row.shape[1])
    return np.asarray(Image.fromarray(row).resize((width, height), Image.Resampling.NEAREST))


def _png(pixels: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    parser = argparse.ArgumentParser(
        prog="python -m ssl_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    args = parser.parse_args(argv)
    try:
        print(f"The report is {report(args.workdir)}")
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
