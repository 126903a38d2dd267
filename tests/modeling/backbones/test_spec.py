import torch

from any2point_hf.modeling import Any2PointConfig, Any2PointModel
from any2point_hf.modeling.backbones.blocks import call_block, freeze_backbone
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.loading import share_backbone
from any2point_hf.modeling.backbones.spec import find, patch_size

NO_ADAPTERS = {"adapter_blocks": 0, "aggregation": "none"}


def frozen(backbone):
    shared = share_backbone(backbone)
    spec = backbone_spec(shared.config)
    freeze_backbone(shared, spec, None)
    return shared, spec


def run_blocks(backbone, spec, hidden):
    for block in find(backbone, spec.blocks):
        hidden = call_block(block, hidden)
    return hidden


def test_table_rows_are_those_of_the_backbone(make, family):
    shared, spec = frozen(make.backbone(family))
    skipped = {"roberta": 2, "vit": 1, "deit": 2, "dinov2": 1, "ast": 2, "imagebind_audio": 1}.get(family, 0)
    positions = find(shared, spec.positions)
    rows = positions.weight if hasattr(positions, "weight") else positions[0]
    table = spec.table(shared)
    assert torch.equal(table, rows[skipped:])
    assert not table.requires_grad
    assert len(table) == {"bert": 24, "roberta": 24, "clip_text": 20, "clip": 20}.get(family, len(rows) - skipped)
    if spec.modality == "2d":
        grid = spec.grid(shared.config)
        grids = {"vit": (3, 4), "deit": (4, 4), "dinov2": (4, 4), "ast": (2, 6), "imagebind_audio": (12, 19)}
        assert grid == grids[family]
        assert len(table) == grid[0] * grid[1]


def test_canvas_and_cells_follow_the_backbone(make, family):
    projection = make.model(family, **NO_ADAPTERS).projection
    if family in ("vit", "deit", "dinov2", "ast", "imagebind_audio"):
        canvas, cell = {
            "vit": ((32, 24), 2),
            "deit": ((32, 32), 2),
            "dinov2": ((28, 28), 2),
            "ast": ((96, 32), 5),  # columns are time, rows frequency; the grid times the patch size
            "imagebind_audio": ((304, 192), 16),
        }[family]
        assert (projection.width, projection.height) == canvas
    else:
        assert projection.length == {"bert": 24, "roberta": 24}.get(family, 20)
        cell = 2
    assert projection.cell_size == cell


def test_final_norm_keeps_the_backbone_s_eps_and_values(make):
    for family in ("vit", "clip_text", "dinov2", "ast"):
        backbone = make.backbone(family)
        model = Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)
        own = find(backbone, model.spec.final_norm)
        assert model.final_norm.eps == own.eps == backbone.config.layer_norm_eps
        assert torch.equal(model.final_norm.weight, own.weight)
        assert torch.equal(model.final_norm.bias, own.bias)
        assert model.final_norm.weight.data_ptr() != own.weight.data_ptr()
    assert make.model("bert").final_norm is None


def test_patch_sizes(make):
    assert patch_size(make.config("vit")) == (8, 8)
    assert patch_size(make.config("ast")) == (16, 16)
