"""What the network finds similar: nearest neighbours, and which classes the kNN confuses."""

import dataclasses

import matplotlib
import numpy as np
from sklearn.metrics import confusion_matrix

from ssl_jax import data
from ssl_jax.data import Dataset, train_test
from ssl_jax.metrics import knn
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.report import draw, page
from ssl_jax.report.network import Network
from ssl_jax.report.page import Absent, Cell, Empty
from ssl_jax.run import Run
from ssl_jax.runtime.errors import UserError

_BANK, _QUERIES = 4000, 1000  # images at most
_ROWS, _NEAREST = 8, 6
MANY = 20  # classes that can be named one by one
_LONGEST = 30  # characters of a name that a drawing has room for


@dataclasses.dataclass(frozen=True)
class Sample:
    """Features of some images in whose neighbourhood queries lie."""

    bank: np.ndarray  # features [N, D]
    bank_images: np.ndarray
    bank_labels: np.ndarray
    queries: np.ndarray  # features [M, D]
    images: np.ndarray  # of the queries
    labels: np.ndarray  # of the queries, -1 unknown
    bank_names: np.ndarray  # of the files, or their numbers
    names: np.ndarray  # of the queries, likewise
    classes: tuple[str, ...]
    text: str  # what the images are

    def class_of(self, label: int) -> str:
        """A class for people; nothing where it is unknown."""
        return self.classes[label] if label >= 0 else ""


def sample(network: Network) -> Sample:
    """Extracts features: queries are test images or, without such, training images, for which nothing is measured."""
    run = network.run
    rows = np.arange(len(run.train.images))
    queries = run.test or run.train
    query_rows = np.arange(len(queries.images)) if run.test else rows[::10]
    rows = evenly_spaced(rows if run.test else np.setdiff1d(rows, query_rows), _BANK)
    query_rows = evenly_spaced(query_rows, _QUERIES)
    if not len(rows):
        raise Empty("There are too few images to have neighbours.")
    kind = ("held-out images" if run.test.held_out else "test images") if run.test else "training images"
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
        _names(run, "train", rows),
        _names(run, "test" if run.test else "train", query_rows),
        run.train.classes,
        text,
    )


def _names(run: Run, split: str, rows: np.ndarray) -> np.ndarray:
    """What images are called; those in memory have forgotten their files, which are listed once more."""
    own = run.train if split == "train" else run.test
    assert own is not None
    if own.streamed:
        return own.names(rows)
    listed = _listed(run).get(split)
    same = listed is not None and np.array_equal(listed.labels, own.labels)  # else some cannot be read
    return listed.names(rows) if listed is not None and same else own.names(rows)


def _listed(run: Run) -> dict[str, Dataset | None]:
    """The splits of a run as files, where they are files that can be read in any order."""
    config = run.config.data.copy_and_resolve_references()
    if not all(data.streams(source) for source in train_test.sources(config.source)) or config.get("target"):
        return {}
    config.stream = "always"
    try:
        train, test = train_test.load(config)
    except UserError:  # a compressed archive
        return {}
    return {"train": train, "test": test}


def unit(x: np.ndarray) -> np.ndarray:
    """Rows at length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def nearest(s: Sample) -> str:
    """Queries and the training images whose features are nearest by cosine; marked where labels are known."""
    chosen = evenly_spaced(np.arange(len(s.queries)), _ROWS)
    similarity = unit(s.queries[chosen]) @ unit(s.bank).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEAREST]
    shared, rows = shares_classes(s), []
    for query, found, near in zip(chosen, order, similarity, strict=True):
        wanted = int(s.labels[query])
        cells = [_neighbour(s, i, wanted if shared else -1, float(near[i])) for i in found]
        told = s.class_of(wanted) or "query"
        rows.append([Cell(s.images[query] / 255.0, told, name=str(s.names[query])), *cells])
    text = " ✓ is the class of the query, ✗ another."
    if not shared:
        new = (s.labels >= 0).any() and (s.bank_labels >= 0).any()
        text = f" {'The test classes are new' if new else 'No labels are known'}, so nothing is marked."
    columns = ("query", *(str(i + 1) for i in range(order.shape[1])))
    return page.note(s.text + text + " Below each image are its cosine similarity and its name.") + page.pictures(
        columns, rows
    )


def shares_classes(s: Sample) -> bool:
    """Whether a training image has the class of a query, so that a neighbour can be right."""
    return bool(np.isin(s.labels[s.labels >= 0], s.bank_labels).any())


def _neighbour(s: Sample, row: int, wanted: int, cosine: float) -> Cell:
    label, image, name = int(s.bank_labels[row]), s.bank_images[row] / 255.0, str(s.bank_names[row])
    if wanted < 0 or label < 0:
        return Cell(image, f"{cosine:.2f}", name=name)
    right = label == wanted
    text = f"✓ {cosine:.2f}" if right else f"✗ {cosine:.2f} {s.class_of(label)}"
    return Cell(image, text, "good" if right else "bad", name)


def confusion(s: Sample, k: int, temperature: float) -> str:
    """Which classes the kNN takes for which.

    Raises:
      Absent: without a class that both sides have.
    """
    known = s.labels >= 0
    labelled = int((s.bank_labels >= 0).sum())
    if not shares_classes(s):
        raise Absent("Confusions of the kNN need classes that training and test images share.")
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
    figure, axes = draw.axes("predicted class", "true class", size=(6, 5.4))
    axes.grid(False)
    # Transparent where nothing is, so that it suits a dark page too.
    blue = np.array(matplotlib.colors.to_rgb(draw.COLOURS[0]))
    axes.imshow(np.dstack([np.broadcast_to(blue, (*share.shape, 3)), share]), interpolation="nearest")
    if count <= MANY:
        names = [
            name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}" for name in classes
        ]
        axes.set_xticks(range(count), names, rotation=60, ha="right", fontsize=9)
        axes.set_yticks(range(count), names, fontsize=9)
        for i, j in np.ndindex(count, count):
            if percent := round(100 * float(share[i, j])):
                axes.text(j, i, str(percent), ha="center", va="center", fontsize=8, color=draw.INK)
    return f'<div style="max-width:40rem">{draw.chart(figure, "Predictions for each class, %")}</div>'


def _worst(matrix: np.ndarray, share: np.ndarray, classes: tuple[str, ...]) -> str:
    wrong = share * (1 - np.eye(len(classes)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:5]
    pairs = [np.unravel_index(i, wrong.shape) for i in order]
    rows = [(classes[i], classes[j], f"{100 * share[i, j]:.1f} %", str(matrix[i, j])) for i, j in pairs if wrong[i, j]]
    if not rows:
        return page.note("No image was taken for another class.")
    return "<h3>Most frequent confusions</h3>" + page.table(("true class", "predicted", "share", "images"), rows, 2)
