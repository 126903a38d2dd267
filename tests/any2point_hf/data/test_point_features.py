"""Features of points in every kind of data set: the same column names, the same scales, beside their points."""

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, DatasetDict, Features, List, Mesh, Value, load_from_disk

from any2point_hf import Any2PointProcessor
from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.columns import columns_of_clouds
from any2point_hf.data.rows import rows_of
from any2point_hf.large_collections.sources import open_collection
from any2point_hf.modeling.errors import DatasetError, PointCloudError
from any2point_hf.point_clouds.reading import CloudReader
from any2point_hf.training.trainer import process_split

FEATURES = ["rgb", "intensity"]
NAMES = ["red", "green", "blue", "intensity"]
NUM_POINTS = 20


def make_cloud(seed):
    points = np.random.default_rng(seed).uniform(-1, 1, size=(NUM_POINTS, 3)).astype(np.float32)
    return points, ((points + 1) * 127).astype(np.uint8), points[:, 0] ** 2


def write_folder(root):
    for split in ("train", "test"):
        for number, name in enumerate(("chair", "lamp")):
            (root / split / name).mkdir(parents=True)
            columns = np.column_stack(make_cloud(number))
            header = "x,y,z,r,g,b,intensity"
            np.savetxt(root / split / name / "a.csv", columns, "%.9g", ",", header=header, comments="")
    return root


def write_npz(path):
    clouds = [make_cloud(seed) for seed in (0, 1, 0, 1)]
    points, rgb, intensity = (np.stack(part) for part in zip(*clouds, strict=True))
    names = np.array(["chair", "lamp"])
    np.savez(
        path, points=points, colors=rgb, intensity=intensity, labels=[0, 1, 0, 1], split=[0, 0, 1, 1], class_names=names
    )
    return path


def check(dataset):
    for split in ("train", "test"):
        for row, seed in zip(dataset[split].with_format("numpy"), (0, 1), strict=True):
            points, rgb, intensity = make_cloud(seed)
            np.testing.assert_allclose(row["points"], points, atol=1e-6)
            np.testing.assert_allclose(row["rgb"], rgb / 255, atol=1e-6)
            np.testing.assert_allclose(row["intensity"], intensity, atol=1e-6)


def test_folders_and_archives(tmp_path):
    for source in (write_folder(tmp_path / "folder"), write_npz(tmp_path / "a.npz")):
        dataset = load_point_cloud_dataset(source, features=FEATURES)
        check(dataset)
        assert sorted(dataset["train"].column_names) == ["intensity", "label", "points", "rgb"]
        assert sorted(load_point_cloud_dataset(source)["train"].column_names) == ["label", "points"]
        single = load_point_cloud_dataset(source, features=["green"])["train"]
        assert sorted(single.column_names) == ["green", "label", "points"]
        np.testing.assert_allclose(single[0]["green"], make_cloud(0)[1][:, 1] / 255, atol=1e-6)


def test_tables_keep_their_columns(tmp_path):
    dataset = load_point_cloud_dataset(write_folder(tmp_path / "folder"), features=FEATURES)
    dataset.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    for split, part in dataset.items():
        part.to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    for source in (tmp_path / "saved", tmp_path / "parquet", dataset, load_from_disk(tmp_path / "saved")):
        check(load_point_cloud_dataset(source, features=FEATURES))
        with pytest.raises(DatasetError, match=r"columns for the features normal_x, .*its columns are .*rgb"):
            load_point_cloud_dataset(source, features=["normal"])


def test_a_column_of_meshes_gives_colours_and_normals(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box()
    box.visual.vertex_colors = np.column_stack([255 * (box.vertices + 0.5), np.full(8, 255)]).astype(np.uint8)
    box.export(tmp_path / "box.glb")
    rows = {"mesh": [str(tmp_path / "box.glb")] * 4, "label": ["a", "a", "b", "b"]}
    part = Dataset.from_dict(rows, features=Features(mesh=Mesh(), label=Value("string")))
    dataset = load_point_cloud_dataset(DatasetDict(train=part, test=part), features=["rgb", "normal"])
    row = dataset["test"].with_format("numpy")[1]
    np.testing.assert_allclose(row["rgb"], row["points"] + 0.5, atol=1e-3)
    outward = np.where(np.abs(row["points"]) > 0.5 - 1e-5, np.sign(row["points"]), 0)
    np.testing.assert_allclose(row["normal"], outward, atol=1e-5)
    with pytest.raises(PointCloudError, match=r"box\.glb must have intensity for every point"):
        load_point_cloud_dataset(DatasetDict(train=part, test=part), features=["intensity"])


def test_invalid_points_are_dropped_with_their_features(tmp_path):
    points, rgb, intensity = make_cloud(0)
    points[5:9] = np.nan
    kept = ~np.isnan(points[:, 0])
    types = Features(
        points=Array2D((None, 3), "float32"), rgb=Array2D((None, 3), "float32"), intensity=List(Value("float32"))
    )
    columns = {"points": [points] * 4, "rgb": [rgb / 255] * 4, "intensity": [intensity] * 4}
    part = Dataset.from_dict(columns, features=types).add_column("label", ["a", "a", "b", "b"])
    with pytest.warns(UserWarning, match="8 of 8 clouds had invalid points: 32 points are dropped"):
        dataset = load_point_cloud_dataset(
            DatasetDict(train=part, test=part), drop_invalid=True, features=["rgb", "intensity"]
        )
    row = dataset["train"].with_format("numpy")[3]
    assert len(row["points"]) == len(row["rgb"]) == len(row["intensity"]) == NUM_POINTS - 4
    np.testing.assert_allclose(row["rgb"], rgb[kept] / 255, atol=1e-6)
    np.savez(
        tmp_path / "a.npz",
        points=np.stack([points] * 2),
        rgb=np.stack([rgb] * 2),
        labels=[0, 0],
        split=[0, 1],
        class_names=np.array(["a"]),
    )
    with pytest.warns(UserWarning, match="2 of 2 clouds had invalid points: 8 points are dropped"):
        dataset = load_point_cloud_dataset(tmp_path / "a.npz", drop_invalid=True, features=["rgb"])
    np.testing.assert_allclose(dataset["test"].with_format("numpy")[0]["rgb"], rgb[kept] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colors": None}, r"missing arrays for the features blue, green, red; the file has points"),
        ({"colors": np.zeros((4, 7, 3))}, r"colors must have a row for each point.*\[4, 20, 3\], got \[4, 7, 3\]"),
        ({"colors": np.zeros((4, 20, 2))}, r"colors must be numbers \[20, 3\].*got \[20, 2\]"),
        ({"colors": -np.ones((4, 20, 3))}, r"points\[0\]: colours must lie in 0…1"),
    ],
)
def test_archives_with_other_arrays_are_refused(tmp_path, change, said):
    with np.load(write_npz(tmp_path / "a.npz")) as archive:
        arrays = {key: values for key, values in (dict(archive) | change).items() if values is not None}
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises((DatasetError, PointCloudError), match=said):
        load_point_cloud_dataset(tmp_path / "b.npz", features=FEATURES)


def test_a_folder_with_a_file_without_them_names_it(tmp_path):
    root = write_folder(tmp_path / "folder")
    np.savetxt(root / "test" / "lamp" / "b.xyz", make_cloud(3)[0])
    with pytest.raises(PointCloudError, match=r"b\.xyz must have red, green, blue, intensity for every point"):
        load_point_cloud_dataset(root, features=FEATURES)


def test_collections_read_them(tmp_path):
    reader = CloudReader(0, NAMES)
    root = write_folder(tmp_path / "folder")
    dataset = load_point_cloud_dataset(root, features=FEATURES)
    dataset["test"].to_parquet(tmp_path / "a.parquet")
    sources = [root, tmp_path / "a.parquet", write_npz(tmp_path / "a.npz"), dataset]
    for source in sources:
        collection = open_collection(source, features=NAMES)
        for index in range(2):
            cloud = collection.part(0, 2).read_cloud(index, reader)
            points, rgb, intensity = make_cloud(index)
            np.testing.assert_allclose(cloud.points, points, atol=1e-6)
            np.testing.assert_allclose(np.stack([cloud.features[n] for n in NAMES[:3]], 1), rgb / 255, atol=1e-6)
            np.testing.assert_allclose(cloud.features["intensity"], intensity, atol=1e-6)
            np.testing.assert_allclose(collection.read(index), points, atol=1e-6)


def test_the_scale_is_the_same_by_every_way_to_the_model(tmp_path):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(4, 80, 3)).astype(np.float32)
    arrays = {
        "points": points,
        "rgb": generator.integers(0, 2, size=(4, 80, 3)).astype(np.uint8),  # a dark colour of 8 bits
        "intensity": generator.integers(0, 256, size=(4, 80)).astype(np.uint8),
        "part": generator.integers(0, 50, size=(4, 80)).astype(np.uint8),
    }
    names = ["rgb", "intensity", "part"]
    processor = Any2PointProcessor(80, point_feature_names=names)
    expected = processor({name: values[0] for name, values in arrays.items()})["point_features"]
    for channel, largest in ((0, 1 / 255), (3, 1), (4, 49)):
        assert 0.9 * largest < expected[0, :, channel].max() <= largest

    types = {"points": Array2D((None, 3), "float32"), "rgb": Array2D((None, 3), "uint8")}
    types |= dict.fromkeys(("intensity", "part"), List(Value("uint8"))) | {"label": Value("int64")}
    rows = Dataset.from_dict({**arrays, "label": [0, 1, 0, 1]}, features=Features(types))
    rows.to_parquet(tmp_path / "a.parquet")
    given = {"labels": [0, 1, 0, 1], "split": [0, 0, 1, 1], "class_names": np.array(["a", "b"])}
    np.savez(tmp_path / "a.npz", **arrays, **given)
    own = load_point_cloud_dataset(DatasetDict(train=rows, test=rows), features=names)["train"]
    archive = load_point_cloud_dataset(tmp_path / "a.npz", features=names)["train"]
    collection = open_collection(tmp_path / "a.parquet")
    stream = columns_of_clouds(rows.to_iterable_dataset(), "stream", processor.point_feature_names)
    table = columns_of_clouds(rows, "rows", processor.point_feature_names)[0]
    ways = {
        "training": process_split(own, processor, 80)[0]["point_features"].numpy(),
        "rows as lists": processor.pad([own[0]])["point_features"][0],
        "rows as tensors": processor.pad([own.with_format("torch")[0]])["point_features"][0],
        "archive": process_split(archive, processor, 80)[0]["point_features"].numpy(),
        "collection": processor(collection.read_cloud(0, CloudReader(0, processor.point_feature_names)))[
            "point_features"
        ][0],
        "data set": processor(next(rows_of(table)))["point_features"][0],
        "stream": processor(next(rows_of(next(iter(stream)))))["point_features"][0],
    }
    for way, found in ways.items():
        np.testing.assert_allclose(found, expected[0], rtol=1e-6, err_msg=way)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_integers_have_the_same_scale_in_a_data_set_as_alone(dtype):
    points, _, _ = make_cloud(0)
    intensity = np.arange(NUM_POINTS).astype(dtype)
    types = Features(points=Array2D((None, 3), "float32"), intensity=List(Value(dtype)), label=Value("int64"))
    rows = {"points": [points] * 4, "intensity": [intensity] * 4, "label": [0, 1, 0, 1]}
    source = Dataset.from_dict(rows, features=types)
    processor = Any2PointProcessor(64, point_feature_names=["intensity"])
    expected = processor({"points": points, "intensity": intensity})["point_features"][0]
    assert expected.max() == pytest.approx((NUM_POINTS - 1) / np.iinfo(dtype).max)
    with pytest.warns(UserWarning, match="held out"):
        dataset = load_point_cloud_dataset(source, features=["intensity"])
    trained = process_split(dataset["test"], processor, 64)["point_features"][0]
    cloud = open_collection(source).read_cloud(1, CloudReader(feature_names=["intensity"]))
    for found in (trained, processor(cloud)["point_features"][0]):
        assert torch.equal(found, expected)


def test_features_of_any_name_are_dropped_with_their_points():
    points, _, _ = make_cloud(0)
    rows = {"points": [[*points.tolist(), [np.nan] * 3]] * 4, "curvature": [list(range(NUM_POINTS + 1))] * 4}
    part = Dataset.from_dict(rows | {"label": [0, 1, 0, 1]})
    with pytest.warns(UserWarning, match="4 points are dropped"):
        dataset = load_point_cloud_dataset(DatasetDict(test=part), drop_invalid=True, features=["curvature"])
    assert dataset["test"][0]["curvature"] == list(range(NUM_POINTS))


def test_two_columns_of_one_feature_are_refused():
    points, rgb, _ = make_cloud(0)
    part = Dataset.from_dict({"points": [points] * 2, "rgb": [rgb] * 2, "colors": [rgb] * 2, "label": [0, 1]})
    with pytest.raises(PointCloudError, match=r"row 0 of .*: rgb and colors both hold red, green, blue"):
        load_point_cloud_dataset(DatasetDict(test=part), features=["rgb"])
