"""`predict --out FILE.parquet` with a segmenter: a row for each cloud, with the parts of its points."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from any2point_hf import label_points
from any2point_hf.large_collections.batch_inference import run_job
from any2point_hf.large_collections.job import BatchJob
from any2point_hf.modeling.errors import Any2PointError, CheckpointError, DatasetError

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = (64, 20, 200, 100, 65)


@pytest.fixture(scope="module")
def clouds():
    return [np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32) for size in SIZES]


@pytest.fixture
def folder(clouds, tmp_path):
    (tmp_path / "scans").mkdir()
    for index, cloud in enumerate(clouds):
        np.save(tmp_path / "scans" / f"{index}.npy", cloud)
    return tmp_path / "scans"


def labelled(segmenter, clouds, categories=None):
    chosen = categories or [None] * len(clouds)
    return [label_points(segmenter.model, segmenter.processor, *pair) for pair in zip(clouds, chosen, strict=True)]


@pytest.mark.parametrize(("shard_size", "batch_size", "workers"), [(1024, 32, 0), (2, 1, 0), (3, 2, 1)])
def test_parts_equal_those_of_each_cloud(tiny_segmenter, clouds, folder, tmp_path, shard_size, batch_size, workers):
    options = {"shard_size": shard_size, "batch_size": batch_size, "workers": workers}
    counts = run_job(BatchJob("segment", str(tiny_segmenter.folder), folder, tmp_path / "a.parquet", **options))
    table = pq.read_table(tmp_path / "a.parquet")
    assert counts == {"clouds": 5, "skipped": 0}
    assert (table.column_names, str(table.schema.field("parts").type.value_type)) == (
        ["id", "parts", "confidence"],
        "int16",
    )
    assert json.loads(table.schema.metadata[b"part_names"]) == list(tiny_segmenter.part_names)
    for row, own in zip(table.to_pylist(), labelled(tiny_segmenter, clouds), strict=True):
        assert row["parts"] == own.parts.tolist()
        assert row["confidence"] == pytest.approx(own.probabilities.mean(), abs=1e-5)


def test_dropped_points_keep_their_places(tiny_segmenter, clouds, folder, tmp_path):
    spoiled = np.insert(clouds[2], [3, 50], np.nan, axis=0)
    np.save(folder / "2.npy", spoiled)
    job = BatchJob("segment", str(tiny_segmenter.folder), folder, tmp_path / "a.parquet", drop_invalid=True)
    assert run_job(job)["dropped_points"] == 2
    row = pq.read_table(tmp_path / "a.parquet").to_pylist()[2]
    assert row["parts"] == np.insert(labelled(tiny_segmenter, clouds)[2].parts, [3, 50], -100).tolist()


def test_the_category_is_the_label_in_the_source_or_the_one_for_all(segmenter_with_categories, clouds, tmp_path):
    names = ["ant", "zebra", "horse"]  # another order than the model's
    types = Features(points=List(List(Value("float32"))), category=ClassLabel(names=names))
    categories = ["zebra", "ant", "zebra", "zebra", "ant"]
    source = Dataset.from_dict({"points": [c.tolist() for c in clouds], "category": categories}, features=types)
    job = (str(segmenter_with_categories.folder), source)
    run_job(BatchJob("segment", *job, tmp_path / "a.parquet"))
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["category"] for row in rows] == categories
    for row, own in zip(rows, labelled(segmenter_with_categories, clouds, categories), strict=True):
        assert row["parts"] == own.parts.tolist()
    run_job(BatchJob("segment", *job, tmp_path / "b.parquet", category="ant"))
    assert all(set(row["parts"]) <= {0, 1} for row in pq.read_table(tmp_path / "b.parquet").to_pylist())
    unknown = Dataset.from_dict({"points": source["points"][:2], "category": ["ant", "horse"]}, features=types)
    with pytest.raises(DatasetError, match=r'cloud 1 of .*: its label must be one of zebra, ant, got "horse"'):
        run_job(BatchJob("segment", job[0], unknown, tmp_path / "c.parquet"))


def test_what_does_not_fit(tiny_segmenter, segmenter_with_categories, tiny_adapter, folder, tmp_path):
    out = tmp_path / "a.parquet"
    with pytest.raises(DatasetError, match="--category is one of zebra, ant, got none"):
        run_job(BatchJob("segment", str(segmenter_with_categories.folder), folder, out))
    with pytest.raises(DatasetError, match="has no categories"):
        run_job(BatchJob("segment", str(tiny_segmenter.folder), folder, out, category="ant"))
    with pytest.raises(CheckpointError, match="is a point cloud segmentation adapter"):
        run_job(BatchJob("predict", str(tiny_segmenter.folder), folder, out))
    with pytest.raises(CheckpointError, match="is a point cloud classification adapter"):
        run_job(BatchJob("segment", str(tiny_adapter.folder), folder, out))
    with pytest.raises(Any2PointError, match="category belongs to the task segment, got embed"):
        BatchJob("embed", str(tiny_segmenter.folder), folder, out, category="ant")


def test_the_command_decides_by_the_adapter(run_command, segmenter_with_categories, folder, tmp_path):
    options = ("--model", segmenter_with_categories.folder, "--out", tmp_path / "a.parquet")
    result = run_command("predict", folder, *options, "--category", "zebra")
    assert (result.code, result.out) == (0, f"5 clouds written to {tmp_path / 'a.parquet'}\n")
    assert pq.read_table(tmp_path / "a.parquet")["category"].to_pylist() == ["zebra"] * 5


def test_a_segmenter_s_embeddings_are_pooled(segmenter_with_categories, folder, tmp_path):
    run_job(BatchJob("embed", str(segmenter_with_categories.folder), folder, tmp_path / "a.parquet"))
    found = np.stack(pq.read_table(tmp_path / "a.parquet")["embedding"].to_numpy())
    assert found.shape == (5, 96)
