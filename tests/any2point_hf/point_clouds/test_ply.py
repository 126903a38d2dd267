"""PLY of every layout: types, byte orders, lists, strips, and headers that claim what is not there."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import MESH_SAMPLES, read_point_cloud
from any2point_hf.point_clouds.ply import read_ply

NUMBERS = {"char": "i1", "uchar": "u1", "short": "i2", "uint16": "u2", "int": "i4", "float32": "f4", "double": "f8"}
SQUARE = "0 0 0\n2 0 0\n2 2 0\n0 2 0\n"


def ply(body, *elements, encoding="ascii"):
    """A file of elements such as ("vertex", 4, "float x", "list uchar int vertex_indices")."""
    lines = ["ply", f"format {encoding} 1.0"]
    for name, count, *properties in elements:
        lines += [f"element {name} {count}", *(f"property {each}" for each in properties)]
    header = "\n".join([*lines, "end_header\n"]).encode()
    return header + (body if isinstance(body, bytes) else body.encode())


XYZ = ("float x", "float y", "float z")
FACE = "list uchar int vertex_indices"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), encoding=st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]))
def test_what_is_written_reads_back(tmp_path_factory, data, encoding):
    """Vertices with properties of any type in any order, and lists of any lengths among them."""
    others = data.draw(st.lists(st.sampled_from([*NUMBERS, "list"]), max_size=4))
    kinds = data.draw(st.permutations([("x", "float32"), ("y", "double"), ("z", "short"), *enumerate(others)]))
    count = data.draw(st.integers(1, 6))
    properties = [f"list uchar int p{name}" if kind == "list" else f"{kind} p{name}" for name, kind in kinds]
    properties = [text.replace("px", "x").replace("py", "y").replace("pz", "z") for text in properties]
    order = ">" if "big" in encoding else "<"
    rows, expected, lines = b"", np.empty((count, 3)), []
    for row in range(count):
        words = []
        for name, kind in kinds:
            values = data.draw(st.lists(st.integers(0, 100), max_size=3 if kind == "list" else 0))
            if kind == "list":
                rows += bytes([len(values)]) + np.array(values, order + "i4").tobytes()
                words += [len(values), *values]
                continue
            value = data.draw(st.integers(0, 100))
            if name in ("x", "y", "z"):
                expected[row, "xyz".index(name)] = value
            rows += np.array(value, order + NUMBERS[kind]).tobytes()
            words.append(value)
        lines.append(" ".join(map(str, words)))
    path = tmp_path_factory.mktemp("ply") / "a.ply"
    body = "\n".join(lines) + "\n" if encoding == "ascii" else rows
    path.write_bytes(ply(body, ("vertex", count, *properties), encoding=encoding))
    np.testing.assert_array_equal(read_ply(path).points, expected)


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_trimesh_s_own_files_are_read(tmp_path, encoding):
    sphere = trimesh.creation.icosphere(subdivisions=1)
    sphere.export(tmp_path / "a.ply", encoding=encoding)
    found = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(found.points, sphere.vertices, atol=1e-6)
    np.testing.assert_array_equal(found.triangles, sphere.faces)


def test_polygons_of_several_sizes_are_cut_into_triangles(tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(ply(SQUARE + "9 0 0\n4 0 1 2 3\n3 0 1 4\n", ("vertex", 5, *XYZ), ("face", 2, FACE)))
    assert sorted(map(sorted, read_ply(path).triangles.tolist())) == [[0, 1, 2], [0, 1, 4], [0, 2, 3]]


@pytest.mark.parametrize("sizes", [[4] * 50 + [3], [3, 4], [4, 3], [5, 3, 4]])
def test_binary_polygons_of_several_sizes(tmp_path, sizes):
    faces = b"".join(bytes([size]) + np.arange(size, dtype="<i4").tobytes() for size in sizes)
    vertices = np.array([[np.cos(a), np.sin(a), 0] for a in range(5)], "<f4").tobytes()
    path, elements = tmp_path / "a.ply", (("vertex", 5, *XYZ), ("face", len(sizes), FACE))
    path.write_bytes(ply(vertices + faces, *elements, encoding="binary_little_endian"))
    assert len(read_ply(path).triangles) == sum(sizes) - 2 * len(sizes)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_headers_in_capitals_with_the_format_last(tmp_path, line_end):
    header = b"PLY\nELEMENT vertex 2\nPROPERTY Float x\nproperty float Y\nproperty float z\ncomment end_header\n"
    header += b"FORMAT BINARY_BIG_ENDIAN 1.0\nEND_HEADER\n"
    points = np.array([[1, 2, 3], [4, 5, 6]])
    path = tmp_path / "a.ply"
    path.write_bytes(header.replace(b"\n", line_end) + points.astype(">f4").tobytes())
    assert read_ply(path).points.tolist() == points.tolist()


def test_no_strips_but_faces(tmp_path):
    strips = ("tristrips", 0, "list int int vertex_indices")
    (tmp_path / "a.ply").write_bytes(ply(SQUARE + "3 0 1 2\n", ("vertex", 4, *XYZ), strips, ("face", 1, FACE)))
    assert read_ply(tmp_path / "a.ply").triangles.tolist() == [[0, 1, 2]]


def test_strips_are_opened(tmp_path):
    path = tmp_path / "a.ply"
    strips = ("tristrips", 1, "list int int vertex_indices")
    path.write_bytes(ply(SQUARE + "8 0 1 2 3 -1 0 1 3\n", ("vertex", 4, *XYZ), strips))
    assert read_ply(path).triangles.tolist() == [[0, 1, 2], [1, 2, 3], [0, 1, 3]]
    assert read_point_cloud(path).shape == (MESH_SAMPLES, 3)


def test_doubles_stay_doubles(tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(ply("5300000.25 0 0\n5300000.75 0 1\n", ("vertex", 2, "double x", "double y", "double z")))
    assert read_point_cloud(path)[:, 0].tolist() == [5300000.25, 5300000.75]


BAD = {
    "negative": (ply("", ("vertex", -1, *XYZ)), "its header says -1 of vertex"),
    "many": (ply("0 0 0\n", ("vertex", 10**12, *XYZ)), "its header says 1000000000000 of vertex, but the file has"),
    "cut": (ply("0 0 0\n", ("vertex", 2, *XYZ)), "says 2 of vertex, 1 follow: it is cut off"),
    "more": (ply(SQUARE, ("vertex", 2, *XYZ)), "2 lines follow what its header says, which is more"),
    "more_bytes": (ply(bytes(36), ("vertex", 2, *XYZ), encoding="binary_little_endian"), "12 bytes follow .* more"),
    "ragged": (ply("0 0 0\n1 1\n", ("vertex", 2, *XYZ)), r"a vertex has 3 numbers, lines have \[2, 3\]"),
    "short_list": (ply(SQUARE + "4 0 1\n", ("vertex", 4, *XYZ), ("face", 1, FACE)), "too few for its lists"),
    "corner": (ply(SQUARE + "3 0 1 7\n", ("vertex", 4, *XYZ), ("face", 1, FACE)), "names vertex 7, but there are 4"),
    "no_z": (ply("0 0\n", ("vertex", 1, "float x", "float y")), "its vertices have no z, but x, y"),
    "type": (ply("0 0 0\n", ("vertex", 1, "quad x", "float y", "float z")), "names the type 'quad'"),
    "long_row": (ply(SQUARE + "3 0 1 2 3\n", ("vertex", 4, *XYZ), ("face", 1, FACE)), "5 numbers, 4 of which"),
    "twice": (ply("0 0 0 0\n", ("vertex", 1, *XYZ, "float x")), "two properties of the name x"),
    "word": (ply("0 0 up\n", ("vertex", 1, *XYZ)), "could not convert string 'up'"),
    "line": (ply("", ("vertex", 0, *XYZ)).replace(b"element", b"elements"), "'elements vertex 0', which means nothing"),
    "format": (ply("", ("vertex", 0, *XYZ)).replace(b"ascii", b"utf8"), "means nothing|format must be one of"),
    "list": (
        ply(b"\xff" * 13, ("vertex", 1, "list uint int a", *XYZ), encoding="binary_little_endian"),
        "its first list has 4294967295 entries: it is cut off",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(PointCloudError, match=message):
        read_point_cloud(tmp_path / "a.ply")
