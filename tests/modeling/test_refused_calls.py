import copy

import pytest
import torch

from any2point_hf.modeling import Any2PointError, Any2PointModel, CheckpointError, ConfigurationError

DynamicLinear = torch.ao.nn.quantized.dynamic.Linear


@pytest.fixture
def model(make):
    return make.model("bert", head=True, num_labels=3)


def ways_to_wrap(peft):
    lora = peft.LoraConfig(target_modules=["query"])
    return {
        "LoRA": lambda model: peft.get_peft_model(model, lora),
        "LoRA everywhere": lambda model: peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear")),
        "mixed": lambda model: peft.get_peft_model(model, lora, mixed=True),
        "PeftModel": lambda model: peft.PeftModel(model, lora),
        "injected": lambda model: peft.inject_adapter_in_model(lora, model),
        "IA3": lambda model: peft.get_peft_model(
            model, peft.IA3Config(target_modules=["query"], feedforward_modules=[])
        ),
        "norms": lambda model: peft.get_peft_model(model, peft.LNTuningConfig(target_modules=["norm1"])),
    }


@pytest.mark.parametrize("way", ["LoRA", "LoRA everywhere", "mixed", "PeftModel", "injected", "IA3", "norms"])
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:`is_gradient_checkpointing` is deprecated")
def test_peft_is_refused_before_it_changes_the_model(make, model, way):
    peft = pytest.importorskip("peft")
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for refusing in (model, model.any2point):
        with pytest.raises(Any2PointError, match=r"get_peft_model would freeze the adapters.*Use model\.add_lora"):
            ways_to_wrap(peft)[way](refusing)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    model.add_lora(peft.LoraConfig(target_modules=["query"]))
    assert sum("lora_" in name for name, p in model.named_parameters() if p.requires_grad) == 4


def test_who_only_looks_for_peft_finds_none(model):
    assert not model.peft_config  # loggers ask for it, and note what they find
    assert not copy.deepcopy(model).peft_config


def test_there_are_no_embeddings_to_resize(model):
    assert model.get_input_embeddings() is None
    with pytest.raises(ConfigurationError, match=r"no input embeddings.*none to resize"):
        model.resize_token_embeddings(100)


@pytest.mark.parametrize("settings", [{}, {"aggregation": "3d", "token_scale": "embedding"}, {"num_point_features": 2}])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
@torch.no_grad()
def test_quantize_dynamic(make, settings, tmp_path):
    model = make.model("bert", head=True, num_labels=3, **settings)
    quantized = torch.ao.quantization.quantize_dynamic(model)
    kinds = [sum(type(module) is kind for module in quantized.modules()) for kind in (torch.nn.Linear, DynamicLinear)]
    assert kinds == [0, sum(isinstance(module, torch.nn.Linear) for module in model.modules())]
    points = make.points()
    features = torch.rand(2, 128, 2) if settings.get("num_point_features") else None
    found, expected = (one(points, features).pooler_output for one in (quantized, model))
    assert 0 < (found - expected).norm() / expected.norm() < 0.1
    model.save_pretrained(tmp_path / "adapter")
    saved = (tmp_path / "adapter" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"are quantised, such as .*Save the model before quantize_dynamic"):
        quantized.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "model.safetensors").read_bytes() == saved


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
@torch.no_grad()
def test_adapters_on_a_backbone_that_was_quantised_dynamically(make, tmp_path):
    backbone = make.backbone("bert")
    model = make.model(backbone)
    model.save_pretrained(tmp_path)
    quantized = torch.ao.quantization.quantize_dynamic(backbone)
    loaded = Any2PointModel.from_pretrained(tmp_path, backbone=quantized)
    points = make.points()
    expected, found = model(points).pooler_output, loaded(points).pooler_output
    assert 0 < (found - expected).norm() / expected.norm() < 0.1
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
