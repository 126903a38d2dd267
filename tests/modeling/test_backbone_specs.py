import re

import pytest
import torch
from transformers import GPT2Config, SwinConfig, T5Config

from any2point_hf.modeling import Any2PointConfig, Any2PointModel, UnsupportedBackboneError
from any2point_hf.modeling.backbone import call_block, freeze_backbone, share_backbone
from any2point_hf.modeling.backbone_detector import backbone_spec
from any2point_hf.modeling.backbone_specs import find, patch_size
from any2point_hf.modeling.backbone_table import BACKBONES

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


@torch.no_grad()
def test_our_block_loop_is_the_native_forward(make, family):
    shared, spec = frozen(make.backbone(family))
    captured = []

    def capture(block, args, kwargs):
        if kwargs.get("attention_mask") is not None:  # a causal family's mask; the method has none
            kwargs["attention_mask"] = None
        kwargs.pop("is_causal", None)
        captured.append(args[0])
        return args, kwargs

    handles = [block.register_forward_pre_hook(capture, with_kwargs=True) for block in find(shared, spec.blocks)]
    native = shared(**make.native_inputs(shared)).last_hidden_state
    for handle in handles:
        handle.remove()
    hidden = run_blocks(shared, spec, captured[0])
    if spec.final_norm is not None:
        hidden = find(shared, spec.final_norm)(hidden)
    torch.testing.assert_close(hidden, native, atol=1e-6, rtol=0)


@torch.no_grad()
def test_native_embeddings_are_tokens_plus_our_table(make, family):
    # Moving the rows of the table that we read moves exactly the native input of block 0, position by position.
    shared, spec = frozen(make.backbone(family))
    captured = []
    first = find(shared, spec.blocks)[0]
    first.register_forward_pre_hook(lambda _m, args: captured.append(args[0].clone()))
    norm = None if spec.input_norm is None else find(shared, spec.input_norm)
    if norm is not None:
        norm.register_forward_hook(lambda _m, args, _o: args[0])  # look before the norm
    inputs = make.native_inputs(shared)
    shared(**inputs)
    table = spec.table(shared)
    length = captured[0].shape[1]
    before = captured[0][:, -len(table) :]
    first_row = length - before.shape[1]
    shift = torch.randn_like(table)
    table += shift
    shared(**inputs)
    after = captured[1][:, -len(table) :]
    torch.testing.assert_close(after - before, shift[: before.shape[1]].expand_as(before), atol=1e-5, rtol=0)
    assert torch.equal(captured[0][:, :first_row], captured[1][:, :first_row])  # prefix tokens have other rows


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


def test_sampled_encoding_is_the_table_at_grid_points(make, family):
    model = make.model(family, **NO_ADAPTERS, num_views=1)
    table = model.spec.table(model.backbone)
    if model.modality == "1d":
        coordinates = torch.arange(float(model.projection.length)).view(1, 1, -1, 1)
        expected = table[: model.projection.length]
    else:
        rows, columns = model.projection.grid
        x = torch.linspace(0, model.projection.width - 1, columns)
        y = torch.linspace(0, model.projection.height - 1, rows)
        coordinates = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(1, 1, -1, 2)
        expected = table
    torch.testing.assert_close(model.projection.encode(coordinates, table)[0], expected, atol=1e-5, rtol=0)


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


@torch.no_grad()
def test_every_token_attends_to_every_other(make, family):
    shared, spec = frozen(make.backbone(family))
    hidden = torch.randn(2, 9, 48)
    changed = hidden.clone()
    changed[0, -1] = torch.randn(48)
    moved = (run_blocks(shared, spec, changed) - run_blocks(shared, spec, hidden)).abs().amax(dim=-1)
    assert (moved[0] > 1e-4).all()  # CLS and token 1 included
    assert (moved[1] == 0).all()


@torch.no_grad()
def test_blocks_know_no_order(make, family):
    shared, spec = frozen(make.backbone(family))
    hidden, order = torch.randn(1, 9, 48), torch.cat([torch.zeros(1).long(), 1 + torch.randperm(8)])
    outputs = run_blocks(shared, spec, hidden)
    torch.testing.assert_close(run_blocks(shared, spec, hidden[:, order]), outputs[:, order], atol=1e-5, rtol=0)


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


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=30),
        SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 1], window_size=4),
        T5Config(d_model=48, num_layers=2, num_heads=4, vocab_size=30),
    ],
    ids=lambda config: config.model_type,
)
def test_unsupported_families_are_refused_with_those_supported(config):
    with pytest.raises(UnsupportedBackboneError, match=f"got '{config.model_type}'") as raised:
        Any2PointModel(Any2PointConfig(backbone_config=config))
    for name in [*BACKBONES, "clip"]:
        assert re.search(rf"\b{name}\b", str(raised.value))


def test_patch_sizes(make):
    assert patch_size(make.config("vit")) == (8, 8)
    assert patch_size(make.config("ast")) == (16, 16)
