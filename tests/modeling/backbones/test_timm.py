import pytest
import torch
from transformers import TimmWrapperConfig

from any2point_hf.modeling import Any2PointConfig, Any2PointModel, UnsupportedBackboneError
from any2point_hf.modeling.backbones.loading import build_backbone

TINY = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 4}


@pytest.fixture
def timm():
    try:
        import timm
    except Exception as error:  # torchvision, which it imports, fails in many ways beside another torch
        pytest.skip(f"timm is not here: {error}")
    return timm


def make_config(architecture, **changes):
    return TimmWrapperConfig(architecture=architecture, model_args={**TINY, **changes})


@pytest.mark.parametrize(
    ("architecture", "changes", "rows"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 8}, 4),
        ("deit_tiny_distilled_patch16_224", {"patch_size": 8}, 4),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 8, "init_values": 0.5}, 4),
        ("eva02_tiny_patch14_224", {"patch_size": 8}, 4),
    ],
)
def test_vision_transformers_of_timm(timm, make, tmp_path, architecture, changes, rows):
    backbone = build_backbone(make_config(architecture, **changes)).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = make.model(backbone)
    assert model.projection.grid == (rows, rows)
    assert torch.equal(model.spec.table(model.backbone), backbone.timm_model.pos_embed[0, -rows * rows :])
    assert model.spec.feed_forward[1] == ("mlp" if "eva" in architecture else "ls2")
    points = make.points()
    outputs = model.train()(points)
    outputs.last_hidden_state.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.backbone.parameters())
    model.eval()
    with torch.no_grad():
        expected = model(points).last_hidden_state
        model.save_pretrained(tmp_path)
        loaded = Any2PointModel.from_pretrained(tmp_path, backbone=backbone)
        torch.testing.assert_close(loaded(points).last_hidden_state, expected)


def test_beit_of_timm_runs_without_its_biases(timm, make):
    backbone = build_backbone(make_config("beit_base_patch16_224", patch_size=8)).eval()
    with pytest.warns(UserWarning, match="timm_wrapper has no positions that a point could be given"):
        model = make.model(backbone)
    assert model(make.points()).last_hidden_state.isfinite().all()
    assert backbone.timm_model.blocks[0].attn.relative_position_bias_table is not None  # the caller's own stays


@pytest.mark.parametrize("architecture", ["mixer_s16_224", "swin_tiny_patch4_window7_224", "resnet18"])
def test_other_architectures_of_timm_are_refused(timm, architecture):
    backbone = build_backbone(TimmWrapperConfig(architecture=architecture))
    with pytest.raises(UnsupportedBackboneError, match=f"only vision transformers.*got '{architecture}'"):
        Any2PointModel(Any2PointConfig(), backbone=backbone)


def test_without_timm_it_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("transformers.models.timm_wrapper.modeling_timm_wrapper.requires_backends", fail, raising=False)
    with pytest.raises(UnsupportedBackboneError, match="needs timm"):
        Any2PointModel(Any2PointConfig(backbone_config=TimmWrapperConfig(architecture="vit_tiny_patch16_224")))


def fail(*_):
    raise ImportError("timm is not installed")
