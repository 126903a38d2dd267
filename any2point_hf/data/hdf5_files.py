"""HDF5 files of clouds as ScanObjectNN and ModelNet publish them: `data` [n, N, 3] and `label` [n] or [n, 1]."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from any2point_hf.data.official_files import checked_cloud
from any2point_hf.modeling.errors import DatasetError

_CLOUDS_AT_ONCE = 128


def check_hdf5(path: Path, num_classes: int, extras: Sequence[str] = ()) -> list[str]:
    """Checks a file's arrays and labels; the points themselves are checked as they are read.

    Args:
        path: an existing file.
        num_classes: labels are below it.
        extras: further arrays that may be there: "mask" [n, N] or "normal" [n, N, 3].

    Returns:
        The extras that are there.

    Raises:
        DatasetError: h5py is not installed, or the file is truncated, foreign or has impossible values.
    """
    with _opened(path) as file:
        shapes: dict[str, Any] = {name: getattr(file[name], "shape", None) for name in file}
        missing = [name for name in ("data", "label") if shapes.get(name) is None]
        if missing:
            raise DatasetError(
                f"{path} must hold the arrays data and label, got {', '.join(shapes) or 'nothing'}. "
                "Check that it is a file of this dataset."
            )
        data = shapes["data"]
        if len(data) != 3 or 0 in data or data[2] != 3 or file["data"].dtype.kind != "f":
            raise DatasetError(
                f"{path}: data must be floating-point numbers [n, N, 3], n and N ≥ 1, got {file['data'].dtype} "
                f"{list(data)}. Check that it is a file of this dataset."
            )
        if shapes["label"] not in (data[:1], (*data[:1], 1)) or file["label"].dtype.kind not in "iu":
            raise DatasetError(
                f"{path}: label must be integers [{data[0]}] or [{data[0]}, 1], one a cloud, got "
                f"{file['label'].dtype} {list(shapes['label'])}. Check that it is a file of this dataset."
            )
        labels = file["label"][()].reshape(-1)
        wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(wrong):
            raise DatasetError(
                f"{path}: label must be 0…{num_classes - 1} ({num_classes} classes), got {labels[wrong[0]]} at index "
                f"{wrong[0]} ({len(wrong)} such values). Check that it is a file of this dataset."
            )
        found = [name for name in extras if shapes.get(name) is not None]
        for name in found:
            expected = data if name == "normal" else data[:2]
            if shapes[name] != expected or file[name].dtype.kind not in "fiu":
                raise DatasetError(
                    f"{path}: {name} must be numbers {list(expected)}, as data has points, got {file[name].dtype} "
                    f"{list(shapes[name])}. Check that it is a file of this dataset."
                )
        return found


def read_hdf5(path: Path, extras: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Reads a checked file some clouds at a time.

    Args:
        path: of a file that `check_hdf5` accepts.
        extras: further arrays to read, under their own names.

    Yields:
        `points`, `label`, `id` (file name and index) and the extras of each cloud.

    Raises:
        DatasetError: points that are not finite, or too few different ones, or damaged bytes.
    """
    with _opened(path) as file:
        labels = file["label"][()].reshape(-1)
        for start in range(0, len(labels), _CLOUDS_AT_ONCE):
            columns = {name: file[name][start : start + _CLOUDS_AT_ONCE] for name in ("data", *extras)}
            for offset, points in enumerate(columns["data"]):
                index = start + offset
                row = {
                    "points": checked_cloud(points, f"{path}: data[{index}]"),
                    "label": int(labels[index]),
                    "id": f"{path.stem}/{index}",
                }
                yield row | {name: columns[name][offset] for name in extras}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py  # here, because it is an extra
    except ImportError as error:
        raise DatasetError(f'{path} is HDF5, which h5py reads: pip install "any2point-hf[hdf5]".') from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:  # raised by h5py for damaged bytes or another format
        raise DatasetError(
            f"{path} is truncated, damaged or not an HDF5 file: {error}. Unpack or copy it again."
        ) from error
