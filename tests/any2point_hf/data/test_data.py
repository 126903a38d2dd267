import numpy as np
import pytest
import torch
from datasets import ClassLabel, DatasetDict

from any2point_hf.data import SHAPE_NAMES, build_dataset_dict, load_point_cloud_dataset
from any2point_hf.modeling.errors import DatasetError


def test_shapes_by_name():
    dataset = load_point_cloud_dataset("shapes", seed=2)
    assert isinstance(dataset, DatasetDict)
    assert dataset.num_rows == {"train": 2000, "test": 500}
    assert dataset["train"].column_names == ["points", "label"]
    assert dataset["train"].features["label"] == ClassLabel(names=list(SHAPE_NAMES))
    assert dataset["test"].with_format("numpy")[0]["points"].shape == (1024, 3)


def test_folder_named_shapes_is_reached_by_its_path(tmp_path, monkeypatch):
    for split in ("train", "test"):
        folder = tmp_path / "shapes" / split / "bed"
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", np.arange(24, dtype=np.float32).reshape(8, 3))
    monkeypatch.chdir(tmp_path)
    assert load_point_cloud_dataset("./shapes").num_rows == {"train": 1, "test": 1}
    assert load_point_cloud_dataset("shapes").num_rows["test"] == 500


@pytest.mark.parametrize(
    ("name", "found"), [("shape", "does not exist"), ("cloud.h5", "is a file of no kind that is read")]
)
def test_unknown_source_is_refused_with_the_choices(tmp_path, name, found):
    (tmp_path / "cloud.h5").write_bytes(b"")
    with pytest.raises(DatasetError, match=f"{name}.*{found}.*'shapes'.*folder.*npz"):
        load_point_cloud_dataset(tmp_path / name)


def test_a_negative_seed_is_refused():
    with pytest.raises(DatasetError, match="seed must not be negative, got -3"):
        load_point_cloud_dataset("shapes", seed=-3)


def test_clouds_of_different_sizes_read_back_bit_for_bit():
    generator = np.random.default_rng(0)
    clouds = [generator.normal(size=(size, 3)).astype(np.float32) for size in (5, 1, 9)]
    split = build_dataset_dict({"train": (clouds, [1, 0, 1])}, ["bed", "sofa"])["train"]
    for index, cloud in enumerate(clouds):
        assert split.with_format("numpy")[index]["points"].tobytes() == cloud.tobytes()
        points = split.with_format("torch")[index]["points"]
        assert points.dtype == torch.float32
        assert points.numpy().tobytes() == cloud.tobytes()
    assert [len(cloud) for cloud in split.with_format("numpy")[:]["points"]] == [5, 1, 9]
    assert split["label"][:] == [1, 0, 1]
