"""Formats of laser scanners: .las, .laz and .e57, which need an extra, and .ptx."""

import importlib
import struct
from pathlib import Path
from typing import Any

import numpy as np

from any2point_hf.modeling.errors import PointCloudError

from .features import wanted_columns
from .geometry import BadFileError, Geometry, Wanted
from .text import decode

_LAS_HEADER = struct.Struct("<25xB70xIIBHI")  # minor version, first byte of points, records, format, size, count
_LAS_RECORD = 54  # bytes of the shortest
_PTX_COLUMNS = ["intensity", "red", "green", "blue"]
_E57_COLUMNS = {"intensity": "intensity", "red": "colorRed", "green": "colorGreen", "blue": "colorBlue"}
_CHUNK = 1_000_000  # points that are unpacked at once: nothing is allocated that a header only claims


def read_las(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads .las and .laz: integers times the scale plus the offset, in float64."""
    laspy = _package("laspy", path, "las")
    _check_las_header(path)
    try:
        # in one thread, because in several lazrs allocates as much as a damaged file says, and ends the process
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as file:
            names = [name for name in file.header.point_format.dimension_names if name not in ("X", "Y", "Z")]
            columns = wanted_columns(names, wanted)
            parts, others = [], []
            for part in file.chunk_iterator(_CHUNK):
                parts.append(np.stack([part.x, part.y, part.z], axis=1))
                others.append([np.asarray(part[name]) for name in columns.values()])
            stated = file.header.point_count
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of lazrs, which is written in Rust; no Exception
            raise
        raise BadFileError("its packed points are damaged") from error
    points = np.concatenate(parts).astype(np.float64) if parts else np.empty((0, 3))
    if len(points) != stated:
        raise BadFileError(f"its header says {stated} points, {len(points)} follow: it is cut off")
    return Geometry(points, features=dict(zip(columns, map(np.concatenate, zip(*others, strict=True)), strict=False)))


def _check_las_header(path: Path) -> None:
    """Compares the counts of a LAS header with the size of its file, because laspy believes them."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_LAS_HEADER.size)
    if len(header) < _LAS_HEADER.size or header[:4] != b"LASF":
        raise BadFileError("a LAS file starts with 'LASF' and a header")
    minor, start, num_records, kind, point_size, num_points = _LAS_HEADER.unpack(header)
    if minor >= 4:
        with path.open("rb") as file:
            file.seek(243)
            num_extended, num_points = struct.unpack("<IQ", file.read(12).ljust(12, b"\0"))
            num_records += num_extended
    if start > size or num_records * _LAS_RECORD > size:
        raise BadFileError(f"its header says {num_records} records before byte {start}, the file has {size} bytes")
    is_packed = kind >= 128
    smallest = 0.001 if is_packed else point_size  # packed, a point takes part of a byte
    if num_points * smallest > size:
        raise BadFileError(f"its header says {num_points} points of {point_size} bytes, its file has {size}: cut off")
    if is_packed and num_points:
        _check_chunk_table(path, start, size)


def _check_chunk_table(path: Path, start: int, size: int) -> None:
    """Checks the number of packed chunks, for which lazrs would end the process if there were no memory for them."""
    with path.open("rb") as file:
        file.seek(start)
        table = int.from_bytes(file.read(8), "little", signed=True)
        if table == -1:  # written where the length was not known: it stands at the end
            file.seek(max(0, size - 8))
            table = int.from_bytes(file.read(8), "little", signed=True)
        if not start + 8 <= table <= size - 8:
            raise BadFileError(f"its table of chunks is at byte {table}, the file has {size} bytes: it is cut off")
        file.seek(table + 4)
        num_chunks = int.from_bytes(file.read(4), "little")
    if num_chunks > size:
        raise BadFileError(f"it says {num_chunks} packed chunks, the file has {size} bytes")


def read_e57(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads the Cartesian points of all scans of an .e57, each turned and moved to where its pose says.

    Features are read where every scan has them; intensities as they are.
    """
    pye57 = _package("pye57", path, "e57")
    scans, others = [], []
    features = {feature: column for feature, column in _E57_COLUMNS.items() if wanted is None or feature in wanted}
    with pye57.E57(str(path)) as file:
        for number in range(file.scan_count):
            count = file.get_header(number).point_count
            if count > 8 * path.stat().st_size:  # a point takes a bit at least
                raise BadFileError(f"scan {number} says {count} points, too many for its file")
            scan: dict[str, Any] = file.read_scan(
                number, ignore_missing_fields=True, transform=True, intensity=bool(features), colors=bool(features)
            )
            scans.append(np.stack([scan[f"cartesian{axis}"] for axis in "XYZ"], axis=1))
            others.append({feature: scan[column] for feature, column in features.items() if column in scan})
    return _joined(scans, others)


def _joined(scans: list[np.ndarray], others: list[dict[str, np.ndarray]]) -> Geometry:
    """One geometry out of scans [n, 3], with the features that all of them have."""
    shared = [feature for feature in others[0] if all(feature in other for other in others)] if others else []
    features = {feature: np.concatenate([other[feature] for other in others]) for feature in shared}
    return Geometry(np.concatenate(scans) if scans else np.empty((0, 3)), features=features)


def read_ptx(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads .ptx: scans one after the other, each with ten lines of header whose last four are its pose.

    Lines are x y z, intensity (0…1) and, in some files, red green blue (0…255).
    """
    lines = [line for line in decode(path.read_bytes()).splitlines() if line.strip()]
    scans, others, start = [], [], 0
    while start < len(lines):
        if len(lines) < start + 10:
            raise BadFileError(f"the header of a scan has ten lines, after line {start} there are {len(lines) - start}")
        count = int(lines[start]) * int(lines[start + 1])
        pose = np.loadtxt(lines[start + 6 : start + 10], ndmin=2)
        rows = lines[start + 10 : start + 10 + count]
        if count < 0 or len(rows) < count or pose.shape != (4, 4):
            raise BadFileError(
                f"a scan of {count} points has {len(rows)} lines and a pose {list(pose.shape)}: it is cut off"
            )
        columns = wanted_columns(_PTX_COLUMNS[: len(rows[0].split()) - 3] if rows else [], wanted)
        used = [0, 1, 2, *(3 + _PTX_COLUMNS.index(column) for column in columns.values())]
        table = np.loadtxt(rows or ["0 0 0"], usecols=used[: None if rows else 3], ndmin=2)
        table = table[(table[:, :3] != 0).any(axis=1)]  # directions without an echo are written as 0 0 0
        scans.append(table[:, :3] @ pose[:3, :3] + pose[3, :3])
        others.append(dict(zip(columns, table[:, 3:].T, strict=True)))
        start += 10 + count
    return _joined(scans, others)


def _package(name: str, path: Path, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PointCloudError(
            f'{path} needs the package {name}, which is not installed. Run: pip install "any2point-hf[{extra}]"'
        ) from error
