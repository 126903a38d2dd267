import numpy as np
import pytest

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.parts.dataset import category_parts_of, part_names_of
from any2point_hf.modeling.errors import DatasetError


def arrays(**changes):
    generator = np.random.default_rng(0)
    content = {
        "points": generator.normal(size=(6, 20, 3)).astype(np.float16),
        "part": np.stack([[0, 1] * 10, [0, 1] * 10, [2, 3] * 10, [2, 3] * 10, [1, 0] * 10, [3, 2] * 10]).astype(
            np.uint8
        ),
        "split": np.array([0, 1, 0, 1, 0, 0], dtype=np.uint8),
        "part_names": np.array(["seat", "back", "top", "leg"]),
        "category": np.array([0, 0, 1, 1, 0, 1], dtype=np.uint8),
        "category_names": np.array(["chair", "table"]),
    }
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


def saved(tmp_path, **changes):
    path = tmp_path / "parts.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_labels_and_categories_keep_the_order_of_the_file(tmp_path):
    dataset = load_point_cloud_dataset(saved(tmp_path))
    assert part_names_of(dataset) == ["seat", "back", "top", "leg"]
    assert category_parts_of(dataset) == {"chair": [0, 1], "table": [2, 3]}
    train, test = (dataset[split].with_format("numpy")[:] for split in ("train", "test"))
    content = arrays()
    np.testing.assert_array_equal(train["part"], content["part"][[0, 2, 4, 5]])
    np.testing.assert_array_equal(test["points"], content["points"][[1, 3]].astype(np.float32))
    assert train["category"].tolist() == [0, 1, 0, 1]


def test_without_categories(tmp_path):
    dataset = load_point_cloud_dataset(saved(tmp_path, category=None, category_names=None))
    assert dataset["train"].column_names == ["points", "part"]
    assert category_parts_of(dataset) is None


def test_features_come_along(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (6, 20, 3)).astype(np.uint8)
    dataset = load_point_cloud_dataset(saved(tmp_path, rgb=rgb), features=["rgb"])
    np.testing.assert_allclose(dataset["test"].with_format("numpy")[1]["rgb"], rgb[3] / 255, atol=1e-6)


def test_labels_of_dropped_points_are_dropped(tmp_path):
    points = arrays()["points"].copy()
    points[2, [3, 8]] = np.nan
    with pytest.warns(UserWarning, match="2 of 20 points|2 points are dropped"):
        dataset = load_point_cloud_dataset(saved(tmp_path, points=points), drop_invalid=True)
    row = dataset["train"].with_format("numpy")[1]
    kept = np.delete(np.arange(20), [3, 8])
    np.testing.assert_array_equal(row["points"], points[2][kept].astype(np.float32))
    np.testing.assert_array_equal(row["part"], arrays()["part"][2][kept])


def test_points_without_a_label(tmp_path):
    part = arrays()["part"].astype(np.int64)
    part[0, 5] = -100
    dataset = load_point_cloud_dataset(saved(tmp_path, part=part))
    assert dataset["train"][0]["part"][5] == -100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": np.zeros((6, 19), int)}, r"part must have a label for each point, \[6, 20\], got \[6, 19\]"),
        (
            {"part": np.full((6, 20), 4)},
            r"part\[0\]: labels of points must be 0…3 \(4 parts\), or -100 .*, got 4 at po",
        ),
        ({"part": np.full((6, 20), -1)}, r"part\[0\]: labels of points must be 0…3 .*, got -1 at point 0 \(20 such"),
        ({"part": np.full((6, 20), 0.5)}, r"part\[0\]: labels of points must be integers, got 0\.5"),
        ({"part": np.full((6, 20), np.nan)}, r"part\[0\]: labels of points must be integers, got nan"),
        ({"part_names": np.array(["a", "a"])}, "part_names must be different strings"),
        ({"category_names": None}, "category and category_names must come together"),
        ({"category": np.full(6, 2)}, r"category must be 0…1 \(2 categories\), got 2 at index 0"),
        ({"category_names": np.array(["chair", "table", "lamp"])}, "every category must have parts: .* of lamp has a"),
        ({"split": np.zeros(6, int)}, "no clouds in split 'test'"),
        ({"points": np.zeros((6, 20, 4))}, r"points must be numbers \[M, N, 3\]"),
        ({"part_names": None}, "missing part_names"),
    ],
)
def test_wrong_content_is_refused(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message) as caught:
        load_point_cloud_dataset(saved(tmp_path, **changes))
    assert "parts.npz" in str(caught.value)


def test_a_file_of_classes_is_not_for_segmentation(tmp_path):
    np.savez(tmp_path / "a.npz", points=arrays()["points"], labels=np.zeros(6, int), part=arrays()["part"])
    with pytest.raises(DatasetError, match="missing split, class_names"):
        load_point_cloud_dataset(tmp_path / "a.npz")
    with pytest.raises(DatasetError, match="missing labels, class_names"):
        load_point_cloud_dataset(saved(tmp_path), task="classification")


def test_a_single_part_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"all points of the split 'train' .* of one part \(back\)"):
        load_point_cloud_dataset(saved(tmp_path, part=np.ones((6, 20), int)))


def test_parts_that_cannot_be_predicted_are_told(tmp_path):
    part = arrays()["part"].copy()
    part[1, 0] = 3
    with pytest.warns(UserWarning, match=r"the split 'test' of .* cannot be predicted: leg \(chair\)"):
        load_point_cloud_dataset(saved(tmp_path, part=part))


def test_robots_and_controllers(shared_data):
    robots = load_point_cloud_dataset(shared_data / "robot_parts_2048.npz")
    assert robots.num_rows == {"train": 560, "test": 280}
    assert [len(parts) for parts in category_parts_of(robots).values()] == [5, 8, 6]
    controllers = load_point_cloud_dataset(shared_data / "controller_parts_2048.npz")
    assert controllers.num_rows == {"train": 38, "test": 11}
    parts = np.concatenate([*controllers["train"].with_format("numpy")["part"][:]])
    assert np.bincount(parts)[0] / len(parts) == pytest.approx(0.866, abs=0.001)


@pytest.mark.parametrize(("task", "label_column"), [(None, "seg"), ("segmentation", "seg"), ("regression", ["seg"])])
def test_another_array_of_labels_cannot_be_named(tmp_path, task, label_column):
    path = saved(tmp_path, seg=np.zeros((6, 20), int))
    with pytest.raises(DatasetError, match=r"parts\.npz: the labels of an \.npz are the array 'part'.* got .*seg"):
        load_point_cloud_dataset(path, task=task, label_column=label_column)
