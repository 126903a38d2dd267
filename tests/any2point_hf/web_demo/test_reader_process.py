"""Uploads are read in processes that have limits."""

import json
import os
import sys
import threading
import time

import numpy as np
import pytest

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.invalid import DroppedPoints
from any2point_hf.web_demo.reader_process import Readers
from any2point_hf.web_demo.upload_reader import read_upload


@pytest.fixture
def make_readers():
    made = []

    def make(**options):
        made.append(Readers(**options))
        return made[-1]

    yield make
    for readers in made:
        readers.close()


@pytest.fixture
def cloud(tmp_path):
    path = tmp_path / "cloud.npy"
    np.save(path, np.random.default_rng(0).normal(size=(500, 3)))
    return path


def write_slow(path):
    """A mesh whose one face goes on over very many lines, which takes minutes to read."""
    path.write_bytes(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 \\\n" + b"1 2 3 \\\n" * 200_000 + b"1\n")
    return path


def test_a_process_reads_what_the_server_would(make_readers, tmp_path):
    readers = make_readers(number=1)
    points = np.random.default_rng(0).normal(size=(300, 3))
    points[:5] = np.nan
    colors = np.random.default_rng(1).integers(0, 256, (300, 3))
    lines = ["{} {} {} {} {} {}".format(*row, *color) for row, color in zip(points, colors, strict=True)]
    (tmp_path / "cloud.xyzrgb").write_text("\n".join(lines))
    dropped = DroppedPoints()
    expected = read_upload(tmp_path / "cloud.xyzrgb", ["red", "green", "blue"], 0, dropped)
    for _ in range(3):
        read, count = readers.read(tmp_path / "cloud.xyzrgb", ["red", "green", "blue"], 0, True)
        np.testing.assert_array_equal(read.points, expected.points)
        assert count == dropped.count == 5
        assert list(read.features) == list(expected.features)
        for name, values in read.features.items():
            np.testing.assert_array_equal(values, expected.features[name])
    with pytest.raises(PointCloudError, match=r"cloud\.xyzrgb: 5 of 300|not finite|finite"):
        readers.read(tmp_path / "cloud.xyzrgb", ["red"], 0, False)


def test_a_file_that_takes_too_long_ends_its_process_alone(make_readers, cloud, tmp_path):
    readers = make_readers(number=1, seconds=3)
    readers.read(cloud)
    (first,) = readers._all
    began = time.monotonic()
    with pytest.raises(PointCloudError, match=r"takes at most 3 seconds to read, and slow\.obj takes more\. Save the"):
        readers.read(write_slow(tmp_path / "slow.obj"))
    assert time.monotonic() - began < 30
    assert first.process.poll() is not None
    assert len(readers.read(cloud)[0].points) == 500


def test_others_are_read_in_the_meantime(make_readers, cloud, tmp_path):
    readers = make_readers(number=2, seconds=20)
    for _ in range(2):  # both are there
        readers.read(cloud)
    ended = []

    def read_slow():
        with pytest.raises(PointCloudError):
            readers.read(write_slow(tmp_path / "slow.obj"))
        ended.append(True)

    slow = threading.Thread(target=read_slow)
    slow.start()
    time.sleep(0.2)
    assert len(readers.read(cloud)[0].points) == 500
    assert not ended
    for reader in list(readers._all):
        reader.process.kill()
    slow.join(60)
    assert ended


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory")
def test_a_file_that_takes_too_much_memory_is_refused(make_readers, cloud, tmp_path):
    readers = make_readers(number=1, memory=2**28)
    accessor = {"componentType": 5126, "count": 200_000_000, "type": "VEC3"}  # of zeros, 2.4 GB
    mesh = {"primitives": [{"attributes": {"POSITION": 0}}]}
    small = {"asset": {"version": "2.0"}, "accessors": [accessor], "meshes": [mesh], "nodes": [{"mesh": 0}]}
    (tmp_path / "small.gltf").write_text(json.dumps(small | {"scenes": [{"nodes": [0]}], "scene": 0}))
    (tmp_path / "wide.csv").write_text("0 0 0\n" * 3 + "1 " * 9_000_000)
    for name in ("small.gltf", "wide.csv"):
        with pytest.raises(PointCloudError) as refused:
            readers.read(tmp_path / name)
        assert name in str(refused.value)
        assert len(readers.read(cloud)[0].points) == 500


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory")
def test_the_limit_of_memory_is_told(make_readers, cloud, tmp_path):
    readers = make_readers(number=1, memory=2**24)
    np.save(tmp_path / "large.npy", np.random.default_rng(0).normal(size=(900_000, 3)))
    with pytest.raises(PointCloudError, match=r"takes at most 16 MiB of memory to read, and large\.npy takes more"):
        readers.read(tmp_path / "large.npy")


def test_a_process_that_dies_is_replaced(make_readers, cloud):
    readers = make_readers(number=1)
    readers.read(cloud)
    next(iter(readers._all)).process.kill()
    with pytest.raises(PointCloudError, match=r"cloud\.npy takes more"):
        readers.read(cloud)
    assert len(readers.read(cloud)[0].points) == 500


def test_the_current_folder_is_not_imported_from(make_readers, cloud, tmp_path, monkeypatch):
    (tmp_path / "zipfile.py").write_text("import pathlib; pathlib.Path('sprung').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert len(make_readers(number=1).read(cloud)[0].points) == 500
    assert not os.path.exists("sprung")


def test_no_process_is_left(make_readers, cloud):
    readers = make_readers(number=2)
    readers.read(cloud)
    processes = [reader.process for reader in readers._all]
    readers.close()
    assert all(process.poll() is not None for process in processes)
