"""Labels of a cloud that are not one class, in tables, folders and .npz files."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from any2point_hf import load_point_cloud_dataset
from any2point_hf.data.fingerprint import data_fingerprint
from any2point_hf.data.loading import task_of_dataset
from any2point_hf.data.targets import target_array, target_names
from any2point_hf.modeling.errors import DatasetError

CLOUDS = np.random.default_rng(0).normal(size=(6, 20, 3)).astype(np.float32)
VOLUME, AREA = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
HAS = [["red", "round"], [], ["round"], ["red"], ["green"], ["green", "red"]]
NAMES = ["green", "red", "round"]
MULTI_HOT = [[int(name in row) for name in NAMES] for row in HAS]


def tables(types=None, **columns):
    """Splits of four and two clouds."""
    whole = Dataset.from_dict({"points": CLOUDS.tolist(), **columns})
    if types:
        whole = whole.cast(Features({**whole.features, **types}))
    return DatasetDict(train=whole.select(range(4)), test=whole.select(range(4, 6)))


def values(dataset):
    return np.concatenate([target_array(dataset["train"]), target_array(dataset["test"])])


# Tables


@pytest.mark.parametrize(
    ("columns", "label_column", "names"),
    [
        ({"volume": VOLUME, "area": AREA}, ["area", "volume"], ["area", "volume"]),
        ({"volume": VOLUME, "area": AREA}, "area, volume", ["area", "volume"]),
        ({"area": AREA, "id": list(range(6)), "volume": VOLUME}, None, ["area", "volume"]),  # all that are floating
        ({"target": list(zip(AREA, VOLUME, strict=True))}, "target", ["target_0", "target_1"]),
        ({"label": list(zip(AREA, VOLUME, strict=True))}, None, ["label_0", "label_1"]),
        ({"label": [{"a": a, "v": v} for a, v in zip(AREA, VOLUME, strict=True)]}, None, ["a", "v"]),
    ],
)
def test_numbers_are_found_in_columns_lists_and_dicts(columns, label_column, names):
    dataset = load_point_cloud_dataset(tables(**columns), task="regression", label_column=label_column)
    assert task_of_dataset(dataset) == "regression"
    assert target_names(dataset["train"]) == names
    np.testing.assert_array_equal(values(dataset), np.array([AREA, VOLUME], np.float32).T)
    np.testing.assert_array_equal(dataset["test"].with_format("numpy")["points"][0], CLOUDS[4])


@pytest.mark.parametrize("types", [None, {"label": Value("float32")}, {"label": Value("int32")}])
def test_a_single_number_needs_no_name(types):
    dataset = load_point_cloud_dataset(tables(label=AREA, types=types), task="regression")
    assert target_names(dataset["train"]) == ["label"]
    np.testing.assert_array_equal(values(dataset)[:, 0], np.float32(AREA))


@pytest.mark.parametrize(
    ("columns", "types", "label_column", "names"),
    [
        ({"label": HAS}, None, None, NAMES),
        ({"has": HAS}, None, "has", NAMES),
        (
            {"label": [[NAMES.index(name) for name in row] for row in HAS]},
            {"label": List(ClassLabel(names=NAMES))},
            None,
            NAMES,
        ),
        ({"label": MULTI_HOT}, None, None, ["0", "1", "2"]),
        ({"label": np.array(MULTI_HOT, dtype=float).tolist()}, None, None, ["0", "1", "2"]),
        ({name: [row[i] for row in MULTI_HOT] for i, name in enumerate(NAMES)}, None, NAMES, NAMES),
        ({"label": [dict(zip(NAMES, map(bool, row), strict=True)) for row in MULTI_HOT]}, None, None, NAMES),
    ],
)
def test_several_classes_are_found_in_lists_columns_and_dicts(columns, types, label_column, names):
    dataset = load_point_cloud_dataset(tables(types, **columns), task="multi-label", label_column=label_column)
    assert task_of_dataset(dataset) == "multi-label"
    assert target_names(dataset["train"]) == names
    np.testing.assert_array_equal(values(dataset), np.float32(MULTI_HOT))


def test_what_is_so_already_says_what_it_is_for():
    of_numbers = load_point_cloud_dataset(tables(volume=VOLUME), task="regression")
    of_classes = load_point_cloud_dataset(tables(label=HAS), task="multi-label")
    for dataset in (of_numbers, of_classes):
        again = load_point_cloud_dataset(dataset)
        assert task_of_dataset(again) == task_of_dataset(dataset)
        np.testing.assert_array_equal(values(again), values(dataset))
        assert data_fingerprint(again) == data_fingerprint(dataset)
    assert task_of_dataset(load_point_cloud_dataset(tables(label=AREA))) == "regression"
    assert task_of_dataset(load_point_cloud_dataset(tables(label=[0, 1, 0, 1, 0, 1]))) == "classification"


def test_the_fingerprint_knows_values_and_names():
    prints = {
        data_fingerprint(load_point_cloud_dataset(tables(**columns), task="regression"))
        for columns in ({"volume": VOLUME}, {"volume": AREA}, {"area": AREA})
    }
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("columns", "task", "label_column", "message"),
    [
        ({"volume": VOLUME}, "regression", "weight", "has no column 'weight'"),
        ({"label": ["a", "b"] * 3}, "regression", None, "must have a column 'label' of finite numbers"),
        ({"label": ["a", "b"] * 3}, "multi-label", None, "must have a column 'label' of classes"),
        ({"label": [0.1, None, 0.3, 0.4, 0.5, 0.6]}, "regression", None, "row 1 of the split 'train'"),
        ({"label": [0.1, 0.2, 0.3, 0.4, 0.5, float("nan")]}, "regression", None, "row 1 of the split 'test'.*got nan"),
        ({"volume": ["x"] * 6}, "regression", "volume", "got 'x'"),
        ({"label": [[0, 1, 2]] * 6}, "multi-label", None, "yes or no, got 2"),
        ({"label": [[0, 1], [1], [0], [1], [1], [0]]}, "multi-label", None, "must be of one length"),
        ({"label": [["a"], None, ["b"], ["a"], ["a"], ["b"]]}, "multi-label", None, "its cell is empty"),
        ({"volume": VOLUME}, "classification", None, "column 'label'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(columns, task, label_column, message):
    with pytest.raises(DatasetError, match=message):
        load_point_cloud_dataset(tables(**columns), task=task, label_column=label_column)


def test_without_a_test_split_a_fifth_is_held_out():
    with pytest.warns(UserWarning, match="1 of its 4 clouds"):
        dataset = load_point_cloud_dataset(tables(volume=VOLUME)["train"], task="regression")
    assert (len(dataset["train"]), len(dataset["test"])) == (3, 1)


# Folders with a table


def write_folder(root, table, text):
    for index, cloud in enumerate(CLOUDS):
        np.save(root / f"{index}.npy", cloud)
    (root / table).write_text(text, encoding="utf-8")


def test_named_columns_of_a_csv_are_targets(tmp_path):
    lines = [f"{index}.npy,{'test' if index > 3 else 'train'},{VOLUME[index]},{AREA[index]}" for index in range(6)]
    write_folder(tmp_path, "metadata.csv", "\n".join(["file_name,split,volume,area", *lines]))
    dataset = load_point_cloud_dataset(tmp_path, task="regression")
    assert target_names(dataset["test"]) == ["volume", "area"]
    np.testing.assert_array_equal(values(dataset), np.array([VOLUME, AREA], np.float32).T)
    chosen = load_point_cloud_dataset(tmp_path, task="regression", label_column="area")
    np.testing.assert_array_equal(values(chosen)[:, 0], np.float32(AREA))
    np.testing.assert_array_equal(chosen["test"].with_format("numpy")["points"][1], CLOUDS[5])
    with pytest.raises(DatasetError, match="--task regression"):
        load_point_cloud_dataset(tmp_path)
    with pytest.raises(DatasetError, match="has no column 'weight'"):
        load_point_cloud_dataset(tmp_path, task="regression", label_column="weight")


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
def test_names_of_classes_are_divided_by_semicolons_or_lists(tmp_path, table):
    rows = [{"file_name": f"{i}.npy", "split": "test" if i > 3 else "train", "label": HAS[i]} for i in range(6)]
    lines = [json.dumps(row) for row in rows]
    if table.endswith("csv"):
        lines = ["file_name,split,label", *(f"{i}.npy,{rows[i]['split']},{'; '.join(HAS[i])}" for i in range(6))]
    write_folder(tmp_path, table, "\n".join(lines))
    dataset = load_point_cloud_dataset(tmp_path, task="multi-label")
    assert target_names(dataset["train"]) == NAMES
    np.testing.assert_array_equal(values(dataset), np.float32(MULTI_HOT))


@pytest.mark.parametrize("cell", ["", "nan", "much"])
def test_a_cell_that_is_no_number_is_named(tmp_path, cell):
    write_folder(tmp_path, "metadata.csv", f"file_name,volume\n0.npy,1.5\n1.npy,{cell}\n")
    with pytest.raises(DatasetError, match="line 3, volume: labels for regression must be finite numbers"):
        load_point_cloud_dataset(tmp_path, task="regression")


def test_a_folder_of_classes_alone_has_no_targets(tmp_path):
    (tmp_path / "chair").mkdir()
    np.save(tmp_path / "chair" / "0.npy", CLOUDS[0])
    with pytest.raises(DatasetError, match=r"must have a metadata\.csv"):
        load_point_cloud_dataset(tmp_path, task="regression")


# .npz


def write_npz(path, labels, names):
    np.savez(path, points=CLOUDS, labels=labels, split=[0, 0, 0, 0, 1, 1], class_names=names)
    return path


def test_an_npz_says_by_its_labels_what_they_are(tmp_path):
    both = write_npz(tmp_path / "numbers.npz", np.array([VOLUME, AREA]).T, ["volume", "area"])
    dataset = load_point_cloud_dataset(both)
    assert (task_of_dataset(dataset), target_names(dataset["train"])) == ("regression", ["volume", "area"])
    np.testing.assert_array_equal(values(dataset), np.array([VOLUME, AREA], np.float32).T)
    one = load_point_cloud_dataset(write_npz(tmp_path / "one.npz", VOLUME, ["volume"]))
    np.testing.assert_array_equal(values(one)[:, 0], np.float32(VOLUME))
    several = load_point_cloud_dataset(write_npz(tmp_path / "classes.npz", MULTI_HOT, NAMES))
    assert (task_of_dataset(several), target_names(several["train"])) == ("multi-label", NAMES)
    np.testing.assert_array_equal(values(several), np.float32(MULTI_HOT))


@pytest.mark.parametrize(
    ("labels", "names", "task", "message"),
    [
        (np.array([VOLUME, AREA]).T, ["volume"], None, r"numbers \[6, 1\]"),
        (np.array(MULTI_HOT) * 2, NAMES, None, r"labels\[0\], red: .* got 2"),
        (np.array([VOLUME]).T * np.nan, ["volume"], None, "got nan"),
        (np.array([VOLUME]).T, ["volume"], "classification", "labels must be integers"),
    ],
)
def test_an_npz_whose_labels_do_not_fit_is_refused(tmp_path, labels, names, task, message):
    with pytest.raises(DatasetError, match=message):
        load_point_cloud_dataset(write_npz(tmp_path / "wrong.npz", labels, names), task=task)
