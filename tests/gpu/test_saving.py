"""What is saved from the GPU loads on the CPU, and the other way round."""

import pytest
import torch

from any2point_hf.modeling import Any2PointForPointCloudClassification


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_saved_model_gives_the_same_logits_on_either_device(family, tools, device, tmp_path):
    model, points = tools.model(family).to(device).eval(), tools.batch()[0]
    logits = model(points.to(device)).logits.cpu()
    model.save_pretrained(tmp_path)
    backbone = tools.model(family).backbone
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path, backbone=backbone)
    assert {tensor.device.type for tensor in loaded.parameters()} == {"cpu"}
    torch.testing.assert_close(loaded(points).logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loaded.to(device)(points.to(device)).logits.cpu(), logits, atol=1e-4, rtol=1e-4)
