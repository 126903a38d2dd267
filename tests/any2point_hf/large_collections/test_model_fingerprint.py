"""A job that goes on does so with the adapter, the processor and the backbone that it began with."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from any2point_hf.large_collections import batch_inference
from any2point_hf.large_collections.batch_inference import run_job
from any2point_hf.large_collections.job import BatchJob
from any2point_hf.large_collections.model_fingerprint import model_fingerprint
from any2point_hf.large_collections.shard_files import ShardFiles
from any2point_hf.modeling.errors import Any2PointError, BackboneLoadError, CheckpointError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def backbone(bert, tmp_path):
    return shutil.copytree(bert, tmp_path / "bert")


@pytest.fixture
def model(tiny_adapter, tmp_path):
    return shutil.copytree(tiny_adapter.folder, tmp_path / "adapter")


@pytest.fixture
def job(model, backbone, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for number in range(6):
        np.save(tmp_path / "scans" / f"{number}.npy", generator.normal(size=(80, 3)).astype(np.float32))
    out = tmp_path / "out.parquet"
    return BatchJob("embed", str(model), str(tmp_path / "scans"), out, backbone=str(backbone), shard_size=2)


@pytest.fixture
def begun(job, monkeypatch):
    """A job that was stopped after its first shard."""
    run_shard = batch_inference.run_shard

    def stopping(*arguments):
        if arguments[-1] == 1:
            raise KeyboardInterrupt
        run_shard(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batch_inference, "run_shard", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_job(job)
    return job


def change_weights(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    save_file(tensors, file, metadata={"format": "pt"})


def change_time(folder):
    os.utime(folder / "model.safetensors", ns=(0, 0))


def change_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))


def add_weights(folder):
    shutil.copy(folder / "model.safetensors", folder / "model-00002.safetensors")


@pytest.mark.parametrize("change", [change_weights, change_time, change_config, add_weights])
def test_a_changed_backbone_does_not_go_on(begun, backbone, change):
    shard = begun.out.with_name("out.parquet.shards") / "00000.parquet"
    before = shard.read_bytes()
    change(backbone)
    with pytest.raises(Any2PointError, match=r"these differ: backbone_files was '\w{16}', is '\w{16}'\. Give"):
        run_job(begun)
    assert shard.read_bytes() == before
    assert not begun.out.exists()


def test_other_files_of_the_backbones_folder_do_not_matter(begun, backbone):
    (backbone / "README.md").write_text("A tiny BERT.")
    assert run_job(begun) == {"clouds": 6, "skipped": 0}


def test_a_changed_adapter_or_processor_does_not_go_on(begun, model):
    processor = model / "preprocessor_config.json"
    content = processor.read_text()
    processor.write_text(json.dumps({**json.loads(content), "scale_to_unit_sphere": False}))
    with pytest.raises(Any2PointError, match="these differ: adapter was"):
        run_job(begun)
    processor.write_text(content)
    change_weights(model)
    with pytest.raises(Any2PointError, match="these differ: adapter was"):
        run_job(begun)


def test_a_model_that_changes_while_it_is_loaded(job, backbone, monkeypatch):
    load = batch_inference.load_model

    def changing(*arguments):
        loaded = load(*arguments)
        change_weights(backbone)
        return loaded

    monkeypatch.setattr(batch_inference, "load_model", changing)
    with pytest.raises(
        Any2PointError, match=r"changed while it was loaded: backbone_files\. Give the same command again"
    ):
        run_job(job)
    assert list(job.out.with_name("out.parquet.shards").glob("*.parquet")) == []


def test_shards_of_an_earlier_version_are_told_as_such(begun):
    record = begun.out.with_name("out.parquet.shards") / "run.json"
    settings = json.loads(record.read_text())
    del settings["backbone_files"]
    record.write_text(json.dumps(settings))
    with pytest.raises(Any2PointError, match="of an earlier version, which did not record the backbone's files"):
        run_job(begun)


def test_a_complete_output_of_an_earlier_version_is_left_as_it_is(job, backbone):
    run_job(job)
    table = pq.read_table(job.out)
    settings = json.loads(table.schema.metadata[b"any2point_run"])
    del settings["backbone_files"]
    pq.write_table(table.replace_schema_metadata({b"any2point_run": json.dumps(settings).encode()}), job.out)
    before = job.out.read_bytes()
    assert run_job(job) == {"clouds": 6, "skipped": 0}
    assert job.out.read_bytes() == before


def test_a_complete_output_does_not_need_its_backbone(job, backbone):
    run_job(job)
    shutil.rmtree(backbone)
    assert run_job(job) == {"clouds": 6, "skipped": 0}


def test_a_backbone_that_is_not_there_ends_the_job_before_it_begins(job, backbone):
    shutil.rmtree(backbone)
    with pytest.raises(BackboneLoadError, match="could not be loaded"):
        run_job(job)
    assert not job.out.with_name("out.parquet.shards").exists()


def test_a_backbone_on_the_hub_is_told_by_its_commit(hub, model, bert):
    api = HfApi(hub.url)
    api.create_repo("me/bert")
    api.upload_file(path_or_fileobj=bert / "config.json", path_in_repo="config.json", repo_id="me/bert")
    first = hub.repositories["me/bert"].commit_of("main")
    assert model_fingerprint(str(model), "me/bert")["backbone_files"] == first
    api.upload_file(path_or_fileobj=b"A tiny BERT.", path_in_repo="README.md", repo_id="me/bert")
    second = hub.repositories["me/bert"].commit_of("main")
    assert model_fingerprint(str(model), "me/bert")["backbone_files"] == second != first


def test_a_lora_counts(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"lora": True}))
    with pytest.raises(CheckpointError, match=r"lora.adapter_config\.json"):
        model_fingerprint(str(model), None)
    (model / "lora").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (model / "lora" / name).write_text("one")
    first = model_fingerprint(str(model), None)
    (model / "lora" / "adapter_model.safetensors").write_text("two")
    second = model_fingerprint(str(model), None)
    assert [name for name in first if first[name] != second[name]] == ["lora_files"]


def test_a_damaged_shard_is_named(begun):
    shard = begun.out.with_name("out.parquet.shards") / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(Any2PointError, match=r"00000\.parquet is damaged.*Delete it, and give the same command again"):
        run_job(begun)
    shard.unlink()
    assert run_job(begun) == {"clouds": 6, "skipped": 0}


def test_a_damaged_report_of_bad_clouds_is_named(tmp_path):
    (tmp_path / "out.parquet.shards").mkdir()
    (tmp_path / "out.parquet.shards" / "00000.bad.jsonl").write_text('{"id": ')
    shards = ShardFiles(tmp_path / "out.parquet", {}, 1)
    with pytest.raises(Any2PointError, match=r"00000\.bad\.jsonl is damaged"):
        shards.first_bad()


def test_an_output_without_settings_is_of_someone_else(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata({b"any2point_run": b"7"}), tmp_path / "out.parquet")
    with pytest.raises(Any2PointError, match="is no output of such a run"):
        ShardFiles(tmp_path / "out.parquet", {}, 1)
