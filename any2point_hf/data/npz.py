"""Data sets in one .npz file: points [M, N, 3], labels [M], split [M] (0 train, 1 test), class_names [C]."""

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from any2point_hf.modeling.errors import DatasetError
from any2point_hf.point_clouds.checks import DROP_THEM, check_cloud
from any2point_hf.point_clouds.invalid import DroppedPoints, not_finite

_KEYS = ("points", "labels", "split", "class_names")
_SPLITS = ("train", "test")


def read_npz(
    path: Path, dropped: DroppedPoints | None = None
) -> tuple[dict[str, tuple[Iterable[np.ndarray], list[int]]], list[str]]:
    """Reads and checks the file; further arrays in it are passed over, and nothing is unpickled.

    Args:
        path: of the file.
        dropped: drops invalid points and counts them; None refuses them.

    Returns:
        For "train" and "test" the clouds ([N, 3] each, in the file's order) and class indices; and the
        class names.

    Raises:
        DatasetError: no such file, not a whole .npz, an array missing, of a wrong shape or kind, or holding
            impossible values, or a split without clouds.
        PointCloudError: a cloud has fewer than 8 distinct points, or too many at one place.
    """
    arrays = _load_arrays(path)
    points, labels, split, names = (arrays[key] for key in _KEYS)
    if points.ndim != 3 or points.shape[2] != 3 or points.shape[1] == 0 or points.dtype.kind not in "fiu":
        raise DatasetError(
            f"{path}: points must be numbers [M, N, 3], got {points.dtype} {list(points.shape)}. Keep x, y, "
            "z alone: points[:, :, :3]."
        )
    for key, array in (("labels", labels), ("split", split)):
        if array.shape != points.shape[:1] or array.dtype.kind not in "iu":
            raise DatasetError(
                f"{path}: {key} must be integers [{len(points)}], one for each cloud, got {array.dtype} "
                f"{list(array.shape)}."
            )
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
        raise DatasetError(
            f"{path}: class_names must be different strings [C], got {names.dtype} {list(names.shape)}: "
            f"{names.ravel()[:10].tolist()}. Save np.array([...], dtype=str)."
        )
    _check_values(
        path,
        labels,
        (labels < 0) | (labels >= len(names)),
        "labels",
        f"0…{len(names) - 1} ({len(names)} classes)",
    )
    _check_values(path, split, (split != 0) & (split != 1), "split", "0 (train) or 1 (test)")
    broken = np.array([not_finite(cloud).any() for cloud in points], dtype=bool)
    if dropped is None and broken.any():
        raise DatasetError(
            f"{path}: points must be finite, got NaN or infinity in {np.count_nonzero(broken)} of "
            f"{len(points)} clouds, the first at index {np.argmax(broken)}. {DROP_THEM}"
        )
    clouds = [check_cloud(cloud, f"{path}: points[{index}]", dropped) for index, cloud in enumerate(points)]
    splits: dict[str, tuple[Iterable[np.ndarray], list[int]]] = {}
    for number, name in enumerate(_SPLITS):
        member = split == number
        if not member.any():
            raise DatasetError(f"{path}: no clouds in split {name!r}: set split to {number} for some.")
        splits[name] = ([clouds[index] for index in np.flatnonzero(member)], labels[member].tolist())
    return splits, names.tolist()


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DatasetError(f"No such file: {path.absolute()}. Check the path.")
    if not zipfile.is_zipfile(path):
        raise DatasetError(
            f"{path} is truncated or not a .npz file (a zip archive). Copy or save it again with np.savez."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _KEYS if key not in archive.files]
            if missing:
                raise DatasetError(
                    f"{path}: missing {', '.join(missing)}; needed are {', '.join(_KEYS)}, the file has "
                    f"{', '.join(archive.files) or 'nothing'}. Save them with np.savez under these names."
                )
            return {key: archive[key] for key in _KEYS}
    except DatasetError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}. Copy or save it again with np.savez; arrays of Python "
            "objects are refused."
        ) from error


def _check_values(path: Path, values: np.ndarray, wrong: np.ndarray, key: str, rule: str) -> None:
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DatasetError(
            f"{path}: {key} must be {rule}, got {values[index]} at index {index} "
            f"({np.count_nonzero(wrong)} such values). Correct the file."
        )
