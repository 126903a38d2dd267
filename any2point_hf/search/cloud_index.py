"""An index of clouds: the file that `any2point index` or `embed` wrote, searched by the cosine of features."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..evaluation.retrieval import unit_rows
from ..large_collections.model_fingerprint import model_fingerprint
from ..large_collections.shard_files import read_settings
from ..modeling.errors import Any2PointError
from .inverted_lists import InvertedLists

_ROWS_AT_ONCE = 1 << 16  # of a file, so that no more than the vectors themselves and one piece are held


class Hit(NamedTuple):
    """A cloud that was found.

    Args:
        row: of the index.
        id: as the index names it: the path in a folder, or the row of a data set.
        label: of the cloud, if its data set has labels.
        similarity: cosine of its features and the query's, −1 to 1.
    """

    row: int
    id: str
    label: str | None
    similarity: float


class CloudIndex:
    """The features of a collection of clouds, in memory.

    Args:
        vectors: [n, F]; scaled to length 1.
        ids: of the n clouds.
        labels: of the n clouds, or None if there are none.
        settings: what the index was made of: `source`, `split` and the fingerprints of its model.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        ids: list[str],
        labels: list[str | None] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.vectors, self.ids, self.labels, self.settings = unit_rows(vectors), ids, labels, settings or {}
        self._lists: InvertedLists | None = None  # made when first searched

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "CloudIndex":
        """Reads an index.

        Args:
            path: what `any2point index` or `any2point embed` wrote.

        Raises:
            Any2PointError: there is no such file, or it is no index.
        """
        if not os.path.isfile(path):
            raise Any2PointError(f"--index must be a file that `any2point index` wrote, and there is no {path}.")
        settings = read_settings(Path(path), "Make one with `any2point index`.")
        if settings.get("task") != "embed":
            raise Any2PointError(f"{path} holds predictions, not features. Make an index with `any2point index`.")
        try:
            with pq.ParquetFile(path) as file:
                names = [name for name in ("id", "embedding", "label") if name in file.schema_arrow.names]
                pieces: list[np.ndarray] = []
                columns: dict[str, list[Any]] = {name: [] for name in names if name != "embedding"}
                for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names):
                    pieces.append(batch["embedding"].flatten().to_numpy().reshape(len(batch), -1))
                    for name, values in columns.items():
                        values += batch[name].to_pylist()
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise Any2PointError(f"{path} is damaged: {str(error)[:200]}. Make the index anew.") from error
        return cls(np.concatenate(pieces), columns["id"], columns.get("label"), settings)

    def check_model(self, model: str, backbone: str | None = None) -> None:
        """Checks that queries will be features of the same model.

        Args:
            model: folder or Hub id of the adapter that the queries are given to.
            backbone: Hub id or folder instead of the recorded one.

        Raises:
            Any2PointError: adapter, LoRA or backbone are others than those of the index.
        """
        now = model_fingerprint(model, backbone)
        changed = [name for name in now if name in self.settings and self.settings[name] != now[name]]
        if changed:
            raise Any2PointError(
                f"the index must be of the same model as the queries, and these differ: {', '.join(changed)}. Give the "
                "--model (and --backbone) of the index, or make it anew with `any2point index`."
            )

    def search(self, queries: np.ndarray, top: int = 10, approximate: bool = False) -> list[list[Hit]]:
        """The most similar clouds of each query, the best first; of equals, the one that comes first in the index.

        Args:
            queries: [q, F] features.
            top: how many clouds.
            approximate: compare each query with a twentieth of the clouds only, by faiss, which groups them first. This
                pays for hundreds of queries of an index of hundreds of thousands, and may miss a cloud. Similarities
                are exact all the same. A query that finds fewer than `top` is compared with all of them.

        Raises:
            Any2PointError: the queries have another number of features than the index.
            MissingPackageError: `approximate` without faiss.
        """
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise Any2PointError(
                f"queries must be [q, {self.vectors.shape[1]}] as the index has it, got {list(queries.shape)}."
            )
        top = min(top, len(self))
        if not approximate or top == 0:
            return [self._hits(np.arange(len(self)), self.vectors @ query, top) for query in unit_rows(queries)]
        self._lists = self._lists or InvertedLists(self.vectors)
        hits = []
        for query in unit_rows(queries):
            rows = self._lists.nearest(query, top)
            rows = np.arange(len(self)) if len(rows) < top else rows  # the lists that were searched hold too few
            hits.append(self._hits(rows, self.vectors[rows] @ query, top))
        return hits

    def _hits(self, rows: np.ndarray, similarities: np.ndarray, top: int) -> list[Hit]:
        top = min(top, len(rows))
        least = np.partition(similarities, len(rows) - top)[len(rows) - top] if top else np.inf
        candidates = np.flatnonzero(similarities >= least)
        best = candidates[np.argsort(-similarities[candidates], kind="stable")][:top]
        return [
            Hit(int(row), self.ids[row], self.labels[row] if self.labels else None, float(similarity))
            for row, similarity in zip(rows[best], similarities[best], strict=True)
        ]
