"""Agglomerative clustering of a graph of neighbours, on the host (Zhang et al. 2012, as JULE has it).

Two clusters are as close as links go both ways: A(a, b) = 1' W_ab W_ba 1 / |a|^2 + 1' W_ba W_ab 1 / |b|^2, where W are
the weights of the links from each row to its nearest neighbours.
"""

import heapq
import math

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from sklearn.neighbors import NearestNeighbors

FEW = 100  # clusters, up to which affinity alone decides (agg_clustering.lua)
MANY = 20  # times the clusters that are wanted, above which those without a link are merged first (affinity.lua)


def neighbours(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and numbers of the nearest other rows, both [N, count], nearest first."""
    found, rows = NearestNeighbors(n_neighbors=min(count, len(x) - 1), algorithm="brute").fit(x).kneighbors()
    return found**2, rows


def first_clusters(x: np.ndarray) -> np.ndarray:
    """Clusters [N] to begin with: rows [N, D] that are joined by going from each to its nearest neighbour."""
    _, nearest = neighbours(x, 1)
    links = sparse.csr_matrix((np.ones(len(x)), (np.arange(len(x)), nearest[:, 0])), shape=(len(x), len(x)))
    return csgraph.connected_components(links, directed=False)[1].astype(np.int32)


def links(x: np.ndarray, count: int) -> sparse.csr_matrix:
    """Weights W [N, N] of the links from rows [N, D] to their nearest neighbours, exp(-d / sigma^2).

    d is the squared distance and sigma^2 the mean of all of them.
    """
    squared, nearest = neighbours(x, count)
    weights = np.exp(-squared / max(squared.mean(), np.finfo(np.float64).tiny))
    rows = np.repeat(np.arange(len(x)), nearest.shape[1])
    return sparse.csr_matrix((weights.ravel(), (rows, nearest.ravel())), shape=(len(x), len(x)))


def merged(x: np.ndarray, clusters: np.ndarray, *, count: int, local: int, share: float, target: int) -> np.ndarray:
    """One period of merging.

    Args:
      x: rows [N, D].
      clusters: 0 to C - 1, of the rows [N].
      count: neighbours of each row that it has links to, K_s.
      local: clusters that a merger is compared with, K_c.
      share: of the C clusters that are merged away, eta, rounded up.
      target: clusters that are left at least.

    Returns:
      clusters int32 [N], numbered anew from 0 on.
    """
    tree = _Tree(x, np.array(clusters, np.int64), links(x, count), local)
    if tree.alive > MANY * target:
        tree.merge_the_unlinked()
    for _ in range(min(math.ceil(share * tree.alive), tree.alive - target)):
        tree.merge(*tree.closest())
    return np.unique(tree.cluster, return_inverse=True)[1].astype(np.int32).reshape(-1)


class _Tree:
    """Clusters that are merged two by two, with the affinities of all pairs that have any.

    Of each cluster j it keeps the rows m that have links to it and from it, with the sums of their weights, whose
    product is m's part in A(., j); `mass[i][j]` is the sum over the rows of i.
    """

    def __init__(self, x: np.ndarray, cluster: np.ndarray, weights: sparse.csr_matrix, local: int) -> None:
        self.cluster, self._local = cluster, local
        self.alive = clusters = int(cluster.max()) + 1
        member = sparse.csr_matrix((np.ones(len(x)), (np.arange(len(x)), cluster)), shape=(len(x), clusters))
        self._sums, self._sizes = member.T @ x.astype(np.float64), np.bincount(cluster).astype(np.float64)
        to, back = (weights @ member).tocsc(), (weights.T @ member).tocsc()
        self._to, self._back = ([_column(m, j) for j in range(clusters)] for m in (to, back))
        mass = (member.T @ to.multiply(back)).tocoo()
        self.mass: list[dict[int, float]] = [{} for _ in range(clusters)]
        self._affinity: list[dict[int, float]] = [{} for _ in range(clusters)]
        for i, j, value in zip(mass.row.tolist(), mass.col.tolist(), mass.data.tolist(), strict=True):
            if i != j and value > 0:
                self.mass[i][j] = value
        self._best, self._margin = np.zeros(clusters), np.zeros(clusters)
        self._partner = np.zeros(clusters, int)
        for i in range(clusters):
            for j in self.mass[i]:
                self._relate(i, j)
        for i in range(clusters):
            self._rank(i)

    def _relate(self, i: int, j: int) -> None:
        value = self.mass[i].get(j, 0.0) / self._sizes[j] ** 2 + self.mass[j].get(i, 0.0) / self._sizes[i] ** 2
        self._affinity[i][j] = self._affinity[j][i] = value

    def _rank(self, i: int) -> None:
        """The cluster closest to i, how close it is, and by how much closer than the next ones."""
        best = heapq.nlargest(self._local, self._affinity[i].items(), key=lambda item: (item[1], -item[0]))
        self._partner[i], self._best[i] = best[0] if best else (i, 0.0)
        others = sum(value for _, value in best[1:])
        self._margin[i] = self._best[i] - others / max(self._local - 1, 1)

    def closest(self) -> tuple[int, int]:
        """The two clusters to be merged next, the smaller number first.

        Their affinity, and of many clusters also its mean margin over the next closest, is largest. If no two clusters
        have any, the smallest cluster and the one whose mean is nearest.
        """
        a = int(np.argmax(self._best + self._margin if self.alive > FEW else self._best))
        if self._best[a] > 0:
            b = int(self._partner[a])
        else:
            a = int(np.argmin(np.where(self._sizes > 0, self._sizes, np.inf)))
            b = self._nearest(a)
        return min(a, b), max(a, b)

    def _nearest(self, a: int) -> int:
        means = self._sums / np.maximum(self._sizes, 1)[:, None]
        gaps = np.square(means - means[a]).sum(1)
        gaps[self._sizes == 0] = np.inf
        gaps[a] = np.inf
        return int(np.argmin(gaps))

    def merge_the_unlinked(self) -> None:
        """Merges each cluster that has no affinity to any other with the one whose mean is nearest."""
        for a in np.flatnonzero(self._best == 0).tolist():
            if self._sizes[a] > 0 and self._best[a] == 0 and self.alive > 1:
                b = self._nearest(a)
                self.merge(min(a, b), max(a, b))

    def merge(self, a: int, b: int) -> None:
        """Joins cluster b to cluster a."""
        self.cluster[self.cluster == b] = a
        self._sums[a] += self._sums[b]
        self._sizes[a] += self._sizes[b]
        self._sizes[b], self._best[b], self._margin[b] = 0, -np.inf, 0
        self.alive -= 1
        for columns in (self._to, self._back):
            columns[a], columns[b] = _added(columns[a], columns[b]), columns[b][:0]
        new = self._masses(a)
        for j, value in self.mass[b].items():
            self.mass[a][j] = self.mass[a].get(j, 0.0) + value
        for j in (a, b):
            self.mass[a].pop(j, None)
        self.mass[b] = {}
        changed = (self._affinity[a].keys() | self._affinity[b].keys() | new.keys()) - {a, b}
        self._affinity[a], self._affinity[b] = {}, {}
        for i in sorted(changed):
            self.mass[i].pop(b, None)
            self.mass[i].pop(a, None)
            if i in new:
                self.mass[i][a] = new[i]
            self._affinity[i].pop(b, None)
            self._relate(i, a)
            self._rank(i)
        self._rank(a)

    def _masses(self, a: int) -> dict[int, float]:
        """`mass[i][a]` of every other cluster i, from the links of its rows."""
        rows, there, here = np.intersect1d(self._to[a]["row"], self._back[a]["row"], True, True)
        parts = self._to[a]["sum"][there] * self._back[a]["sum"][here]
        clusters, place = np.unique(self.cluster[rows], return_inverse=True)
        sums = np.bincount(place.reshape(-1), weights=parts, minlength=len(clusters))
        return {i: value for i, value in zip(clusters.tolist(), sums.tolist(), strict=True) if i != a and value > 0}


_COLUMN = np.dtype([("row", np.int64), ("sum", np.float64)])


def _column(matrix: sparse.csc_matrix, j: int) -> np.ndarray:
    """What is not zero in a column, as rows and sums, in the order of the rows."""
    own = slice(matrix.indptr[j], matrix.indptr[j + 1])
    found = np.empty(own.stop - own.start, _COLUMN)
    found["row"], found["sum"] = matrix.indices[own], matrix.data[own]
    return np.sort(found, order="row")


def _added(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum of two columns."""
    both = np.concatenate([x, y])
    rows, place = np.unique(both["row"], return_inverse=True)
    found = np.empty(len(rows), _COLUMN)
    found["row"], found["sum"] = rows, np.bincount(place.reshape(-1), weights=both["sum"], minlength=len(rows))
    return found
