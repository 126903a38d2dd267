"""Collections of clouds larger than memory: a folder of files, or a data set that `datasets` keeps on the disk.

Unusual here: a part of a data set is a memory mapping of its own. The pages that reading touches count as memory of
the process until their mapping is closed, so one mapping for all clouds would seem to grow without end.
"""

import json
import pickle
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset

from ..data.columns import feature_columns, undecoded
from ..data.rows import read_row, rows_of
from ..point_clouds.files import PointCloud
from ..point_clouds.invalid import DroppedPoints
from ..point_clouds.reading import CloudReader


class CloudCollection(ABC):
    """Clouds in a fixed order, read one by one. It can be pickled, and then names its files instead of holding them.

    Attributes:
        source: absolute path, Hub id or "shapes".
        split: of a data set; None for a folder of files.
        fingerprint: changes with the files and their contents (told by the files' sizes and times).
        drop_invalid: whether reading drops invalid points, instead of refusing the cloud.
    """

    source: str
    split: str | None
    fingerprint: str
    drop_invalid: bool

    @abstractmethod
    def __len__(self) -> int:
        """How many clouds."""

    @abstractmethod
    def ids(self) -> list[str]:
        """The name of each cloud in the results. Meant to be called on a `part`, not on a whole collection."""

    @abstractmethod
    def labels(self) -> list[str | None] | None:
        """The name of each cloud's class; None if the source has no labels. Meant to be called on a `part` too."""

    @abstractmethod
    def part(self, start: int, stop: int) -> "CloudCollection":
        """The clouds start … stop − 1, as a collection."""

    def read(self, index: int, seed: int = 0) -> np.ndarray:
        """Reads one cloud; a warning counts the points that are dropped.

        Args:
            index: 0 … len − 1.
            seed: of the points sampled on a mesh.

        Returns:
            [N, 3] float32 or float64, finite, of enough distinct points.

        Raises:
            PointCloudError: the cloud cannot be read, or is not like this; the message names it and the rule.
        """
        dropped = DroppedPoints() if self.drop_invalid else None
        points = self.read_cloud(index, CloudReader(seed, dropped=dropped)).points
        if dropped is not None:
            dropped.warn()
        return points

    @abstractmethod
    def read_cloud(self, index: int, reader: CloudReader) -> PointCloud:
        """As `read`, but as the reader says, with features and without a warning."""


class FolderOfClouds(CloudCollection):
    """Point-cloud files in any nesting; the id of each is its path in the folder."""

    split = None

    def __init__(self, folder: Path, names: pa.ChunkedArray, fingerprint: str, drop_invalid: bool = False) -> None:
        """Keeps the relative paths as one Arrow column, which takes a third of the memory of as many Python strings."""
        self.source, self._names, self.fingerprint = str(folder), names, fingerprint
        self.drop_invalid = drop_invalid

    def __len__(self) -> int:
        return len(self._names)

    def ids(self) -> list[str]:
        """The paths in the folder, with forward slashes."""
        return self._names.to_pylist()

    def labels(self) -> None:
        """None: what a folder's name means is not known."""

    def part(self, start: int, stop: int) -> "FolderOfClouds":
        """The files start … stop − 1."""
        names = self._names.slice(start, stop - start)
        return FolderOfClouds(Path(self.source), names, self.fingerprint, self.drop_invalid)

    def read_cloud(self, index: int, reader: CloudReader) -> PointCloud:
        """Reads one file; raises PointCloudError."""
        return reader.read(Path(self.source) / self._names[index].as_py())


class DatasetOfClouds(CloudCollection):
    """Rows of a data set with `points`, and maybe `label` and `id`; without `id`, a row's number is its id."""

    def __init__(
        self,
        dataset: Dataset,
        source: str,
        split: str | None,
        fingerprint: str,
        first: int = 0,
        drop_invalid: bool = False,
    ) -> None:
        """Takes what `with_own_names` gives; `first` is the number of the first row."""
        self.source, self.split, self.fingerprint = source, split, fingerprint
        self._dataset, self._first, self.drop_invalid = dataset, first, drop_invalid
        self._rows: dict[tuple[str, ...], Dataset] = {}  # by the features that were asked for

    def __len__(self) -> int:
        return len(self._dataset)

    def ids(self) -> list[str]:
        """The column `id`, or the numbers of the rows."""
        if "id" in self._dataset.column_names:
            return [str(value) for value in self._dataset["id"][:]]
        return [str(self._first + row) for row in range(len(self))]

    def labels(self) -> list[str | None] | None:
        """The column `label`: a ClassLabel's names (None below 0), or other values as text; empty entries are None.

        Several classes or numbers by their names are JSON.
        """
        if "label" not in self._dataset.column_names:
            return None
        feature, values = self._dataset.features["label"], self._dataset["label"][:]
        if isinstance(feature, ClassLabel):
            return [None if value is None or value < 0 else feature.int2str(value) for value in values]
        if isinstance(feature, dict):  # of several classes, or of numbers by name
            return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return [None if value is None else str(value) for value in values]

    def part(self, start: int, stop: int) -> "DatasetOfClouds":
        """The rows start … stop − 1, mapped anew where they are on the disk."""
        rows = self._dataset.select(range(start, stop))
        if rows.cache_files:
            rows = pickle.loads(pickle.dumps(rows))  # safe: our own object; its pickle names the mapped file
        first = self._first + start
        return DatasetOfClouds(rows, self.source, self.split, self.fingerprint, first, self.drop_invalid)

    def read_cloud(self, index: int, reader: CloudReader) -> PointCloud:
        """Reads one row; raises PointCloudError."""
        name = f"row {self._first + index} of {self.source}"
        names = tuple(reader.feature_names)
        if names not in self._rows:
            self._rows[names] = undecoded(self._dataset, feature_columns(self._dataset, names))
        return read_row(next(rows_of(self._rows[names][index])), name, reader)
