import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.checks import check_points
from any2point_hf.point_clouds.files import MESH_SAMPLES, POINT_CLOUD_EXTENSIONS, read_point_cloud

CLOUD = np.array([[0, 0, 0], [1, 0, 0.5], [0, -2, 0.25], [3, 4, 5]], dtype=np.float32)

# two triangles in the plane z = 2; the second has three times the area of the first
MESH_OFF = "OFF\n5 2 0\n0 0 2\n1 0 2\n0 2 2\n-3 0 2\n0 2 2\n3 0 1 2\n3 0 3 4\n"

PLY_HEADER = (
    "ply\nformat {format} 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\n"
    "property float z\nelement face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
)

PCD_HEADER = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {size}\nTYPE {type}\nCOUNT {count}\nWIDTH {points}\n"
    "HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {data}\n"
)


def pcd_header(points, data, fields="x y z", size="4 4 4", kind="F F F", count="1 1 1"):
    return PCD_HEADER.format(fields=fields, size=size, type=kind, count=count, points=points, data=data).encode()


def ply_header(vertices, faces=0, encoding="binary_little_endian"):
    return PLY_HEADER.format(format=encoding, vertices=vertices, faces=faces).encode()


def stl(triangles):
    records = b"".join(np.concatenate([np.zeros(3), t.ravel()]).astype("<f4").tobytes() + b"\0\0" for t in triangles)
    return bytes(80) + struct.pack("<I", len(triangles)) + records


def write(folder, name, content):
    path = Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_cloud(folder, extension, points):
    """A cloud as the format's plainest file, exactly as float32."""
    path = Path(folder) / f"cloud{extension}"
    if extension == ".npy":
        np.save(path, points)
    elif extension == ".npz":
        np.savez(path, points=points)
    elif extension == ".pcd":
        path.write_bytes(pcd_header(len(points), "binary") + points.astype("<f4").tobytes())
    elif extension == ".ply":
        path.write_bytes(ply_header(len(points)) + points.astype("<f4").tobytes())
    else:
        rows = [" ".join(repr(float(value)) for value in row) for row in points]
        start = {".off": f"OFF\n{len(points)} 0 0\n"}.get(extension, "")
        row_start = {".obj": "v "}.get(extension, "")
        path.write_text(start + "".join(f"{row_start}{row}\n" for row in rows))
    return path


MESHES_AND_SCANS = (".stl", ".glb", ".gltf", ".dae", ".las", ".laz", ".e57", ".ptx")
CLOUD_EXTENSIONS = [extension for extension in POINT_CLOUD_EXTENSIONS if extension not in MESHES_AND_SCANS]


@pytest.mark.parametrize("extension", CLOUD_EXTENSIONS)
@settings(max_examples=15, deadline=None)
@given(
    points=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 30), st.just(3)),
        elements=st.floats(-(2.0**60), 2.0**60, width=32),
    )
)
def test_a_written_cloud_reads_back_equal_and_in_order(extension, points):
    with tempfile.TemporaryDirectory() as folder:
        read = read_point_cloud(write_cloud(folder, extension, points))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, points)


def test_the_extension_may_be_in_capitals_and_the_path_a_string(tmp_path):
    path = write(tmp_path, "A.XYZ", "1 2 3\n")
    assert read_point_cloud(str(path)).tolist() == [[1, 2, 3]]


def test_arrays_may_be_double_big_endian_fortran_ordered_or_have_normals(tmp_path):
    for array in (CLOUD.astype(">f8"), np.asfortranarray(CLOUD), np.hstack([CLOUD, CLOUD + 9])):
        np.save(tmp_path / "cloud.npy", array)
        np.testing.assert_array_equal(read_point_cloud(tmp_path / "cloud.npy"), CLOUD)


def test_npz_gives_its_only_array_or_points(tmp_path):
    np.savez(tmp_path / "one.npz", anything=CLOUD)
    np.savez(tmp_path / "two.npz", label=np.array(3), points=CLOUD)
    np.testing.assert_array_equal(read_point_cloud(tmp_path / "one.npz"), CLOUD)
    np.testing.assert_array_equal(read_point_cloud(tmp_path / "two.npz"), CLOUD)


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3\n4 5 6\n",
        "1,2,3\r\n4,5,6\r\n",
        "\ufeffx, y, z, label\n1, 2, 3, chair\n4, 5, 6, night stand\n",
        "//X Y Z R G B\n1\t2\t3\t255 255 255\n\n4 5 6 0 0 0",
        "# made by hand\n1 2 3 0 0 1 7 # first\n  4 5 6 0 0 1 8\n",
        "1,2,3,\n4,5,6,\n",
    ],
)
def test_text_with_any_separator_header_and_further_columns(tmp_path, text):
    assert read_point_cloud(write(tmp_path, "cloud.txt", text)).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_pcd_fields_may_have_any_order_type_and_count(tmp_path):
    row = np.dtype([("a", "<u1", 3), ("z", "<i2"), ("n", "<f4", 2), ("x", "<f8"), ("y", "<f4")])
    rows = np.zeros(2, row)
    rows["x"], rows["y"], rows["z"] = [1.5, -1], [2, -2], [3, -3]
    layout = {"fields": "_ z n x y", "size": "1 2 4 8 4", "kind": "U I F F F", "count": "3 1 2 1 1"}
    binary = write(tmp_path, "b.pcd", pcd_header(2, "binary", **layout) + rows.tobytes())
    text = write(tmp_path, "a.pcd", pcd_header(2, "ascii", **layout) + b"9 9 9 3 8 8 1.5 2\r\n9 9 9 -3 8 8 -1 -2\r\n")
    assert read_point_cloud(binary).tolist() == [[1.5, 2, 3], [-1, -2, -3]]
    assert read_point_cloud(text).tolist() == [[1.5, 2, 3], [-1, -2, -3]]


def test_compressed_pcd(tmp_path):
    # liblzf's own output (python-lzf 0.2) for 64 points (i % 4 / 2, 1, -2), stored as all x, all y, all z
    packed = bytes.fromhex("0100006000033f000080200300c0200360002007e0df0f40e7e0f3030100c0e0f1030100c0")
    path = write(tmp_path, "c.pcd", pcd_header(64, "binary_compressed") + struct.pack("<II", len(packed), 768) + packed)
    np.testing.assert_array_equal(read_point_cloud(path), [[i % 4 / 2, 1, -2] for i in range(64)])
    with pytest.raises(PointCloudError, match=r"c\.pcd .*it has 33 of 37 compressed bytes: it is cut off"):
        read_point_cloud(write(tmp_path, "c.pcd", path.read_bytes()[:-4]))
    damaged = pcd_header(64, "binary_compressed") + struct.pack("<II", 3, 768) + b"\x20\x05\x00"
    with pytest.raises(PointCloudError, match="compressed data are damaged"):
        read_point_cloud(write(tmp_path, "d.pcd", damaged))


@pytest.mark.parametrize("glued", [False, True], ids=["own line", "OFF5 2 0"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_off_meshes_are_sampled_by_area(tmp_path, glued, line_end):
    text = MESH_OFF.replace("OFF\n", "OFF") if glued else MESH_OFF
    points = read_point_cloud(write(tmp_path, "mesh.off", text.replace("\n", line_end)))
    assert points.shape == (MESH_SAMPLES, 3)
    assert (points[:, 2] == 2).all()
    share = (points[:, 0] < 0).mean()
    assert share == pytest.approx(0.75, abs=0.03)  # six standard deviations
    assert (points[:, 1] >= 0).all()
    assert (points[:, 1] <= 2 * (1 - np.where(points[:, 0] < 0, -points[:, 0] / 3, points[:, 0])) + 1e-5).all()


def test_off_polygons_and_comments(tmp_path):
    vertices = "0 0 0 9 9 9\n2 0 0\n3 1 0 # corner\n\n2 2 0\n0 2 0\n"
    pentagon = f"# made by hand\nCOFF\n5 1 5\n{vertices}5 0 1 2 3 4 255 0 0\n"
    points = read_point_cloud(write(tmp_path, "mesh.off", pentagon))
    assert points[:, 0].max() == pytest.approx(3, abs=0.1)
    assert (points[:, 0] > 2).mean() == pytest.approx(1 / 5, abs=0.03)  # the tip's share of the area


@pytest.mark.parametrize("extension", [".stl", ".obj", ".ply"])
def test_meshes_of_every_format_are_sampled(tmp_path, extension):
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], dtype="<f4")
    content = {
        ".stl": stl([corners]),
        ".obj": b"mtllib no.mtl\nv 0 0 1\nv 1 0 1\nv 0 1 1\nusemtl red\nf 1//1 2//1 3//1\n",
        ".ply": ply_header(3, 1) + corners.tobytes() + b"\3" + np.array([0, 1, 2], "<i4").tobytes(),
    }
    points = read_point_cloud(write(tmp_path, f"mesh{extension}", content[extension]))
    assert points.shape == (MESH_SAMPLES, 3)
    np.testing.assert_allclose(points.mean(axis=0), [1 / 3, 1 / 3, 1], atol=0.02)


def test_the_seed_alone_decides_the_samples(tmp_path):
    path = write(tmp_path, "mesh.off", MESH_OFF)
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    first = read_point_cloud(path, seed=5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(4)
    np.testing.assert_array_equal(read_point_cloud(path, seed=5), first)
    assert not np.array_equal(read_point_cloud(path, seed=6), first)


REAL_FILES = {
    "modelnet_off/ModelNet10/chair/train/chair_0001.off": MESH_SAMPLES,
    "modelnet_off/ModelNet10/toilet/test/toilet_0345.off": MESH_SAMPLES,
    "modelnet10_pcd/chair/train/chair_0001.pcd": 1024,
    "modelnet40_normal_resampled/airplane/airplane_0001.txt": 10000,
    "shapenetpart/person_0090_modelnet40_in_shapenetpart_layout.txt": 10000,
    "shapedb_obj/Chess/m1600.obj": MESH_SAMPLES,
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files(shared_data, name):
    points = read_point_cloud(shared_data / "samples" / name)
    assert points.shape == (REAL_FILES[name], 3)
    assert points.dtype == np.float32
    assert len(np.unique(points, axis=0)) > 0.9 * len(points)


def test_the_same_shape_from_off_and_pcd_covers_the_same_box(shared_data):
    samples = shared_data / "samples"
    mesh = read_point_cloud(samples / "modelnet_off/ModelNet10/bathtub/train/bathtub_0001.off")
    cloud = read_point_cloud(samples / "modelnet10_pcd/bathtub/train/bathtub_0001.pcd")
    extent = np.ptp(mesh, axis=0)
    np.testing.assert_allclose(mesh.min(axis=0), cloud.min(axis=0), atol=0.03 * extent.max())
    np.testing.assert_allclose(np.ptp(cloud, axis=0), extent, rtol=0.05)


BINARY = CLOUD.astype("<f4").tobytes()
BAD_FILES = {
    "unknown.abc": (b"x", r"extension '\.abc'; point cloud files end in \.ply \.off .*\.npz"),
    "no_extension": (b"x", "extension ''"),
    "nothing.ply": (b"", r"is empty \(0 bytes\)"),
    "nothing.npy": (b"", r"is empty \(0 bytes\)"),
    "text.ply": (b"hello", "cannot be read as .ply: a PLY file starts with 'ply'"),
    "text.off": (b"hello", "starts with 'OFF'"),
    "binary.off": (b"OFF BINARY\n\0\0", "a text OFF file"),
    "text.obj": (b"hello world\n", "holds no vertices"),
    "noise.obj": (bytes(range(256)), "holds no vertices"),
    "text.stl": (b"hello", "ends in 'endsolid'"),
    "text.pcd": (b"hello\nworld\n", "no DATA line"),
    "text.npy": (b"hello", "cannot be read as .npy"),
    "text.npz": (b"hello", "cannot be read as .npz"),
    "prose.txt": (b"To be, or not to be\nThat is the question\n", "cannot be read as .txt"),
    "word.txt": (b"chair\n", "no line of three numbers"),
    "comments.xyz": (b"# 1 2 3\n\n", "no line of three numbers"),
    "noise.xyz": (bytes(range(256)), "it is binary, or UTF-16 without its mark"),
    "words_inside.txt": (b"1 2 3\n# and\n4 chair 6\n", "line 3: 'chair' is no number"),
    "two_columns.txt": (b"1 2\n3 4\n", r"at least three columns \(x, y, z\), the first has 2"),
    "short_line.txt": (b"1 2 3\n3 4\n", "line 2: it has 2 columns, the first line of numbers has 3"),
    "two_columns.obj": (b"v 0 0 0\nv 1 0\n", "line 2: a vertex needs three numbers, got 2"),
    "no_z.ply": (ply_header(2).replace(b"property float z\n", b"") + bytes(16), "z"),
    "cut.ply": (ply_header(4) + BINARY[:-3], "cannot be read as .ply"),
    "cut_faces.ply": (ply_header(4, 2) + BINARY, "cannot be read as .ply"),
    "cut_text.ply": (
        ply_header(3, 0, "ascii") + b"0 0 0\n1 1 1\n",
        "says 3 of vertex, 2 follow: it is cut off",
    ),
    "no_points.ply": (ply_header(0), "cannot be read|no points"),
    "cut_vertices.off": (MESH_OFF[:20], "it is cut off"),
    "cut_faces.off": (MESH_OFF[:-9], r"it has 6 of 5 \+ 2 vertex and face lines: it is cut off"),
    "cut_face.off": (MESH_OFF[:-3], "a face of 3 vertices names 2: it is cut off"),
    "no_counts.off": (b"OFF\n", "cannot be read|no points"),
    "wrong_face.off": (MESH_OFF[:-2] + "9", "a face names vertex 9, but there are 5 vertices"),
    "flat.off": ("OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 1\n", "faces have no area"),
    "wrong_face.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "cannot be read as .obj"),
    "cut.stl": (stl([np.eye(3)])[:-9], "has 134 bytes, this has 125: it is cut off"),
    "cut_header.stl": (bytes(60), "it is cut off"),
    "cut.pcd": (pcd_header(4, "binary") + BINARY[:-1], "4 points take 48 bytes, it has 47: it is cut off"),
    "cut_text.pcd": (pcd_header(4, "ascii") + b"1 2 3\n", "says 4 points, 1 lines follow: it is cut off"),
    "cut_header.pcd": (pcd_header(4, "binary")[:30], "no DATA line"),
    "huge.pcd": (pcd_header(10**15, "binary") + BINARY, "it is cut off"),
    "no_points.pcd": (pcd_header(0, "binary"), "holds no points"),
    "no_z.pcd": (pcd_header(4, "binary", "x y i") + BINARY, "needs the fields x y z, this has x y i"),
    "unsized.pcd": (pcd_header(4, "binary").replace(b"SIZE", b"#"), "its header lacks SIZE"),
    "unknown_data.pcd": (pcd_header(4, "base64") + BINARY, "DATA is ascii, binary or binary_compressed"),
    "nan.txt": (b"1 2 3\nnan 2 3\n4 5 inf\n", "must be finite: 2 of 3 points"),
    "nan.obj": (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "must be finite: 1 of 3 points"),
    "nan.pcd": (pcd_header(2, "ascii") + b"nan nan nan\n1 2 3\n", "must be finite: 1 of 2 points"),
    "large.xyz": (b"1e39 2 3\n", "must be finite: 1 of 1 points"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_and_explained(tmp_path, name):
    content, message = BAD_FILES[name]
    with pytest.raises(PointCloudError, match=message) as error:
        read_point_cloud(write(tmp_path, name, content))
    assert str(tmp_path / name) in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(PointCloudError, match=r"none\.ply does not exist"):
        read_point_cloud(tmp_path / "none.ply")
    with pytest.raises(PointCloudError, match="is a folder"):
        read_point_cloud(tmp_path)


def test_the_parsers_own_error_is_chained(tmp_path):
    with pytest.raises(PointCloudError) as error:
        read_point_cloud(write(tmp_path, "a.ply", "hello"))
    assert isinstance(error.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 2)), r"\[N, 3\], or \[N, 6\] with normals, got \[5, 2\]"),
        (np.zeros(5), r"got \[5\]"),
        (np.zeros((2, 5, 3)), "holds 2 clouds .*--data"),
        (np.zeros((0, 3)), "holds no points"),
        (np.array([["a", "b", "c"]]), "must hold real numbers"),
        (np.zeros((4, 3), complex), "must hold real numbers"),
        (np.array([[1, 2, None]], dtype=object), "cannot be read"),
        (np.full((4, 3), np.nan), "4 of 4 points"),
    ],
)
def test_bad_arrays_in_npy_and_npz(tmp_path, array, message):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    np.savez(tmp_path / "bad.npz", points=array)
    for name in ("bad.npy", "bad.npz"):
        with pytest.raises(PointCloudError, match=message) as error:
            read_point_cloud(tmp_path / name)
        assert name in str(error.value)


def test_npz_without_points_and_cut_arrays(tmp_path):
    np.savez(tmp_path / "dataset.npz", x=CLOUD, y=CLOUD)
    with pytest.raises(PointCloudError, match=r"under the key 'points', this file has \['x', 'y'\]"):
        read_point_cloud(tmp_path / "dataset.npz")
    for extension in (".npy", ".npz"):
        whole = write_cloud(tmp_path, extension, CLOUD).read_bytes()
        for kept in (20, len(whole) - 5):
            with pytest.raises(PointCloudError, match=f"cannot be read as {extension}"):
                read_point_cloud(write(tmp_path, f"cut{extension}", whole[:kept]))


def test_check_points_converts_and_keeps_the_order():
    checked = check_points([[1, 2, 3], [4, 5, 6]], "points", minimum_distinct=2)
    assert checked.dtype == np.float64
    assert checked.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert check_points(np.ones((2, 3), np.float16), "points").dtype == np.float32


def test_check_points_counts_distinct_points():
    points = np.arange(21.0).reshape(7, 3)[np.arange(1000) % 7]
    assert len(check_points(points, "p", minimum_distinct=7)) == 1000
    with pytest.raises(PointCloudError, match=r"p must have at least 8 distinct points, got 7 \(of 1000 points\)"):
        check_points(points, "p", minimum_distinct=8)
