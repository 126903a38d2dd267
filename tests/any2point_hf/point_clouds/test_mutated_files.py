"""Damaged files of every format: a cloud or one clear error, whatever byte or number is wrong.

By hand, many more: `python tests/any2point_hf/point_clouds/test_mutated_files.py 700` prints the longest read and the
peak of memory.
"""

import importlib.util
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import trimesh

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud_with_features

CLOUD = np.random.default_rng(0).normal(size=(40, 3)).round(3)
PCD = "VERSION 0.7\nFIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 40\nHEIGHT 1\nPOINTS 40\nDATA {}\n"
POSE = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
EXTRAS = {"las": "laspy", "laz": "laspy", "e57": "pye57", "dae": "collada"}
FORMATS = ["ascii.ply", "mesh.ply", "mesh.off", "mesh.obj", "text.stl", "mesh.stl", "mesh.glb", "mesh.dae", "a.xyz"]
FORMATS += ["names.csv", "count.pts", "text.pcd", "binary.pcd", "a.npy", "a.npz", "a.ptx", "a.las", "a.laz", "a.e57"]


def write_whole_file(path):
    """A sound file of the format that the name says."""
    rows = [" ".join(map(str, row)) for row in CLOUD.tolist()]
    mesh, suffix = trimesh.creation.icosphere(subdivisions=1), path.suffix
    mesh.visual.vertex_colors = np.tile(np.uint8([9, 99, 250, 255]), (len(mesh.vertices), 1))
    texts = {
        "a.xyz": rows,
        "names.csv": ["id,x,y,z,r,g,b", *(f"7,{row.replace(' ', ',')},9,99,250" for row in rows)],
        "count.pts": ["40", *rows],
        "text.pcd": [PCD.format("ascii").strip(), *rows],
        "a.ptx": ["40\n1", POSE.strip(), *(f"{row} 0.5" for row in rows)],
    }
    if path.name in texts:
        path.write_text("\n".join(texts[path.name]) + "\n")
    elif path.name == "binary.pcd":
        path.write_bytes(PCD.format("binary").encode() + CLOUD.tobytes())
    elif suffix in (".npy", ".npz"):
        np.save(path, CLOUD) if suffix == ".npy" else np.savez(path, points=CLOUD, normals=CLOUD)
    elif suffix in (".las", ".laz"):
        import laspy

        las = laspy.create(point_format=3)
        las.header.scales = [0.001] * 3
        las.x, las.y, las.z = CLOUD.T
        las.write(path)
    elif suffix == ".e57":
        import pye57

        with pye57.E57(str(path), mode="w") as file:
            scan = {f"cartesian{axis}": CLOUD[:, i].copy() for i, axis in enumerate("XYZ")}
            file.write_scan_raw(scan | {"intensity": CLOUD[:, 0].copy()})
    else:
        options = {"encoding": "ascii"} if path.name == "ascii.ply" else {}
        data = mesh.export(file_type="stl_ascii" if path.name == "text.stl" else suffix[1:], **options)
        path.write_bytes(data.encode() if isinstance(data, str) else data)


def mutate(data, generator):
    """One to three of: other bytes, a piece cut out, repeated or cut off, a number made huge, negative or NaN."""
    for _ in range(generator.integers(1, 4)):
        kind, place = generator.integers(7), int(generator.integers(max(1, len(data))))
        length = int(generator.integers(1, 60))
        if kind == 0:
            data = data[:place] + generator.bytes(min(length, 4)) + data[place + min(length, 4) :]
        elif kind == 1:
            data = data[:place] + data[place + length :]
        elif kind == 2:
            data = data[:place] + data[place : place + length] * 2 + data[place + length :]
        elif kind == 3:
            data = data[:place]
        elif kind == 4:
            data = data[:place] + b"\xff" * 4 + data[place + 4 :]
        elif numbers := list(re.finditer(rb"-?\d+", data[:4000])):
            found = numbers[generator.integers(min(len(numbers), 30))]
            other = [b"-1", b"0", b"999999999999", b"nan", b"1e300", b"2147483648", b"x"][generator.integers(7)]
            data = data[: found.start()] + other + data[found.end() :]
    return data


def read_mutated(folder, name, count):
    """Seconds of the longest read."""
    whole, longest = folder / name, 0.0
    write_whole_file(whole)
    data, path = whole.read_bytes(), folder / f"mutated{whole.suffix}"
    assert len(read_point_cloud_with_features(whole).points)
    for seed in range(count):
        path.write_bytes(mutate(data, np.random.default_rng(seed)))
        start = time.perf_counter()
        said = ""
        try:
            points, features = read_point_cloud_with_features(path)
            assert np.isfinite(points).all()
            assert all(np.isfinite(values).all() for values in features.values())
        except PointCloudError as error:
            said = str(error)
        assert len(said) - len(str(path)) < 500, (name, seed)
        assert "\n" not in said, (name, seed)
        longest = max(longest, time.perf_counter() - start)
    return longest


@pytest.mark.filterwarnings("ignore")  # parsers warn of what they then refuse
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(tmp_path, name):
    package = EXTRAS.get(name.rpartition(".")[2])
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    read_mutated(tmp_path, name, 40)


if __name__ == "__main__":
    import resource
    import tempfile

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        for each in FORMATS:
            seconds = read_mutated(Path(temporary), each, int(sys.argv[1]))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{each}: longest read {seconds:.2f} s, peak of the process {peak:.0f} MiB", flush=True)
