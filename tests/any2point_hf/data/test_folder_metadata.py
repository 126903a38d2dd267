"""Folders with a table of files and classes."""

import json

import numpy as np
import pytest
from datasets import Dataset

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.large_collections.sources import open_collection
from any2point_hf.modeling.errors import DatasetError


@pytest.fixture
def clouds(tmp_path):
    """Four clouds of 8, 9, 10, 11 points; `numbers` tells which are in a split."""
    generator = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for number in range(4):
        np.save(tmp_path / "scans" / f"{number}.npy", generator.normal(size=(8 + number, 3)).astype(np.float32))
    return tmp_path


def numbers(split):
    return [len(cloud) - 8 for cloud in split.with_format("numpy")["points"]]


def rows(key="label"):
    labels, splits = ["bed", "sofa", "bed", "sofa"], ["train", "train", "test", "val"]
    return [{"file_name": f"scans/{i}.npy", key: labels[i], "split": splits[i]} for i in range(4)]


def test_a_table_names_files_classes_and_splits(clouds):
    lines = ["split,label,file_name", *(f"{row['split']},{row['label']},{row['file_name']}" for row in rows())]
    (clouds / "metadata.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    dataset = load_point_cloud_dataset(clouds)
    assert {name: numbers(split) for name, split in dataset.items()} == {
        "train": [0, 1],
        "test": [2],
        "validation": [3],
    }
    assert [dataset["train"].features["label"].names, dataset["train"]["label"][:]] == [["bed", "sofa"], [0, 1]]
    assert open_collection(clouds).ids() == [f"scans/{number}.npy" for number in range(4)]


def test_json_lines_in_the_folders_of_splits(clouds):
    (clouds / "train").mkdir()
    (clouds / "scans").rename(clouds / "test")
    for number in range(2):
        (clouds / "test" / f"{number}.npy").rename(clouds / "train" / f"{number}.npy")
    for split, members in (("train", (0, 1)), ("test", (3, 2))):
        lines = [json.dumps({"file_name": f"{number}.npy", "class": f"kind {number % 2}"}) for number in members]
        (clouds / split / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    dataset = load_point_cloud_dataset(clouds)
    assert {name: numbers(split) for name, split in dataset.items()} == {"train": [0, 1], "test": [2, 3]}
    assert dataset["train"].features["label"].names == ["kind 0", "kind 1"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"label": "bed"}, r"line 2: a row must have file_name, it has label\."),
        ({"file_name": "scans/1.npy"}, r"line 2: a row must have a label, it has file_name\."),
        ({"file_name": "scans/9.npy", "label": "bed"}, "file_name must be a file in .*, got 'scans/9.npy'"),
        ({"file_name": "../secret.npy", "label": "bed"}, "must be a file in"),
        ({"file_name": "/etc/hosts", "label": "bed"}, "must be a file in"),
        ({"file_name": "metadata.jsonl", "label": "bed"}, r"line 2: 'metadata.jsonl' must end in one of \.ply"),
        (
            {"file_name": "scans/1.npy", "label": "bed", "split": "fold2"},
            "line 2: split must be train, test.*got 'fold2'",
        ),
        ({"file_name": "scans/0.npy", "label": "bed"}, "line 2: 'scans/0.npy' is listed in .*line 1 already"),
        ([1], r"line 2: a row must be a JSON object, got '\[1\]'"),
    ],
)
def test_bad_rows_are_named_by_their_lines(clouds, row, reason):
    np.save(clouds.parent / "secret.npy", np.eye(3))
    (clouds / "metadata.jsonl").write_text("\n".join(map(json.dumps, [rows()[0], row])))
    with pytest.raises(DatasetError, match=f"metadata.jsonl, {reason}" if "line" in reason else reason):
        load_point_cloud_dataset(clouds)


@pytest.mark.parametrize("content", [b"{not json", b"\xff\xfe"])
def test_a_table_that_cannot_be_read(clouds, content):
    (clouds / "metadata.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=r"metadata\.jsonl cannot be read"):
        load_point_cloud_dataset(clouds)


@pytest.mark.parametrize("names", [("Train", "TEST", "Valid"), ("training", "testing", "dev")])
def test_splits_have_their_usual_names(clouds, names):
    table = [row | {"split": names[("train", "test", "val").index(row["split"])]} for row in rows()]
    Dataset.from_list(table).to_parquet(clouds / "metadata.parquet")
    dataset = load_point_cloud_dataset(clouds)
    found = {name: numbers(split) for name, split in dataset.items()}
    assert found == {"train": [0, 1], "test": [2], "validation": [3]}


def test_one_table_a_folder(clouds):
    for name in ("metadata.csv", "metadata.jsonl"):
        (clouds / name).write_text("")
    with pytest.raises(DatasetError, match=r"must have one table of its files, got metadata\.csv and metadata\.jsonl"):
        load_point_cloud_dataset(clouds)


def test_clouds_that_no_table_names_are_counted(clouds):
    (clouds / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows()[:3])))
    with pytest.warns(UserWarning, match=r"1 of 4 clouds are left out, .* such as scans/3\.npy"):
        load_point_cloud_dataset(clouds)
