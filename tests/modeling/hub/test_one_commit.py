import json

import pytest
from safetensors.torch import load_file, save_file
from transformers import pipeline

from any2point_hf import Any2PointForPointCloudClassification, Any2PointProcessor, AutoModelForPointCloudClassification
from any2point_hf.modeling.hub.names import pinned_name
from any2point_hf.trained_adapter import load
from any2point_hf.web_demo.inference import load_adapters

FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


@pytest.fixture
def moving_head(hub, push, tiny_adapter, tmp_path, monkeypatch):
    """A repository that gets a new commit before every answer; version k is written into each of its files."""
    from hub_server.repositories import StoredFile

    push("me/adapter")
    repository = hub.repositories["me/adapter"]
    find_fault, version = hub.fault_of, 0
    tensors = load_file(tiny_adapter.folder / "model.safetensors")
    config, _, processor = ((tiny_adapter.folder / name).read_bytes() for name in FILES)

    def commit(method, path):
        nonlocal version
        version += 1
        tensors["classifier.output.bias"].fill_(version)
        save_file(tensors, tmp_path / "weights", metadata={"format": "pt"})
        contents = (
            json.dumps(json.loads(config) | {"adapter_scale": version, "checksums": None}).encode(),
            (tmp_path / "weights").read_bytes(),
            json.dumps(json.loads(processor) | {"seed": version}).encode(),
        )
        repository.add("main", dict(zip(FILES, map(StoredFile.of, contents), strict=True)), f"version {version}")
        return find_fault(method, path)

    monkeypatch.setattr(hub, "fault_of", commit)
    return repository


def versions(model, processor):
    return {model.config.adapter_scale, processor.seed, *model.classifier.output.bias.tolist()}


def test_model_and_processor_are_of_one_commit(moving_head):
    model, processor = load("me/adapter")
    assert len(versions(model, processor)) == 1
    again, _ = load("me/adapter")
    assert again.config.adapter_scale > model.config.adapter_scale


def test_a_pipeline_is_of_one_commit(moving_head):
    pipe = pipeline("point-cloud-classification", "me/adapter")
    assert len(versions(pipe.model, pipe.feature_extractor)) == 1
    model = AutoModelForPointCloudClassification.from_pretrained("me/adapter")
    pipe = pipeline("point-cloud-classification", model)
    assert len(versions(pipe.model, pipe.feature_extractor)) == 1


def test_the_adapters_of_a_web_demo_are_of_one_commit(moving_head):
    (adapter,) = load_adapters(["me/adapter"]).values()
    assert len(versions(adapter.model, adapter.processor)) == 1


def test_the_head_is_asked_for_once(moving_head, hub):
    hub.calls.clear()
    load("me/adapter")
    assert sum("/resolve/" not in call for call in hub.calls) == 1
    assert {call.split("/")[4] for call in hub.calls if "/resolve/" in call} == {moving_head.branches["main"][2]}


def test_a_name_with_a_revision(moving_head):
    name = pinned_name("me/adapter")
    model = Any2PointForPointCloudClassification.from_pretrained(name)
    assert len(versions(model, Any2PointProcessor.from_pretrained(name))) == 1
    assert name == f"me/adapter@{model.config._commit_hash}"
    assert pinned_name(name) == name
    second = Any2PointForPointCloudClassification.from_pretrained("me/adapter@" + moving_head.branches["main"][3])
    assert second.config.adapter_scale == 2


def test_a_folder_is_its_own_name(tmp_path):
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert pinned_name(folder) == str(folder)
