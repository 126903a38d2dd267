import shutil

import numpy as np
import pytest
from datasets import config, load_from_disk

from any2point_hf.data import load_modelnet, load_point_cloud_dataset
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.modeling.presets import MODELNET

TEXT_IDS = {"train": ["bed_0001", "night_stand_0002", "bed_0003"], "test": ["night_stand_0101"]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def table(seed, num_points=9, columns=6):
    return np.random.default_rng(seed).normal(size=(num_points, columns)).astype(np.float32)


def write_text(root, variant="modelnet40", ids=TEXT_IDS):
    root.mkdir(exist_ok=True)
    (root / f"{variant}_shape_names.txt").write_text("bed\nnight_stand\n")
    for split, names in ids.items():
        (root / f"{variant}_{split}.txt").write_text("\n".join(names))
        for name in names:
            path = root / name.rpartition("_")[0] / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, table(int(name[-4:]), 8 + int(name[-1])), fmt="%.9g", delimiter=",")
    return root


def write_hdf5(root, with_normal=True, num_classes=2, **changes):
    h5py = pytest.importorskip("h5py")
    root.mkdir(exist_ok=True)
    (root / "shape_names.txt").write_text("".join(f"class{i}\n" for i in range(num_classes)))
    for split, count in (("train", 2), ("test", 1)):
        names = [f"ply_data_{split}{i}.h5" for i in range(count)]
        lines = [f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names]
        (root / f"{split}_files.txt").write_text("".join(lines))
        for number, name in enumerate(names):
            values = {"data": table(number, 30).reshape(3, 20, 3), "label": np.array([[0], [1], [0]], np.uint8)}
            if with_normal:
                values["normal"] = values["data"] + 1
            with h5py.File(root / name, "w") as file:
                for key, value in {**values, **(changes if name == "ply_data_train1.h5" else {})}.items():
                    file[key] = value
    return root


@pytest.mark.parametrize("load", [load_modelnet, load_point_cloud_dataset])
def test_text_files(tmp_path, load):
    dataset = load(write_text(tmp_path))
    assert dataset.num_rows == {"train": 3, "test": 1}
    train = dataset["train"]
    assert train.features["label"].names == ["bed", "night_stand"]
    assert train["label"][:] == [0, 1, 0]
    assert train["id"][:] == TEXT_IDS["train"]
    for index, row in enumerate(train.with_format("numpy")):
        expected = table(index + 1, 9 + index)
        assert row["points"].dtype == np.float32
        assert row["points"].tobytes() == expected[:, :3].tobytes()
        assert row["normal"].tobytes() == expected[:, 3:].tobytes()


def test_variants_of_the_text_files(tmp_path):
    write_text(tmp_path, "modelnet10", {"train": ["bed_0001"], "test": ["bed_0002"]})
    assert load_modelnet(tmp_path).num_rows["train"] == 1
    write_text(tmp_path)
    assert load_modelnet(tmp_path).num_rows["train"] == 3
    assert load_modelnet(tmp_path, "modelnet10").num_rows["train"] == 1
    assert load_point_cloud_dataset(f"{tmp_path}#modelnet10").num_rows["train"] == 1
    with pytest.raises(DatasetError, match="one of modelnet40, modelnet10, got 'modelnet41'"):
        load_point_cloud_dataset(f"{tmp_path}#modelnet41")


def test_text_files_are_read_once(tmp_path, monkeypatch):
    write_text(tmp_path)
    load_modelnet(tmp_path)
    monkeypatch.setattr("any2point_hf.data.modelnet.read_table", None)
    assert load_modelnet(tmp_path).num_rows["train"] == 3


@pytest.mark.parametrize("write", [write_text, write_hdf5])
def test_survives_the_disk(tmp_path, write):
    dataset = load_modelnet(write(tmp_path / "data"))
    dataset.save_to_disk(tmp_path / "saved")
    loaded = load_from_disk(tmp_path / "saved")
    assert loaded["train"].features == dataset["train"].features
    assert loaded["train"][:] == dataset["train"][:]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bed/bed_0001.txt", "", r"bed_0001\.txt must have rows of 6 numbers .*it is empty"),
        ("bed/bed_0001.txt", "0,0,0,0,0,1\n0,0,0,0", r"bed_0001\.txt must have rows of 6 numbers.*cut off"),
        ("bed/bed_0001.txt", "0 0 0 0 0 1\n", r"bed_0001\.txt must have rows of 6 numbers separated by ','"),
        ("bed/bed_0001.txt", "0,0,0\n0,0,1\n", r"bed_0001\.txt .*got the shape \[2, 3\]"),
        ("bed/bed_0001.txt", "nan,0,0,0,0,1\n", r"bed_0001\.txt must be finite"),
        ("bed/bed_0001.txt", "0,0,0,0,0,1\n" * 9, r"bed_0001\.txt must have at least 8 distinct points"),
        ("modelnet40_train.txt", "sofa_0001\n", r"modelnet40_train\.txt must list shapes .*got 'sofa_0001'"),
        ("modelnet40_test.txt", "\n", r"modelnet40_test\.txt must list at least one entry"),
        ("modelnet40_shape_names.txt", "bed\nbed\n", r"modelnet40_shape_names\.txt must name each class once.*'bed'"),
        ("modelnet40_train.txt", b"\xff\xfe\x00", r"modelnet40_train\.txt must be UTF-8"),
    ],
)
def test_wrong_text_is_refused(tmp_path, name, content, message):
    path = write_text(tmp_path) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=message):
        load_modelnet(tmp_path)


@pytest.mark.parametrize("name", ["modelnet40_test.txt", "modelnet40_shape_names.txt", "bed/bed_0003.txt"])
def test_missing_files_are_named_with_their_source(tmp_path, name):
    (write_text(tmp_path) / name).unlink()
    with pytest.raises(DatasetError, match=f"files missing: .*{name}.*modelnet40_normal_resampled.zip from https"):
        load_modelnet(tmp_path)


def test_a_folder_without_lists(tmp_path):
    with pytest.raises(DatasetError, match=r"3 of 3 files missing: .*modelnet40_train.txt"):
        load_modelnet(tmp_path)


@pytest.mark.parametrize("load", [load_modelnet, load_point_cloud_dataset])
def test_hdf5_files(tmp_path, load):
    dataset = load(write_hdf5(tmp_path))
    assert dataset.num_rows == {"train": 6, "test": 3}
    assert dataset["train"]["label"][:] == [0, 1, 0] * 2
    assert dataset["train"]["id"][3] == "ply_data_train1/0"
    rows = dataset["train"].with_format("numpy")[3:]
    assert rows["points"].tobytes() == table(1, 30).tobytes()
    assert rows["normal"].tobytes() == (table(1, 30) + 1).tobytes()


def test_hdf5_files_without_normals(tmp_path):
    assert load_modelnet(write_hdf5(tmp_path, with_normal=False))["train"].column_names == ["points", "label", "id"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.array([[0], [2], [0]])}, r"label must be 0…1 \(2 classes\), got 2 at index 1"),
        ({"normal": np.zeros((3, 20))}, r"normal must be numbers \[3, 20, 3\].*got float64 \[3, 20\]"),
        ({"data": np.zeros((3, 19, 2))}, r"data must be floating-point numbers"),
        ({"data": np.full((3, 20, 3), np.inf)}, r"data\[0\] must be finite"),
    ],
)
def test_wrong_hdf5_is_refused(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=rf"ply_data_train1\.h5: {message}"):
        load_modelnet(write_hdf5(tmp_path, **changes))


@pytest.mark.parametrize("name", ["test_files.txt", "shape_names.txt", "ply_data_train0.h5"])
def test_missing_hdf5_files_are_named(tmp_path, name):
    (write_hdf5(tmp_path) / name).unlink()
    with pytest.raises(DatasetError, match=f"files missing: .*{name}.*modelnet40_ply_hdf5_2048.zip from https"):
        load_modelnet(tmp_path)


def test_hdf5_files_are_of_modelnet40(tmp_path):
    with pytest.raises(DatasetError, match="modelnet10 has a list beside the text files"):
        load_modelnet(write_hdf5(tmp_path), "modelnet10")


def test_genuine_text_files(shared_data, tmp_path):
    folder = shared_data / "samples" / "modelnet40_normal_resampled"
    with pytest.raises(DatasetError, match=r"of 12311 files missing: .*airplane_0002.txt"):
        load_point_cloud_dataset(folder)
    shutil.copy(folder / "modelnet40_shape_names.txt", tmp_path)
    for split in ("train", "test"):
        listed = (folder / f"modelnet40_{split}.txt").read_text().split()
        there = [name for name in listed if (folder / name.rpartition("_")[0] / f"{name}.txt").is_file()]
        (tmp_path / f"modelnet40_{split}.txt").write_text("\n".join(there))
    for class_folder in filter(lambda path: path.is_dir(), folder.iterdir()):
        (tmp_path / class_folder.name).symlink_to(class_folder)
    dataset = load_point_cloud_dataset(tmp_path)
    assert dataset["train"].features["label"].names == list(MODELNET.class_names)
    assert sum(dataset.num_rows.values()) == 6
    assert {"airplane_0627", "bathtub_0107"} <= set(dataset["test"]["id"])
    for split in dataset.with_format("numpy").values():
        for row in split:
            assert row["points"].shape == row["normal"].shape == (10000, 3)
            assert np.abs(row["points"]).max() <= 1
            lengths = np.linalg.norm(row["normal"], axis=1)
            assert lengths.mean() == pytest.approx(1, abs=1e-2)


def test_genuine_hdf5_file(shared_data, tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "ycb_objects_train.h5").symlink_to(shared_data / "samples" / "h5" / "ycb_objects_train.h5")
    for split in ("train", "test"):
        (tmp_path / f"{split}_files.txt").write_text("data/modelnet40_ply_hdf5_2048/ycb_objects_train.h5\n")
    (tmp_path / "shape_names.txt").write_text("\n".join(MODELNET.class_names))
    train = load_point_cloud_dataset(tmp_path)["train"].with_format("numpy")
    assert train[:]["points"].shape == (60, 2048, 3)
    assert sorted(np.unique(train[:]["label"], return_counts=True)[1].tolist()) == [10] * 6
