import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, modeling_utils

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    BackboneLoadError,
    CheckpointError,
)


@pytest.fixture
def backbone(make):
    return make.backbone("dinov2")


@pytest.fixture
def model(make, backbone):
    return make.model(backbone, head=True, num_labels=3)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def load(folder, backbone, **kwargs):
    return Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone, **kwargs)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "checksums": None}))


# What a checkpoint holds


def test_a_checkpoint_holds_trained_tensors_and_running_statistics_only(model, folder):
    stored = load_file(folder / "model.safetensors")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    statistics = {name for name in stored if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert set(stored) == trained | statistics
    assert statistics == {
        name for name, _ in model.named_buffers() if "backbone" not in name and "rotations" not in name
    }
    assert not any("backbone" in name for name in stored)
    for name, tensor in stored.items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    assert size < (folder / "model.safetensors").stat().st_size < size + 200 * len(stored)
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_the_config_names_the_model_and_its_backbone(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "any2point"
    assert config["architectures"] == ["Any2PointForPointCloudClassification"]
    assert config["backbone_config"]["model_type"] == "dinov2"
    assert config["backbone"] is None
    assert config["modality"] is None  # of the backbone, whatever it is


@torch.no_grad()
def test_everything_survives_a_round_trip(make, model, folder, backbone):
    loaded = load(folder, backbone)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    points = make.points()
    assert torch.equal(loaded(points).logits, model(points).logits)
    assert torch.equal(loaded.any2point.projection.rotations, model.any2point.projection.rotations)
    assert not loaded.training
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in loaded.named_parameters() if "backbone." in name}
    loaded.save_pretrained(folder.parent / "again")
    first, again = (load_file(folder.parent / name / "model.safetensors") for name in ("adapter", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


@torch.no_grad()
def test_a_loaded_model_trains_on(make, folder, backbone):
    loaded = load(folder, backbone).train()
    with torch.enable_grad():
        loaded(make.points(4), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(p.grad is not None for p in loaded.parameters() if p.requires_grad)


def test_a_gathered_state_dict_is_saved_without_the_backbone(model, tmp_path):
    gathered = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=gathered)
    stored = load_file(tmp_path / "model.safetensors")
    assert not any("backbone" in name for name in stored)
    assert all(torch.equal(tensor, gathered[name]) for name, tensor in stored.items())


def test_other_processes_write_no_file(model, tmp_path):
    model.save_pretrained(tmp_path / "adapter", is_main_process=False)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


def test_loading_info_on_request(folder, backbone):
    loaded, info = load(folder, backbone, output_loading_info=True)
    assert isinstance(loaded, Any2PointForPointCloudClassification)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


# Checkpoints that do not fit


def test_missing_tensors_are_listed(folder, backbone):
    rewrite(folder, lambda tensors: [tensors.pop(n) for n in ("any2point.cls_token", "classifier.output.bias")])
    with pytest.raises(CheckpointError, match=r"missing \(2\): any2point.cls_token, classifier.output.bias"):
        load(folder, backbone)
    loaded = load(folder, backbone, strict=False)
    assert not loaded.classifier.output.bias.any()


def test_unexpected_tensors_are_listed(folder, backbone):
    rewrite(folder, lambda tensors: tensors.update({"other.weight": torch.zeros(2)}))
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=r"unexpected \(1\): other.weight"):
            load(folder, backbone, strict=strict)


def test_wrongly_shaped_tensors_are_listed(folder, backbone):
    rewrite(folder, lambda tensors: tensors.update({"any2point.cls_token": torch.zeros(1, 1, 7)}))
    with pytest.raises(
        CheckpointError, match=r"wrongly shaped \(1\): any2point.cls_token: \[1, 1, 7\] instead of \[1, 1, 48\]"
    ):
        load(folder, backbone)


def test_long_lists_are_cut(folder, backbone):
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "tokenizer" in name])
    with pytest.raises(CheckpointError, match=r"missing \(\d\d\): (any2point\.\S+, ){8}… and \d+ more"):
        load(folder, backbone)


@pytest.mark.parametrize("keep", [0, 6, 0.5, 0.99])
def test_truncated_files_are_refused(folder, backbone, keep):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(CheckpointError, match=r"whole model\.safetensors"):
        load(folder, backbone)


def test_incomplete_folders_are_refused(folder, backbone, tmp_path):
    for name in ("config.json", "model.safetensors"):
        broken = shutil.copytree(folder, tmp_path / f"without-{name}")
        (broken / name).unlink()
        with pytest.raises(CheckpointError, match=r"config\.json and a whole model\.safetensors"):
            load(broken, backbone)
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere", backbone)


def test_a_broken_config_is_refused(folder, backbone):
    (folder / "config.json").write_text('{"model_type": "any2point", ')
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load(folder, backbone)


def test_a_foreign_checkpoint_is_refused(backbone, tmp_path):
    backbone.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        load(tmp_path, backbone)


def test_another_family_width_or_depth_is_refused(make, folder):
    with pytest.raises(CheckpointError, match=r"for model_type=dinov2.* the given backbone has model_type=vit"):
        load(folder, make.backbone("vit"))
    for name, value in (("hidden_size", 24), ("num_hidden_layers", 3)):
        config = make.config("dinov2")
        setattr(config, name, value)
        with pytest.raises(CheckpointError, match=f"made for {name}=.* the given backbone has {name}={value}"):
            load(folder, AutoModel.from_config(config))


def test_another_table_of_positions_is_refused(make, folder):
    # 3 × 3 positions in place of 4 × 4: the same width and depth, but the encodings are read somewhere else.
    config = make.config("dinov2")
    config.image_size = 21
    with pytest.raises(CheckpointError, match=r"positions=\(4, 4\), the given backbone has positions=\(3, 3\)"):
        load(folder, AutoModel.from_config(config))


def test_a_random_backbone_must_be_given_again(make, tmp_path):
    model = make.randomize(
        Any2PointForPointCloudClassification(Any2PointConfig(**make.small, backbone_config=make.config("vit")))
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"random weights.*backbone=<module or folder>"):
        Any2PointForPointCloudClassification.from_pretrained(tmp_path)
    loaded = load(tmp_path, model.backbone)
    points = make.points()
    torch.testing.assert_close(loaded(points).logits, model.eval()(points).logits, atol=1e-6, rtol=0)


def test_a_backbone_that_is_not_there_is_refused(folder, tmp_path):
    for given in (tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(BackboneLoadError, match="nowhere"):
            load(folder, given, local_files_only=True)


def test_other_settings_do_not_fit(folder, backbone):
    with pytest.raises(CheckpointError, match="unexpected"):
        load(folder, backbone, aggregation="none")
    with pytest.raises(CheckpointError, match="wrongly shaped"):
        load(folder, backbone, adapter_dim=5)


@torch.no_grad()
def test_a_new_head_for_other_classes(make, model, folder, backbone):
    with pytest.raises(CheckpointError, match=r"wrongly shaped \(2\): classifier.output.bias"):
        load(folder, backbone, num_labels=7)
    loaded = load(folder, backbone, num_labels=7, strict=False)
    assert loaded(make.points()).logits.shape == (2, 7)
    assert loaded.classifier.output.weight.std() > 0
    assert not loaded.classifier.output.bias.any()
    assert torch.equal(loaded.classifier.hidden1.weight, model.classifier.hidden1.weight)
    points = make.points()
    assert torch.equal(loaded(points).pooler_output, model(points).pooler_output)


# The base model and the Auto classes


@torch.no_grad()
def test_the_base_model_round_trips(make, backbone, tmp_path):
    model = make.model(backbone)
    model.save_pretrained(tmp_path)
    loaded = Any2PointModel.from_pretrained(tmp_path, backbone=backbone)
    points = make.points()
    assert torch.equal(loaded(points).last_hidden_state, model(points).last_hidden_state)


@torch.no_grad()
def test_the_base_model_loads_from_a_classification_checkpoint(make, model, folder, backbone):
    loaded = Any2PointModel.from_pretrained(folder, backbone=backbone)
    points = make.points()
    assert torch.equal(loaded(points).pooler_output, model(points).pooler_output)


@torch.no_grad()
def test_a_classifier_needs_its_head_unless_told_otherwise(make, backbone, tmp_path):
    base = make.model(backbone)
    base.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): classifier\."):
        load(tmp_path, backbone)
    loaded = load(tmp_path, backbone, strict=False, num_labels=4)
    points = make.points()
    assert torch.equal(loaded(points).pooler_output, base(points).pooler_output)
    assert loaded(points).logits.shape == (2, 4)


@torch.no_grad()
def test_auto_model_finds_the_base_model(make, backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "backbone")
    config = Any2PointConfig(**make.small, backbone=tmp_path / "backbone")
    model = make.randomize(Any2PointModel(config)).eval()
    model.save_pretrained(tmp_path / "adapter")
    points = make.points()
    loaded = AutoModel.from_pretrained(tmp_path / "adapter")
    assert type(loaded) is Any2PointModel
    assert torch.equal(loaded(points).last_hidden_state, model(points).last_hidden_state)


@torch.no_grad()
def test_auto_model_takes_a_backbone(make, backbone, tmp_path):
    model = make.model(backbone)
    model.save_pretrained(tmp_path / "adapter")
    backbone.save_pretrained(tmp_path / "backbone")
    points = make.points()
    for given in (backbone, tmp_path / "backbone"):
        loaded = AutoModel.from_pretrained(tmp_path / "adapter", backbone=given)
        assert torch.equal(loaded(points).last_hidden_state, model(points).last_hidden_state)


def test_auto_model_builds_from_a_config(make, backbone):
    config = Any2PointConfig(**make.small, backbone_config=backbone.config)
    assert type(AutoModel.from_config(config)) is Any2PointModel


# Options of loading


@torch.no_grad()
def test_dtype_and_backbone_kwargs(make, model, folder, backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "backbone")
    points = make.points()
    expected = model(points).logits
    mixed = load(folder, tmp_path / "backbone", backbone_kwargs={"dtype": torch.bfloat16})
    assert (mixed.dtype, next(mixed.backbone.parameters()).dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(mixed(points).logits, expected, atol=0.1, rtol=0.1)
    whole = load(folder, tmp_path / "backbone", dtype=torch.float64)
    assert whole.dtype == next(whole.backbone.parameters()).dtype == torch.float64
    torch.testing.assert_close(whole(points).logits.float(), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_half_precision_model_runs(make, model, folder, backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "backbone")
    points = make.points()
    half = load(folder, tmp_path / "backbone", dtype=torch.bfloat16)
    assert half.dtype == next(half.backbone.parameters()).dtype == torch.bfloat16
    torch.testing.assert_close(half(points).logits.float(), model(points).logits, atol=0.3, rtol=0.3)


@torch.no_grad()
def test_attention_implementation_reaches_the_backbone(make, folder, backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "backbone")
    for given in (backbone, tmp_path / "backbone"):
        loaded = load(folder, given, attn_implementation="eager")
        assert len(loaded(make.points(), output_attentions=True).attentions) == 2
    assert backbone.config._attn_implementation == "sdpa"


def test_the_folder_of_a_given_module_is_recorded_absolutely(make, backbone, tmp_path, monkeypatch):
    backbone.save_pretrained(tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    for model_class in (Any2PointModel, Any2PointForPointCloudClassification):
        model = model_class(Any2PointConfig(**make.small), backbone=AutoModel.from_pretrained("backbone"))
        assert model.config.backbone == str(tmp_path / "backbone")


@torch.no_grad()
def test_a_backbone_given_as_a_folder_is_recorded(make, folder, backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "backbone")
    loaded = load(folder, tmp_path / "backbone")
    assert loaded.config.backbone == str(tmp_path / "backbone")
    loaded.save_pretrained(tmp_path / "again")
    again = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "again")
    points = make.points()
    assert torch.equal(again(points).logits, loaded(points).logits)


# Saving is all or nothing


@pytest.mark.parametrize("written", [False, True])
def test_a_failure_while_saving_leaves_the_old_checkpoint_whole(model, folder, monkeypatch, written):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in changed.classifier.parameters():
            parameter.add_(1)

    def fail(tensors, filename, metadata=None):
        if written:
            Path(filename).write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(modeling_utils, "safe_save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        changed.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_saving_again_replaces_the_checkpoint_and_keeps_other_files(model, folder, backbone):
    (folder / "notes.txt").write_text("mine")
    with torch.no_grad():
        model.classifier.output.bias.fill_(5)
    model.save_pretrained(folder)
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "notes.txt"}
    assert (load(folder, backbone).classifier.output.bias == 5).all()
