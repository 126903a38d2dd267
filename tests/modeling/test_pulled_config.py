import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling import Any2PointError, CheckpointError


@pytest.fixture(scope="module")
def backbone(make):
    return make.backbone("bert")


@pytest.fixture
def folder(make, backbone, tmp_path):
    make.model(backbone, head=True, num_labels=3).save_pretrained(tmp_path)
    return tmp_path


def load(folder, backbone):
    return Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone)


def change(folder, **fields):
    """Changes fields of the config, those of the backbone's by `backbone_…`."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in fields.items():
        part, _, field = name.partition("backbone_config__")
        (config["backbone_config"] if field else config)[field or part] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone_config__num_hidden_layers": 10_000},
        {"backbone_config__num_hidden_layers": 2000},
        {"backbone_config__hidden_size": 10**9},
        {"backbone_config__hidden_size": 10**6},
        {"backbone_config__num_attention_heads": 10**30},
        {"num_labels": 10**9, "id2label": None, "label2id": None},
        {"num_labels": 90_000, "id2label": None, "label2id": None},
        {"adapter_blocks": 2**31},
        {"adapter_blocks": 2000},
        {"adapter_dim": 10**9},
        {"num_neighbors": 10**12},
        {"local_attention_dim": 6 * 10**9},
        {"num_point_features": 10**9},
        {"line_length": 10**12},
        {"plane": [10**9, 10**9]},
        {"unfrozen_blocks": 10**9},
        {"id2label": {"0": "a", "2": "b"}},
        {"id2label": {"0": "a", "1": "b", "1000000000": "c"}},
        {"id2label": {"0": 5, "1": 6, "2": 7}},
        {"id2label": ["a", "b", "c"]},
        {"id2label": {}},
        {"return_dict": False},
        {"pooling": 5},
        {"adapter_scale": "much"},
        {"backbone_config": []},
        {"backbone_config": {"model_type": "bert", "hidden_size": None}},
    ],
)
def test_a_claim_that_would_cost_is_one_error_at_once(folder, backbone, fields):
    change(folder, **fields)
    began = time.process_time()
    with pytest.raises(Any2PointError) as caught:
        load(folder, backbone)
    assert len(str(caught.value)) < 700
    assert time.process_time() - began < 5


def test_large_sizes_are_those_of_the_tensors(folder, backbone):
    change(folder, backbone_config__num_hidden_layers=2000)
    with pytest.raises(CheckpointError, match="claims 2000 blocks where they have 2"):
        load(folder, backbone)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auto_map", {"AutoConfig": "someone/code--module.Class"}),
        ("trust_remote_code", True),
        ("_attn_implementation", "kernels-community/flash-attn"),
        ("attn_implementation", "kernels-community/flash-attn"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
    ],
)
def test_what_could_fetch_code_is_ignored_with_a_warning(folder, backbone, name, value, monkeypatch):
    said = []
    monkeypatch.setattr("any2point_hf.modeling.pulled_config.logger.warning", said.append)
    change(folder, **{name: value})
    if name != "quantization_config":
        change(folder, **{f"backbone_config__{name}": value})
    model = load(folder, backbone)
    assert any(name in line for line in said)
    config = Any2PointConfig.from_pretrained(folder)
    assert getattr(config, name, None) != value
    assert getattr(config.backbone_config, name, None) != value
    assert model.backbone.config._attn_implementation in ("sdpa", "eager")


def test_an_index_of_other_files_is_refused(folder, backbone):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    names = load_file(folder / "part.safetensors").keys()
    index = folder / "model.safetensors.index.json"
    change(folder, checksums=None)
    for file in ("pytorch_model.bin", "../elsewhere/part.safetensors"):
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, file)}))
        with pytest.raises(CheckpointError, match=r"must name files of this folder that end in \.safetensors"):
            load(folder, backbone)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}))
    load(folder, backbone)  # as earlier versions saved with max_shard_size


def test_an_adapter_larger_than_its_backbone_is_refused(folder, backbone):
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"any2point.more": torch.zeros(4100, 4100)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"smaller than its backbone, and \S+ has 16,\d+,\d+ parameters"):
        load(folder, backbone)


NEVER_MATCHED = "((.+)+)+!"  # each further letter of a name doubles the time


@pytest.mark.parametrize(
    "change_of",
    [
        *({"r": 10**9}, {"rank_pattern": {"query": 10**9}}, {"megatron_config": {"a": 1}}),
        *({"rank_pattern": {NEVER_MATCHED: 8}}, {"alpha_pattern": {NEVER_MATCHED: 8}}),
        *({"alpha_pattern": {".*.*.*!": 8}}, {"alpha_pattern": {f"a{number}": 8 for number in range(1000)}}),
        *({"lora_alpha": 1e300}, {"lora_alpha": float("nan")}, {"alpha_pattern": {"query": float("inf")}}),
    ],
)
def test_ranks_of_a_lora_are_those_of_its_tensors(make, backbone, tmp_path, change_of):
    make.model(backbone, head=True, lora=True).save_pretrained(tmp_path)
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change_of))
    with pytest.raises(CheckpointError, match="must describe the tensors beside it"):
        load(tmp_path, backbone)


@pytest.mark.parametrize(
    "change_of",
    [
        {"target_modules": NEVER_MATCHED},
        {"exclude_modules": NEVER_MATCHED},
        {"layers_pattern": NEVER_MATCHED, "layers_to_transform": [0]},
    ],
)
def test_the_layers_of_a_lora_are_those_of_its_tensors(make, backbone, tmp_path, change_of):
    model, points = make.model(backbone, head=True, lora=True).eval(), torch.rand(2, 128, 3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change_of))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["checksums"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        assert torch.equal(load(tmp_path, backbone).eval()(points).logits, model(points).logits)
