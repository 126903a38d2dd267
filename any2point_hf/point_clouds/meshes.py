"""Meshes: .obj, .off, .stl and, by trimesh, .glb, .gltf and .dae."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from .features import NORMALS, spread_groups, wanted_columns
from .geometry import BadFileError, Geometry, Wanted, in_plain_words, triangulate
from .text import decode

_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_GLTF_PACKED = {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}
_GLTF_SIZES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_GLTF_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_STL_CORNER = re.compile(r"^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE | re.MULTILINE)
_STL_BEGIN = re.compile(r"^\s*solid\b", re.IGNORECASE | re.MULTILINE)
_STL_END = re.compile(r"^\s*end\s*solid\b", re.IGNORECASE | re.MULTILINE)


def read_obj(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads vertices with their colours, and faces; of a cloud also normals. Textures and materials are left out."""
    vertices: list[list[float]] = []
    normals: list[list[float]] = []
    takes_normals = wanted is None or bool(set(NORMALS) & set(wanted))
    polygons: list[list[int]] = []
    begun = ""  # a line that the next one goes on with
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig", "replace").splitlines(), 1):
        text = begun + line.partition("#")[0].rstrip()
        words = text.split()
        kind = words[0].lower() if words else ""
        if kind not in ("v", "f", "fo") and not (kind == "vn" and takes_normals):
            continue
        begun = text[:-1] + " " if text.endswith("\\") else ""
        if begun:
            continue
        try:
            if kind == "v":
                vertices.append([float(word) for word in words[1:7]])
                if len(words) < 4:
                    raise BadFileError(f"a vertex needs three numbers, got {len(words) - 1}")
            elif kind == "vn":
                normals.append([float(word) for word in words[1:4]])
            else:
                polygons.append([_corner(word, len(vertices)) for word in words[1:]])
        except ValueError as error:
            raise BadFileError(f"line {number}: {in_plain_words(str(error))}") from error
    if not vertices:
        raise BadFileError("it holds no vertices")
    points = np.array([vertex[:3] for vertex in vertices])
    others: dict[str, np.ndarray] = {}
    if all(len(vertex) == 6 for vertex in vertices):  # x y z r g b; a fourth number alone is a weight
        others["rgb"] = np.array(vertices)[:, 3:]
    if len(normals) == len(vertices) and not polygons:
        others["normal"] = np.array(normals)
    return Geometry(points, triangulate(points, polygons, first=1), _chosen(others, len(points), wanted))


def _chosen(arrays: dict[str, np.ndarray], num_points: int, wanted: Wanted) -> dict[str, np.ndarray]:
    """The wanted features out of groups of them."""
    features = spread_groups(arrays, num_points, "its vertices")
    return {name: features[name] for name in wanted_columns(features, wanted)}


def _corner(word: str, num_vertices: int) -> int:
    """The row of a face's corner, such as 3, 3/1/2 or −1 for the last vertex so far."""
    index = int(word.partition("/")[0])
    if abs(index) > 2**31:
        raise BadFileError(f"a face names vertex {word[:30]}, more than a file can hold")
    if index == 0:
        raise BadFileError("a face names vertex 0; vertices are counted from 1")
    if index < -num_vertices:
        raise BadFileError(f"a face names vertex {index}, but {num_vertices} vertices come before it")
    return index - 1 if index > 0 else num_vertices + index


def read_off(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads text OFF, COFF with colours and NOFF with normals; ModelNet glues header and counts: "OFF3514 3546 0"."""
    text = re.sub("#.*", "", path.read_bytes().decode("utf-8-sig", "replace"))
    header = re.match(r"\s*(?:ST)?C?N?OFF(?:\s+BINARY)?", text, re.IGNORECASE)
    if not header or header[0].upper().endswith("BINARY"):
        raise BadFileError("a text OFF file starts with 'OFF'")
    rows = [row for line in text[header.end() :].splitlines() if (row := line.split())]
    num_vertices, num_faces = (int(count) for count in rows[0][:2]) if rows else (0, 0)
    if min(num_vertices, num_faces) < 0:
        raise BadFileError(f"its counts must not be negative, got {num_vertices} and {num_faces}")
    found = len(rows) - 1
    if found != num_vertices + num_faces:
        more = ": it is cut off" if found < num_vertices + num_faces else ", which is more"
        raise BadFileError(f"it has {found} of {num_vertices} + {num_faces} vertex and face lines{more}")
    vertices = np.array([row[:3] for row in rows[1 : num_vertices + 1]], dtype=np.float64).reshape(-1, 3)
    group = {"COFF": "rgb", "NOFF": "normal"}.get(header[0].split()[0].upper())
    others = {}
    if group and all(len(row) >= 6 for row in rows[1 : num_vertices + 1]) and num_vertices:
        others[group] = np.array([row[3:6] for row in rows[1 : num_vertices + 1]], dtype=np.float64)
    polygons = []
    for row in rows[num_vertices + 1 :]:
        polygon = [int(vertex) for vertex in row[1 : int(row[0]) + 1]]
        if len(polygon) != int(row[0]):
            raise BadFileError(f"a face of {row[0]} vertices names {len(polygon)}: it is cut off")
        polygons.append(polygon)
    return Geometry(vertices, triangulate(vertices, polygons), _chosen(others, len(vertices), wanted))


def read_stl(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads text and binary STL."""
    data = path.read_bytes()
    num_triangles = int.from_bytes(data[80:84], "little")
    if len(data) >= 84 and 0 <= len(data) - (84 + 50 * num_triangles) <= 2:  # binary, whatever its header says
        corners = np.frombuffer(data, _STL_TRIANGLE, num_triangles, 84)["corners"].reshape(-1, 3)
    elif b"\0" in data:
        expected = 84 + 50 * num_triangles
        more = "which is more" if len(data) > expected else "it is cut off"
        raise BadFileError(f"a binary STL with its header has {expected} bytes, this has {len(data)}: {more}")
    else:
        text = decode(data)
        num_ends = len(_STL_END.findall(text))
        if not num_ends or num_ends < len(_STL_BEGIN.findall(text)):
            raise BadFileError("a text STL ends in 'endsolid', this does not: it is cut off or no STL")
        found = _STL_CORNER.findall(text)
        num_facets = len(re.findall(r"\bouter\s+loop\b", text, re.IGNORECASE))
        if len(found) != 3 * num_facets:
            raise BadFileError(f"its {num_facets} facets have {len(found)} corners, not {3 * num_facets}")
        corners = np.array(found, dtype=np.float64).reshape(-1, 3)
    if not len(corners):
        raise BadFileError("it holds no triangles")
    return Geometry(corners, np.arange(len(corners)).reshape(-1, 3))


def read_scene(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads .glb, .gltf and .dae: all parts where the scene puts them; without faces its points.

    Colours are those of vertices, where every part has them; textures are left out.
    """
    import trimesh

    if path.suffix.lower() != ".dae":
        _check_gltf(path.read_bytes())
    options: Any = {"process": False, "skip_materials": True, "resolver": _resolver(path)}
    scene: Any = trimesh.load_scene(path, **options)
    parts = [part for part in scene.dump(concatenate=False) if len(getattr(part, "vertices", ()))]
    meshes = [part for part in parts if len(getattr(part, "faces", ()))]
    chosen = meshes or parts
    if not chosen:
        raise BadFileError("it holds no vertices")
    points = np.concatenate([np.asarray(part.vertices) for part in chosen])
    colors = [color for part in chosen if (color := _vertex_colors(part)) is not None]
    others = {"rgb": np.concatenate(colors)} if len(colors) == len(chosen) else {}
    features = _chosen(others, len(points), wanted)
    if not meshes:
        return Geometry(points, features=features)
    starts = np.cumsum([0, *(len(part.vertices) for part in meshes)])
    faces = [np.asarray(part.faces) + start for part, start in zip(meshes, starts, strict=False)]
    return Geometry(points, np.concatenate(faces), features)


def _vertex_colors(part: Any) -> np.ndarray | None:
    """Colours [V, 3 or 4] of a part's vertices; None if it has none of its own."""
    if hasattr(part, "faces"):
        return np.asarray(part.visual.vertex_colors) if part.visual.kind == "vertex" else None
    colors = np.asarray(part.colors)
    return colors if colors.shape[:1] == (len(part.vertices),) and colors.ndim == 2 else None


def _resolver(path: Path) -> Any:
    """What trimesh asks for the files that a scene names: by URI, such as my%20mesh.bin, none outside the folder."""
    import trimesh

    class FolderResolver(trimesh.resolvers.FilePathResolver):
        def get(self, name: str) -> bytes:
            folder = path.parent.resolve()
            file = next((file for text in (name, unquote(name)) if (file := folder / text).is_file()), None)
            if file is None or not file.resolve().is_relative_to(folder):
                raise BadFileError(f"it names the file {name[:80]!r}, which is not in its folder")
            return file.read_bytes()

    return FolderResolver(str(path))


def _check_gltf(data: bytes) -> None:
    """Refuses what trimesh would read as zeros: packed and sparse arrays, and such as are larger than their bytes."""
    text = data[20 : 20 + int.from_bytes(data[12:16], "little")] if data.startswith(b"glTF") else data
    tree = json.loads(text.decode("utf-8-sig"))
    if packed := _GLTF_PACKED.intersection(tree.get("extensionsRequired", [])):
        raise BadFileError(f"it is packed by {', '.join(sorted(packed))}, which is not supported. Export it without")
    views = tree.get("bufferViews", [])
    for accessor in tree.get("accessors", []):
        if "sparse" in accessor or "bufferView" not in accessor:
            raise BadFileError("it has a sparse or empty array, which is not supported. Export it with whole arrays")
        size = accessor["count"] * _GLTF_SIZES[accessor["type"]] * _GLTF_BYTES[accessor["componentType"]]
        there = views[accessor["bufferView"]]["byteLength"]
        if not 0 <= size <= there:
            raise BadFileError(
                f"an array of {accessor['count']} entries takes {size} bytes, it has {there}: it is cut off"
            )
