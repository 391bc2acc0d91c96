"""What the features are like: nearest neighbours, a map of them, and which classes the kNN confuses."""

import dataclasses
import html
import json
from typing import Any

import matplotlib
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix
from threadpoolctl import threadpool_limits

from ssl_jax.metrics import knn
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.report import page
from ssl_jax.report.network import Network
from ssl_jax.report.page import Absent, Cell, Empty

_BANK, _QUERIES, _MAPPED = 4000, 1000, 500  # images at most
_ROWS, _NEAREST = 8, 8
_TILE, _COLUMNS = 32, 25  # of the sprite: side in pixels, tiles a row
_MANY = 20  # classes that colours can still tell apart


@dataclasses.dataclass(frozen=True)
class Sample:
    """Features of some images in whose neighbourhood queries lie."""

    bank: np.ndarray  # features [N, D]
    bank_images: np.ndarray
    bank_labels: np.ndarray
    queries: np.ndarray  # features [M, D]
    images: np.ndarray  # of the queries
    labels: np.ndarray  # of the queries, -1 unknown
    classes: tuple[str, ...]
    text: str  # what the images are

    def name(self, label: int) -> str:
        """A class for people; nothing where it is unknown."""
        return self.classes[label] if label >= 0 else ""


def sample(network: Network) -> Sample:
    """Extracts features: queries are test images, or every tenth training image where there is no test split."""
    run = network.run
    rows = np.arange(len(run.train.images))
    queries = run.test or run.train
    query_rows = np.arange(len(queries.images)) if run.test else rows[::10]
    rows = evenly_spaced(rows if run.test else np.setdiff1d(rows, query_rows), _BANK)
    query_rows = evenly_spaced(query_rows, _QUERIES)
    if not len(rows):
        raise Empty("There are too few images to have neighbours.")
    kind = "test images" if run.test else "training images that are left out of the bank"
    images, labels = run.train.pictures(rows, run.eval_side), run.train.labels[rows]
    text = f"{len(query_rows)} {kind}, compared with {len(rows)} training images; both evenly spaced."
    seen = queries.pictures(query_rows, run.eval_side)
    return Sample(
        network.extract(images),
        images,
        labels,
        network.extract(seen),
        seen,
        queries.labels[query_rows],
        run.train.classes,
        text,
    )


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def nearest(s: Sample) -> str:
    """Queries and the training images whose features are nearest by cosine; marked where labels are known."""
    chosen = evenly_spaced(np.arange(len(s.queries)), _ROWS)
    similarity = _unit(s.queries[chosen]) @ _unit(s.bank).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEAREST]
    rows = []
    for query, found, near in zip(chosen, order, similarity, strict=True):
        wanted = int(s.labels[query])
        cells = [_neighbour(s, i, wanted, float(near[i])) for i in found]
        rows.append([Cell(s.images[query] / 255.0, s.name(wanted) or "query"), *cells])
    known = bool((s.labels >= 0).any() and (s.bank_labels >= 0).any())
    text = " ✓ is the class of the query, ✗ another." if known else " No labels are known, so nothing is marked."
    columns = ("query", *(str(i + 1) for i in range(order.shape[1])))
    return page.note(s.text + text + " Below each image is its cosine similarity.") + page.pictures(columns, rows)


def _neighbour(s: Sample, row: int, wanted: int, cosine: float) -> Cell:
    label = int(s.bank_labels[row])
    if wanted < 0 or label < 0:
        return Cell(s.bank_images[row] / 255.0, f"{cosine:.2f}")
    right = label == wanted
    text = f"✓ {cosine:.2f}" if right else f"✗ {s.name(label)} {cosine:.2f}"
    return Cell(s.bank_images[row] / 255.0, text, "good" if right else "bad")


def confusion(s: Sample, k: int, temperature: float) -> str:
    """Which classes the kNN takes for which.

    Raises:
      Empty: without labels on both sides.
    """
    known = s.labels >= 0
    labelled = int((s.bank_labels >= 0).sum())
    if not known.any() or not labelled:
        raise Absent("Confusions of the kNN need labels, which this data set lacks.")
    k = min(k, labelled)
    count = len(s.classes)
    said = knn.predict(
        s.bank, s.bank_labels, s.queries[known], num_classes=count, k=k, temperature=temperature, block=256
    )
    true = s.labels[known]
    matrix = confusion_matrix(true, said, labels=np.arange(count))
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    text = (
        f"{s.text} k = {k}, T = {temperature:g}: {100 * np.mean(said == true):.1f} % are right. Rows: the true class."
    )
    return page.note(text) + _heat(share, s.classes) + _worst(matrix, share, s.classes)


def _heat(share: np.ndarray, classes: tuple[str, ...]) -> str:
    count = len(classes)
    figure, axes = page.axes("predicted class", "true class", size=(6, 5.4))
    axes.grid(False)
    # Transparent where nothing is, so that it suits a dark page too.
    blue = np.array(matplotlib.colors.to_rgb(page.COLOURS[0]))
    axes.imshow(np.dstack([np.broadcast_to(blue, (*share.shape, 3)), share]), interpolation="nearest")
    if count <= _MANY:
        axes.set_xticks(range(count), classes, rotation=60, ha="right", fontsize=9)
        axes.set_yticks(range(count), classes, fontsize=9)
        for i, j in np.ndindex(count, count):
            if percent := round(100 * float(share[i, j])):
                axes.text(j, i, str(percent), ha="center", va="center", fontsize=8, color=page.INK)
    return f'<div style="max-width:40rem">{page.chart(figure, "Predictions for each class, %")}</div>'


def _worst(matrix: np.ndarray, share: np.ndarray, classes: tuple[str, ...]) -> str:
    wrong = share * (1 - np.eye(len(classes)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:5]
    pairs = [np.unravel_index(i, wrong.shape) for i in order]
    rows = [(classes[i], classes[j], f"{100 * share[i, j]:.1f} %", str(matrix[i, j])) for i, j in pairs if wrong[i, j]]
    if not rows:
        return page.note("No image was taken for another class.")
    return "<h3>Most frequent confusions</h3>" + page.table(("true class", "predicted", "share", "images"), rows, 2)


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
    x = _unit(s.queries[rows])
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
    names = [s.name(int(label)) for label in s.labels[rows]]
    figures = [_map(title, xy, s.labels[rows], names) for title, xy in places.items()]
    text = f"{len(rows)} queries, features scaled to length 1. Point at (or tap) a dot to see its image."
    return page.note(text) + page.charts(figures) + _key(s)


def _colours(labels: np.ndarray, count: int) -> list[Any]:
    if count > _MANY:
        found = matplotlib.colormaps["turbo"](np.maximum(labels, 0) / max(count - 1, 1))
    else:
        found = matplotlib.colormaps["tab10" if count <= 10 else "tab20"](np.maximum(labels, 0))
    return [matplotlib.colors.to_hex(c) if label >= 0 else "#8a8a8a" for c, label in zip(found, labels, strict=True)]


def _map(title: str, xy: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
    # The drawing is the unit square, so that the script finds a point where it was drawn.
    share = 0.03 + 0.94 * (xy - xy.min(0)) / np.maximum(np.ptp(xy, axis=0), 1e-12)
    figure = Figure(figsize=(5, 4.4))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    axes.scatter(share[:, 0], share[:, 1], s=14, c=_colours(labels, labels.max() + 1), linewidths=0)
    points = [[round(float(x), 4), round(float(1 - y), 4), n] for (x, y), n in zip(share, names, strict=True)]
    text = html.escape(title)
    return (
        f'<figure class="map" role="img" aria-label="{text}" data-columns="{_COLUMNS}" '
        f'data-points="{html.escape(json.dumps(points))}"><figcaption>{text}</figcaption>{page.svg(figure)}'
        '<div class="tip" hidden><span></span><b></b></div></figure>'
    )


def _key(s: Sample) -> str:
    count = len(s.classes)
    if not (s.labels >= 0).any():
        return page.note("No labels are known, so the dots have one colour.")
    if count > _MANY:
        return page.note(f"Colours are the {count} classes in order.")
    colours = _colours(np.arange(count), count)
    parts = (
        f'<span><i style="background:{c}"></i>{html.escape(n)}</span>' for c, n in zip(colours, s.classes, strict=True)
    )
    return f'<div class="key">{"".join(parts)}</div>'
