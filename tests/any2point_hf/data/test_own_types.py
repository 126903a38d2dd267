"""What becomes of points and labels of other types."""

import numpy as np
import pytest
import trimesh
from datasets import Array2D, ClassLabel, Dataset, Features, List, Mesh, Value
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.data.columns import with_own_names
from any2point_hf.data.own_types import with_own_types
from any2point_hf.modeling.errors import DatasetError, PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud

OWN = Array2D((None, 3), "float32")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def clouds(count=4, width=3):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(9 + number, width)).astype(np.float32) for number in range(count)]


def nested(width=3, count=4):
    return [cloud.tolist() for cloud in clouds(count, width)]


def converted(rows, features=None, source="the set"):
    dataset = with_own_names(Dataset.from_dict(rows, features=features), source)
    return with_own_types({"train": dataset}, source)["train"]


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("labels", Value("int64")),
        ("class", Value("int8")),
        ("category", ClassLabel(names=["0", "1"])),
        ("whatever", ClassLabel(names=["0", "1"])),
    ],
)
def test_the_column_of_labels(name, feature):
    features = Features({"points": OWN, name: feature, "id": Value("int64")})
    dataset = converted({"points": clouds(), name: [0, 1, 1, 0], "id": [5, 6, 7, 8]}, features)
    assert dataset.features == Features(points=OWN, label=ClassLabel(names=["0", "1"]), id=Value("int64"))
    assert dataset["label"][:] == [0, 1, 1, 0]
    assert dataset["id"][:] == [5, 6, 7, 8]


def test_text_and_truth_values_become_classes():
    assert converted({"points": nested(), "label": ["b", "a", "b", "c"]}).features["label"].names == ["a", "b", "c"]
    dataset = converted({"points": nested(), "label": [True, False, True, True]})
    assert (dataset.features["label"].names, dataset["label"][:]) == (["False", "True"], [1, 0, 1, 1])


def test_classes_are_those_of_all_splits():
    parts = {"train": ["b", "a"], "test": ["c", "a"]}
    parts = {name: Dataset.from_dict({"points": nested(count=2), "label": part}) for name, part in parts.items()}
    converted_parts = with_own_types(parts, "the set")
    assert converted_parts["test"].features["label"].names == ["a", "b", "c"]
    assert converted_parts["test"]["label"][:] == [2, 0]


@given(st.lists(st.integers(-2, 6), min_size=1, max_size=12))
def test_integers_are_classes_from_0_without_gaps(labels):
    dataset = Dataset.from_dict({"points": clouds(1) * len(labels), "label": labels}, features=None)
    dataset = dataset.cast(Features(points=OWN, label=Value("int64")))
    if {*labels} == {*range(len({*labels}))}:
        converted = with_own_types({"train": dataset}, "the set")["train"]
        assert converted["label"][:] == labels
        assert converted.features["label"].names == [str(label) for label in sorted({*labels})]
    else:
        with pytest.raises(DatasetError, match=r"integers in the column 'label' must be 0, 1, 2, … without gaps"):
            with_own_types({"train": dataset}, "the set")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0.5, 1.0], "must be a ClassLabel, text or integers, a class for each cloud, got float64"),
        ([[0], [1]], "must be a ClassLabel, text or integers, a class for each cloud, got List"),
        (["a", None], "every cloud must have a label, got None in row 1 of the split 'train'"),
        (["", "a"], "every cloud must have a label, got '' in row 0 of the split 'train'"),
        ([None, None], "the set has no labels"),
    ],
)
def test_labels_that_are_no_classes(labels, reason):
    with pytest.raises(DatasetError, match=reason):
        converted({"points": nested(count=2), "label": labels})


def test_no_label_at_all():
    with pytest.raises(DatasetError, match="the set must have a column 'label' in its split 'train', its columns are"):
        converted({"points": nested(), "height": [1.0, 2.0, 3.0, 4.0]})


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (ClassLabel(names=["b", "a"]), "int64 classes b, a"),
        (Value("int64"), "int64"),
        (Value("string"), "string"),
    ],
)
def test_splits_must_agree_on_classes(other, shown):
    features = [Features(points=OWN, label=label) for label in (ClassLabel(names=["a", "b"]), other)]
    parts = [Dataset.from_dict({"points": clouds(2), "label": [0, 1]}, features=feature) for feature in features]
    with pytest.raises(DatasetError, match=rf"in all splits, got train: int64 classes a, b; test: {shown}\. Make"):
        with_own_types({"train": parts[0], "test": parts[1]}, "the set")


def test_a_split_without_labels_is_left_out():
    features = Features(points=OWN, label=ClassLabel(names=["a", "b"]))
    parts = {"train": [0, 1], "test": [-1, -1]}
    parts = {n: Dataset.from_dict({"points": clouds(2), "label": p}, features=features) for n, p in parts.items()}
    assert [*with_own_types(parts, "the set")] == ["train"]


POINT_TYPES = {
    "nested lists": List(List(Value("float64"))),
    "lists of three": List(List(Value("float32"), length=3)),
    "doubles": Array2D((None, 3), "float64"),
    "six wide": Array2D((None, 6), "float32"),
}


@pytest.mark.parametrize("kind", POINT_TYPES)
def test_points_become_float32_bit_for_bit(kind):
    width = 6 if kind == "six wide" else 3
    features = Features(points=POINT_TYPES[kind], label=Value("int64"), rgb=List(Value("uint8")))
    rows = {"points": clouds(width=width), "label": [0, 1, 1, 0], "rgb": [[1], [2], [3], [4]]}
    dataset = converted(rows, features)
    assert dataset.features["points"] == OWN
    assert dataset["rgb"][:] == [[1], [2], [3], [4]]
    for cloud, expected in zip(dataset.with_format("numpy")["points"][:], clouds(width=width), strict=True):
        assert cloud.tobytes() == expected[:, :3].tobytes()


def test_map_coordinates_keep_their_shape():
    offset = np.array([4e6, 5e6, 100.0])
    dataset = converted({"points": [(cloud + offset).tolist() for cloud in clouds()], "label": [0, 1, 1, 0]})
    for cloud, expected in zip(dataset.with_format("numpy")["points"][:], clouds(), strict=True):
        assert np.abs(cloud - (expected - expected.mean(axis=0))).max() < 1e-6


def test_what_is_so_already_is_not_copied():
    features = Features(points=OWN, label=ClassLabel(names=["a", "b"]))
    dataset = Dataset.from_dict({"points": clouds(), "label": [0, 1, 1, 0]}, features=features)
    assert with_own_types({"train": dataset}, "the set")["train"] is dataset


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], r"must have the shape \[N, 3\]"),
        ([[1.0, 2.0, 3.0], [4.0]], "real numbers|rows differ in length"),
        ([[1.0, 2.0, float("nan")]] * 9, "must be finite"),
        ([[1.0, 2.0, 3.0]] * 9, "at least 8 distinct points"),
    ],
)
def test_a_bad_cloud_is_named_by_its_row(cloud, reason):
    with pytest.raises(PointCloudError, match=rf"row 2 of the split 'train' of the set .*({reason})"):
        converted({"points": [*nested(count=2), cloud], "label": [0, 1, 0]})


@pytest.fixture
def box(tmp_path):
    path = tmp_path / "box.ply"
    trimesh.creation.box((1, 2, 3)).export(path)
    return path


@pytest.mark.parametrize("kind", ["path", "bytes", "undecoded", "struct"])
def test_meshes_are_sampled_by_area(box, kind):
    value = str(box) if kind == "path" else {"bytes": box.read_bytes(), "path": "box.ply"}
    feature = (
        {"bytes": Value("binary"), "path": Value("string")} if kind == "struct" else Mesh(decode=kind != "undecoded")
    )
    features = Features(shape=feature, label=Value("string"))
    dataset = converted({"shape": [value, value], "label": ["a", "b"]}, features)
    points = dataset.with_format("numpy")[1]["points"]
    assert np.array_equal(points, read_point_cloud(box))
    assert np.abs(points).max(axis=0) == pytest.approx([0.5, 1, 1.5])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"bytes": b"ply\nbroken", "path": "a.ply"}, r"row 0 of .* \(a\.ply\) cannot be read as \.ply"),
        ({"bytes": b"abc", "path": "a.pkl"}, r"row 0 of .* \(a\.pkl\) has the extension '\.pkl'"),
        ({"bytes": b"abc", "path": None}, "must have a path whose ending tells the format"),
        ({"bytes": None, "path": "no/such.ply"}, r"no/such\.ply does not exist"),
    ],
)
def test_a_bad_mesh_is_named_by_its_row(value, reason):
    features = Features(mesh=Mesh(decode=False), label=Value("string"))
    with pytest.raises(PointCloudError, match=reason) as told:
        converted({"mesh": [value], "label": ["a"]}, features)
    assert "/tmp/tmp" not in str(told.value)


def test_meshes_that_are_only_named_are_read_anew_when_they_change(box, tmp_path):
    features = Features(mesh=Mesh(), label=Value("string"))
    Dataset.from_dict({"mesh": [str(box)] * 2, "label": ["a", "b"]}, features=features).to_parquet(
        tmp_path / "m.parquet"
    )
    for size in (1, 5):
        trimesh.creation.box((size, size, size)).export(box)
        dataset = Dataset.from_parquet(str(tmp_path / "m.parquet"), cache_dir=str(tmp_path / "cache"))
        dataset = with_own_types({"train": with_own_names(dataset, "the set")}, "the set")["train"]
        assert np.abs(dataset.with_format("numpy")[0]["points"]).max() == pytest.approx(size / 2)
