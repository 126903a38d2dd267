import sys

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


def write(root, files):
    """Writes .npy clouds of 8, 9, 10, … points, by which `numbers` tells a file's place in the list."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, generator.normal(size=(8 + number, 3)).astype(np.float32))


def test_invalid_points_are_dropped_and_reported_in_one_line(tmp_path):
    write(tmp_path, files := [f"{split}/bed/{name}.npy" for split in ("train", "test") for name in "abc"])
    clouds = {name: np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32) for name in files}
    clouds["train/bed/b.npy"][:11] = 0
    clouds["test/bed/c.npy"][::8] = np.nan
    for name, cloud in clouds.items():
        np.save(tmp_path / name, cloud)
    with pytest.raises(PointCloudError, match=r"b\.npy must not have more than a quarter .* 11 of 40 .*--drop-invalid"):
        load_point_cloud_dataset(tmp_path)
    with pytest.warns(UserWarning, match="had invalid points") as caught:
        dataset = load_point_cloud_dataset(tmp_path, drop_invalid=True).with_format("numpy")
    most = tmp_path / "train" / "bed" / "b.npy"
    assert [str(warning.message) for warning in caught] == [
        f"2 of 6 clouds had invalid points: 16 points are dropped, the most in {most} (11 of 40)."
    ]
    assert [len(cloud) for cloud in dataset["train"]["points"]] == [40, 29, 40]
    assert [len(cloud) for cloud in dataset["test"]["points"]] == [40, 40, 35]
    np.testing.assert_array_equal(dataset["train"][1]["points"], clouds["train/bed/b.npy"][11:])


def numbers(split):
    return [len(cloud) - 8 for cloud in split.with_format("numpy")["points"]]


LAYOUTS = pytest.mark.parametrize("layout", ["{label}/{split}/{file}", "{split}/{label}/{file}"])


@LAYOUTS
def test_both_layouts_give_the_same_sorted_data_set(tmp_path, layout):
    files = [
        layout.format(label=label, split=split, file=file)
        for split, label, file in [
            ("train", "chair", "b.npy"),
            ("train", "bed", "z.npy"),
            ("train", "chair", "a.npy"),
            ("test", "chair", "c.npy"),
            ("test", "bed", "d.npy"),
        ]
    ]
    write(tmp_path, files)
    dataset = load_point_cloud_dataset(tmp_path)
    assert list(dataset) == ["train", "test"]
    assert dataset["train"].features["label"].names == ["bed", "chair"]
    assert dataset["train"]["label"][:] == [0, 1, 1]
    assert numbers(dataset["train"]) == [1, 2, 0]
    assert dataset["test"]["label"][:] == [0, 1]
    assert numbers(dataset["test"]) == [4, 3]
    assert dataset.with_format("numpy")["train"][1]["points"].shape == (10, 3)


@pytest.mark.parametrize("name", ["val", "validation"])
@LAYOUTS
def test_validation_is_a_third_split(tmp_path, layout, name):
    write(tmp_path, [layout.format(label="bed", split=split, file="a.npy") for split in ("train", "test", name)])
    dataset = load_point_cloud_dataset(tmp_path)
    assert list(dataset) == ["train", "test", "validation"]
    assert numbers(dataset["validation"]) == [2]


@LAYOUTS
def test_a_class_may_be_named_like_a_split(tmp_path, layout):
    write(
        tmp_path,
        [
            layout.format(label=label, split=split, file="a.npy")
            for label in ("bus", "train")
            for split in ("train", "test")
        ],
    )
    dataset = load_point_cloud_dataset(tmp_path)
    assert dataset["train"].features["label"].names == ["bus", "train"]
    assert numbers(dataset["train"]) == [0, 2]
    assert numbers(dataset["test"]) == [1, 3]


def test_files_that_are_no_clouds_are_left_out_and_counted(tmp_path):
    write(tmp_path, ["bed/train/a.npy", "bed/test/b.npy", "bed/train/._a.npy"])
    for name in (
        "README.txt",
        "bed/README.md",
        "bed/train/README.txt",
        "bed/train/.DS_Store",
        "bed/test/notes",
        "bed/test/a.PNG",
        "bed/train/b.png",
    ):
        (tmp_path / name).write_text("not a cloud")
    (tmp_path / ".git" / "train").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"3 files are left out, whose .*: 2 \.png, 1 notes\.$"):
        dataset = load_point_cloud_dataset(tmp_path)
    assert dataset.num_rows == {"train": 1, "test": 1}
    assert dataset["train"].features["label"].names == ["bed"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@LAYOUTS
def test_splits_have_their_usual_names_in_any_case(tmp_path, layout):
    names = ("Train", "TESTING", "valid")
    write(tmp_path, [layout.format(label=c, split=s, file="0.npy") for c in ("a", "b") for s in names])
    dataset = load_point_cloud_dataset(tmp_path)
    found = {name: numbers(split) for name, split in dataset.items()}
    assert found == {"train": [0, 3], "test": [1, 4], "validation": [2, 5]}


def test_clouds_of_no_class_are_counted(tmp_path):
    write(tmp_path, ["train/a/0.npy", "test/a/0.npy", "loose.npy", "train/a/sub/0.npy", "extra/a/0.npy"])
    with pytest.warns(UserWarning, match=r"3 of 5 clouds are left out, .* such as loose\.npy\.$"):
        load_point_cloud_dataset(tmp_path)


def test_a_link_to_nowhere_is_an_error(tmp_path):
    write(tmp_path, ["bed/train/a.npy", "bed/test/b.npy"])
    (tmp_path / "bed" / "train" / "c.npy").symlink_to("gone.npy")
    with pytest.raises(PointCloudError, match=r"c\.npy is a link to gone\.npy, where there is nothing"):
        load_point_cloud_dataset(tmp_path)


def test_extensions_count_in_any_case(tmp_path):
    write(tmp_path, ["bed/train/a.npy", "bed/test/b.npy"])
    (tmp_path / "bed" / "train" / "C.XYZ").write_text("".join(f"{index} 0 1\n" for index in range(8)))
    dataset = load_point_cloud_dataset(tmp_path)
    assert dataset.with_format("numpy")["train"][0]["points"].tolist() == [[index, 0, 1] for index in range(8)]


def test_neither_layout_is_refused_with_what_was_found(tmp_path):
    write(tmp_path, ["ModelNet10/chair/train/a.npy"])
    with pytest.raises(DatasetError, match=r"<class>/<split>/<file> or <split>/<class>/<file>.*found: ModelNet10"):
        load_point_cloud_dataset(tmp_path)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"not laid out as a data set.*folders found: none"):
        load_point_cloud_dataset(tmp_path)


def test_folder_without_clouds_is_refused_with_the_endings_found(tmp_path):
    path = tmp_path / "train" / "bed" / "a.blend"
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(DatasetError, match=r"No point clouds in .*\.ply.*endings found: \.blend"):
        load_point_cloud_dataset(tmp_path)


@LAYOUTS
def test_class_without_training_clouds_is_refused(tmp_path, layout):
    places = [("train", "bed"), ("test", "bed"), ("test", "sofa")]
    write(tmp_path, [layout.format(label=label, split=split, file="a.npy") for split, label in places])
    with pytest.raises(DatasetError, match=r"Empty class in split 'train'.*: sofa without"):
        load_point_cloud_dataset(tmp_path)


def test_class_folder_without_splits_is_refused(tmp_path):
    write(tmp_path, ["bed/train/a.npy", "bed/test/a.npy", "sofa/a.npy"])
    with pytest.raises(DatasetError, match=r"Empty class in split 'train'.*: sofa without"):
        load_point_cloud_dataset(tmp_path)


@LAYOUTS
def test_class_without_test_clouds_warns(tmp_path, layout):
    places = [("train", "bed"), ("train", "sofa"), ("test", "bed")]
    write(tmp_path, [layout.format(label=label, split=split, file="a.npy") for split, label in places])
    with pytest.warns(UserWarning, match=r"Empty class in split 'test'.*: sofa\.") as caught:
        dataset = load_point_cloud_dataset(tmp_path)
    assert caught[0].filename == __file__
    assert dataset["test"].features["label"].names == ["bed", "sofa"]
    assert dataset.num_rows == {"train": 2, "test": 1}


def test_a_folder_for_tests_without_clouds_is_refused(tmp_path):
    write(tmp_path, ["train/bed/a.npy"])
    (tmp_path / "test" / "bed").mkdir(parents=True)
    with pytest.raises(DatasetError, match="No point clouds in split 'test'"):
        load_point_cloud_dataset(tmp_path)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_without_a_test_split_a_fifth_of_each_class_is_held_out(tmp_path, prefix):
    write(tmp_path, [f"{prefix}{label}/{number:02}.npy" for label in ("bed", "chair") for number in range(10)])
    with pytest.warns(UserWarning, match=r"has no test split: 4 of its 20 clouds, 20% of each class, .* \(seed 0\)"):
        dataset = load_point_cloud_dataset(tmp_path)
    assert dataset["test"]["label"][:] == [0, 0, 1, 1]
    assert sorted(numbers(dataset["train"]) + numbers(dataset["test"])) == list(range(20))
    with pytest.warns(UserWarning, match="seed 1"):
        assert numbers(load_point_cloud_dataset(tmp_path, seed=1)["test"]) != numbers(dataset["test"])


def test_a_class_of_one_cloud_has_none_to_hold_out(tmp_path):
    write(tmp_path, ["bed/a.npy", "bed/b.npy", "chair/a.npy"])
    with pytest.raises(DatasetError, match="no test split, and none can be made: its class 'chair' has a single cloud"):
        load_point_cloud_dataset(tmp_path)


def test_broken_file_is_named(tmp_path):
    write(tmp_path, ["bed/train/a.npy", "bed/test/a.npy"])
    (tmp_path / "bed" / "train" / "broken_0007.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(PointCloudError, match=r"broken_0007\.npy"):
        load_point_cloud_dataset(tmp_path)


def test_modelnet10_sample(shared_data):
    dataset = load_point_cloud_dataset(shared_data / "samples" / "modelnet10_pcd").with_format("numpy")
    for split in ("train", "test"):
        assert dataset[split].features["label"].names == MODELNET10
        assert dataset[split]["label"][:].tolist() == list(range(10))
        assert dataset[split][:]["points"].shape == (10, 1024, 3)
