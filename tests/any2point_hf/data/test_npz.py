import numpy as np
import pytest

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.modeling.errors import DatasetError, PointCloudError

MODELNET10 = [
    "bathtub",
    "bed",
    "chair",
    "desk",
    "dresser",
    "monitor",
    "night_stand",
    "sofa",
    "table",
    "toilet",
]


def arrays(**changes):
    content = {
        "points": np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float16),
        "labels": np.array([0, 1, 2, 2, 1, 0], dtype=np.uint8),
        "split": np.array([0, 1, 0, 1, 0, 0], dtype=np.uint8),
        "class_names": np.array(["bed", "chair", "sofa"]),
    }
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


def saved(tmp_path, **changes):
    path = tmp_path / "clouds.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_splits_labels_and_points_keep_the_order_of_the_file(tmp_path):
    dataset = load_point_cloud_dataset(saved(tmp_path, shape_ids=np.arange(6))).with_format("numpy")
    content = arrays()
    assert list(dataset) == ["train", "test"]
    assert dataset["train"].features["label"].names == ["bed", "chair", "sofa"]
    assert dataset["train"]["label"][:].tolist() == [0, 2, 1, 0]
    assert dataset["test"]["label"][:].tolist() == [1, 2]
    points = dataset["train"][:]["points"]
    assert points.dtype == np.float32
    assert points.tobytes() == content["points"][[0, 2, 4, 5]].astype(np.float32).tobytes()


def test_invalid_points_are_dropped_and_reported_in_one_line(tmp_path):
    points = np.random.default_rng(1).normal(size=(6, 20, 3))
    points[2, :6] = 0
    points[5, 3:5] = np.nan
    path = saved(tmp_path, points=points)
    with pytest.raises(
        DatasetError, match=r"NaN or infinity in 1 of 6 clouds, the first at index 5\. .*--drop-invalid"
    ):
        load_point_cloud_dataset(path)
    with pytest.warns(UserWarning, match="had invalid points") as caught:
        dataset = load_point_cloud_dataset(path, drop_invalid=True).with_format("numpy")
    assert [str(warning.message) for warning in caught] == [
        f"2 of 6 clouds had invalid points: 8 points are dropped, the most in {path}: points[2] (6 of 20)."
    ]
    kept = [points[0], points[2, 6:], points[4], np.delete(points[5], [3, 4], axis=0)]
    for row, expected in zip(dataset["train"], kept, strict=True):
        np.testing.assert_array_equal(row["points"], expected.astype(np.float32))
    points[5] = 1
    points[5, :8] = np.random.default_rng(2).normal(size=(8, 3))
    with pytest.raises(
        PointCloudError, match=r"points\[2\] must not have more than a quarter .*: 6 of 20 are at \(0, 0, 0\)"
    ):
        load_point_cloud_dataset(saved(tmp_path, points=points))


def test_infinite_half_precision_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="NaN or infinity in 1 of 6 clouds, the first at index 4"):
        load_point_cloud_dataset(saved(tmp_path, points=with_value((4, 0, 0), np.inf, np.float16)))


def with_value(index, value, dtype=np.float32):
    points = arrays()["points"].astype(dtype)
    points[index] = value
    return points


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": None, "split": None},
            "missing labels, split; needed are points, .* has points, class_names",
        ),
        ({"points": np.zeros((6, 8, 6))}, r"points must be numbers \[M, N, 3\], got float64 \[6, 8, 6\]"),
        ({"points": np.zeros((6, 3))}, r"points must be .* got float64 \[6, 3\]"),
        ({"points": np.zeros((6, 0, 3))}, r"points must be .* got float64 \[6, 0, 3\]"),
        ({"points": np.full((6, 8, 3), "a")}, "points must be numbers"),
        (
            {"labels": np.zeros(5, int)},
            r"labels must be integers \[6\], one for each cloud, got int\d+ \[5\]",
        ),
        ({"labels": np.zeros(6)}, "labels must be integers .* got float64"),
        ({"split": np.zeros((6, 1), int)}, r"split must be integers \[6\].*\[6, 1\]"),
        (
            {"labels": np.array([0, 1, 3, 2, 7, 0])},
            r"labels must be 0…2 \(3 classes\), got 3 at index 2 \(2 such",
        ),
        ({"labels": np.array([0, -1, 0, 0, 0, 0])}, "got -1 at index 1"),
        (
            {"split": np.array([0, 1, 2, 0, 0, 0])},
            r"split must be 0 \(train\) or 1 \(test\), got 2 at index 2",
        ),
        (
            {"class_names": np.array(["bed", "bed", "sofa"])},
            r"class_names must be different strings.*'bed', 'bed'",
        ),
        ({"class_names": np.arange(3)}, "class_names must be different strings"),
        (
            {"points": with_value((3, 0, 0), np.nan)},
            "points must be finite.* in 1 of 6 clouds, the first at index 3",
        ),
        (
            {"points": with_value((2, 0, 0), 1e300, np.float64)},
            "points must be finite.* the first at index 2",
        ),
        ({"split": np.ones(6, int)}, "no clouds in split 'train'"),
        ({"split": np.zeros(6, int)}, "no clouds in split 'test'"),
        ({"class_names": np.array(["bed", None], dtype=object)}, "cannot be read.*objects are refused"),
    ],
)
def test_wrong_content_is_refused(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message) as caught:
        load_point_cloud_dataset(saved(tmp_path, **changes))
    assert "clouds.npz" in str(caught.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"absent\.npz does not exist"):
        load_point_cloud_dataset(tmp_path / "absent.npz")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.95])
def test_truncated_file_is_refused(tmp_path, kept):
    path = saved(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(DatasetError, match=r"truncated or not a \.npz file"):
        load_point_cloud_dataset(path)


def test_other_format_under_the_name_is_refused(tmp_path):
    path = tmp_path / "clouds.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 3)))
    with pytest.raises(DatasetError, match=r"truncated or not a \.npz file"):
        load_point_cloud_dataset(path)


def test_damaged_bytes_are_refused(tmp_path):
    path = tmp_path / "clouds.npz"
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    content[100:140] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"clouds\.npz cannot be read"):
        load_point_cloud_dataset(path)


def test_modelnet10(shared_data):
    dataset = load_point_cloud_dataset(shared_data / "modelnet10_1024.npz")
    assert dataset.num_rows == {"train": 3991, "test": 908}
    label = dataset["train"].features["label"]
    assert label.names == MODELNET10
    train_counts = np.bincount(dataset["train"].with_format("numpy")["label"][:]).tolist()
    assert train_counts == [106, 515, 889, 200, 200, 465, 200, 680, 392, 344]
    points = dataset["test"].with_format("numpy")[:]["points"]
    assert points.shape == (908, 1024, 3)
    assert np.linalg.norm(points, axis=2).max() < 1.001
