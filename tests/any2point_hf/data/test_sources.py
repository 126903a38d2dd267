"""Data sets in files and folders of `datasets`, and in memory."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.sources import find_place, open_tables
from any2point_hf.modeling.errors import DatasetError

FEATURES = Features(points=Array2D((None, 3), "float32"), label=ClassLabel(names=["ball", "disc"]))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def make_split(count, seed=0):
    generator = np.random.default_rng(seed)
    points = [generator.normal(size=(9 + number, 3)).astype(np.float32) for number in range(count)]
    return Dataset.from_dict({"points": points, "label": [n % 2 for n in range(count)]}, features=FEATURES)


def make_splits():
    return DatasetDict(train=make_split(6), test=make_split(4, seed=1))


def points(split):
    return [cloud.tobytes() for cloud in split.with_format("numpy")["points"][:]]


def assert_equal(loaded, expected):
    assert {*loaded} == {*expected}
    for name, split in expected.items():
        assert loaded[name].features == split.features
        assert (points(loaded[name]), loaded[name]["label"][:]) == (points(split), split["label"][:])


@pytest.mark.parametrize("kind", ["save_to_disk", "parquet", "arrow", "jsonl", "memory", "dict"])
def test_two_splits(tmp_path, kind):
    splits, source = make_splits(), tmp_path / "clouds"
    if kind in ("memory", "dict"):
        assert_equal(load_point_cloud_dataset(dict(splits) if kind == "dict" else splits), splits)
        return
    source.mkdir()
    for name, split in splits.items():
        if kind == "parquet":
            split.to_parquet(source / f"{name}-00000-of-00001.parquet")
        elif kind == "jsonl":
            split.cast_column("label", FEATURES["label"]).to_json(source / f"{name}.jsonl")
        elif kind == "arrow":
            with (
                pa.OSFile(str(source / f"{name}.arrow"), "wb") as file,
                pa.ipc.new_stream(file, split.data.table.schema) as writer,
            ):
                writer.write_table(split.data.table)
    if kind == "save_to_disk":
        splits.save_to_disk(source)
    if kind == "jsonl":  # which knows no names of classes
        splits = splits.cast_column("label", ClassLabel(names=["0", "1"]))
    loaded = load_point_cloud_dataset(source)
    assert_equal(loaded, splits)
    assert all(split.cache_files for split in loaded.values())  # mapped, not held in memory


@pytest.mark.parametrize("name", ["clouds.parquet", "a [1] *.parquet", "with space#1.parquet"])
def test_one_file_has_one_split(tmp_path, name):
    make_split(10).to_parquet(tmp_path / name)
    make_split(3).to_parquet(tmp_path / "a 1 x.parquet")
    with pytest.warns(UserWarning, match=r"has no test split: 2 of its 10 clouds"):
        dataset = load_point_cloud_dataset(tmp_path / name)
    assert sorted(points(dataset["train"]) + points(dataset["test"])) == sorted(points(make_split(10)))
    assert dataset["test"]["label"][:] == [0, 1]


def test_a_card_with_configs_in_a_clone(tmp_path):
    for config, seed in (("small", 1), ("large", 2)):
        (tmp_path / config).mkdir()
        make_split(4, seed).to_parquet(tmp_path / config / "train.parquet")
        make_split(2, seed).to_parquet(tmp_path / config / "test.parquet")
    configs = [f"- config_name: {name}\n  data_dir: {name}\n" for name in ("small", "large")]
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    for config, seed in (("small", 1), ("large", 2)):
        assert points(load_point_cloud_dataset(f"{tmp_path}#{config}")["train"]) == points(make_split(4, seed))
    with pytest.raises(DatasetError, match="has the configs small, large, and none is the default"):
        load_point_cloud_dataset(tmp_path)
    with pytest.raises(DatasetError, match="must have the config after #, got 'medium'"):
        load_point_cloud_dataset(f"{tmp_path}#medium")


def test_nothing_has_configs_without_a_card(tmp_path):
    make_split(4).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="has no configs, got 'small' after #"):
        load_point_cloud_dataset(f"{tmp_path}#small")


def test_files_that_are_damaged_or_foreign(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    (tmp_path / "b.jsonl").write_text('{"points": [[1, 2')
    pq.write_table(pa.table({"height": [1.0]}), tmp_path / "c.parquet")
    for name, reason in (
        ("a.parquet", r"a\.parquet cannot be loaded by `datasets`"),
        ("b.jsonl", r"b\.jsonl cannot be loaded by `datasets`"),
        ("c.parquet", r"must have a column 'points'.*its columns are height \(float64\)"),
    ):
        with pytest.raises(DatasetError, match=reason) as told:
            load_point_cloud_dataset(tmp_path / name)
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 600


def test_the_command_line_trains_and_evaluates_on_a_file(tmp_path, two_classes, run_train, run_command):
    arrays = two_classes.arrays()
    names = [str(arrays["class_names"][label]) for label in arrays["labels"]]
    rows = {"xyz": arrays["points"].tolist(), "category": names}
    Dataset.from_dict(rows).to_parquet(tmp_path / "clouds.parquet")
    with pytest.warns(UserWarning, match="4 of its 24 clouds, 20% of each class"):
        result = run_train(data=tmp_path / "clouds.parquet")
    assert result.code == 0, result.err
    with pytest.warns(UserWarning, match="4 of its 24 clouds"):
        result = run_command(
            "evaluate", "--data", tmp_path / "clouds.parquet", "--model", tmp_path / "trained", "--json"
        )
    evaluated = json.loads(result.out)
    assert evaluated["num_clouds"] == 4
    assert {*evaluated["per_class"]} == {"ball", "disc"}


def test_nothing_is_told_to_a_server(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a call")

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load.get_session", refuse)
    make_split(10).to_parquet(tmp_path / "train.parquet")
    make_split(10).to_parquet(tmp_path / "test.parquet")
    assert len(load_point_cloud_dataset(tmp_path)["test"]) == 10
    with pytest.warns(UserWarning, match="has no test split"):
        load_point_cloud_dataset(tmp_path / "train.parquet")


@pytest.mark.parametrize("name", ["clouds", "clouds/train.parquet"])
def test_a_parquet_file_is_never_read_whole(tmp_path, monkeypatch, name):
    """The buffers of pyarrow before it reads, and of `datasets` before it writes, would hold the whole file."""
    (tmp_path / "clouds").mkdir()
    make_split(6).to_parquet(tmp_path / "clouds" / "train.parquet")
    given = {}
    monkeypatch.setattr("any2point_hf.data.sources.load_dataset", lambda *_, **options: given.update(options))
    open_tables(find_place(tmp_path / name))
    assert not given["fragment_scan_options"].pre_buffer
    assert given["writer_batch_size"] == 16


@pytest.mark.parametrize(("content", "reason"), [("", "it holds no rows"), ('{"points": [1', "JSON parse error")])
def test_json_lines_that_cannot_be_read(tmp_path, content, reason):
    (tmp_path / "clouds.jsonl").write_text(content)
    with pytest.raises(DatasetError, match=rf"clouds\.jsonl cannot be loaded by `datasets`: {reason}"):
        load_point_cloud_dataset(tmp_path / "clouds.jsonl")


def test_a_script_beside_the_files_is_not_run(tmp_path):
    make_split(6).to_parquet(tmp_path / "clouds.parquet")
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit")
    with pytest.raises(DatasetError, match="scripts are no longer supported"):
        load_point_cloud_dataset(tmp_path)


def test_files_of_another_kind_are_told(tmp_path):
    for number in range(2):
        make_split(6, number).to_parquet(tmp_path / f"{number}.parquet")
    make_split(6).to_json(tmp_path / "more.jsonl")
    with pytest.warns(UserWarning, match=r"several kinds \(1 \.jsonl, 2 \.parquet\)"):
        dataset = load_point_cloud_dataset(tmp_path)
    assert sum(dataset.num_rows.values()) == 12
