"""Arrays in files: .npy and .npz."""

import zipfile
from pathlib import Path

import numpy as np

from .features import features_of, spread_groups, wanted_columns
from .geometry import BadFileError, Geometry, Wanted

_LARGEST_RATIO, _LARGEST_FREE = 100, 1 << 28  # how far an archive may unpack, unless to less than 256 MiB


def read_numpy(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads an array [N, 3 or 6] or one with the fields x, y and z; of an archive its only array, or `points`.

    Features are the fields of their names, the last three columns of six (normals), and the archive's arrays of the
    names of features or groups, such as `rgb`. If one of a number is wanted, such as "3", it is the column of that
    number from 0, and there may be any number of columns.
    """
    others: dict[str, np.ndarray] = {}
    if path.suffix.lower() == ".npz":
        _check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            key = archive.files[0] if len(archive.files) == 1 else "points"
            if key not in archive:
                raise BadFileError(f"a cloud lies under the key 'points', this file has {archive.files[:12]}")
            array = archive[key]
            others = {name: archive[name] for name in archive.files if name != key and _is_wanted(name, wanted)}
    else:
        array = np.load(path, allow_pickle=False, mmap_mode="r")  # which looks how long the file is
    if not array.dtype.itemsize:  # a copy would take a byte for each of as many as the header claims
        raise BadFileError(f"its numbers have no bytes (dtype {array.dtype})")
    if array.dtype.names:
        names = {name.lower(): name for name in array.dtype.names}
        if missing := [axis for axis in "xyz" if axis not in names]:
            raise BadFileError(f"its fields {', '.join(list(names)[:12])} lack {', '.join(missing)}")
        points = np.stack([array[names[axis]].reshape(-1) for axis in "xyz"], axis=1)
        axes = {names[axis] for axis in "xyz"}
        columns = wanted_columns([name for name in array.dtype.names if name not in axes], wanted)
        return Geometry(points, features={feature: array[name].reshape(-1) for feature, name in columns.items()})
    if array.ndim == 3:
        raise BadFileError(f"it holds {array.shape[0]} clouds (shape {list(array.shape)}): pass a dataset with --data")
    numbers = [int(name) for name in wanted or () if name.isdecimal()]
    if array.ndim != 2 or (array.shape[1] not in (3, 6) and not (numbers and array.shape[1] > 3)):
        raise BadFileError(f"expected the shape [N, 3], or [N, 6] with normals, got {list(array.shape)}")
    if array.shape[1] == 6 and _are_normals(array[:, 3:]):  # no name tells them from colours
        others.setdefault("normal", np.array(array[:, 3:]))
    others |= {str(number): np.array(array[:, number]) for number in numbers if 3 <= number < array.shape[1]}
    spread = spread_groups(others, len(array), str(path))
    features = {name: values for name, values in spread.items() if _is_wanted(name, wanted)}
    return Geometry(np.array(array[:, :3]), features=features)


def _are_normals(vectors: np.ndarray) -> bool:
    """Whether most vectors [N, 3] have length 1."""
    if vectors.dtype.kind != "f" or not len(vectors):
        return False
    return bool(np.median(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1)) < 0.05)


def _is_wanted(name: str, wanted: Wanted) -> bool:
    """Whether an array by this name of a feature or a group holds a wanted feature."""
    return bool(wanted_columns(features_of(name), wanted))


def _check_archive(path: Path) -> None:
    """Refuses arrays larger than their bytes, and archives that unpack to far more than they are."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > max(_LARGEST_FREE, _LARGEST_RATIO * path.stat().st_size):
            raise BadFileError(f"it unpacks to {total:,} bytes, {_LARGEST_RATIO} times its size and more")
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if int(np.prod(shape, dtype=object)) * max(dtype.itemsize, 1) > member.file_size:
                raise BadFileError(f"{member.filename} says the shape {list(shape)}, but has {member.file_size} bytes")
