"""Data sets on a Hub on localhost: pushed and loaded again, pinned, from the cache, and all that may go wrong."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Mesh, Value, load_dataset
from huggingface_hub import constants, snapshot_download
from transformers import pipeline

from any2point_hf import load_point_cloud_dataset
from any2point_hf.data.hub_dataset import HubDataset, parse_hub_name, pinned
from any2point_hf.large_collections.job import BatchJob
from any2point_hf.large_collections.sources import open_collection
from any2point_hf.modeling.errors import DatasetError, HubError
from any2point_hf.point_clouds.files import read_point_cloud

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's upload

FEATURES = Features(points=Array2D((None, 3), "float32"), label=ClassLabel(names=["ball", "disc"]))


def clouds(count, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(70 + number % 5, 3)).astype(np.float32) for number in range(count)]


def make_splits(seed=0):
    counts = {"train": 8, "test": 4}
    rows = {name: {"points": clouds(n, seed), "label": [i % 2 for i in range(n)]} for name, n in counts.items()}
    return DatasetDict({name: Dataset.from_dict(part, features=FEATURES) for name, part in rows.items()})


def assert_equal(loaded, expected):
    assert {*loaded} == {*expected}
    for name, part in expected.items():
        assert loaded[name].features == part.features
        assert loaded[name]["label"][:] == part["label"][:]
        columns = [data.with_format("numpy")["points"][:] for data in (loaded[name], part)]
        assert all(np.array_equal(*pair) and pair[0].dtype == np.float32 for pair in zip(*columns, strict=True))


def commit_of(hub, name="me/clouds", branch="main"):
    return hub.repositories[f"datasets/{name}"].branches[branch][-1]


def forget_prepared(tmp_path):
    shutil.rmtree(tmp_path / "datasets_cache", ignore_errors=True)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("me/clouds", ("me/clouds", None, None)),
        ("me/clouds@v1.0", ("me/clouds", "v1.0", None)),
        ("me/clouds#small", ("me/clouds", None, "small")),
        ("me/clouds@refs/pr/1#PB_T50_RS/split1", ("me/clouds", "refs/pr/1", "PB_T50_RS/split1")),
    ],
)
def test_names(source, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_hub_name(source) == HubDataset(*parts)
    assert str(parse_hub_name(source)) == source
    Path("me/clouds").mkdir(parents=True)  # a path goes first
    assert parse_hub_name(source) is None


@pytest.mark.parametrize(
    "source", ["shapes", "./me/clouds", "/me/clouds", "a/b/c", "../b", "~/b", "a/b@", "a/b#", "a/b.npz", None]
)
def test_what_is_no_name(source):
    assert parse_hub_name(source) is None


def test_shapes_come_back_equal(hub):
    shapes = load_point_cloud_dataset("shapes")
    shapes = DatasetDict({name: part.select(range(0, len(part), 50)) for name, part in shapes.items()})
    shapes.push_to_hub("me/shapes")
    assert_equal(load_point_cloud_dataset("me/shapes"), shapes)


def test_revisions_and_their_commits(hub):
    make_splits(seed=1).push_to_hub("me/clouds")
    first = commit_of(hub)
    hub.repositories["datasets/me/clouds"].branches["v1"] = [first]
    make_splits(seed=2).push_to_hub("me/clouds")
    second = commit_of(hub)
    assert pinned("me/clouds") == f"me/clouds@{second}"
    assert pinned("me/clouds@v1") == f"me/clouds@{first}"
    assert pinned("shapes") == "shapes"
    for source, seed in (("me/clouds", 2), ("me/clouds@v1", 1), (f"me/clouds@{first}", 1)):
        assert_equal(load_point_cloud_dataset(source), make_splits(seed))
    with pytest.raises(DatasetError, match=r"'me/clouds@v2'.*no such path here.*it has no revision 'v2'"):
        load_point_cloud_dataset("me/clouds@v2")


def test_nothing_is_asked_for_a_commit_that_is_in_the_cache(hub):
    make_splits().push_to_hub("me/clouds")
    source = pinned("me/clouds")
    hub.calls.clear()
    assert_equal(load_point_cloud_dataset(source), make_splits())
    assert hub.calls == []
    load_point_cloud_dataset("me/clouds")
    assert hub.calls == ["GET /api/datasets/me/clouds"]


def test_configs(hub):
    make_splits(seed=1).push_to_hub("me/clouds", "small")
    make_splits(seed=2).push_to_hub("me/clouds", "large")
    assert_equal(load_point_cloud_dataset("me/clouds#small"), make_splits(1))
    assert not any("large/" in call and "resolve" in call for call in hub.calls if call.startswith("GET"))
    assert_equal(load_point_cloud_dataset("me/clouds#large"), make_splits(2))
    with pytest.raises(DatasetError, match=r"has the configs .*none is the default. Choose one: me/clouds#NAME"):
        load_point_cloud_dataset("me/clouds")
    with pytest.raises(DatasetError, match=r"config after #, got 'smal'; it has .* Did you mean small\?"):
        load_point_cloud_dataset("me/clouds#smal")


def test_a_repository_of_cloud_files_is_a_folder(hub):
    files = {}
    for number, cloud in enumerate(clouds(8)):
        path = f"{'test' if number < 4 else 'train'}/{'ball' if number % 2 else 'disc'}/{number}.xyz"
        files[path] = "\n".join(" ".join(map(repr, row)) for row in cloud.tolist()).encode()
    hub.store("me/files", files | {"model.pkl": b"never pulled"})
    loaded = load_point_cloud_dataset("me/files")
    assert loaded["train"].features["label"].names == ["ball", "disc"]
    assert len(loaded["train"]) == len(loaded["test"]) == 4
    assert np.array_equal(loaded["test"].with_format("numpy")[0]["points"], clouds(8)[1])
    assert not any("model.pkl" in call for call in hub.calls)
    assert open_collection("me/files").labels() is None


@pytest.mark.parametrize("pattern", ["**/train-*.parquet", "**/*.parquet", "*"])
def test_files_in_every_folder_that_a_card_names(hub, tmp_path, pattern):
    files = {}
    for path in ("train-0.parquet", "a/train-1.parquet", "a/b/train-2.parquet"):
        make_splits()["train"].to_parquet(tmp_path / "part.parquet")
        files[path] = (tmp_path / "part.parquet").read_bytes()
    split = f"  - split: train\n    path: {json.dumps(pattern)}\n"
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{split}---\n"
    hub.store("me/clouds", files | {"README.md": card.encode()})
    expected = 8 if pattern == "*" else 24
    with pytest.warns(UserWarning, match=f"of its {expected} clouds"):
        load_point_cloud_dataset("me/clouds")


def test_pushed_meshes_are_sampled(hub, tmp_path):
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.ply")
    rows = {"mesh": [str(tmp_path / "box.ply")] * 2, "label": ["a", "b"]}
    split = Dataset.from_dict(rows, features=Features(mesh=Mesh(), label=Value("string")))
    DatasetDict(train=split, test=split).push_to_hub("me/meshes")
    expected = read_point_cloud(tmp_path / "box.ply")
    (tmp_path / "box.ply").unlink()
    loaded = load_point_cloud_dataset("me/meshes")
    assert np.array_equal(loaded["test"].with_format("numpy")[1]["points"], expected)
    assert np.array_equal(open_collection("me/meshes").read(0), expected)


def test_a_stream_of_the_hub_goes_into_a_pipeline(hub, adapter):
    make_splits().push_to_hub("me/clouds")
    stream = load_dataset("me/clouds", split="test", streaming=True)
    classify = pipeline("point-cloud-classification", model=str(adapter), device="cpu")
    assert list(classify(stream)) == classify(clouds(4))


def test_a_collection_names_the_commit(hub):
    make_splits().push_to_hub("me/clouds")
    collection = open_collection("me/clouds")
    assert collection.source == f"me/clouds@{commit_of(hub)}"
    assert (collection.split, len(collection), collection.labels()[:2]) == ("test", 4, ["ball", "disc"])
    assert np.array_equal(collection.read(3), clouds(4)[3])
    assert open_collection(collection.source).fingerprint == collection.fingerprint
    assert BatchJob("embed", "adapter", "me/clouds", Path("out.parquet")).source == collection.source
    make_splits(seed=1).push_to_hub("me/clouds")
    assert open_collection("me/clouds").fingerprint != collection.fingerprint


@pytest.mark.parametrize("files", [["train.pkl", "test.pkl"], ["clouds.py", "data.pt"]])
def test_pickles_and_scripts_are_never_read(hub, files):
    hub.store("me/pickled", dict.fromkeys(files, b"cos\nsystem\n(S'false'\ntR."))
    with pytest.raises(DatasetError, match=r"no data files that are read.*pickles and scripts never.*ending in \.p"):
        load_point_cloud_dataset("me/pickled")
    assert not any("/resolve/" in call and "README" not in call for call in hub.calls)


@pytest.mark.parametrize("pattern", ["/etc/*.parquet", "../*.parquet", "https://a.b/c.parquet"])
def test_a_card_cannot_name_files_elsewhere(hub, pattern):
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps(pattern)}\n---\n"
    hub.store("me/clouds", {"README.md": card.encode(), "train.parquet": b""})
    with pytest.raises(DatasetError, match="names files outside of the data set"):
        load_point_cloud_dataset("me/clouds")


@pytest.mark.parametrize(
    "metadata", [b"configs: 3", b"configs: [3]", b"configs: [", b"configs: [{config_name: a, data_files: 1}]"]
)
def test_a_broken_card(hub, metadata):
    hub.store("me/clouds", {"README.md": b"---\n" + metadata + b"\n---\n", "train.parquet": b""})
    with pytest.raises(DatasetError, match=r"its card \(README\.md\) must be valid"):
        load_point_cloud_dataset("me/clouds")


def test_other_files_in_the_cache_change_nothing(hub, tmp_path):
    make_splits().push_to_hub("me/clouds")
    files = hub.repositories["datasets/me/clouds"].files()
    hub.store(
        "me/clouds", {path: file.content for path, file in files.items()} | {"sample.xyz": b"0 0 0", "x.pkl": b"N."}
    )
    folder = Path(snapshot_download("me/clouds", repo_type="dataset"))
    assert {path.name for path in folder.glob("*.*")} >= {"sample.xyz", "x.pkl"}
    assert_equal(load_point_cloud_dataset("me/clouds"), make_splits())


def test_what_is_not_there(hub, monkeypatch):
    for user in ("token-of-me", ""):
        monkeypatch.setenv("HF_TOKEN", user)
        with pytest.raises(DatasetError, match=r"'me/nothing'.*no such path here.*no such data set.*private"):
            load_point_cloud_dataset("me/nothing")


@pytest.mark.parametrize("name", ["me/a..b", "me/-a", "me/" + "a" * 100])
def test_names_that_cannot_be(hub, name):
    with pytest.raises(DatasetError, match=r"no such path here.*no data set can have this name"):
        load_point_cloud_dataset(name)


def test_an_empty_repository(hub):
    hub.store("me/empty", {})
    with pytest.raises(DatasetError, match=r"no data files that are read .*, but no files at all"):
        load_point_cloud_dataset("me/empty")


def test_of_many_configs_a_few_are_shown(hub):
    names = [f"a_config_with_a_long_name_{number}" for number in range(50)]
    configs = "".join(f"- config_name: {name}\n  data_files: a.parquet\n" for name in names)
    hub.store("me/clouds", {"README.md": f"---\nconfigs:\n{configs}---\n".encode(), "a.parquet": b""})
    for source in ("me/clouds", "me/clouds#b"):
        with pytest.raises(DatasetError, match=r"a_config_with_a_long_name_7 and 42 more") as told:
            load_point_cloud_dataset(source)
        assert len(str(told.value)) < 500


def test_private_data_sets_need_a_login(hub, monkeypatch):
    make_splits().push_to_hub("me/clouds", private=True)
    assert_equal(load_point_cloud_dataset("me/clouds"), make_splits())
    monkeypatch.setenv("HF_TOKEN", "token-of-other")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "_of_other")
    with pytest.raises(DatasetError, match="private and needs a login"):
        load_point_cloud_dataset("me/clouds")


def test_the_cache_offline(hub, monkeypatch, tmp_path):
    make_splits(1).push_to_hub("me/clouds")
    load_point_cloud_dataset("me/clouds")
    first = commit_of(hub)
    make_splits(2).push_to_hub("me/clouds")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.calls.clear()
    forget_prepared(tmp_path)
    assert_equal(load_point_cloud_dataset("me/clouds"), make_splits(1))
    assert pinned("me/clouds") == f"me/clouds@{first}"
    for source in ("me/other", f"me/clouds@{commit_of(hub)}", "me/clouds@v1"):
        with pytest.raises(DatasetError, match="calls to the Hub are switched off, and its cache does not have it"):
            load_point_cloud_dataset(source)
    assert hub.calls == []


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"hang": True}, {"cut": 10}, "dead"])
def test_the_cache_helps_while_the_hub_fails(hub, hub_waits, monkeypatch, fault, tmp_path, caplog):
    monkeypatch.setattr("any2point_hf.modeling.hub.hooks.FIRST_ANSWER_SECONDS", 0.4)
    make_splits().push_to_hub("me/clouds")
    load_point_cloud_dataset("me/clouds")
    forget_prepared(tmp_path)
    if fault == "dead":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.fail("*", "/", **fault)
    assert_equal(load_point_cloud_dataset("me/clouds"), make_splits())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 500}, "answered 500.*fault of its own"),
        ({"status": 429, "headers": {"Retry-After": "60"}}, "answered 429.*Wait 60 s"),
        ({"status": 403}, "answered 403"),
        ({"hang": True}, "does not answer"),
        ({"cut": 10}, "connection broke off"),
        ("dead", "cannot be reached"),
    ],
)
@pytest.mark.parametrize("call", ["GET clouds$", "GET /tree/", "GET resolve/.*README", "GET resolve/.*parquet"])
def test_a_failing_hub_is_told_within_seconds(hub, hub_waits, monkeypatch, call, fault, reason):
    for limit in ("FIRST_ANSWER_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(f"any2point_hf.modeling.hub.hooks.{limit}", 0.4)
    make_splits().push_to_hub("me/clouds")
    if fault == "dead":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.fail(*call.split(), **fault)
    began = time.monotonic()
    with pytest.raises(
        HubError, match=rf"(?s)to load the data set 'me/clouds' \(there is no such path.*{reason}"
    ) as told:
        load_point_cloud_dataset("me/clouds")
    assert time.monotonic() - began < 5
    assert len(str(told.value)) < 600
    hub.faults.clear()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    assert_equal(load_point_cloud_dataset("me/clouds"), make_splits())


def test_half_a_download_is_not_taken_for_the_whole(hub, hub_waits, monkeypatch):
    make_splits().push_to_hub("me/clouds")
    hub.fail("GET", "resolve/.*test-.*parquet", status=500)
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises((DatasetError, HubError)):
            load_point_cloud_dataset("me/clouds")


def test_the_command_line_names_what_is_wrong(hub, run_train):
    hub.store("me/pickled", {"train.pkl": b"N."})
    hub.store("me/other", {"train.parquet": b"no parquet"})
    bad = Dataset.from_dict({"points": [*clouds(3), np.zeros((9, 3), np.float32)], "label": [0, 1, 0, 1]})
    DatasetDict(train=bad, test=bad).push_to_hub("me/bad")
    for source, reason in (
        ("me/nothing", "no such data set"),
        ("nothing-here", "does not exist"),
        ("me/pickled", "pickles and scripts never"),
        ("me/other", "cannot be loaded by `datasets`"),
        ("me/bad", "row 3 of the split 'train' of me/bad@"),
    ):
        result = run_train(data=source)
        assert result.code == 2
        line = result.err.splitlines()[-1]
        assert line.startswith("error: ")
        assert reason in line
        assert "Traceback" not in result.err


@pytest.mark.parametrize("path", ["../../x.xyz", "/x.xyz", "a/../../../x.xyz", "a\\..\\x.xyz", "..", 5, None])
def test_files_outside_of_the_repository_are_refused(hub, path):
    hub.store("me/data", {"a/train/0.xyz": b"0 0 0\n1 1 1\n"})
    entry = {"type": "file", "path": path, "oid": "0" * 40, "size": 12}
    hub.fail("GET", "/tree/", body=json.dumps([entry]).encode())
    with pytest.raises(HubError, match=r"must list files of me/data, and lists .*Check HF_ENDPOINT"):
        pinned("me/data")
