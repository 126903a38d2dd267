import sys

import numpy as np
import pytest
from datasets import ClassLabel, List, Value, config, load_dataset, load_from_disk

from any2point_hf.data import load_point_cloud_dataset, load_scanobjectnn
from any2point_hf.data.scanobjectnn import SCANOBJECTNN_VARIANTS
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.modeling.presets import SCAN

h5py = pytest.importorskip("h5py")

RS = "_augmentedrot_scale75"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def arrays(count=4, num_points=12, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "data": generator.normal(size=(count, num_points, 3)).astype(np.float32),
        "label": (np.arange(count) * 4 % 15).astype(np.int64),
        "mask": generator.integers(-1, 3, size=(count, num_points)).astype(np.int32),
    }


def write_file(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in content.items():
            if array is not None:
                file[name] = array


def write(root, split="main_split", end=RS, **changes):
    """Changes are of the training file."""
    write_file(root / "h5_files" / split / f"training_objectdataset{end}.h5", **{**arrays(), **changes})
    write_file(root / "h5_files" / split / f"test_objectdataset{end}.h5", **arrays(2, seed=1))
    return root


def test_columns(tmp_path):
    dataset = load_scanobjectnn(write(tmp_path))
    assert dataset.num_rows == {"train": 4, "test": 2}
    names = ["bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow"]
    assert dataset["test"].features["label"] == ClassLabel(names=[*names, "sink", "sofa", "toilet"])
    expected = arrays()
    rows = dataset["train"].with_format("numpy")[:]
    assert rows["points"].tobytes() == expected["data"].tobytes()
    assert rows["label"].tolist() == [0, 4, 8, 12]
    assert rows["mask"].tolist() == expected["mask"].tolist()
    assert dataset["test"]["id"][:] == [f"test_objectdataset{RS}/0", f"test_objectdataset{RS}/1"]


def test_many_clouds_keep_their_order(tmp_path):
    dataset = load_scanobjectnn(write(tmp_path, **arrays(300)))
    assert dataset["train"].with_format("numpy")[:]["points"].tobytes() == arrays(300)["data"].tobytes()
    assert dataset["train"]["id"][299].endswith("/299")


def test_the_second_time_comes_from_the_cache_until_a_file_changes(tmp_path, monkeypatch):
    load_scanobjectnn(write(tmp_path), cache_dir=tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr("any2point_hf.data.scanobjectnn.read_hdf5", None)
        dataset = load_scanobjectnn(tmp_path, cache_dir=tmp_path / "other")
    assert str(tmp_path / "other") in dataset["train"].cache_files[0]["filename"]
    write(tmp_path, **arrays(5))
    assert load_scanobjectnn(tmp_path, cache_dir=tmp_path / "other").num_rows["train"] == 5


def test_survives_the_disk(tmp_path):
    dataset = load_scanobjectnn(write(tmp_path))
    dataset.save_to_disk(tmp_path / "saved")
    loaded = load_from_disk(tmp_path / "saved")
    assert loaded["train"].features == dataset["train"].features
    assert loaded["train"][:] == dataset["train"][:]


@pytest.mark.parametrize("split", ["main_split", "split3"])
@pytest.mark.parametrize("variant", SCANOBJECTNN_VARIANTS)
def test_every_variant_has_its_own_files(tmp_path, variant, split):
    for number, (name, end) in enumerate(SCANOBJECTNN_VARIANTS.items()):
        folder = split + "_nobg" * (name == "OBJ_ONLY")
        write(tmp_path, folder, end, **arrays(number + 1))
    expected = list(SCANOBJECTNN_VARIANTS).index(variant) + 1
    assert load_scanobjectnn(tmp_path, variant, split).num_rows["train"] == expected
    assert load_point_cloud_dataset(f"{tmp_path}#{variant}/{split}").num_rows["train"] == expected


def test_perturbed_variants_without_background(tmp_path):
    write(tmp_path, "split1_nobg")
    assert load_scanobjectnn(tmp_path, split="split1_nobg").num_rows["train"] == 4


@pytest.mark.parametrize("inner", ["", "h5_files", "h5_files/main_split"])
def test_every_folder_of_the_layout_is_known(tmp_path, inner):
    write(tmp_path)
    assert load_point_cloud_dataset(tmp_path / inner).num_rows == {"train": 4, "test": 2}
    write(tmp_path, end="", **arrays(7))
    assert load_point_cloud_dataset(f"{tmp_path / inner}#OBJ_BG").num_rows["train"] == 7


def test_a_folder_with_the_mark_in_its_name(tmp_path):
    write(tmp_path / "a#b")
    assert load_point_cloud_dataset(tmp_path / "a#b").num_rows["train"] == 4


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float32"])
def test_masks_of_other_number_types(tmp_path, dtype):
    mask = np.abs(arrays()["mask"]).astype(dtype)
    train = load_scanobjectnn(write(tmp_path, mask=mask))["train"]
    assert train.with_format("numpy")[:]["mask"].tolist() == mask.tolist()
    assert train.features["mask"] == List(Value("int32"))


def test_without_mask(tmp_path):
    dataset = load_scanobjectnn(write(tmp_path, mask=None))
    assert dataset["train"].column_names == dataset["test"].column_names == ["points", "label", "id"]


def with_nan():
    data = arrays()["data"]
    data[2, 3, 1] = np.nan
    return data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "must hold the arrays data and label, got label, mask"),
        ({"label": None}, "must hold the arrays data and label, got data, mask"),
        ({"data": np.zeros((4, 12, 4), np.float32)}, r"data must be .*\[n, N, 3\].*float32 \[4, 12, 4\]"),
        ({"data": np.zeros((4, 12), np.float32)}, r"data must be .*got float32 \[4, 12\]"),
        ({"data": np.zeros((4, 12, 3), int)}, r"data must be .*got int64"),
        ({"data": np.zeros((0, 12, 3), np.float32), "label": np.zeros(0, int)}, r"n and N ≥ 1, got float32 \[0"),
        ({"label": np.zeros(3, int)}, r"label must be integers \[4\] or \[4, 1\].*int64 \[3\]"),
        ({"label": np.zeros(4)}, r"label must be integers.*got float64 \[4\]"),
        ({"label": np.array([0, 1, 15, 16])}, r"label must be 0…14 \(15 classes\), got 15 at index 2 \(2 such"),
        ({"label": np.array([0, -1, 1, 1])}, "got -1 at index 1"),
        ({"mask": np.full((4, 12), b"a")}, r"mask must be numbers \[4, 12\], .*got \|S1"),
        ({"mask": np.zeros((4, 11), int)}, r"mask must be numbers \[4, 12\].*\[4, 11\]"),
        ({"mask": np.full((4, 12), 0.5)}, "mask must hold whole numbers"),
        ({"mask": np.full((4, 12), np.nan)}, "mask must hold whole numbers"),
        ({"data": with_nan()}, r"data\[2\] must be finite: 1 of 12 points"),
        ({"data": np.zeros((4, 12, 3), np.float32)}, r"data\[0\] must have at least 8 distinct points, got 1"),
    ],
)
def test_impossible_content_is_refused(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message) as caught:
        load_scanobjectnn(write(tmp_path, **changes))
    assert f"training_objectdataset{RS}.h5" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path, kept):
    path = write(tmp_path) / f"h5_files/main_split/test_objectdataset{RS}.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(DatasetError, match=r"test_objectdataset_\w+\.h5 is truncated, damaged or not an HDF5 file"):
        load_scanobjectnn(tmp_path)


def test_missing_files_are_named_with_their_source(tmp_path):
    path = write(tmp_path) / f"h5_files/main_split/test_objectdataset{RS}.h5"
    path.unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 files missing.*hkust-vgd.github.io/scanobjectnn") as caught:
        load_scanobjectnn(tmp_path)
    assert str(path) in str(caught.value)
    with pytest.raises(DatasetError, match=r"2 of 2 files missing.*split2"):
        load_scanobjectnn(tmp_path, split="split2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "PB_T75"}, "one of OBJ_BG, .*got 'PB_T75'"),
        ({"split": "split5"}, "one of main_split, .*got 'split5'"),
        ({"variant": "OBJ_BG", "split": "main_split_nobg"}, "OBJ_BG lies in a folder like main_split"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(DatasetError, match=message):
        load_scanobjectnn(write(tmp_path), **arguments)


def test_a_folder_of_one_split_is_not_taken_for_the_other_background(tmp_path):
    write(tmp_path, end="")
    with pytest.raises(DatasetError, match=r"got OBJ_ONLY in .*main_split"):
        load_scanobjectnn(tmp_path / "h5_files/main_split", "OBJ_ONLY")


def test_a_folder_of_one_split_is_not_taken_for_another(tmp_path):
    write(tmp_path, "split1")
    assert load_scanobjectnn(tmp_path / "h5_files/split1").num_rows["train"] == 4
    assert load_scanobjectnn(tmp_path / "h5_files/split1", split="split1").num_rows["train"] == 4
    with pytest.raises(DatasetError, match="split1 holds one split alone, got split 'split2'"):
        load_scanobjectnn(tmp_path / "h5_files/split1", split="split2")


def test_load_dataset_reads_it_from_parquet(tmp_path):
    train = load_scanobjectnn(write(tmp_path))["train"]
    train.to_parquet(tmp_path / "train.parquet")
    loaded = load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), split="train")
    assert loaded.features == train.features
    assert loaded[:] == train[:]


def test_without_h5py(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r'pip install "any2point-hf\[hdf5\]"'):
        load_scanobjectnn(tmp_path)


def test_a_variant_of_a_plain_folder_is_refused(tmp_path):
    with pytest.raises(
        DatasetError, match="Only ScanObjectNN, ModelNet, S3DIS and data sets with configs have variants, got 'OBJ_BG'"
    ):
        load_point_cloud_dataset(f"{tmp_path}#OBJ_BG")


def test_official_names(shared_data):
    names = (shared_data / "samples/scanobjectnn_lists/shape_names_ext.txt").read_text().split()
    assert names == list(SCAN.class_names)


def test_train_on_the_command_line(tmp_path, run_train):
    write(tmp_path, **arrays(8, 80))
    write_file(tmp_path / f"h5_files/main_split/test_objectdataset{RS}.h5", **arrays(2, 80, seed=1))
    result = run_train(data=f"{tmp_path}#PB_T50_RS")
    assert result.code == 0, result.err
    assert "accuracy" in result.out
