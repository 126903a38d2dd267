"""Reads one point cloud from a file: meshes are sampled, clouds are taken as they are.

The readers below take a file's bytes and return vertices [N, 3] and triangles [F, 3] (None for a cloud). They
may raise any error; `read_point_cloud` turns it into a `PointCloudError` with the file's name. PCD and OFF are
read here, because trimesh does not know PCD, and in OFF it neither reads polygons of more than four corners nor
notices that a file is cut off.
"""

import io
import itertools
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.checks import check_points

MESH_SAMPLES = 8192
"""How many points are drawn from the surface of a mesh."""

_Geometry = tuple[np.ndarray, np.ndarray | None]


def read_point_cloud(path: str | os.PathLike, *, seed: int = 0) -> np.ndarray:
    """Reads a point cloud from a .ply .off .obj .stl .pcd .xyz .txt .npy or .npz file.

    A mesh (a file with faces) is sampled uniformly by area at `MESH_SAMPLES` points; a file without faces
    gives its points in their order. Columns after x, y, z (normals, colours, labels) are left out.

    Args:
        path: the file; its extension, in any case, names the format.
        seed: of the samples of a mesh. The global random state is neither used nor changed.

    Returns:
        [N, 3] float32, N ≥ 1, in the file's own unit.

    Raises:
        PointCloudError: the file is missing, of an unknown format, empty, damaged, or holds no finite points.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if path.is_dir():
        raise PointCloudError(f"{path} is a folder; expected one point cloud file. Give the path of a file in it.")
    if not path.is_file():
        raise PointCloudError(f"{path} does not exist. Check the path, relative to {Path.cwd()}.")
    if extension not in _READERS:
        known = " ".join(POINT_CLOUD_EXTENSIONS)
        raise PointCloudError(f"{path} has the extension {extension!r}; point cloud files end in {known}.")
    if not path.stat().st_size:
        raise PointCloudError(f"{path} is empty (0 bytes); expected a point cloud. Write or download the file again.")
    try:
        vertices, triangles = _READERS[extension](path.read_bytes())
        points = check_points(vertices, str(path))
        return points if triangles is None else _sample_surface(vertices, triangles, seed)
    except PointCloudError:
        raise
    except Exception as error:  # parsers fail in many ways, and each means the same to the user
        reason = str(error).rstrip(".!") or type(error).__name__
        raise PointCloudError(
            f"{path} cannot be read as {extension}: {reason}. "
            "Check that the file is complete and of the format that its extension names."
        ) from error


def _sample_surface(vertices: np.ndarray, triangles: np.ndarray, seed: int) -> np.ndarray:
    """Vertices [V, 3] and triangles [F, 3] -> [MESH_SAMPLES, 3] float32."""
    import trimesh  # here, because only meshes should wait for it (most of a second)

    if triangles.min() < 0 or triangles.max() >= len(vertices):
        raise ValueError(f"a face names vertex {triangles.max()}, but there are {len(vertices)} vertices")
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    if not mesh.area > 0:
        raise ValueError("its faces have no area, so no points can be sampled on them")
    return trimesh.sample.sample_surface(mesh, MESH_SAMPLES, seed=seed)[0].astype(np.float32)


def _read_with_trimesh(file: io.IOBase, file_type: str) -> _Geometry:
    import trimesh

    options: Any = {"process": False, "skip_materials": True, "fix_texture": False}  # the vertices as they are
    scene: Any = trimesh.load_scene(file, file_type=file_type, **options)
    meshes = [part for part in scene.geometry.values() if len(getattr(part, "faces", ()))]
    if meshes:
        mesh: Any = trimesh.util.concatenate(meshes)
        return np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if not scene.geometry:
        raise ValueError("it holds no vertices")
    return np.concatenate([np.asarray(part.vertices) for part in scene.geometry.values()]), None


def _read_ply(data: bytes) -> _Geometry:
    vertices, triangles = _read_with_trimesh(io.BytesIO(data), "ply")
    header = data.partition(b"end_header")[0]
    declared = {name: int(count) for name, count in re.findall(rb"element\s+(vertex|face)\s+(\d+)", header)}
    found = {b"vertex": len(vertices), b"face": 0 if triangles is None else len(triangles)}
    for name, count in declared.items():  # trimesh takes a cut-off text file or list of faces for a whole one
        if found[name] < count:
            raise ValueError(f"its header says {count} of {name.decode()}, {found[name]} follow: it is cut off")
    return vertices, triangles


def _read_obj(data: bytes) -> _Geometry:
    return _read_with_trimesh(io.StringIO(data.decode("utf-8", "replace")), "obj")


def _read_stl(data: bytes) -> _Geometry:
    if b"\0" in data:  # binary, whatever its header says
        expected = 84 + 50 * struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else 84
        if len(data) != expected:
            raise ValueError(f"a binary STL with its header has {expected} bytes, this has {len(data)}: it is cut off")
    elif b"endsolid" not in data:
        raise ValueError("a text STL ends in 'endsolid', this does not: it is cut off or no STL")
    return _read_with_trimesh(io.BytesIO(data), "stl")


def _read_off(data: bytes) -> _Geometry:
    # ModelNet has files whose header and counts share a line: "OFF3514 3546 0"
    text = re.sub("#.*", "", data.decode("utf-8", "replace"))
    header = re.match(r"\s*(?:ST)?C?N?OFF(?:\s+BINARY)?", text)
    if not header or header[0].endswith("BINARY"):
        raise ValueError("a text OFF file starts with 'OFF'")
    rows = [row for line in text[header.end() :].splitlines() if (row := line.split())]
    num_vertices, num_faces = (int(count) for count in rows[0][:2]) if rows else (0, 0)
    if len(rows) - 1 < num_vertices + num_faces:
        raise ValueError(f"it has {len(rows) - 1} of {num_vertices} + {num_faces} vertex and face lines: it is cut off")
    vertices = np.array([row[:3] for row in rows[1 : num_vertices + 1]], dtype=np.float64).reshape(-1, 3)
    triangles = []
    for row in rows[num_vertices + 1 : num_vertices + num_faces + 1]:
        first, *others = (int(vertex) for vertex in row[1 : int(row[0]) + 1])
        if len(others) + 1 != int(row[0]):
            raise ValueError(f"a face of {row[0]} vertices names {len(others) + 1}: it is cut off")
        triangles += [(first, *edge) for edge in itertools.pairwise(others)]
    return vertices, np.array(triangles) if triangles else None


def _read_text(data: bytes) -> _Geometry:
    if b"\0" in data:
        raise ValueError("it is binary or UTF-16; expected UTF-8 text with a point on each line")
    lines = [line for line in data.decode("utf-8-sig", "replace").splitlines() if line.partition("#")[0].strip()]
    delimiter = "," if lines and "," in lines[-1] else None
    if lines and not any(map(_is_number, lines[0].split(delimiter)[:3])):
        del lines[0]  # the names of the columns
    if not lines:
        raise ValueError("it has no line of three numbers")
    columns = len(lines[0].split(delimiter))
    if columns < 3:
        raise ValueError(f"a line needs at least three columns (x, y, z), the first has {columns}")
    return np.loadtxt(lines, delimiter=delimiter, usecols=(0, 1, 2), ndmin=2), None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_numpy(data: bytes) -> _Geometry:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
        key = array.files[0] if len(array.files) == 1 else "points"
        if key not in array:
            raise ValueError(f"a cloud lies under the key 'points', this file has {array.files}")
        array = array[key]
    if array.ndim == 3:
        raise ValueError(f"it holds {array.shape[0]} clouds (shape {list(array.shape)}): pass a dataset with --data")
    if array.ndim != 2 or array.shape[1] not in (3, 6):
        raise ValueError(f"expected the shape [N, 3], or [N, 6] with normals, got {list(array.shape)}")
    return array[:, :3], None


def _read_pcd(data: bytes) -> _Geometry:
    header, position = {}, 0
    while "DATA" not in header:
        end = data.find(b"\n", position)
        if end < 0:
            raise ValueError("its header has no DATA line")
        key, *words = data[position:end].decode("ascii", "replace").split() or ["#"]
        header[key.upper()] = words
        position = end + 1
    if missing := {"FIELDS", "SIZE", "TYPE", "POINTS"} - header.keys():
        raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
    fields, encoding, num_points = header["FIELDS"], header["DATA"][0].lower(), int(header["POINTS"][0])
    if not {"x", "y", "z"} <= set(fields):
        raise ValueError(f"a cloud needs the fields x y z, this has {' '.join(fields)}")
    if num_points < 1:
        return np.empty((0, 3)), None
    counts = [int(count) for count in header.get("COUNT", ["1"] * len(fields))]
    dtypes = [np.dtype(f"<{kind.lower()}{size}") for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)]
    axes = [fields.index(axis) for axis in "xyz"]

    if encoding == "ascii":
        lines = [line for line in data[position:].decode("ascii", "replace").splitlines() if line.strip()]
        if len(lines) != num_points:
            raise ValueError(f"its header says {num_points} points, {len(lines)} lines follow: it is cut off")
        columns = [sum(counts[:axis]) for axis in axes]
        return np.loadtxt(lines, usecols=columns, ndmin=2).reshape(-1, 3), None

    if encoding not in ("binary", "binary_compressed"):
        raise ValueError(f"DATA is ascii, binary or binary_compressed, this has {encoding}")
    sizes = [dtype.itemsize * count for dtype, count in zip(dtypes, counts, strict=True)]
    body = data[position:]
    if compressed := encoding == "binary_compressed":
        packed_size, _ = struct.unpack_from("<II", body)  # the unpacked size is known from the header
        if len(body) < 8 + packed_size:
            raise ValueError(f"it has {len(body) - 8} of {packed_size} compressed bytes: it is cut off")
        body = _decompress_lzf(body[8 : 8 + packed_size])
    if len(body) < num_points * sum(sizes):
        raise ValueError(f"{num_points} points take {num_points * sum(sizes)} bytes, it has {len(body)}: it is cut off")
    # binary keeps each point's fields together, binary_compressed each field's points
    starts = [sum(sizes[:axis]) * (num_points if compressed else 1) for axis in axes]
    strides = [sizes[axis] if compressed else sum(sizes) for axis in axes]
    columns = [
        np.ndarray(num_points, dtypes[axis], body, start, (stride,))
        for axis, start, stride in zip(axes, starts, strides, strict=True)
    ]
    return np.stack(columns, axis=1), None


def _decompress_lzf(data: bytes) -> bytes:
    """Undoes liblzf: runs of literal bytes and references to bytes already unpacked."""
    unpacked, position = bytearray(), 0
    while position < len(data):
        control = data[position]
        position += 1
        if control < 32:
            unpacked += data[position : position + control + 1]
            position += control + 1
            continue
        length = (control >> 5) + 2
        if length == 9:
            length += data[position]
            position += 1
        distance = ((control & 31) << 8) + data[position] + 1
        position += 1
        if distance > len(unpacked):
            raise ValueError("its compressed data are damaged")
        start = len(unpacked) - distance
        run = unpacked[start : start + length]
        unpacked += (run * (length // len(run) + 1))[:length]  # a run may repeat the bytes it is itself writing
    return bytes(unpacked)


_READERS: dict[str, Callable[[bytes], _Geometry]] = {
    ".ply": _read_ply,
    ".off": _read_off,
    ".obj": _read_obj,
    ".stl": _read_stl,
    ".pcd": _read_pcd,
    ".xyz": _read_text,
    ".txt": _read_text,
    ".npy": _read_numpy,
    ".npz": _read_numpy,
}

POINT_CLOUD_EXTENSIONS: tuple[str, ...] = tuple(_READERS)
"""The file name extensions that `read_point_cloud` knows."""
