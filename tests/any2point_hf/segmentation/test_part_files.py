"""Files of parts are read back as they were written."""

import csv

import numpy as np
import pytest

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.pictures.picture_content import CATEGORY_COLORS, category_colors
from any2point_hf.point_clouds.ply import read_ply
from any2point_hf.segmentation.labelling import LabelledPoints
from any2point_hf.segmentation.part_files import write_parts

PARTS = np.array([1, 0, -100, 2, 1])


@pytest.fixture(params=[np.float32, np.float64, np.dtype(">f8")], ids=str)
def labelled(request):
    points = (np.random.default_rng(0).normal(size=(5, 3)) + 1e6 * (np.dtype(request.param).itemsize == 8)).astype(
        request.param
    )
    probabilities = np.array([0.5, 0.25, np.nan, 1, 0.75], np.float32)
    return LabelledPoints(points, PARTS, probabilities, ("seat, left", "back", "Füße"))


def test_ply(labelled, tmp_path):
    path = write_parts(labelled, tmp_path / "new" / "a.ply")
    geometry = read_ply(path, ["part", "probability", "red", "green", "blue"])
    np.testing.assert_array_equal(geometry.points, labelled.points)
    np.testing.assert_array_equal(geometry.features["part"], PARTS)
    np.testing.assert_array_equal(geometry.features["probability"], labelled.probabilities)
    text = path.read_bytes().split(b"end_header")[0].decode()
    assert "comment part 0 seat, left\ncomment part 1 back\ncomment part 2 Füße\n" in text
    assert f"property {'float' if labelled.points.dtype == np.float32 else 'double'} x" in text
    import trimesh

    colors = trimesh.load(path).colors[:, :3]
    for part in range(3):
        assert {tuple(row) for row in colors[part == PARTS].tolist()} == {
            tuple(bytes.fromhex(CATEGORY_COLORS[part][1:]))
        }


def test_npy(labelled, tmp_path):
    parts = np.load(write_parts(labelled, tmp_path / "a.npy"), allow_pickle=False)
    assert parts.dtype == np.int64
    np.testing.assert_array_equal(parts, PARTS)


def test_csv(labelled, tmp_path):
    with write_parts(labelled, tmp_path / "a.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal(
        np.array([[row[axis] for axis in "xyz"] for row in rows], labelled.points.dtype), labelled.points
    )
    assert [(int(row["part"]), row["part_name"]) for row in rows] == [
        (1, "back"),
        (0, "seat, left"),
        (-100, ""),
        (2, "Füße"),
        (1, "back"),
    ]


def test_an_unknown_extension_leaves_nothing(labelled, tmp_path):
    with pytest.raises(Any2PointError, match=r"must end in \.ply, \.npy, \.csv, got"):
        write_parts(labelled, tmp_path / "new" / "a.las")
    assert not list(tmp_path.iterdir())


def test_fifty_parts_have_fifty_colors():
    colors = category_colors(60)
    assert len(set(colors)) == 60
    assert colors[:5] == category_colors(5)
