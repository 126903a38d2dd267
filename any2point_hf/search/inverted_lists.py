"""Approximate search: a query is compared with a twentieth of the vectors, by the inverted lists of faiss.

The vectors are grouped around √n centres, and those of the centres nearest to the query are searched. Making the groups
takes as long as some hundred exact searches, so this pays where one process answers more queries than that.
"""

from typing import Any

import numpy as np

from ..modeling.errors import MissingPackageError

_SHARE = 20  # one in so many lists is searched
_POINTS_PER_CENTER = 64  # that the centres are fitted to; more takes longer and finds no more


def check_installed() -> Any:
    """The module faiss.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(
            'approximate search needs faiss, which is not installed. Run: pip install "any2point-hf[search]"'
        ) from error
    return faiss


class InvertedLists:
    """Unit vectors, grouped by the centre that each is nearest to; the same for the same vectors.

    Args:
        vectors: [n, F] float32 of length 1; they are copied.

    Raises:
        MissingPackageError: faiss is not installed.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        faiss = check_installed()
        width, number = vectors.shape[1], max(1, round(len(vectors) ** 0.5))
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, number, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.min_points_per_centroid = 1  # below which faiss prints a warning
        self._index.cp.max_points_per_centroid = _POINTS_PER_CENTER
        self._index.train(vectors)
        self._index.add(vectors)
        self._index.nprobe = -(-number // _SHARE)

    def nearest(self, query: np.ndarray, top: int) -> np.ndarray:
        """The rows of about the most similar vectors, ascending; fewer than `top` if the lists hold no more.

        Args:
            query: [F] float32 of length 1. Each is searched alone, so that no query depends on the others.
            top: how many.
        """
        rows = self._index.search(query[None], top)[1][0]
        return np.sort(rows[rows >= 0])
