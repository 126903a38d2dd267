"""Arrays with named fields, and files that claim more than they hold."""

import zipfile

import numpy as np
import pytest

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud

CLOUD = np.random.default_rng(0).normal(size=(20, 3))


@pytest.mark.parametrize("extension", [".npy", ".npz"])
def test_named_fields(tmp_path, extension):
    table = np.zeros(20, [("intensity", "u2"), ("Z", "f4"), ("x", "f8"), ("y", "f8")])
    table["x"], table["y"], table["Z"] = CLOUD.T
    path = tmp_path / f"a{extension}"
    np.save(path, table) if extension == ".npy" else np.savez(path, points=table)
    np.testing.assert_allclose(read_point_cloud(path), CLOUD, atol=1e-6)
    np.save(tmp_path / "b.npy", table[["intensity", "x", "y"]])
    with pytest.raises(PointCloudError, match=r"its fields intensity, x, y lack z"):
        read_point_cloud(tmp_path / "b.npy")


def header(shape):
    return f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"


def test_a_shape_larger_than_the_file_allocates_nothing(tmp_path):
    array = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header((10**13, 3)) + bytes(120)
    (tmp_path / "a.npy").write_bytes(array)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("points.npy", array)
    with pytest.raises(PointCloudError, match=r"cannot be read as \.npy"):
        read_point_cloud(tmp_path / "a.npy")
    with pytest.raises(PointCloudError, match=r"says the shape \[10000000000000, 3\], but has 248 bytes"):
        read_point_cloud(tmp_path / "a.npz")


@pytest.mark.parametrize("extension", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", ["|S0", "<U0", "|V0"])
def test_numbers_of_no_bytes_allocate_nothing(tmp_path, extension, dtype):
    claimed = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (1000000000000, 3), }}"
    content = b"\x93NUMPY\x01\x00\x76\x00" + claimed.ljust(117).encode() + b"\n" + bytes(40)
    path = tmp_path / f"a{extension}"
    path.write_bytes(content)
    if extension == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("points.npy", content)
    with pytest.raises(PointCloudError, match=r"have no bytes|says the shape \[1000000000000, 3\]"):
        read_point_cloud(path)


def test_an_archive_that_unpacks_to_far_more_than_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header((25 * 2**20, 3)))
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(PointCloudError, match=r"it unpacks to 314,572,928 bytes, 100 times its size and more"):
        read_point_cloud(tmp_path / "a.npz")
