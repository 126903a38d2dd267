"""Formats of laser scanners, written by their own packages."""

import importlib
import sys

import numpy as np
import pytest

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud
from any2point_hf.point_clouds.scans import read_e57, read_las, read_ptx

CLOUD = np.random.default_rng(0).uniform(-9, 9, size=(50, 3)).round(3)
OFFSET = np.array([451000.0, 5300000.0, 250.0])


@pytest.mark.parametrize("extension", [".las", ".laz"])
def test_scale_and_offset_of_las_are_honoured_in_float64(tmp_path, extension):
    laspy = pytest.importorskip("laspy")
    las = laspy.create(point_format=3, file_version="1.4")
    las.header.scales, las.header.offsets = [0.001] * 3, OFFSET
    las.x, las.y, las.z = (CLOUD + OFFSET).T
    path = tmp_path / f"a{extension}"
    las.write(path)
    points = read_las(path).points
    assert points.dtype == np.float64
    np.testing.assert_allclose(points - OFFSET, CLOUD, atol=1e-6)
    assert read_point_cloud(path).dtype == np.float64
    whole = path.read_bytes()
    path.write_bytes(whole[:-300])
    with pytest.raises(PointCloudError, match=r"cannot be read as|it is cut off"):
        read_point_cloud(path)


def test_scans_of_an_e57_are_joined_where_their_poses_put_them(tmp_path):
    pye57 = pytest.importorskip("pye57")
    path = tmp_path / "a.e57"
    with pye57.E57(str(path), mode="w") as file:
        for half, shift in ((CLOUD[:20], 0.0), (CLOUD[20:], 5.0)):
            scan = {f"cartesian{axis}": np.ascontiguousarray(half[:, i]) for i, axis in enumerate("XYZ")}
            file.write_scan_raw(scan, rotation=np.array([1.0, 0, 0, 0]), translation=np.array([shift, 0, 0]))
    expected = CLOUD + np.array([0, 0, 0])
    expected[20:, 0] += 5
    np.testing.assert_allclose(read_e57(path).points, expected, atol=1e-5)  # single precision in the file


def test_scans_of_a_ptx_are_turned_and_moved_and_lack_what_had_no_echo(tmp_path):
    pose = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n0 1 0 0\n-1 0 0 0\n0 0 1 0\n10 20 30 1\n"  # a quarter turn about z
    (tmp_path / "a.ptx").write_text(f"2\n1\n{pose}1 0 0 0.5\n0 0 0 0.5\n1\n1\n{pose}0 2 1 0.5 9 9 9\n")
    points = read_ptx(tmp_path / "a.ptx").points
    np.testing.assert_allclose(points, [[10, 21, 30], [8, 20, 31]])
    (tmp_path / "b.ptx").write_text(f"2\n2\n{pose}1 0 0 0.5\n")
    with pytest.raises(PointCloudError, match="a scan of 4 points has 1 lines"):
        read_point_cloud(tmp_path / "b.ptx")


@pytest.mark.parametrize(("extension", "package"), [(".las", "laspy"), (".laz", "laspy"), (".e57", "pye57")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, extension, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError):
        importlib.import_module(package)
    (tmp_path / f"a{extension}").write_bytes(b"x")
    extra = "e57" if package == "pye57" else "las"
    with pytest.raises(PointCloudError, match=rf'needs the package {package}.*pip install "any2point-hf\[{extra}\]"'):
        read_point_cloud(tmp_path / f"a{extension}")
