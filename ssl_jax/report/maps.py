"""A map of the features: images as dots in two dimensions, which the pointer shows."""

import html
import json
from typing import Any

import matplotlib
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.report import draw, page
from ssl_jax.report.neighbours import MANY, Sample, unit
from ssl_jax.report.page import Empty

_MAPPED = 500  # images at most
_TILE, _COLUMNS = 32, 25  # of the sprite: side in pixels, tiles a row
# Petroff's ten colours (2021), which colour-blind readers can tell apart, on white and on black.
_TEN = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]


def style(s: Sample) -> str:
    """CSS with the images of the maps, which share them."""
    side = -(-len(_mapped(s)) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, side * _TILE))
    for i, row in enumerate(_mapped(s)):
        image = np.squeeze(s.images[row])
        tile = Image.fromarray(image).convert("RGB").resize((_TILE, _TILE), _resampling(image))
        sheet.paste(tile, (i % _COLUMNS * _TILE, i // _COLUMNS * _TILE))
    return f".tip span {{ background-image: url({page.encoded(sheet, 'JPEG')}); }}"


def _resampling(image: np.ndarray) -> Image.Resampling:
    return Image.Resampling.NEAREST if len(image) <= _TILE else Image.Resampling.LANCZOS


def _mapped(s: Sample) -> np.ndarray:
    return evenly_spaced(np.arange(len(s.queries)), _MAPPED)


def maps(s: Sample) -> str:
    """Features in two dimensions, by PCA and by t-SNE; the image appears under the pointer.

    Raises:
      Empty: if there are too few images.
    """
    rows = _mapped(s)
    x = unit(s.queries[rows])
    if len(x) < 5 or x.shape[1] < 2:
        raise Empty(f"A map needs at least 5 images and 2 features, and there are {len(x)} and {x.shape[1]}.")
    if not np.isfinite(x).all() or np.ptp(x, axis=0).max() < 1e-6:  # scikit-learn's t-SNE ends the process
        raise Empty("The features are the same for all images, or no numbers, so that there is nothing to map.")
    perplexity = min(30.0, (len(x) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, random_state=0)
    with threadpool_limits(1):  # its threads wait for each other busily: on a busy machine many times slower than one
        placed = tsne.fit_transform(x)
    places = {
        "PCA": PCA(2, random_state=0).fit_transform(x),
        f"t-SNE, perplexity {perplexity:.3g}": placed,
    }
    names = [
        " ".join(filter(None, (s.class_of(int(y)), str(n)))) for y, n in zip(s.labels[rows], s.names[rows], strict=True)
    ]
    figures = [_map(title, xy, s.labels[rows], names) for title, xy in places.items()]
    text = f"{len(rows)} queries, features scaled to length 1. Point at (or tap) a dot to see its image."
    return page.note(text) + page.charts(figures) + _key(s)


def _colours(labels: np.ndarray, count: int) -> list[Any]:
    if count > MANY:
        found = matplotlib.colormaps["turbo"](np.maximum(labels, 0) / max(count - 1, 1))
    elif count > len(_TEN):
        found = matplotlib.colormaps["tab20"](np.maximum(labels, 0))
    else:
        found = [matplotlib.colors.to_rgba(_TEN[max(label, 0)]) for label in labels]
    return [matplotlib.colors.to_hex(c) if label >= 0 else "#8a8a8a" for c, label in zip(found, labels, strict=True)]


def _map(title: str, xy: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
    # The drawing is the unit square, so that the script finds a point where it was drawn.
    share = 0.03 + 0.94 * (xy - xy.min(0)) / np.maximum(np.ptp(xy, axis=0), 1e-12)
    figure = Figure(figsize=(5, 3.9))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    axes.scatter(share[:, 0], share[:, 1], s=14, c=_colours(labels, labels.max() + 1), linewidths=0)
    points = [[round(float(x), 4), round(float(1 - y), 4), n] for (x, y), n in zip(share, names, strict=True)]
    text = html.escape(title)
    return (
        f'<figure class="map" role="img" aria-label="{text}" data-columns="{_COLUMNS}" '
        f'data-points="{html.escape(json.dumps(points))}"><figcaption>{text}</figcaption>'
        f'<div class="drawing">{draw.svg(figure)}{draw.TIP}</div></figure>'
    )


def _key(s: Sample) -> str:
    count = len(s.classes)
    if not (s.labels >= 0).any():
        return page.note("No labels are known, so the dots have one colour.")
    if count > MANY:
        return page.note(f"Colours are the {count} classes in order.")
    colours = _colours(np.arange(count), count)
    parts = (
        f'<span><i style="background:{c}"></i>{html.escape(n)}</span>' for c, n in zip(colours, s.classes, strict=True)
    )
    return f'<div class="key">{"".join(parts)}</div>'
