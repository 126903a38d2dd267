"""Arrays in files: .npy and .npz."""

import zipfile
from pathlib import Path

import numpy as np

from .geometry import Geometry

_LARGEST_RATIO, _LARGEST_FREE = 100, 1 << 28  # how far an archive may unpack, unless to less than 256 MiB


def read_numpy(path: Path) -> Geometry:
    """Reads an array [N, 3 or more] or one with the fields x, y and z; of an archive its only array, or `points`."""
    if path.suffix.lower() == ".npz":
        _check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            key = archive.files[0] if len(archive.files) == 1 else "points"
            if key not in archive:
                raise ValueError(f"a cloud lies under the key 'points', this file has {archive.files[:12]}")
            array = archive[key]
    else:
        array = np.load(path, allow_pickle=False, mmap_mode="r")  # which looks how long the file is
    if array.dtype.names:
        names = {name.lower(): name for name in array.dtype.names}
        if missing := [axis for axis in "xyz" if axis not in names]:
            raise ValueError(f"its fields {', '.join(list(names)[:12])} lack {', '.join(missing)}")
        return Geometry(np.stack([array[names[axis]].reshape(-1) for axis in "xyz"], axis=1))
    if array.ndim == 3:
        raise ValueError(f"it holds {array.shape[0]} clouds (shape {list(array.shape)}): pass a dataset with --data")
    if array.ndim != 2 or array.shape[1] not in (3, 6):
        raise ValueError(f"expected the shape [N, 3], or [N, 6] with normals, got {list(array.shape)}")
    return Geometry(np.array(array[:, :3]))


def _check_archive(path: Path) -> None:
    """Refuses arrays larger than their bytes, and archives that unpack to far more than they are."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > max(_LARGEST_FREE, _LARGEST_RATIO * path.stat().st_size):
            raise ValueError(f"it unpacks to {total:,} bytes, {_LARGEST_RATIO} times its size and more")
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if int(np.prod(shape, dtype=object)) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} says the shape {list(shape)}, but has {member.file_size} bytes")
