"""Backbones in half precision, placed by accelerate, or quantised, under adapters in single precision."""

import json

import pytest
import torch

from any2point_hf.modeling import Any2PointForPointCloudClassification

pytestmark = pytest.mark.usefixtures("one_thread")


def torchao_int8():
    try:
        from torchao.quantization import Int8WeightOnlyConfig
    except Exception as error:  # its binaries fail in many ways beside another torch
        pytest.skip(f"torchao is not here: {error}")
    from transformers import TorchAoConfig

    return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}


def bitsandbytes_int8():
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("bitsandbytes is tried on a GPU")
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": 0}}


OPTIONS = {
    "bfloat16": lambda: {"dtype": torch.bfloat16},
    "auto": lambda: {"device_map": "auto"},
    "torchao": torchao_int8,
    "bitsandbytes": bitsandbytes_int8,
}


@pytest.mark.parametrize("family", ["bert", "llama", "dinov2"])
@pytest.mark.parametrize("option", OPTIONS)
def test_adapters_on_a_backbone_in_another_form(make, family, option, tmp_path):
    backbone_kwargs = OPTIONS[option]()
    make.backbone(family).save_pretrained(tmp_path / "backbone")
    plain = make.model(make.backbone(family), head=True, num_labels=3)
    plain.config.backbone = str(tmp_path / "backbone")
    plain.save_pretrained(tmp_path / "adapter")
    load = Any2PointForPointCloudClassification.from_pretrained
    plain = load(tmp_path / "adapter")
    model = load(tmp_path / "adapter", backbone_kwargs=backbone_kwargs)
    device = next(model.backbone.parameters()).device
    model.to(device)
    points = make.points().to(device)
    with torch.no_grad():
        found, expected = model(points).pooler_output.cpu(), plain(points.cpu()).pooler_output
    assert found.dtype == model.dtype == torch.float32
    error = (found - expected).norm() / expected.norm()
    assert error < (0.05 if option != "auto" else 1e-6)

    model.save_pretrained(tmp_path / "again")
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (tmp_path / "adapter" / "model.safetensors").read_bytes()
    recorded = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("adapter", "again")]
    for config in recorded:
        config["backbone_config"].pop("dtype", None)
    assert recorded[0] == recorded[1]

    model.train()(points, labels=torch.tensor([0, 1], device=device)).loss.backward()
    for name, parameter in model.named_parameters():
        if "backbone." in name:
            assert parameter.grad is None, name
        else:
            assert parameter.dtype == torch.float32, name
            assert parameter.grad.isfinite().all(), name
