"""PCD, the Point Cloud Library's format: text, binary and compressed."""

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .features import COLORS, as_declared, wanted_columns
from .geometry import BadFileError, Geometry, Wanted

_PACKED = ("rgb", "rgba")
_HEADER_LINES = 100  # a PCD header has eleven


def read_pcd(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads the fields x, y and z, and those of features; raises ValueError."""
    data = path.read_bytes()
    header, position = _read_header(data)
    fields, sizes, counts, kinds = _fields(header)
    features = _features(fields, sizes, counts, kinds, wanted)
    chosen = [*(fields.index(axis) for axis in "xyz"), *features.values()]
    num_points = _num_points(header)
    if not num_points:
        return Geometry(np.empty((0, 3)))
    body = data[position:]
    encoding = header["DATA"][0].lower() if header["DATA"] else ""
    if encoding == "ascii":
        columns = list(_read_text(body, num_points, counts, chosen).T)
        types = [np.dtype(f"{kinds[field]}{sizes[field]}") for field in features.values()]
        columns[3:] = [
            column if name in _PACKED else as_declared(column, dtype)
            for name, column, dtype in zip(features, columns[3:], types, strict=True)
        ]
        return _geometry(columns, features)
    if encoding not in ("binary", "binary_compressed"):
        raise BadFileError(f"DATA is ascii, binary or binary_compressed, this has {encoding[:30]!r}")
    point_size = sum(size * count for size, count in zip(sizes, counts, strict=True))
    needed = num_points * point_size
    if compressed := encoding == "binary_compressed":
        body = _unpack(body, needed)
    if not needed <= len(body) <= needed + 2:  # a line end may follow
        more = "it is cut off" if len(body) < needed else "which is more"
        raise BadFileError(f"{num_points} points take {needed} bytes, it has {len(body)}: {more}")
    dtypes = [np.dtype(f"<{kind}{size}") for kind, size in zip(kinds, sizes, strict=True)]
    starts = [sum(size * count for size, count in zip(sizes[:field], counts, strict=False)) for field in chosen]
    # binary keeps each point's fields together, binary_compressed each field's points
    columns = [
        np.ndarray(num_points, dtypes[field], body, start * (num_points if compressed else 1), (stride,))
        for field, start in zip(chosen, starts, strict=True)
        for stride in [sizes[field] if compressed else point_size]
    ]
    return _geometry(columns, features)


def _features(
    fields: list[str], sizes: list[int], counts: list[int], kinds: list[str], wanted: Wanted
) -> dict[str, int]:
    """The fields of features by name; `rgb` and `rgba` hold three colours in 32 bits."""
    single = [name for i, name in enumerate(fields) if counts[i] == 1 and (kinds[i], sizes[i]) in _NUMBERS]
    features = {feature: fields.index(name) for feature, name in wanted_columns(single, wanted).items()}
    packed = next((name for name in _PACKED if name in single and sizes[fields.index(name)] == 4), None)
    if packed and (wanted is None or set(COLORS) & set(wanted)):
        features[packed] = fields.index(packed)
    return features


def _geometry(columns: list[np.ndarray], features: Iterable[str]) -> Geometry:
    """Takes x, y, z and the features apart, and packed colours too."""
    found = dict(zip(features, columns[3:], strict=True))
    for name in _PACKED:
        if name in found:
            packed = found.pop(name)
            if packed.dtype.itemsize != 4 and np.isnan(packed).any():  # bits that text cannot hold
                found |= dict.fromkeys(COLORS, packed)
                continue
            bits = packed.view("<u4") if packed.dtype.itemsize == 4 else _bits_of_text(packed)
            found |= {
                color: (bits >> shift & 255).astype(np.uint8) for color, shift in zip(COLORS, (16, 8, 0), strict=True)
            }
    return Geometry(np.stack(columns[:3], axis=1), features=found)


def _bits_of_text(numbers: np.ndarray) -> np.ndarray:
    """Packed colours out of numbers in text, which PCL writes as the integer, or as the float of the same bits."""
    is_small = ((numbers >= -(2**31)) & (numbers < 2**32)).all()  # as no float of an opaque colour is
    if is_small and (numbers == numbers.round()).all() and np.abs(numbers).max(initial=0) >= 1:
        return numbers.astype(np.int64).astype(np.uint32)
    return numbers.astype("<f4").view("<u4")


def _read_header(data: bytes) -> tuple[dict[str, list[str]], int]:
    """The header's words by their key, and where the points begin."""
    header: dict[str, list[str]] = {}
    position = 0
    for _ in range(_HEADER_LINES):
        end = data.find(b"\n", position)
        if end < 0:
            break
        key, *words = data[position:end].decode("utf-8-sig", "replace").split() or ["#"]
        position = end + 1
        header["FIELDS" if key.upper() == "COLUMNS" else key.upper()] = words
        if key.upper() == "DATA":
            if missing := {"FIELDS", "SIZE", "TYPE"} - header.keys():
                raise BadFileError(f"its header lacks {', '.join(sorted(missing))}")
            return header, position
    raise BadFileError("its header has no DATA line")


def _fields(header: dict[str, list[str]]) -> tuple[list[str], list[int], list[int], list[str]]:
    """Names in small letters, sizes in bytes, counts and numpy's kinds of the fields."""
    fields = [name.lower() for name in header["FIELDS"]]
    counts = [int(count) for count in header.get("COUNT", ["1"] * len(fields))]
    sizes, kinds = [int(size) for size in header["SIZE"]], [kind.lower() for kind in header["TYPE"]]
    if not len(fields) == len(sizes) == len(kinds) == len(counts):
        lengths = f"{len(fields)} FIELDS, {len(sizes)} SIZE, {len(kinds)} TYPE, {len(counts)} COUNT"
        raise BadFileError(f"its header must describe each field once, got {lengths}")
    if not {"x", "y", "z"} <= set(fields):
        raise BadFileError(f"a cloud needs the fields x y z, this has {' '.join(fields[:12])}")
    for axis in "xyz":
        index = fields.index(axis)
        if fields.count(axis) > 1 or counts[index] != 1 or (kinds[index], sizes[index]) not in _NUMBERS:
            raise BadFileError(f"the field {axis} must be one number once, got TYPE {kinds[index]} SIZE {sizes[index]}")
    if min(counts) < 0 or min(sizes) < 1:
        raise BadFileError("SIZE must be at least 1 and COUNT not negative")
    return fields, sizes, counts, kinds


_NUMBERS = {(kind, size) for kind in "iu" for size in (1, 2, 4, 8)} | {("f", 2), ("f", 4), ("f", 8)}


def _num_points(header: dict[str, list[str]]) -> int:
    """POINTS, or WIDTH × HEIGHT, which must not contradict it."""
    counts = {key: int(header[key][0]) for key in ("POINTS", "WIDTH", "HEIGHT") if header.get(key)}
    organised = counts["WIDTH"] * counts.get("HEIGHT", 1) if "WIDTH" in counts else None
    num_points = counts.get("POINTS", organised)
    if num_points is None:
        raise BadFileError("its header lacks POINTS, and WIDTH and HEIGHT too")
    if num_points < 0 or (organised is not None and organised != num_points):
        raise BadFileError(f"POINTS must be WIDTH times HEIGHT, got {num_points} and {organised}")
    return num_points


def _read_text(body: bytes, num_points: int, counts: list[int], chosen: list[int]) -> np.ndarray:
    """The chosen fields of all points, [N, chosen]."""
    lines = [line for line in body.decode("ascii", "replace").splitlines() if line.partition("#")[0].strip()]
    if len(lines) != num_points:
        more = "it is cut off" if len(lines) < num_points else "which is more"
        raise BadFileError(f"its header says {num_points} points, {len(lines)} lines follow: {more}")
    width = sum(counts)
    for number, line in enumerate(lines, 1):
        if len(line.split()) != width:
            raise BadFileError(
                f"point {number} has {len(line.split())} numbers, the header names {width}: it is cut off"
            )
    columns = [sum(counts[:field]) for field in chosen]
    return np.loadtxt(lines, usecols=columns, ndmin=2).reshape(-1, len(columns))


def _unpack(body: bytes, needed: int) -> bytes:
    """The bytes of a compressed body, which states both its sizes."""
    if len(body) < 8:
        raise BadFileError("it has no compressed data: it is cut off")
    packed_size, unpacked_size = struct.unpack_from("<II", body)
    if len(body) < 8 + packed_size:
        raise BadFileError(f"it has {len(body) - 8} of {packed_size} compressed bytes: it is cut off")
    if unpacked_size != needed:
        raise BadFileError(f"its points take {needed} bytes, its compressed data hold {unpacked_size}")
    return _decompress_lzf(body[8 : 8 + packed_size], unpacked_size)


def _decompress_lzf(data: bytes, size: int) -> bytes:
    """Undoes liblzf, up to `size` bytes: runs of literal bytes and references to bytes already unpacked."""
    unpacked, position = bytearray(), 0
    while position < len(data) and len(unpacked) <= size:
        control = data[position]
        position += 1
        if control < 32:
            unpacked += data[position : position + control + 1]
            position += control + 1
            continue
        length = (control >> 5) + 2
        if position + (length == 9) >= len(data):
            raise BadFileError("its compressed data are damaged: they end in the middle")
        if length == 9:
            length += data[position]
            position += 1
        distance = ((control & 31) << 8) + data[position] + 1
        position += 1
        if distance > len(unpacked):
            raise BadFileError("its compressed data are damaged")
        start = len(unpacked) - distance
        run = unpacked[start : start + length]
        unpacked += (run * (length // len(run) + 1))[:length]  # a run may repeat the bytes it is itself writing
    if len(unpacked) != size:
        raise BadFileError(f"its compressed data are damaged: they give {len(unpacked)} of {size} bytes")
    return bytes(unpacked)
