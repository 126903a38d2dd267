"""What points have besides their coordinates, by the same names and on the same scales from every format."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.errors import ConfigurationError, PointCloudError
from any2point_hf.point_clouds.features import COLORS, NORMALS, feature_names, scaled_features, spread_groups
from any2point_hf.point_clouds.files import read_point_cloud, read_point_cloud_with_features

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.uniform(-1, 1, size=(40, 3)).round(4)
RGB = RANDOM.integers(0, 256, size=(40, 3)).astype(np.uint8)
NORMAL = RANDOM.normal(size=(40, 3))
NORMAL /= np.linalg.norm(NORMAL, axis=1, keepdims=True)
INTENSITY = RANDOM.integers(0, 256, size=40) / 256
ALL = {"rgb", "normal", "intensity"}


def table(*columns, delimiter=" "):
    rows = np.column_stack(columns)
    return "".join(delimiter.join(f"{value:.9g}" for value in row) + "\n" for row in rows)


def structured(**columns):
    array = np.empty(40, dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        array[name] = values
    return array


def write_csv(path):
    path.write_text(
        "nx,ny,nz,id,X,Y,Z,R,G,B,Intensity\n" + table(NORMAL, np.arange(40), POINTS, RGB, INTENSITY, delimiter=",")
    )
    return ALL


def write_commented(path):
    path.write_text("# x y z red green blue\n" + table(POINTS, RGB))
    return {"rgb"}


def write_xyzrgb(path):
    path.write_text(table(POINTS, RGB / 255))
    return {"rgb"}


def write_xyzn(path):
    path.write_text(table(POINTS, 7 * NORMAL))  # of any length
    return {"normal"}


def write_pts(path):
    path.write_text("40\n" + table(POINTS, INTENSITY, RGB))
    return {"intensity", "rgb"}


def write_ply(path, color="<u1", factor=1):
    columns = dict(zip("xyz", POINTS.T.astype("<f8"), strict=True))
    columns |= dict(zip(("nx", "ny", "nz"), NORMAL.T.astype("<f4"), strict=True))
    columns |= dict(zip(COLORS, (factor * RGB.T.astype(np.int64)).astype(color), strict=True))
    columns["scalar_Intensity"] = INTENSITY.astype("<f4")
    kinds = {"<f8": "double", "<f4": "float", "|u1": "uchar", "<u2": "ushort"}
    header = [f"property {kinds[values.dtype.str]} {name}" for name, values in columns.items()]
    text = "\n".join(["ply", "format binary_little_endian 1.0", "element vertex 40", *header, "end_header", ""])
    path.write_bytes(text.encode() + structured(**columns).tobytes())
    return ALL


def write_ply_of_16_bits(path):
    return write_ply(path, "<u2", 257)


def pcd_header(fields, sizes, kinds, encoding):
    lines = [f"FIELDS {fields}", f"SIZE {sizes}", f"TYPE {kinds}", "WIDTH 40", "HEIGHT 1", f"DATA {encoding}", ""]
    return "\n".join(lines).encode()


def packed_rgb():
    red, green, blue = RGB.T.astype(np.uint32)
    return red << 16 | green << 8 | blue


def write_pcd(path):
    columns = dict(zip("xyz", POINTS.T.astype("<f4"), strict=True)) | {"rgb": packed_rgb().view("<f4")}
    columns |= dict(zip(NORMALS, NORMAL.T.astype("<f4"), strict=True)) | {"intensity": INTENSITY.astype("<f4")}
    header = pcd_header(" ".join(columns), "4 " * 8, "F " * 8, "binary")
    path.write_bytes(header + structured(**columns).tobytes())
    return ALL


def write_pcd_in_text(path):
    path.write_bytes(pcd_header("x y z rgb", "4 4 4 4", "F F F U", "ascii") + table(POINTS, packed_rgb()).encode())
    return {"rgb"}


def write_obj(path):
    path.write_text("".join(f"v {row}\n" for row in table(POINTS, RGB / 255).splitlines()))
    return {"rgb"}


def write_obj_with_normals(path):
    lines = [f"v {row}\n" for row in table(POINTS).splitlines()] + [f"vn {row}\n" for row in table(NORMAL).splitlines()]
    path.write_text("".join(lines))
    return {"normal"}


def write_coff(path):
    path.write_text("COFF\n40 0 0\n" + table(POINTS, RGB, np.full(40, 255)))
    return {"rgb"}


def write_noff(path):
    path.write_text("NOFF\n40 0 0\n" + table(POINTS, NORMAL))
    return {"normal"}


def write_npy(path):
    columns = dict(zip("XYZ", POINTS.T, strict=True)) | dict(zip("rgb", RGB.T, strict=True))
    np.save(path, structured(**columns, intensity=INTENSITY))
    return {"rgb", "intensity"}


def write_npy_of_six_columns(path):
    np.save(path, np.column_stack([POINTS, NORMAL]))
    return {"normal"}


def write_npz(path):
    np.savez(path, points=POINTS, colors=RGB, normals=NORMAL, intensity=INTENSITY, label=np.arange(3))
    return ALL


def write_las(path):
    laspy = pytest.importorskip("laspy")
    las = laspy.create(point_format=3, file_version="1.4")
    las.header.scales = [0.0001] * 3
    las.x, las.y, las.z = POINTS.T
    las.red, las.green, las.blue = RGB.T.astype(np.uint16) * 257
    las.intensity = (INTENSITY * 65535).round().astype(np.uint16)
    las.write(path)
    return {"rgb", "intensity"}


def write_e57(path):
    pye57 = pytest.importorskip("pye57")
    scan = {f"cartesian{axis}": np.ascontiguousarray(POINTS[:, i]) for i, axis in enumerate("XYZ")}
    scan |= {f"color{name.capitalize()}": np.ascontiguousarray(RGB[:, i]) for i, name in enumerate(COLORS)}
    with pye57.E57(str(path), mode="w") as file:
        file.write_scan_raw(scan | {"intensity": INTENSITY.astype(np.float32)})
    return {"rgb", "intensity"}


def write_ptx(path):
    pose = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    path.write_text(f"20\n2\n{pose}" + table(POINTS, INTENSITY, RGB))
    return {"rgb", "intensity"}


FORMATS = {
    write_csv: ".csv", write_commented: ".txt", write_xyzrgb: ".xyzrgb", write_xyzn: ".xyzn", write_pts: ".pts",
    write_ply: ".ply", write_ply_of_16_bits: ".ply", write_pcd: ".pcd", write_pcd_in_text: ".pcd", write_obj: ".obj",
    write_obj_with_normals: ".obj", write_coff: ".off", write_noff: ".off", write_npy: ".npy",
    write_npy_of_six_columns: ".npy", write_npz: ".npz", write_las: ".las", write_e57: ".e57", write_ptx: ".ptx",
}  # fmt: skip
EXPECTED = dict(zip(COLORS, RGB.T / 255, strict=True)) | dict(zip(NORMALS, NORMAL.T, strict=True))
EXPECTED["intensity"] = INTENSITY


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_features_of_every_format(tmp_path, write):
    path = tmp_path / f"cloud{FORMATS[write]}"
    groups = write(path)
    cloud = read_point_cloud_with_features(path)
    np.testing.assert_allclose(cloud.points, POINTS, atol=1e-5)
    assert sorted(cloud.features) == sorted(feature_names(groups))
    for name, values in cloud.features.items():
        assert (values.dtype, values.shape) == (np.float32, (40,))
        np.testing.assert_allclose(values, EXPECTED[name], atol=2e-5, err_msg=name)
    assert np.array_equal(read_point_cloud(path), cloud.points)
    for group in groups:
        assert list(read_point_cloud_with_features(path, [group]).features) == feature_names([group])
    for group in ALL - groups:
        with pytest.raises(PointCloudError, match=rf"must have {feature_names([group])[0]}.*found there are: \w"):
            read_point_cloud_with_features(path, [group])


@pytest.mark.parametrize("extension", [".ply", ".glb", ".obj"])
def test_samples_of_a_mesh_have_the_colour_of_their_place_and_the_normal_of_their_face(tmp_path, extension):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box()  # from −½ to ½
    box.visual.vertex_colors = np.column_stack([255 * (box.vertices + 0.5), np.full(8, 255)]).astype(np.uint8)
    box.export(tmp_path / f"box{extension}")
    points, features = read_point_cloud_with_features(tmp_path / f"box{extension}")
    np.testing.assert_allclose(np.stack([features[name] for name in COLORS], axis=1), points + 0.5, atol=1e-3)
    normals = np.stack([features[name] for name in NORMALS], axis=1)
    outward = np.where(np.abs(points) > 0.5 - 1e-5, np.sign(points), 0)
    np.testing.assert_allclose(normals, outward, atol=1e-5)
    assert np.array_equal(points, read_point_cloud(tmp_path / f"box{extension}"))


def test_other_columns_are_features_where_they_are_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z,curvature,label\n" + table(POINTS, INTENSITY, INTENSITY, delimiter=","))
    assert read_point_cloud_with_features(tmp_path / "a.csv").features == {}
    found = read_point_cloud_with_features(tmp_path / "a.csv", ["curvature"]).features
    np.testing.assert_allclose(found["curvature"], INTENSITY)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (np.array([0, 128, 255], np.uint8), 255),
        (np.array([0, 1, 1], np.uint8), 255),
        (np.array([0, 40000, 65535], np.uint16), 65535),
        (np.array([0, 200, 255], np.uint16), 255),  # 8 bits in a field of 16, as many programs write .las
        (np.array([0.0, 0.5, 1.0]), 1),
        (np.array([0.0, 128.0, 255.0]), 255),
        (np.array([0.0, 128.0, 60000.0]), 65535),
    ],
)
def test_colours_of_8_and_16_bits_are_told_apart(values, scale):
    scaled = scaled_features(dict.fromkeys(COLORS, values), "a")
    np.testing.assert_allclose(scaled["green"], values / scale, rtol=1e-6)


def test_the_scale_of_a_colour_is_that_of_all_three():
    colors = {"red": np.array([0.0, 1.0]), "green": np.array([0.0, 0.0]), "blue": np.array([0.0, 200.0])}
    np.testing.assert_allclose(scaled_features(colors, "a")["red"], [0, 1 / 255], rtol=1e-6)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"red": np.array([-1.0, 2.0])}, r"a: colours must lie in 0…1, 0…255 or 0…65535, got values from -1 to 2"),
        ({"red": np.array([0.0, 7e4])}, "from 0 to 70000"),
        ({"intensity": np.array([0.0, np.nan])}, r"a: intensity must be finite numbers, got 1 of 2 that are NaN"),
        ({"intensity": np.array(["x", "y"])}, "got dtype <U1"),
    ],
)
def test_impossible_features_are_refused(features, said):
    with pytest.raises(PointCloudError, match=said):
        scaled_features(features, "a")


def test_groups_must_have_a_row_for_every_point():
    with pytest.raises(PointCloudError, match=r"a.npz: rgb must be numbers \[5, 3\].*got \[4, 3\]"):
        spread_groups({"rgb": np.zeros((4, 3))}, 5, "a.npz")
    assert list(spread_groups({"rgb": np.zeros((5, 4)), "intensity": np.zeros((5, 1))}, 5, "a")) == [
        *COLORS,
        "intensity",
    ]
    with pytest.raises(PointCloudError, match="rgb must be numbers, as many in every row"):
        spread_groups({"rgb": [[1, 2, 3], [1, 2]]}, 2, "a.npz")


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 3), min_size=1, max_size=20))
def test_normals_have_length_one_or_none(rows):
    normals = np.array(rows)
    scaled = scaled_features(dict(zip(NORMALS, normals.T, strict=True)), "a")
    lengths = np.linalg.norm(np.stack([scaled[name] for name in NORMALS], axis=1), axis=1)
    given_lengths = np.linalg.norm(normals, axis=1)
    np.testing.assert_allclose(lengths[given_lengths > 0], 1, rtol=1e-5)
    assert (lengths[given_lengths == 0] == 0).all()


def ply_text(color, intensity):
    fields = [f"property float {axis}" for axis in "xyz"]
    fields += [f"property {color} {name}" for name in COLORS] + [f"property {intensity} intensity"]
    return "\n".join(["ply", "format ascii 1.0", "element vertex 40", *fields, "end_header\n"])


def pcd_text(fields, sizes, types):
    counts = " ".join("1" for _ in fields.split())
    size = f"SIZE {sizes}\nTYPE {types}\nCOUNT {counts}\n"
    return f"VERSION 0.7\nFIELDS {fields}\n{size}WIDTH 40\nHEIGHT 1\nPOINTS 40\nDATA ascii\n"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.ply", ply_text("uchar", "ushort")),
        ("a.pcd", pcd_text("x y z red green blue intensity", "4 4 4 1 1 1 2", "F F F U U U U")),
    ],
)
def test_text_keeps_the_types_that_its_header_states(tmp_path, name, header):
    dark = (RGB > 100).astype(int)  # 0 or 1 of 255
    (tmp_path / name).write_text(header + table(POINTS, dark, np.arange(40)))
    found = read_point_cloud_with_features(tmp_path / name).features
    np.testing.assert_allclose(np.stack([found[color] for color in COLORS], axis=1), dark / 255, rtol=1e-6)
    np.testing.assert_allclose(found["intensity"], np.arange(40) / 65535, rtol=1e-6)


def test_packed_colours_of_text_may_be_signed_but_no_nan(tmp_path):
    opaque = (RGB.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=1, dtype=np.uint32) | 0xFF << 24
    opaque = opaque.astype(np.uint32)
    rows = [f"{x} {y} {z} {color}\n" for (x, y, z), color in zip(POINTS, opaque.view(np.int32), strict=True)]
    (tmp_path / "a.pcd").write_text(pcd_text("x y z rgb", "4 4 4 4", "F F F I") + "".join(rows))
    found = read_point_cloud_with_features(tmp_path / "a.pcd", ["rgb"]).features
    np.testing.assert_allclose(np.stack([found[color] for color in COLORS], axis=1), RGB / 255, rtol=1e-6)
    rows[7] = "0 0 0 nan\n"
    (tmp_path / "a.pcd").write_text(pcd_text("x y z rgb", "4 4 4 4", "F F F F") + "".join(rows))
    with pytest.raises(PointCloudError, match="red must be finite numbers, got 1 of 40"):
        read_point_cloud_with_features(tmp_path / "a.pcd", ["rgb"])
    assert len(read_point_cloud(tmp_path / "a.pcd")) == 40


def test_six_columns_without_names_hold_normals_only_if_they_have_length_one(tmp_path):
    np.save(tmp_path / "a.npy", np.hstack([POINTS, RGB]))
    with pytest.raises(PointCloudError, match="must have normal_x, normal_y, normal_z for every point"):
        read_point_cloud_with_features(tmp_path / "a.npy", ["normal"])
    np.save(tmp_path / "a.npy", np.hstack([POINTS, NORMAL]))
    assert list(read_point_cloud_with_features(tmp_path / "a.npy").features) == list(NORMALS)


def test_only_intensities_are_scaled_by_their_type():
    small = np.arange(40, dtype=np.uint8)
    scaled = scaled_features({"intensity": small, "part": small}, "a.npz")
    np.testing.assert_allclose(scaled["intensity"], small / 255, rtol=1e-6)
    np.testing.assert_array_equal(scaled["part"], small)


def test_names_of_features_in_their_usual_forms(tmp_path):
    assert feature_names(["RGB", " normals", "Intensity", "Curvature"]) == [*COLORS, *NORMALS, "intensity", "curvature"]
    assert feature_names(feature_names(["nx", "scalar_Roughness"])) == ["normal_x", "roughness"]
    assert feature_names("rgb") == list(COLORS)
    with pytest.raises(ConfigurationError, match="must have names"):
        feature_names(["rgb", ""])
    (tmp_path / "a.csv").write_text("x,y,z,Mean Curvature\n" + table(POINTS, INTENSITY, delimiter=","))
    found = read_point_cloud_with_features(tmp_path / "a.csv", ["Mean Curvature"]).features
    np.testing.assert_allclose(found["mean_curvature"], INTENSITY, rtol=1e-6)


def test_an_error_names_the_features_that_the_file_has(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z,i,nx\n" + table(POINTS, INTENSITY, INTENSITY, delimiter=","))
    with pytest.raises(PointCloudError, match="the features found there are: intensity, normal_x"):
        read_point_cloud_with_features(tmp_path / "a.csv", ["rgb"])


@pytest.mark.parametrize("names", [["rgb", "red"], ["intensity", "intensity"], ["rgb"] * 10**5])
def test_a_feature_that_is_named_twice(names):
    with pytest.raises(ConfigurationError, match=r"must be named once, got '(red|intensity)' twice"):
        feature_names(names)
