"""Tables of `datasets` with a label for each point, in memory and in files."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.parts.dataset import category_parts_of, is_part_dataset, part_names_of
from any2point_hf.data.parts.shapes import make_part_shapes
from any2point_hf.modeling.errors import DatasetError, PointCloudError


def clouds(count=4, size=20):
    return np.random.default_rng(0).normal(size=(count, size, 3)).tolist()


def splits(features=None, **columns):
    columns = {"points": clouds(), **columns}
    return DatasetDict({split: Dataset.from_dict(columns, features=features) for split in ("train", "test")})


def test_its_own_form_comes_back_from_a_file_and_is_not_copied(tmp_path):
    made = make_part_shapes(10, 5, 64)
    made.save_to_disk(tmp_path / "saved")
    made["train"].to_parquet(tmp_path / "tables" / "train.parquet")
    made["test"].to_parquet(tmp_path / "tables" / "test.parquet")
    for source in (made, tmp_path / "saved", tmp_path / "tables"):
        dataset = load_point_cloud_dataset(source)
        assert dataset["train"].features == made["train"].features
        for split in ("train", "test"):
            assert dataset[split][:] == made[split][:]
    in_memory = load_point_cloud_dataset(made)
    for column in ("points", "part"):
        before, after = (data["train"].data.column(column).chunk(0).buffers()[-1] for data in (made, in_memory))
        assert before.address == after.address


@pytest.mark.parametrize("name", ["part", "seg", "labels", "label"])
def test_integers_become_parts(name):
    dataset = load_point_cloud_dataset(splits(**{name: [[0, 1, 2, -100] * 5] * 4}))
    assert is_part_dataset(dataset)
    assert dataset["train"].column_names == ["points", "part"]
    assert part_names_of(dataset) == ["0", "1", "2"]
    assert dataset["test"][3]["part"] == [0, 1, 2, -100] * 5


def test_texts_become_parts_and_categories():
    dataset = load_point_cloud_dataset(
        splits(
            part=[["seat", "leg"] * 10] * 3 + [["leg", "top"] * 10], category=["chair"] * 3 + ["table"], id=[1, 2, 3, 4]
        )
    )
    assert part_names_of(dataset) == ["leg", "seat", "top"]
    assert category_parts_of(dataset) == {"chair": [0, 1], "table": [0, 2]}
    assert dataset["train"]["category"][:] == [0, 0, 0, 1]
    assert dataset["train"]["id"][:] == [1, 2, 3, 4]
    assert dataset["train"][3]["part"] == [0, 2] * 10


def test_category_is_taken_before_label():
    dataset = load_point_cloud_dataset(
        splits(part=[[0, 1] * 10] * 4, category=["b", "a", "b", "a"], label=["x"] * 4), task="segmentation"
    )
    assert category_parts_of(dataset) == {"a": [0, 1], "b": [0, 1]}
    assert dataset["train"]["label"][:] == ["x"] * 4


def test_a_named_column_is_for_segmentation():
    columns = {"thing": [[0, 1] * 10] * 4, "label": ["x", "y"] * 2}
    assert "part" not in load_point_cloud_dataset(splits(**columns))["train"].column_names
    dataset = load_point_cloud_dataset(splits(**columns), label_column="thing")
    assert category_parts_of(dataset) == {"x": [0, 1], "y": [0, 1]}


def test_shapenetpart_as_loaded_for_classification_stays_so():
    columns = {"part": [[0, 1] * 10] * 4, "label": ["x", "y"] * 2}
    assert "category" not in load_point_cloud_dataset(splits(**columns))["train"].column_names
    assert "category" in load_point_cloud_dataset(splits(**columns), task="segmentation")["train"].column_names


def test_labels_of_dropped_points_are_dropped():
    points = clouds()
    points[1][4] = [float("nan"), 0, 0]
    names = Features(points=List(List(Value("float64"))), part=List(ClassLabel(names=["a", "b"])))
    part = np.random.default_rng(1).integers(0, 2, (4, 20)).tolist()
    dataset = DatasetDict(
        train=Dataset.from_dict({"points": points, "part": part}, features=names),
        test=Dataset.from_dict({"points": clouds(), "part": part}, features=names),
    )
    with pytest.warns(UserWarning, match="1 points are dropped"):
        loaded = load_point_cloud_dataset(dataset, drop_invalid=True)
    assert loaded["train"][1]["part"] == part[1][:4] + part[1][5:]
    assert len(loaded["train"][1]["points"]) == 19
    assert loaded["train"][0]["part"] == part[0]
    with pytest.raises(PointCloudError, match=r"row 1 .* must be finite"):
        load_point_cloud_dataset(dataset)


def test_a_fifth_of_each_category_is_held_out():
    table = Dataset.from_dict({"points": clouds(20), "part": [[0, 1] * 10] * 20, "category": ["a"] * 10 + ["b"] * 10})
    with pytest.warns(UserWarning, match="4 of its 20 clouds, 20% of each class"):
        dataset = load_point_cloud_dataset(table)
    assert sorted(dataset["test"]["category"][:]) == [0, 0, 1, 1]
    with pytest.warns(UserWarning, match="4 of its 20 clouds"):
        dataset = load_point_cloud_dataset(table.remove_columns("category"))
    assert dataset.num_rows == {"train": 16, "test": 4}


SHORT = [[0, 1] * 10] * 3 + [[0, 1] * 9]


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"part": SHORT}, {}, r"row 3 of the split 'train' .*: part must be numbers .20., a row for each .* got .18."),
        (
            {"part": SHORT},
            {"drop_invalid": True},
            r"row 3 of the split 'train' .*part must be numbers \[20\].*got \[18\]",
        ),
        ({"part": [[0, 2] * 10] * 4}, {}, "0, 1, 2, … without gaps, and -100 for points without one, got 0, 2"),
        ({"part": [[0, -1] * 10] * 4}, {}, "without gaps, and -100 for points without one, got -1, 0"),
        ({"part": [[0.0, 0.5] * 10] * 4}, {}, r"row 0 of the split 'train' .* must be integers, got 0\.5"),
        ({"part": [[0, None] * 10] * 4}, {}, "row 0 of the split 'train'.* must have a label, got empty ones"),
        ({"part": [[0, 1] * 10] * 3 + [None]}, {}, "row 3 of the split 'train'.* must have a label, got empty ones"),
        ({"part": [["a", None] * 10] * 4}, {}, "row 0 of the split 'train'.* must have a label, got empty ones"),
        ({"part": [["a", "b"] * 10] * 3 + [None]}, {}, "row 3 of the split 'train'.* must have a label"),
        ({"part": [[0, 1] * 10] * 4}, {"label_column": "seg"}, "no column 'seg'; its columns are points, part"),
        ({"part": [0] * 4}, {"label_column": "part"}, "'part' must have a list of labels in each row.* got int64"),
        (
            {"label": [0, 1] * 2},
            {"task": "segmentation"},
            r"must have a column 'part' .* points \(List\), label \(int64\)",
        ),
        (
            {"part": [[0, 1] * 10] * 4},
            {"task": "parts"},
            "task must be one of classification, multi-label, regression, segmentation, got 'parts'",
        ),
    ],
)
def test_wrong_columns_are_refused(columns, arguments, message):
    with pytest.raises((DatasetError, PointCloudError), match=message):
        load_point_cloud_dataset(splits(**columns), **arguments)


def test_labels_out_of_range_of_the_names_are_refused():
    types = Features(points=List(List(Value("float64"))), part=List(Value("int64")))
    table = splits(types, part=[[0, 1] * 10] * 3 + [[0, -7] * 10])
    table = table.cast_column("part", List(ClassLabel(names=["a", "b"])))
    with pytest.raises(
        DatasetError, match=r"row 3 of the split 'train' .* 0…1 \(2 parts\).*, got -7 at point 1 \(10 such"
    ):
        load_point_cloud_dataset(table)


def test_different_names_in_the_splits_are_refused():
    table = splits(part=[["a", "b"] * 10] * 4)
    features = {name: List(ClassLabel(names=[*"ab", name])) for name in ("train", "test")}
    with pytest.raises(DatasetError, match="same type and names in all splits"):
        load_point_cloud_dataset(
            DatasetDict(
                {
                    name: table[name].map(lambda row: {"part": [0, 1] * 10}).cast_column("part", features[name])
                    for name in table
                }
            )
        )


def test_empty_labels_among_classes_are_refused():
    table = splits(part=[["a", "b"] * 10] * 3 + [["a", None] * 10])
    table = table.cast_column("part", List(ClassLabel(names=["a", "b"])))
    with pytest.raises(DatasetError, match=r"row 3 of the split 'train'.* must have a label, got empty ones"):
        load_point_cloud_dataset(table)


def test_categories_in_one_split_alone_are_refused():
    with_categories = splits(part=[["a", "b"] * 10] * 4, category=["x", "y"] * 2)["train"]
    pair = DatasetDict(train=with_categories, test=with_categories.remove_columns("category"))
    with pytest.raises(DatasetError, match="must have a column 'category' in its split 'test'"):
        load_point_cloud_dataset(pair)
