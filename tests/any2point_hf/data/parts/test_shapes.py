"""The built-in shapes know the part of each point."""

import numpy as np
import pytest

from any2point_hf.data import load_point_cloud_dataset, make_shapes
from any2point_hf.data.parts.dataset import category_parts_of, is_part_dataset, part_names_of
from any2point_hf.data.parts.shapes import PART_NAMES, PARTS_OF_SHAPES, make_part_shapes
from any2point_hf.data.shapes import SHAPE_NAMES
from any2point_hf.modeling.errors import DatasetError


@pytest.fixture(scope="module")
def dataset():
    return make_part_shapes(num_train=50, num_test=10, num_points=256)


def test_by_its_name(monkeypatch):
    monkeypatch.setattr("any2point_hf.data.loading.make_part_shapes", lambda seed: make_part_shapes(5, 5, 64, seed))
    dataset = load_point_cloud_dataset("shapes-parts", seed=1)
    assert is_part_dataset(dataset)
    assert dataset["train"][:] == make_part_shapes(5, 5, 64, 1)["train"][:]
    assert dataset["train"][:] != make_part_shapes(5, 5, 64, 0)["train"][:]


def test_columns_and_names(dataset):
    assert dataset["train"].column_names == ["points", "part", "category"]
    assert part_names_of(dataset) == list(PART_NAMES)
    assert len(PART_NAMES) == 12
    assert dataset["test"].features["category"].names == list(PARTS_OF_SHAPES)
    assert dataset["train"]["category"][:7] == [0, 1, 2, 3, 4, 0, 1]
    rows = dataset["train"].with_format("numpy")[:]
    assert rows["part"].dtype == np.int64
    assert rows["part"].shape == (50, 256)


def test_each_category_has_its_own_parts(dataset):
    assert category_parts_of(dataset) == {
        "bottle": [0, 1],
        "chair": [2, 3, 4],
        "lamp": [5, 6, 7],
        "mug": [8, 9],
        "table": [10, 11],
    }


def test_the_clouds_are_those_of_the_shapes(dataset):
    shapes = make_shapes(num_train=100, num_test=20, num_points=256)
    for split in ("train", "test"):
        all_shapes = shapes[split].with_format("numpy")[:]
        for category, name in enumerate(PARTS_OF_SHAPES):
            own = dataset[split].filter(lambda row, category=category: row["category"] == category)
            expected = all_shapes["points"][all_shapes["label"] == SHAPE_NAMES.index(name)]
            assert own.with_format("numpy")[:]["points"].tobytes() == expected.tobytes()


def parts_of(dataset, category):
    """Points in the unit cube and names of parts of the first cloud of a category, upright as it was made."""
    row = dataset["train"].with_format("numpy")[list(PARTS_OF_SHAPES).index(category)]
    points = row["points"] - row["points"].min(axis=0)
    names = np.array(PART_NAMES)[row["part"]]
    return points / points[:, 2].max(), names


def test_parts_lie_where_their_names_say(dataset):
    heights = {}
    for category in PARTS_OF_SHAPES:
        points, names = parts_of(dataset, category)
        heights |= {name: points[names == name, 2] for name in {*names.tolist()}}
    assert heights["chair/leg"].mean() < heights["chair/seat"].mean() < heights["chair/back"].mean()
    assert np.ptp(heights["chair/seat"]) < 0.2 < np.ptp(heights["chair/back"])
    assert heights["table/leg"].mean() < heights["table/top"].mean() - 0.2
    assert heights["lamp/base"].max() < 0.15
    assert heights["lamp/base"].mean() < heights["lamp/pole"].mean() < heights["lamp/shade"].mean()
    assert heights["bottle/body"].mean() < heights["bottle/neck"].min() + 0.1
    points, names = parts_of(dataset, "mug")
    middle = points[names == "mug/body"].mean(axis=0)
    from_axis = np.hypot(*(points - middle)[:, :2].T)
    assert from_axis[names == "mug/handle"].min() > 0.8 * np.median(from_axis[names == "mug/body"])


def test_impossible_arguments_are_refused():
    with pytest.raises(DatasetError, match="num_train must be at least 1, got 0"):
        make_part_shapes(num_train=0)


@pytest.mark.parametrize("name", ["shapes", "shapes-parts", "shapes-measures"])
def test_built_in_data_have_no_column_to_choose(name):
    with pytest.raises(DatasetError, match=f"'{name}' is built in, and has no column to choose, got 'seg'"):
        load_point_cloud_dataset(name, label_column="seg")
