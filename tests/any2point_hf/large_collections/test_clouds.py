"""What a source of clouds may be, and that none of it is held in memory."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.large_collections.clouds import DatasetOfClouds
from any2point_hf.large_collections.sources import open_collection
from any2point_hf.modeling.errors import DatasetError, PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud

FEATURES = Features(points=Array2D((None, 3), "float32"), label=ClassLabel(names=["ball", "disc"]), id=Value("string"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def clouds(count, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(70 + number % 5, 3)).astype(np.float32) for number in range(count)]


def make_dataset(count=6, prefix="cloud"):
    rows = {
        "points": clouds(count),
        "label": [number % 2 for number in range(count)],
        "id": [f"{prefix} {number}" for number in range(count)],
    }
    return Dataset.from_dict(rows, features=FEATURES)


def write_files(folder, names):
    for name, cloud in zip(names, clouds(len(names)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / name, cloud)


def test_a_folder_in_any_nesting(tmp_path):
    names = ["b/deep/est/z.xyz", "b/a.txt", "c.TXT", "a.xyz", "a/1.txt", ".hidden/x.xyz", ".x.xyz", "README.txt"]
    write_files(tmp_path / "scans", [*names, "__MACOSX/a.xyz", "b/License.txt"])
    (tmp_path / "scans" / "notes.md").write_text("no cloud")
    with pytest.warns(UserWarning, match=r"1 files are left out, whose .*: 1 \.md\.$"):
        collection = open_collection(tmp_path / "scans")
    assert collection.ids() == ["a.xyz", "c.TXT", "a/1.txt", "b/a.txt", "b/deep/est/z.xyz"]
    assert collection.labels() is None
    assert collection.split is None
    for index, name in enumerate(collection.ids()):
        assert np.array_equal(collection.read(index), read_point_cloud(tmp_path / "scans" / name))
    part = collection.part(1, 4)
    assert part.ids() == ["c.TXT", "a/1.txt", "b/a.txt"]
    assert np.array_equal(part.read(2), collection.read(3))


def test_tables_beside_parquet_files_are_no_clouds(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    make_dataset().to_parquet(folder / "train.parquet")
    (folder / "metadata.csv").write_text("file,label\na,1\n")
    assert isinstance(open_collection(folder), DatasetOfClouds)
    np.savetxt(folder / "a.xyz", clouds(1)[0])
    with pytest.warns(UserWarning, match=r"1 \.parquet"):
        assert open_collection(folder).ids() == ["a.xyz"]


def test_a_folder_of_classes_and_splits_is_a_folder_of_files(tmp_path):
    write_files(tmp_path, ["train/bed/a.txt", "test/bed/b.txt"])
    assert open_collection(tmp_path).ids() == ["test/bed/b.txt", "train/bed/a.txt"]
    with pytest.raises(DatasetError, match=r"has no splits, got 'test'\. Give .*test"):
        open_collection(tmp_path, "test")
    assert open_collection(tmp_path / "test").ids() == ["bed/b.txt"]


def test_a_mesh_is_sampled_with_the_seed(tmp_path):
    (tmp_path / "a.off").write_text("OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n")
    collection = open_collection(tmp_path)
    assert np.array_equal(collection.read(0, seed=3), read_point_cloud(tmp_path / "a.off", seed=3))
    assert not np.array_equal(collection.read(0, seed=3), collection.read(0, seed=4))


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    write_files(tmp_path, ["a.txt", "b.txt", "c.txt"])
    (tmp_path / "b.txt").write_text("1 2\n")
    np.savetxt(tmp_path / "c.txt", np.ones((90, 3)))
    collection = open_collection(tmp_path)
    with pytest.raises(PointCloudError, match=r"b\.txt cannot be read as \.txt"):
        collection.read(1)
    with pytest.raises(PointCloudError, match=r"c\.txt must have at least 8 distinct points, got 1"):
        collection.read(2)
    assert collection.read(0).shape == (70, 3)


@pytest.mark.parametrize("kind", ["save_to_disk", "saved splits", "parquet", "parquet folder", "npz"])
def test_data_sets_on_the_disk(tmp_path, kind):
    dataset, source = make_dataset(), tmp_path / "source"
    expected_ids = dataset["id"][:]
    if kind == "save_to_disk":
        dataset.save_to_disk(source)
    elif kind == "saved splits":
        DatasetDict(train=make_dataset(3, "other"), test=dataset).save_to_disk(source)
    elif kind == "parquet":
        source = tmp_path / "source.parquet"
        dataset.to_parquet(source)
    elif kind == "parquet folder":
        (source / "data").mkdir(parents=True)
        make_dataset(3, "other").to_parquet(source / "data" / "train-00000-of-00001.parquet")
        dataset.select(range(4)).to_parquet(source / "data" / "test-00000-of-00002.parquet")
        dataset.select(range(4, 6)).to_parquet(source / "data" / "test-00001-of-00002.parquet")
    else:
        source = tmp_path / "source.npz"
        points = np.stack([cloud[:70] for cloud in clouds(6)])
        labels, split = np.tile([0, 1], 6), np.repeat([0, 1], 6)
        np.savez(source, points=np.tile(points, (2, 1, 1)), labels=labels, split=split, class_names=["ball", "disc"])
        expected_ids = ["0", "1", "2", "3", "4", "5"]
    collection = open_collection(source)
    assert len(collection) == 6
    assert collection.ids() == expected_ids
    assert collection.labels() == ["ball", "disc", "ball", "disc", "ball", "disc"]
    for index, cloud in enumerate(clouds(6)):
        read = collection.read(index)
        assert read.dtype == np.float32
        assert np.array_equal(read, cloud[:70] if kind == "npz" else cloud)
    part = collection.part(2, 5)
    assert part.ids() == expected_ids[2:5]
    assert part.labels() == ["ball", "disc", "ball"]
    assert np.array_equal(part.part(1, 3).read(0), collection.read(3))
    assert open_collection(source).fingerprint == collection.fingerprint


def test_splits(tmp_path):
    DatasetDict(train=make_dataset(3), validation=make_dataset(2)).save_to_disk(tmp_path / "two")
    assert len(open_collection(tmp_path / "two", "validation")) == 2
    with pytest.raises(DatasetError, match="has the splits train, validation, got none of them"):
        open_collection(tmp_path / "two")
    with pytest.raises(DatasetError, match="--split must be one of train, validation, got 'test'"):
        open_collection(tmp_path / "two", "test")
    make_dataset(3).to_parquet(tmp_path / "one.parquet")
    assert open_collection(tmp_path / "one.parquet").split == "train"
    with pytest.raises(DatasetError, match="--split must be one of train, got 'test'"):
        open_collection(tmp_path / "one.parquet", "test")
    shapes = open_collection("shapes")
    assert (shapes.split, len(shapes), shapes.labels()[1]) == ("test", 500, "box")


def test_labels_and_ids_of_other_kinds(tmp_path):
    points = [cloud.tolist() for cloud in clouds(3)]
    pq.write_table(pa.table({"points": points, "label": ["x", None, "y"], "id": [7, 8, 9]}), tmp_path / "a.parquet")
    collection = open_collection(tmp_path / "a.parquet")
    assert collection.labels() == ["x", None, "y"]
    assert collection.ids() == ["7", "8", "9"]
    assert np.array_equal(collection.read(2), clouds(3)[2])
    pq.write_table(pa.table({"points": points, "label": [4, None, 5]}), tmp_path / "b.parquet")
    assert open_collection(tmp_path / "b.parquet").labels() == ["4", None, "5"]
    features = Features({name: FEATURES[name] for name in ("points", "label")})
    unknown = Dataset.from_dict({"points": clouds(2), "label": [-1, 1]}, features=features)
    unknown.save_to_disk(tmp_path / "unknown")
    assert open_collection(tmp_path / "unknown").labels() == [None, "disc"]
    assert open_collection(tmp_path / "unknown").part(1, 2).ids() == ["1"]


def test_rows_that_cannot_be_used_are_named(tmp_path):
    good = clouds(1)[0].tolist()
    rows = [good, [[1.0, 2.0, 3.0], [4.0, 5.0]], None, [[1.0, float("nan"), 3.0]] * 70, [], good]
    pq.write_table(pa.table({"points": rows}), tmp_path / "a.parquet")
    collection = open_collection(tmp_path / "a.parquet").part(1, 6)
    for index in range(4):
        with pytest.raises(PointCloudError, match=rf"row {index + 1} of .*a\.parquet"):
            collection.read(index)
    assert np.array_equal(collection.read(4), clouds(1)[0])


def test_the_fingerprint_follows_the_files(tmp_path):
    write_files(tmp_path / "scans", ["a.txt", "b/c.txt"])
    before = open_collection(tmp_path / "scans").fingerprint
    (tmp_path / "scans" / "notes.md").write_text("not of the collection")
    assert open_collection(tmp_path / "scans").fingerprint == before
    state = (tmp_path / "scans" / "a.txt").stat()
    os.utime(tmp_path / "scans" / "a.txt", ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    changed = open_collection(tmp_path / "scans").fingerprint
    (tmp_path / "scans" / "a.txt").rename(tmp_path / "scans" / "d.txt")
    renamed = open_collection(tmp_path / "scans").fingerprint
    assert len({before, changed, renamed}) == 3


def test_what_is_mapped_stays_on_the_disk(tmp_path):
    count, pool = 2000, pa.default_memory_pool()
    rows = {"points": [np.zeros((256, 3), np.float32)] * count}
    Dataset.from_dict(rows, features=Features(points=Array2D((None, 3), "float32"))).save_to_disk(tmp_path / "clouds")
    size = count * 256 * 3 * 4
    before = pool.bytes_allocated()
    collection = open_collection(tmp_path / "clouds")
    part = collection.part(500, 1000)
    assert len(part.ids()) == 500
    assert pool.bytes_allocated() - before < size / 20
    assert len(pickle.dumps(collection)) < size / 100
    assert len(pickle.dumps(part)) < size / 100
    write_files(tmp_path / "scans", ["a.txt", "b.txt"])
    assert len(pickle.dumps(open_collection(tmp_path / "scans"))) < 2000


def test_what_is_no_collection(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"holds no clouds: no file in it ends in one of \.ply .* \.parquet"):
        open_collection(tmp_path / "empty")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(DatasetError, match=r"bad\.parquet cannot be loaded by `datasets`: .*Parquet"):
        open_collection(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"xyz": [[1.0]]}), tmp_path / "columns.parquet")
    with pytest.raises(DatasetError, match=r"must have a column 'points', .* its columns are xyz \(List\)"):
        open_collection(tmp_path / "columns.parquet")
    with pytest.raises(DatasetError, match="Cannot load a data set from"):
        open_collection(tmp_path / "missing" / "at all")
    (tmp_path / "scan.las").write_bytes(b"x")
    with pytest.raises(DatasetError, match="Cannot load a data set from"):
        open_collection(tmp_path / "scan.las")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match=r"'any2point-nobody/nothing': there is no such path here, .* switched off"):
        open_collection("any2point-nobody/nothing")


def test_columns_are_found_and_meshes_read(tmp_path):
    box = b"OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n"
    rows = {"shape": [{"bytes": box, "path": "a.off"}], "category": ["box"]}
    collection = open_collection(Dataset.from_dict(rows))
    (tmp_path / "a.off").write_bytes(box)
    assert np.array_equal(collection.read(0, seed=2), read_point_cloud(tmp_path / "a.off", seed=2))
    assert collection.labels() == ["box"]


def test_data_sets_in_memory():
    dataset = make_dataset()
    collection = open_collection(dataset)
    assert (collection.split, len(collection), collection.ids()[1]) == ("train", 6, "cloud 1")
    assert np.array_equal(collection.part(2, 4).read(1), clouds(6)[3])
    assert open_collection(make_dataset()).fingerprint == collection.fingerprint
    assert open_collection(dataset.select([1, 0])).fingerprint != collection.fingerprint
    splits = DatasetDict(train=make_dataset(3), test=dataset)
    assert (open_collection(splits).split, len(open_collection(splits, "train"))) == ("test", 3)
    with pytest.raises(DatasetError, match="must not be streamed"):
        open_collection({"test": dataset.to_iterable_dataset()})


def test_invalid_points_are_dropped_where_it_is_asked_for(tmp_path):
    points = np.random.default_rng(0).normal(size=(3, 80, 3))
    points[1, :30] = 0
    (tmp_path / "scans").mkdir()
    np.save(tmp_path / "scans" / "b.npy", points[1])
    Dataset.from_dict({"points": points.tolist()}).to_parquet(tmp_path / "a.parquet")
    for source, index in (("scans", 0), ("a.parquet", 1)):
        with pytest.raises(PointCloudError, match=r"30 of 80 are at .*--drop-invalid"):
            open_collection(tmp_path / source).read(index)
        collection = open_collection(tmp_path / source, drop_invalid=True)
        with pytest.warns(UserWarning, match=": 30 of 80 points are dropped"):
            read = collection.part(index, index + 1).read(0)
        np.testing.assert_array_equal(read, points[1, 30:].astype(read.dtype))


def test_points_of_an_npz_are_dropped_as_it_is_opened(tmp_path, two_classes):
    arrays = two_classes.arrays()
    arrays["points"][-1, :30] = 0
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.warns(UserWarning, match="1 of 24 clouds had invalid points: 30 points are dropped"):
        collection = open_collection(tmp_path / "a.npz", drop_invalid=True)
    assert not collection.drop_invalid
    assert np.array_equal(collection.read(len(collection) - 1), arrays["points"][-1, 30:])


def test_what_a_training_caches_in_a_saved_data_set_does_not_count(tmp_path):
    generator = np.random.default_rng(0)
    rows = {"points": [generator.normal(size=(9, 3)).tolist() for _ in range(4)], "label": [0, 1, 0, 1]}
    DatasetDict(test=Dataset.from_dict(rows)).save_to_disk(tmp_path / "saved")
    before = open_collection(tmp_path / "saved").fingerprint
    load_point_cloud_dataset(tmp_path / "saved")
    assert list((tmp_path / "saved").rglob("cache-*.arrow"))
    assert open_collection(tmp_path / "saved").fingerprint == before
