"""ShapeNetPart, S3DIS and SemanticKITTI in the layouts that their authors publish, made up in small."""

import json

import numpy as np
import pytest
from datasets import config

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.parts import semantic_kitti
from any2point_hf.data.parts.dataset import category_names_of, category_parts_of, part_names_of
from any2point_hf.data.parts.s3dis import S3DIS_CLASSES
from any2point_hf.data.parts.semantic_kitti import SEMANTIC_KITTI_CLASSES
from any2point_hf.data.parts.shapenetpart import PART_NAMES, PARTS_OF_CATEGORIES
from any2point_hf.modeling.errors import DatasetError

FIRST_PARTS = np.cumsum([0, *PARTS_OF_CATEGORIES.values()])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def parts_of(category, count):
    return FIRST_PARTS[category] + np.arange(count) % list(PARTS_OF_CATEGORIES.values())[category]


def write_text(root, shared_data):
    """ShapeNetPart as text, with its genuine list of categories and two shapes of each, one of them to test on."""
    (root / "train_test_split").mkdir(parents=True)
    names = (shared_data / "samples/shapenetpart/synsetoffset2category.txt").read_text()
    (root / "synsetoffset2category.txt").write_text(names)
    synsets = [line.split()[1] for line in names.splitlines()]
    splits = {"train": synsets[:10], "val": synsets[10:], "test": synsets}
    for split, members in splits.items():
        entries = [f"shape_data/{synset}/{split}" for synset in members]
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(entries))
        for synset in members:
            (root / synset).mkdir(exist_ok=True)
            category = synsets.index(synset)
            table = np.column_stack([random(20, 6, seed=category), parts_of(category, 20)])
            np.savetxt(root / synset / f"{split}.txt", table, fmt="%.6f")
    return root


def test_shapenetpart_as_text(tmp_path, shared_data):
    root = write_text(tmp_path / "data", shared_data)
    dataset = load_point_cloud_dataset(root, task="segmentation", features=["normal"])
    assert dataset.num_rows == {"train": 16, "test": 16}
    assert dataset["train"]["category"][:] == list(range(16))
    assert part_names_of(dataset) == list(PART_NAMES)
    assert len(PART_NAMES) == 50
    official = {"Airplane": [0, 1, 2, 3], "Earphone": [16, 17, 18], "Motorbike": [30, 31, 32, 33, 34, 35]}
    official |= {"Car": [8, 9, 10, 11], "Rocket": [41, 42, 43], "Laptop": [28, 29], "Table": [47, 48, 49]}
    found = category_parts_of(dataset)
    assert {name: found[name] for name in official} == official
    row = dataset["test"].with_format("numpy")[5]
    np.testing.assert_array_equal(row["part"], parts_of(5, 20))
    np.testing.assert_allclose(np.column_stack([row["points"], row["normal"]]), random(20, 6, seed=5), atol=1e-6)


def test_shapenetpart_stays_for_classification_unless_asked(tmp_path, shared_data):
    dataset = load_point_cloud_dataset(write_text(tmp_path / "data", shared_data))
    assert {*dataset} == {"train", "validation", "test"}
    assert "category" not in dataset["train"].column_names


def test_shapenetpart_of_other_categories_is_refused(tmp_path, shared_data):
    root = write_text(tmp_path / "data", shared_data)
    names = (root / "synsetoffset2category.txt").read_text()
    (root / "synsetoffset2category.txt").write_text(names.replace("Bag", "Sack"))
    with pytest.raises(DatasetError, match="the categories must be those of ShapeNetPart in their order"):
        load_point_cloud_dataset(root, task="segmentation")


def write_hdf5(root, **changes):
    h5py = pytest.importorskip("h5py")
    root.mkdir()
    for name, categories in {"train0": range(8), "train1": range(8, 14), "val0": [14, 15], "test0": range(16)}.items():
        arrays = {
            "data": np.stack([random(24, 3, seed=category) for category in categories]),
            "label": np.array(categories, dtype=np.uint8)[:, None],
            "pid": np.stack([parts_of(category, 24) for category in categories]).astype(np.uint8),
        }
        with h5py.File(root / f"ply_data_{name}.h5", "w") as file:
            for key, array in (arrays | changes).items():
                if array is not None:
                    file[key] = array
    return root


def test_shapenetpart_as_hdf5(tmp_path):
    dataset = load_point_cloud_dataset(write_hdf5(tmp_path / "data"))
    assert dataset.num_rows == {"train": 16, "test": 16}
    assert category_names_of(dataset) == list(PARTS_OF_CATEGORIES)
    assert dataset["train"]["id"][:2] == ["ply_data_train0/0", "ply_data_train0/1"]
    assert dataset["train"]["category"][-2:] == [14, 15]
    row = dataset["test"].with_format("numpy")[7]
    np.testing.assert_array_equal(row["points"], random(24, 3, seed=7))
    np.testing.assert_array_equal(row["part"], parts_of(7, 24))


def test_parts_of_another_category_are_refused(tmp_path, shared_data):
    """They would become parts of the category, and shapes would be measured by them."""
    root = write_text(tmp_path / "data", shared_data)
    for file in root.glob("02958343/test.txt"):  # a car with the tail of an aeroplane
        table = np.loadtxt(file)
        table[3, 6] = 2
        np.savetxt(file, table, fmt="%.6f")
    with pytest.raises(DatasetError, match=r"a Car of the split 'test' has the part 2 \(Airplane/2\)"):
        load_point_cloud_dataset(root, task="segmentation")


def test_hdf5_without_parts_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"ply_data_train0\.h5 must hold the array pid"):
        load_point_cloud_dataset(write_hdf5(tmp_path / "data", pid=None))


ROOM = {"ceiling_1": 12, "chair_1": 9, "chair_2": 10, "stairs_1": 8}


def write_rooms(root):
    for area in ("Area_1", "Area_5"):
        for number, room in enumerate(("office_1", "hallway_1")):
            folder = root / area / room / "Annotations"
            folder.mkdir(parents=True)
            (root / area / room / f"{room}.txt").write_text("not read\n")
            for seed, (name, size) in enumerate(ROOM.items()):
                table = np.column_stack([random(size, 3, seed=seed) + number, np.full((size, 3), [255, 51, 0])])
                np.savetxt(folder / f"{name}.txt", table, fmt=["%.6f"] * 3 + ["%d"] * 3)
    return root


def test_s3dis(tmp_path):
    root = write_rooms(tmp_path / "data")
    dataset = load_point_cloud_dataset(root, features=["rgb"])
    assert part_names_of(dataset) == list(S3DIS_CLASSES)
    assert dataset["train"]["id"][:] == ["Area_1/hallway_1", "Area_1/office_1"]
    assert dataset["test"]["id"][:] == ["Area_5/hallway_1", "Area_5/office_1"]
    row = dataset["test"].with_format("numpy")[1]
    names = np.array(S3DIS_CLASSES)[row["part"]].tolist()
    assert names == ["ceiling"] * 12 + ["chair"] * 19 + ["clutter"] * 8
    expected = np.concatenate([random(size, 3, seed=seed) for seed, size in enumerate(ROOM.values())])
    np.testing.assert_allclose(row["points"], expected, atol=1e-6)
    np.testing.assert_allclose(row["rgb"], np.tile([1, 0.2, 0], (39, 1)), atol=1e-6)
    assert load_point_cloud_dataset(f"{root}#Area_1")["test"]["id"][0] == "Area_1/hallway_1"


@pytest.mark.parametrize("spoiled", ["185\x10 187", "18\x105 187", "185\x10187"])
def test_the_stray_byte_of_s3dis_is_left_out(tmp_path, spoiled):
    root = write_rooms(tmp_path / "data")
    path = root / "Area_5" / "hallway_1" / "Annotations" / "ceiling_1.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], f"1 2 3 {spoiled} 51"]))
    rgb = load_point_cloud_dataset(root)["test"].with_format("numpy")[0]["rgb"]
    np.testing.assert_allclose(rgb[11] * 255, [185, 187, 51], atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "Area_1/office_1/Annotations/chair_1.txt").write_text("1 2 3 4 5\n"),
            r"chair_1\.txt must have",
        ),
        (
            lambda root: (root / "Area_1/office_1/Annotations/chair_1.txt").write_text("1 2 x 4 5 6\n"),
            "could not convert",
        ),
        (lambda root: (root / "Area_1/office_1/Annotations/chair_1.txt").write_text(""), r"got the shape \[0, 0\]"),
        (lambda root: [path.unlink() for path in (root / "Area_1/office_1/Annotations").iterdir()], "has no objects"),
        (
            lambda root: (root / "Area_5").rename(root / "Area_2"),
            "no rooms in the split 'test': the test area is Area_5",
        ),
    ],
)
def test_damaged_s3dis_is_refused(tmp_path, spoil, message):
    root = write_rooms(tmp_path / "data")
    spoil(root)
    with pytest.raises(DatasetError, match=message):
        load_point_cloud_dataset(root)


RAW = [0, 1, 10, 252, 40, 60, 99, 81, 259, 71]
EXPECTED = [None, None, "car", "car", "road", "road", None, "traffic-sign", "other-vehicle", "trunk"]


def write_sweeps(root, raw=RAW):
    for sequence in ("00", "08"):
        for kind in ("velodyne", "labels"):
            (root / sequence / kind).mkdir(parents=True)
        for number in range(2):
            random(10, 4, seed=number).astype("<f4").tofile(root / sequence / "velodyne" / f"{number:06d}.bin")
            labels = np.array(raw, dtype="<u4") | (np.arange(len(raw), dtype="<u4") << 16)
            labels.tofile(root / sequence / "labels" / f"{number:06d}.label")
    return root


@pytest.mark.parametrize("inside", ["", "sequences", "dataset/sequences"])
def test_semantic_kitti(tmp_path, inside):
    write_sweeps(tmp_path / "data" / inside)
    dataset = load_point_cloud_dataset(tmp_path / "data", features=["intensity"])
    assert dataset["train"]["id"][:] == ["00/000000", "00/000001"]
    assert dataset["test"]["id"][:] == ["08/000000", "08/000001"]
    assert part_names_of(dataset) == list(SEMANTIC_KITTI_CLASSES)
    assert len(SEMANTIC_KITTI_CLASSES) == 19
    row = dataset["test"].with_format("numpy")[1]
    assert [None if part == -100 else SEMANTIC_KITTI_CLASSES[part] for part in row["part"]] == EXPECTED
    np.testing.assert_array_equal(np.column_stack([row["points"], row["intensity"]]), random(10, 4, seed=1))


def test_every_label_of_the_learning_map():
    """semantic-kitti.yaml: 34 labels, which become 19 classes (from 1 there, from 0 here) and 0, unlabeled."""
    learning_map = {0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10}
    learning_map |= {48: 11, 49: 12, 50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0}
    learning_map |= {252: 1, 253: 7, 254: 6, 255: 8, 256: 5, 257: 5, 258: 4, 259: 5}
    for label, place in learning_map.items():
        assert semantic_kitti._PLACES[label] == (place - 1 if place else -100)
    assert (semantic_kitti._PLACES != semantic_kitti._UNKNOWN).sum() == len(learning_map) == 34


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "08/labels/000000.label").write_bytes(bytes(36)),
            "must hold 10 labels of four bytes, one a point, got 36 bytes",
        ),
        (
            lambda root: (root / "08/labels/000000.label").write_bytes(bytes(43)),
            "must hold 10 labels of four bytes, one a point, got 43 bytes",
        ),
        (lambda root: (root / "08/labels/000000.label").unlink(), "1 of 4 files missing: .*000000.label"),
        (
            lambda root: (root / "08/velodyne/000000.bin").write_bytes(bytes(158)),
            "four finite float32 a point, got 158",
        ),
        (
            lambda root: (root / "08/labels/000000.label").write_bytes(bytes([7, 0, 0, 0] * 10)),
            "has the label 7, which",
        ),
        (lambda root: (root / "08").rename(root / "11"), "no sweeps in the split 'test'"),
    ],
)
def test_damaged_semantic_kitti_is_refused(tmp_path, spoil, message):
    root = write_sweeps(tmp_path / "data")
    spoil(root)
    with pytest.raises(DatasetError, match=message):
        load_point_cloud_dataset(root)


@pytest.mark.parametrize("write", [write_hdf5, write_sweeps])
def test_variants_that_there_are_not_are_refused(tmp_path, write):
    root = write(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"have variants, got '07' for .*data\. Leave it out"):
        load_point_cloud_dataset(f"{root}#07")
