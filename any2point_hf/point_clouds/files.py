"""Reads one point cloud from a file: meshes are sampled, clouds are taken as they are.

The readers take a path and return a `Geometry`. They may raise any error; `read_point_cloud` turns it into a
`PointCloudError` with the file's name.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from any2point_hf.modeling.errors import PointCloudError

from .arrays import read_numpy
from .checks import check_points, in_needed_precision
from .features import EVERYTHING, NORMALS, feature_names, missing_features, scaled_features, unit_length
from .geometry import BadFileError, Geometry, Wanted, check_corners
from .invalid import DroppedPoints
from .meshes import read_obj, read_off, read_scene, read_stl
from .pcd import read_pcd
from .ply import read_ply
from .scans import read_e57, read_las, read_ptx
from .text import read_text

MESH_SAMPLES = 8192
"""How many points are drawn from the surface of a mesh."""

_LONGEST_REASON = 300  # of a parser, in characters
CHECK_FILE = "Check that the file is complete and of the format that its extension names."
_MEND_MESH = "Mend the mesh; of a file with faces, no points can be dropped (--drop-invalid)."

_READERS: dict[str, Callable[[Path, Wanted], Geometry]] = {
    ".ply": read_ply,
    ".off": read_off,
    ".obj": read_obj,
    ".stl": read_stl,
    ".glb": read_scene,
    ".gltf": read_scene,
    ".dae": read_scene,
    ".pcd": read_pcd,
    ".las": read_las,
    ".laz": read_las,
    ".e57": read_e57,
    ".ptx": read_ptx,
    **dict.fromkeys((".xyz", ".txt", ".csv", ".pts", ".asc", ".xyzn", ".xyzrgb"), read_text),
    ".npy": read_numpy,
    ".npz": read_numpy,
}

POINT_CLOUD_EXTENSIONS: tuple[str, ...] = tuple(_READERS)
"""The file name extensions that `read_point_cloud` knows."""


class ParserError(PointCloudError):
    """A file that a parser failed at; the message has the parser's words, which help to mend the file."""


class PointCloud(NamedTuple):
    """Points with features.

    Attributes:
        points: [N, 3], as `read_point_cloud` returns them.
        features: [N] by name; read from a file, float32 on the scales of `FEATURE_GROUPS`.
    """

    points: np.ndarray
    features: Mapping[str, np.ndarray] = MappingProxyType({})


def read_point_cloud(path: str | os.PathLike, *, seed: int = 0, drop_invalid: bool = False) -> np.ndarray:
    """Reads a point cloud from a file of one of `POINT_CLOUD_EXTENSIONS`.

    A mesh (a file with faces) is sampled uniformly by area at `MESH_SAMPLES` points; a file without faces gives its
    points in their order. Columns besides x, y, z (normals, colours, labels) are left out.

    Args:
        path: the file; its extension, in any case, names the format. .las and .laz need the extra `las`, .e57 the
            extra `e57`, .dae the extra `dae`.
        seed: of the samples of a mesh. The global random state is neither used nor changed.
        drop_invalid: whether to drop points that are not finite, and those of more than a quarter of all at one place,
            with a warning that counts them. Else the former are an error, and the latter are read as they are (and
            refused by the processor). The vertices of a mesh always have to be finite.

    Returns:
        [N, 3], N ≥ 1, in the file's own unit: float32, or float64 where float32 would move a point by more than a
        millionth of the cloud's extent, as it would map coordinates.

    Raises:
        PointCloudError: the file is missing, of an unknown format, empty, damaged, or holds no finite points.
    """
    return read_point_cloud_with_features(path, (), seed=seed, drop_invalid=drop_invalid).points


def read_point_cloud_with_features(
    path: str | os.PathLike, names: Iterable[str] | None = None, *, seed: int = 0, drop_invalid: bool = False
) -> PointCloud:
    """Reads the points of a file, and what it says of each besides its place.

    The samples of a mesh have the normals of their faces, and colours between those of the corners.

    Args:
        path: as in `read_point_cloud`.
        names: of features or of groups, such as `["rgb", "intensity"]`; None for all in `FEATURE_GROUPS` that the file
            has.
        seed: as in `read_point_cloud`.
        drop_invalid: as in `read_point_cloud`.

    Raises:
        PointCloudError: as `read_point_cloud` does; or a named feature is not in the file, not finite, or not of its
            scale.
    """
    dropped = DroppedPoints() if drop_invalid else None
    cloud = read_cloud(path, names, seed, dropped)
    if dropped is not None:
        dropped.warn()
    return cloud


def read_cloud(
    path: str | os.PathLike,
    names: Iterable[str] | None,
    seed: int,
    dropped: DroppedPoints | None,
    vertices_only: bool = False,
) -> PointCloud:
    """The same for those who read many files: `dropped` drops invalid points and counts them, None refuses them.

    With `vertices_only` a mesh is not sampled: its vertices are the points.
    """
    path = Path(path)
    check_file(path)
    wanted = None if names is None else feature_names(names)
    extension = path.suffix.lower()
    try:
        geometry = _READERS[extension](path, wanted)
        if geometry.triangles is None or vertices_only:
            points, features = check_points(geometry.points, str(path), dropped=dropped), geometry.features
            features = scaled_features(features if dropped is None else dropped.along(features), str(path))
        else:
            vertices = check_points(geometry.points, str(path), fix=_MEND_MESH)
            features = scaled_features(geometry.features, str(path))
            points, features = _sample_surface(vertices, geometry.triangles, features, wanted, seed)
        if missing := [name for name in wanted or () if name not in features]:
            raise missing_features(missing, _all_features(path) or features, str(path))
        return PointCloud(in_needed_precision(points), features)
    except PointCloudError:
        raise
    except Exception as error:  # parsers fail in many ways, and each means the same to the user
        reason = " ".join(str(error).split()).rstrip(".!")[:_LONGEST_REASON] or type(error).__name__
        kind = PointCloudError if isinstance(error, BadFileError) else ParserError
        raise kind(f"{path} cannot be read as {extension}: {reason}. {CHECK_FILE}") from error


def check_file(path: Path) -> None:
    """Checks that a file is there and of a format that is read, without opening it.

    Raises:
        PointCloudError: it is not, or it is empty.
    """
    if path.is_dir():
        raise PointCloudError(f"{path} is a folder; expected one point cloud file. Give the path of a file in it.")
    if path.is_symlink() and not path.exists():
        raise PointCloudError(f"{path} is a link to {os.readlink(path)}, where there is nothing. Mend or remove it.")
    if not path.is_file():
        raise PointCloudError(f"{path} does not exist. Check the path, relative to {Path.cwd()}.")
    if path.suffix.lower() not in _READERS:
        known = " ".join(POINT_CLOUD_EXTENSIONS)
        raise PointCloudError(f"{path} has the extension {path.suffix.lower()!r}; point cloud files end in {known}.")
    if not path.stat().st_size:
        raise PointCloudError(f"{path} is empty (0 bytes); expected a point cloud. Write or download the file again.")


def _all_features(path: Path) -> set[str]:
    """Names of all features and other columns in a file, for an error; none if reading them fails."""
    for wanted in (EVERYTHING, None):  # an archive's other arrays need not have a row for each point
        with contextlib.suppress(Exception):
            geometry = _READERS[path.suffix.lower()](path, wanted)
            return {*geometry.features, *(() if geometry.triangles is None else NORMALS)}
    return set()


def _sample_surface(
    vertices: np.ndarray, triangles: np.ndarray, features: dict[str, np.ndarray], wanted: Wanted, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Samples a mesh around its first vertex: vertices [V, 3], triangles [F, 3], features [V] -> MESH_SAMPLES rows."""
    import trimesh  # here, because only meshes should wait for it (most of a second)

    check_corners(triangles, len(vertices))
    origin = vertices[0].astype(np.float64)
    mesh = trimesh.Trimesh(vertices - origin, triangles, process=False)
    if not mesh.area > 0:
        raise BadFileError("its faces have no area, so no points can be sampled on them")
    samples, faces = trimesh.sample.sample_surface(mesh, MESH_SAMPLES, seed=seed)[:2]
    sampled: dict[str, np.ndarray] = {}
    corners = mesh.triangles[faces]
    if features:
        weights = trimesh.triangles.points_to_barycentric(corners, samples, method="cross").astype(np.float32)
        weights = np.clip(weights, 0, None) / np.clip(weights, 0, None).sum(axis=1, keepdims=True)
        sampled = {name: (values[triangles[faces]] * weights).sum(axis=1) for name, values in features.items()}
    if wanted is None or set(NORMALS) & set(wanted):
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        sampled |= dict(zip(NORMALS, unit_length(normals).T, strict=True))
    return samples + origin, sampled
