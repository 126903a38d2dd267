"""Folders of files with a column of labels."""

import numpy as np
import pytest

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.parts.dataset import category_parts_of, part_names_of
from any2point_hf.modeling.errors import DatasetError, PointCloudError

POINTS = np.random.default_rng(0).normal(size=(20, 3))
LABELS = np.array([2, 5] * 10)


def text(path, points=POINTS, labels=LABELS, header="x y z red class"):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.column_stack([points, np.linspace(0, 1, len(points)), labels])
    np.savetxt(path, table, header=header, comments="", fmt="%.9g")


def ply(path, labels=LABELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(POINTS)}\nproperty float x\nproperty float y\nproperty float z\n"
    )
    rows = [" ".join(map(str, [*row, label])) for row, label in zip(POINTS, labels, strict=True)]
    path.write_text(header + "property uchar class\nend_header\n" + "\n".join(rows) + "\n")


def las(path, labels=LABELS):
    laspy = pytest.importorskip("laspy")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    file.header.scales = [1e-4] * 3
    file.x, file.y, file.z = POINTS.T
    file.classification = labels
    file.write(path)


def npy(path, labels=LABELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.column_stack([POINTS, labels]))


@pytest.mark.parametrize(
    ("write", "name", "column"),
    [(text, "a.txt", "class"), (ply, "a.ply", "Class"), (las, "a.las", "classification"), (npy, "a.npy", "3")],
)
def test_splits_without_categories(tmp_path, write, name, column):
    write(tmp_path / "train" / name)
    write(tmp_path / "train" / f"b{name}")
    write(tmp_path / "test" / name, labels=LABELS[::-1])
    dataset = load_point_cloud_dataset(tmp_path, label_column=column)
    assert dataset.num_rows == {"train": 2, "test": 1}
    assert part_names_of(dataset) == ["2", "5"]
    assert category_parts_of(dataset) is None
    row = dataset["test"].with_format("numpy")[0]
    np.testing.assert_allclose(row["points"], POINTS, atol=1e-4)
    np.testing.assert_array_equal(row["part"], [1, 0] * 10)


def test_of_a_mesh_the_vertices_are_labelled(tmp_path):
    for split in ("train", "test"):
        path = tmp_path / split / "room.ply"
        ply(path)
        faces = "element face 2\nproperty list uchar int vertex_indices\nend_header"
        path.write_text(path.read_text().replace("end_header", faces) + "3 0 1 2\n3 3 4 5\n")
    row = load_point_cloud_dataset(tmp_path, label_column="class")["test"].with_format("numpy")[0]
    np.testing.assert_allclose(row["points"], POINTS, atol=1e-6)
    np.testing.assert_array_equal(row["part"], [0, 1] * 10)


def test_categories_are_the_folders_of_classes(tmp_path):
    for split in ("train", "test"):
        text(tmp_path / split / "chair" / "a.txt")
        text(tmp_path / split / "table" / "a.txt", labels=LABELS + 2)
    dataset = load_point_cloud_dataset(tmp_path, label_column="class", features=["red"])
    assert part_names_of(dataset) == ["2", "4", "5", "7"]
    assert category_parts_of(dataset) == {"chair": [0, 2], "table": [1, 3]}
    np.testing.assert_allclose(dataset["train"].with_format("numpy")[0]["red"], np.linspace(0, 1, 20), atol=1e-6)


def test_files_alone_get_a_test_split(tmp_path):
    for index in range(10):
        text(tmp_path / f"{index}.txt")
    with pytest.warns(UserWarning, match="2 of its 10 clouds"):
        dataset = load_point_cloud_dataset(tmp_path, label_column="class")
    assert dataset.num_rows == {"train": 8, "test": 2}


def test_columns_without_names_are_called_by_their_numbers(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        np.savetxt(tmp_path / split / "a.txt", np.column_stack([POINTS, POINTS, LABELS]))
    dataset = load_point_cloud_dataset(tmp_path, label_column="6")
    assert dataset["train"][0]["part"] == [0, 1] * 10
    with pytest.raises(
        PointCloudError, match=r"must have 7 for every point; the features found there are: 3, 4, 5, 6\."
    ):
        load_point_cloud_dataset(tmp_path, label_column="7")


def test_points_without_labels_and_invalid_points(tmp_path):
    labels, points = LABELS.copy(), POINTS.copy()
    labels[3], points[7] = -100, np.nan
    for split in ("train", "test"):
        text(tmp_path / split / "a.txt", points, labels)
    with pytest.warns(UserWarning, match="2 of 2 clouds had invalid points"):
        dataset = load_point_cloud_dataset(tmp_path, label_column="class", drop_invalid=True)
    expected = [{2: 0, 5: 1, -100: -100}[label] for label in np.delete(labels, 7).tolist()]
    assert dataset["train"][0]["part"] == expected


@pytest.mark.parametrize(
    ("labels", "column", "message"),
    [
        (LABELS, None, r"no column of theirs is named .* --label-column"),
        (LABELS, "clas", r"must have clas for every point; the features found there are: class, red"),
        (LABELS + 0.5, "class", r"train/a\.txt, column 'class': labels of points must be integers, got 2\.5"),
        (-LABELS, "class", r"train/a\.txt, column 'class': .* not be negative, except -100 .*, got -2 \(20 such"),
        (LABELS + 2**24, "class", r"labels of points must be below 16,777,216, .* got 16,777,220"),
        (LABELS * np.nan, "class", r"train/a\.txt: class must be finite numbers, got 20 of 20 that are NaN"),
    ],
)
def test_wrong_labels_are_refused(tmp_path, labels, column, message):
    text(tmp_path / "train" / "a.txt", labels=labels)
    text(tmp_path / "test" / "a.txt")
    with pytest.raises((DatasetError, PointCloudError), match=message):
        load_point_cloud_dataset(tmp_path, label_column=column, task="segmentation")
