import json

import numpy as np
import pytest
from datasets import List, Value, config, load_from_disk

from any2point_hf.data import load_point_cloud_dataset, load_shapenetpart
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.processing_any2point import Any2PointProcessor
from any2point_hf.training.trainer import process_split

AIRPLANE, CHAIR = "02691156", "03001627"
SHAPES = {"train": [(CHAIR, "a"), (AIRPLANE, "b")], "val": [(CHAIR, "c")], "test": [(AIRPLANE, "d"), (CHAIR, "e")]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def table(name):
    """Clouds of different sizes: 9 points for shape a, 10 for b, …"""
    size = 9 + ord(name) - ord("a")
    values = np.random.default_rng(size).normal(size=(size, 7)).round(6).astype(np.float32)
    values[:, 6] = np.arange(size) + 35
    return values


def write(root):
    (root / "train_test_split").mkdir(parents=True)
    (root / "synsetoffset2category.txt").write_text(f"Airplane\t{AIRPLANE}\nChair\t{CHAIR}\n")
    for split, shapes in SHAPES.items():
        entries = [f"shape_data/{synset}/{name}" for synset, name in shapes]
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(entries))
        for synset, name in shapes:
            (root / synset).mkdir(exist_ok=True)
            np.savetxt(root / synset / f"{name}.txt", table(name), fmt="%.6f", delimiter=" ")
    return root


@pytest.mark.parametrize("load", [load_shapenetpart, load_point_cloud_dataset])
def test_columns(tmp_path, load):
    dataset = load(write(tmp_path / "data"))
    assert dataset.num_rows == {"train": 2, "validation": 1, "test": 2}
    assert dataset["train"].features["label"].names == ["Airplane", "Chair"]
    assert dataset["train"].features["part"] == List(Value("uint8"))
    assert dataset["train"]["label"][:] == [1, 0]
    assert dataset["test"]["id"][:] == ["d", "e"]
    for split in dataset.with_format("numpy").values():
        for row in split:
            expected = table(row["id"])
            assert row["points"].tobytes() == expected[:, :3].tobytes()
            assert row["normal"].tobytes() == expected[:, 3:6].tobytes()
            assert row["part"].tolist() == expected[:, 6].tolist()


def test_survives_the_disk(tmp_path):
    dataset = load_shapenetpart(write(tmp_path / "data"), cache_dir=tmp_path / "other")
    dataset.save_to_disk(tmp_path / "saved")
    loaded = load_from_disk(tmp_path / "saved")
    assert loaded["test"].features == dataset["test"].features
    assert loaded["test"][:] == dataset["test"][:]


def test_training_takes_points_and_labels_alone(tmp_path):
    split = load_shapenetpart(write(tmp_path / "data"))["train"]
    with pytest.warns(UserWarning, match="fewer than 64 points"):
        processed = process_split(split, Any2PointProcessor(64), 64)
    assert processed.column_names == ["points", "labels"]
    assert processed[:]["points"].shape == (2, 64, 3)


TRAIN_LIST = "train_test_split/shuffled_train_file_list.json"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_LIST, "[]", r"shuffled_train_file_list\.json must be a JSON list .*at least one, got \[\]"),
        (TRAIN_LIST, '["shape_data/0300', r"shuffled_train_file_list\.json .*cut off or no JSON"),
        (TRAIN_LIST, '["shape_data/99999999/a"]', "got 'shape_data/99999999/a'"),
        (TRAIN_LIST, "[3]", "got 3"),
        ("synsetoffset2category.txt", "Airplane\n", r"synsetoffset2category\.txt must have a name and a synset"),
        ("synsetoffset2category.txt", "A 1\nB 1\n", r"synsetoffset2category\.txt must have .*all different"),
        (f"{CHAIR}/a.txt", "", r"a\.txt must have rows of 7 numbers separated by spaces, but it is empty"),
        (f"{CHAIR}/a.txt", "0 0 0 0 0 1\n", r"a\.txt .*got the shape \[1, 6\]"),
        (f"{CHAIR}/a.txt", "0 0 0 0 0 1 2\n0 0", r"a\.txt must have rows of 7 numbers"),
        (f"{CHAIR}/a.txt", "0 0 inf 0 0 1 2\n", r"a\.txt must be finite"),
    ],
)
def test_wrong_content_is_refused(tmp_path, name, content, message):
    (write(tmp_path / "data") / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        load_shapenetpart(tmp_path / "data")


@pytest.mark.parametrize("part", [50, -1, 1.5, np.nan])
def test_impossible_parts_are_refused(tmp_path, part):
    values = table("a")
    values[4, 6] = part
    np.savetxt(write(tmp_path / "data") / CHAIR / "a.txt", values, delimiter=" ")
    with pytest.raises(DatasetError, match=rf"a\.txt: the part.* 0…49, got {part}.* in row 4"):
        load_shapenetpart(tmp_path / "data")


@pytest.mark.parametrize("name", [TRAIN_LIST, "synsetoffset2category.txt", f"{AIRPLANE}/d.txt"])
def test_missing_files_are_named_with_their_source(tmp_path, name):
    (write(tmp_path / "data") / name).unlink()
    with pytest.raises(DatasetError, match=f"1 of . files missing: .*{name}.*from https://shapenet.cs.stanford.edu"):
        load_shapenetpart(tmp_path / "data")


def test_genuine_lists(shared_data, tmp_path):
    """A genuine list and categories; the one cloud of this layout there stands in for each listed shape."""
    folder = shared_data / "samples" / "shapenetpart"
    (tmp_path / "train_test_split").mkdir()
    (tmp_path / "synsetoffset2category.txt").symlink_to(folder / "synsetoffset2category.txt")
    listed = json.loads((folder / "shuffled_test_file_list.json").read_text())
    cloud = folder / "person_0090_modelnet40_in_shapenetpart_layout.txt"
    for split, entries in (("train", listed[:2]), ("val", listed[2:3]), ("test", listed)):
        (tmp_path / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=rf"of {len(listed) + 3} files missing"):
        load_point_cloud_dataset(tmp_path)
    (tmp_path / "train_test_split" / "shuffled_test_file_list.json").write_text(json.dumps(listed[:3]))
    for entry in listed[:3]:
        _, synset, name = entry.split("/")
        (tmp_path / synset).mkdir(exist_ok=True)
        (tmp_path / synset / f"{name}.txt").symlink_to(cloud)
    dataset = load_point_cloud_dataset(tmp_path).with_format("numpy")
    names = dataset["train"].features["label"].names
    assert (len(names), names[0], names[-1]) == (16, "Airplane", "Table")
    row = dataset["test"][0]
    assert row["points"].shape == row["normal"].shape == (10000, 3)
    assert set(row["part"].tolist()) == {1}
    assert names[row["label"]] == {"03001627": "Chair", "04379243": "Table"}[listed[0].split("/")[1]]
