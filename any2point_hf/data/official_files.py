"""What the readers of the official datasets share: lists, tables of numbers and the Arrow cache."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, NamedSplit
from datasets.exceptions import DatasetGenerationError

from any2point_hf.modeling.errors import Any2PointError, DatasetError, PointCloudError
from any2point_hf.point_clouds.checks import MINIMUM_DISTINCT_POINTS, check_points

_CLOUDS_IN_MEMORY = 100
_CACHE_VERSION = 1  # raise it whenever a reader makes other rows of the same files
_NAMES_IN_MESSAGE = 5


def require_files(paths: Sequence[Path], source: str) -> None:
    """Checks that files exist.

    Args:
        paths: of the files.
        source: the dataset's name, and where it is officially available.

    Raises:
        DatasetError: some are missing; the message names the first of them.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - _NAMES_IN_MESSAGE} more" if len(missing) > _NAMES_IN_MESSAGE else ""
        names = ", ".join(str(path.absolute()) for path in missing[:_NAMES_IN_MESSAGE])
        raise DatasetError(
            f"{len(missing)} of {len(paths)} files missing: {names}{more}. They belong to {source}; nothing is "
            "downloaded here: get it there and unpack it whole, or check the path."
        )


def read_text(path: Path) -> str:
    """The text of a list file.

    Raises:
        DatasetError: it is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} must be UTF-8 text, got other bytes ({error.reason}). Unpack it again.") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, without empty ones.

    Raises:
        DatasetError: it is no text or has no line.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"{path} must list at least one entry, it is empty. Unpack the dataset again.")
    return lines


def read_class_names(path: Path) -> list[str]:
    """The class names of a list file, in its order.

    Raises:
        DatasetError: it is no text, is empty or names a class twice.
    """
    names = read_lines(path)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{path} must name each class once, got {twice[0]!r} twice. Unpack the dataset again.")
    return names


def read_table(path: Path, num_columns: int, delimiter: str | None = None) -> np.ndarray:
    """A text file of numbers, one point a row.

    Args:
        path: of the file.
        num_columns: in every row.
        delimiter: of columns; None for white space.

    Returns:
        [N, num_columns] float32, N ≥ 1.

    Raises:
        DatasetError: the file is not such a table.
    """
    rule = f"{path} must have rows of {num_columns} numbers separated by {repr(delimiter) if delimiter else 'spaces'}"
    try:
        if not path.stat().st_size:  # numpy would warn
            raise ValueError("it is empty")
        table = np.loadtxt(path, dtype=np.float32, delimiter=delimiter, ndmin=2, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{rule}, but {error}. It is cut off or of another format: unpack it again.") from error
    if table.shape[1] != num_columns or not len(table):
        raise DatasetError(f"{rule}, got the shape {list(table.shape)}. Check that it is of this dataset.")
    return table


def checked_cloud(points: np.ndarray, name: str) -> np.ndarray:
    """The points as float32 [N, 3], finite and of enough different ones.

    Raises:
        DatasetError: they are not; the message has the name.
    """
    try:
        return check_points(points, name, minimum_distinct=MINIMUM_DISTINCT_POINTS, fix="Unpack the dataset again.")
    except PointCloudError as error:
        raise DatasetError(str(error)) from error


def cached_dataset(
    clouds: Callable[[], Iterator[dict[str, Any]]],
    features: Features,
    split: str,
    files: Sequence[Path],
    cache_dir: str | os.PathLike[str] | None,
) -> Dataset:
    """Writes clouds to an Arrow file once, and opens it memory-mapped ever after.

    Args:
        clouds: makes an iterator over the rows; called only if the cache does not have them.
        features: of the rows.
        split: name of the split.
        files: all files that the rows are made of; if the size or time of one changes, a new cache is made.
        cache_dir: None for the cache of `datasets` (HF_DATASETS_CACHE).

    Raises:
        DatasetError: the one that `clouds` raises.
    """
    states = [(str(path.resolve()), (state := path.stat()).st_size, state.st_mtime_ns) for path in files]
    fingerprint = hashlib.sha256(repr((_CACHE_VERSION, split, features, states)).encode()).hexdigest()[:16]
    try:
        return Dataset.from_generator(
            clouds,
            features=features,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            split=NamedSplit(split),
            fingerprint=fingerprint,
            writer_batch_size=_CLOUDS_IN_MEMORY,
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, Any2PointError):
            raise error.__cause__ from None
        raise
