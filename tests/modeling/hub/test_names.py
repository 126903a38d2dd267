"""Pulling by name from the Hub on localhost (tests/hub_server); the client is the real one."""

import shutil

import pytest
import torch
from huggingface_hub import constants

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    BackboneLoadError,
    CheckpointError,
    HubError,
)
from any2point_hf.modeling.hub.names import pulled_folder
from any2point_hf.modeling.publishing.push import push_files

# Which of several a name means


def test_a_folder_goes_before_the_hub(hub, push, pull, tiny_adapter, tmp_path, monkeypatch):
    push("me/adapter")
    shutil.copytree(tiny_adapter.folder, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    hub.calls.clear()
    pull("adapter")
    assert hub.calls == []


def test_a_bare_name_is_found_in_ones_own_namespace(hub, push, pull):
    push("adapter")
    assert set(hub.repositories) == {"me/adapter"}
    hub.calls.clear()
    pull("adapter")
    asked = [call for call in hub.calls if "/api/" in call]
    assert asked == ["GET /api/models/adapter", "GET /api/whoami-v2", "GET /api/models/me/adapter"]


def test_the_repository_of_that_very_name_goes_first(hub, push, pull):
    push("me/adapter")
    push("me/other")
    hub.repositories["adapter"] = hub.repositories.pop("me/other")
    hub.calls.clear()
    pull("adapter")
    assert [call for call in hub.calls if "/api/" in call] == ["GET /api/models/adapter"]


def test_the_namespace_can_be_set(hub, push, pull, monkeypatch):
    monkeypatch.setenv("ANY2POINT_NAMESPACE", "other")
    push("adapter", token="token-of-other")
    assert set(hub.repositories) == {"other/adapter"}
    pull("adapter")
    assert "GET /api/whoami-v2" not in hub.calls
    with pytest.raises(HubError, match=r"answered 403.*write"):
        push("another")  # the logged-in user is me


def test_all_that_was_tried_is_listed(hub, pull, monkeypatch):
    with pytest.raises(CheckpointError) as refused:
        pull("nowhere")
    tried = (
        "the folder nowhere (there is none); nowhere on the Hub (not there, or private); me/nowhere on the Hub (not "
    )
    assert tried in str(refused.value)
    assert "spelling" in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "nowhere")
    with pytest.raises(CheckpointError, match=r"<user>/nowhere on the Hub \(nobody is logged in, and ANY2POINT_NAMES"):
        pull("nowhere")
    with pytest.raises(CheckpointError, match=r"Tried: the folder \./nowhere \(there is none\)\. Check"):
        pull("./nowhere")


def test_a_repository_without_an_adapter_is_listed(hub, pull, push):
    push_files({"notes.txt": b"notes"}, "me/notes", commit_message="put")
    with pytest.raises(CheckpointError, match=r"me/notes on the Hub \(has no config\.json\)"):
        pull("me/notes")
    push_files({"config.json": b"{}"}, "me/notes", commit_message="put")
    with pytest.raises(CheckpointError, match=r"me/notes on the Hub \(has no model\.safetensors\)"):
        pull("me/notes")


# Revisions, tokens, caches


def test_revisions(hub, push, pull):
    first = push("me/adapter").oid
    changed = {"config.json": b"{}"}
    second = push_files(changed, "me/adapter", commit_message="change", revision="v2").oid
    assert hub.repositories["me/adapter"].branches.keys() == {"main", "v2"}
    for revision in (None, "main", first):
        pull("me/adapter", revision=revision)
    for revision in ("v2", second):
        folder = pulled_folder("me/adapter", ["config.json"], revision=revision)
        assert (folder / "config.json").read_bytes() == b"{}"
    with pytest.raises(CheckpointError, match=r"me/adapter on the Hub .has no revision 'v3'"):
        pull("me/adapter", revision="v3")


def test_the_revision_is_not_the_backbones(hub, push, monkeypatch):
    push("me/adapter", revision="v2")
    asked = []

    def load_backbone(name, revision, modality, **options):
        asked.append((revision, options))
        raise BackboneLoadError("none")

    monkeypatch.setattr("any2point_hf.modeling.pretrained_model.load_backbone", load_backbone)
    with pytest.raises(BackboneLoadError):
        Any2PointForPointCloudClassification.from_pretrained("me/adapter", revision="v2", token="token-of-me")
    assert asked == [(None, {"token": "token-of-me"})]


def test_private_repositories(hub, push, pull, monkeypatch):
    push("me/secret", private=True)
    assert hub.repositories["me/secret"].private
    pull("me/secret")
    for token in ("token-of-other", False):
        with pytest.raises(CheckpointError, match=r"me/secret on the Hub \(not there, or private\).*hf auth login"):
            pull("me/secret", token=token, cache_dir="other")
    monkeypatch.setenv("HF_TOKEN", "token-of-other")
    pull("me/secret", token="token-of-me")
    with pytest.raises(CheckpointError, match=r"\(401: not there, or private, or a wrong token\)"):
        pull("me/secret", token="mistyped", cache_dir="other")


def test_offline(hub, push, pull, monkeypatch):
    push("adapter")
    push("me/unseen")
    pull("adapter")
    hub.calls.clear()
    for name in ("adapter", "me/adapter"):
        pull(name, local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("adapter", "me/adapter"):
        pull(name)
        assert Any2PointConfig.from_pretrained(name).num_labels == 3
    with pytest.raises(CheckpointError, match=r"me/unseen in the cache \(not there.*switched off: pull it once"):
        pull("me/unseen")
    monkeypatch.setenv("ANY2POINT_NAMESPACE", "other")
    with pytest.raises(CheckpointError, match=r"adapter in the cache .*; other/adapter in the cache"):
        pull("adapter")
    assert hub.calls == []


def test_offline_a_bare_name_of_several_users_is_not_guessed(hub, push, pull, monkeypatch):
    push("me/adapter")
    push("other/adapter", token="token-of-other")
    pull("me/adapter")
    pull("other/adapter")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="it has me/adapter, other/adapter: name one"):
        pull("adapter")


def test_what_is_cached_is_not_loaded_again_unless_asked(hub, push, pull):
    push("me/adapter")
    pull("me/adapter")
    hub.calls.clear()
    pull("me/adapter")
    assert hub.calls == ["GET /api/models/me/adapter"]
    pull("me/adapter", force_download=True)
    assert sum(call.endswith("model.safetensors") and call.startswith("GET") for call in hub.calls) == 1


def test_a_subfolder(hub, tiny_adapter, bert, monkeypatch):
    files = {f"large/{file}": tiny_adapter.folder / file for file in ("config.json", "model.safetensors")}
    hub.large_suffixes = ()
    push_files(files, "me/adapters", commit_message="put")
    options = {"subfolder": "large", "backbone": bert}
    loaded = Any2PointForPointCloudClassification.from_pretrained("me/adapters", **options)
    assert torch.equal(loaded.classifier.output.weight, tiny_adapter.model.classifier.output.weight)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Any2PointForPointCloudClassification.from_pretrained("adapters", **options)
    with pytest.raises(CheckpointError, match=r"not with config\.json, model\.safetensors"):
        Any2PointForPointCloudClassification.from_pretrained("adapters", backbone=bert)
