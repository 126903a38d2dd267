import json
import shutil
from random import Random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification, CheckpointError


@pytest.fixture(scope="module")
def backbone(make):
    return make.backbone("bert")


@pytest.fixture
def model(make, backbone):
    return make.model(backbone, head=True, num_labels=3)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def other(make, backbone, tmp_path):
    """An adapter with tensors of the same names and shapes."""
    make.model(backbone, head=True, num_labels=3, adapter_scale=0.7).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def load(folder, backbone):
    return Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_files_of_two_adapters_are_refused_by_name(folder, other, backbone, file):
    shutil.copy(other / file, folder / file)
    with pytest.raises(
        CheckpointError, match=r"belong together, and \S+adapter.model\.safetensors is not the one"
    ) as e:
        load(folder, backbone)
    assert len(str(e.value)) < 500


def test_every_flipped_bit_of_the_tensors_is_refused(folder, backbone):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    edit_config(folder, checksums=None)
    random = Random(0)
    for place in [start, len(content) - 1, *(random.randrange(start, len(content)) for _ in range(20))]:
        changed = bytearray(content)
        changed[place] ^= 1 << random.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"bits have changed|must be finite"):
            load(folder, backbone)
    file.write_bytes(content)
    load(folder, backbone)


def test_a_changed_file_without_a_checksum_of_its_own_is_refused_by_the_config(folder, backbone):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.output.bias"][0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match='delete "checksums" from config'):
        load(folder, backbone)
    edit_config(folder, checksums=None)
    assert torch.equal(load(folder, backbone).classifier.output.bias, tensors["classifier.output.bias"])


@torch.no_grad()
def test_an_adapter_of_an_earlier_version_has_no_checksums_and_loads(make, model, folder, backbone):
    file, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    del config["checksums"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(load_file(file), file, metadata={"format": "pt"})
    points = make.points()
    assert torch.equal(load(folder, backbone)(points).logits, model(points).logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["any2point.cls_token", "classifier.norm1.running_var"])
def test_weights_that_are_not_finite_are_refused(folder, backbone, value, name):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, file, metadata={"format": "pt"})
    edit_config(folder, checksums=None)
    with pytest.raises(CheckpointError, match=f"must be finite, and {name} of model.safetensors has NaN"):
        load(folder, backbone)


def test_weights_that_are_not_finite_never_replace_an_adapter(model, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        model.classifier.output.bias[1] = torch.nan
    with pytest.raises(CheckpointError, match=r"classifier\.output\.bias of model\.safetensors has NaN"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_altered_lora_is_refused(make, backbone, tmp_path):
    model = make.model(backbone, head=True, lora=True)
    model.save_pretrained(tmp_path)
    load(tmp_path, backbone)
    config, weights = (tmp_path / "lora" / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    text, tensors = config.read_text(), load_file(weights)
    config.write_text(text.replace('"lora_alpha": 8', '"lora_alpha": 9'))
    with pytest.raises(CheckpointError, match=r"lora.adapter_config\.json is not the one that was saved"):
        load(tmp_path, backbone)
    config.write_text(text)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lora.adapter_model\.safetensors is not the one that was saved"):
        load(tmp_path, backbone)


def test_checksums_stand_in_the_files_and_in_no_other_config(model, folder, backbone, tmp_path):
    recorded = json.loads((folder / "config.json").read_text())["checksums"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert recorded == {"model.safetensors": file.metadata()["checksum"]}
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["checksums"] == recorded
    config = Any2PointConfig.from_pretrained(folder)
    config.save_pretrained(tmp_path / "config")
    load(folder, backbone).config.save_pretrained(tmp_path / "loaded")
    for name in ("config", "loaded"):
        assert "checksums" not in json.loads((tmp_path / name / "config.json").read_text())


def test_an_adapter_is_one_file_whatever_the_size_of_shards(model, backbone, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    load(tmp_path, backbone)
