import pickle

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    Any2PointModelOutput,
    PointCloudError,
)
from any2point_hf.modeling.backbones.blocks import call_block
from any2point_hf.modeling.backbones.loading import share_backbone
from any2point_hf.modeling.backbones.spec import find

VARIANTS = {
    "default": {},
    "deviation": {"neighborhood_norm": "deviation"},
    "before every block": {"position_injection": "blocks"},
    "input and blocks": {"position_injection": "input+blocks"},
    "sinusoidal": {"position_encoding": "sinusoidal"},
    "learnable": {"position_encoding": "learnable"},
    "no positions": {"position_encoding": "none"},
    "3d cells": {"aggregation": "3d"},
    "no aggregation": {"aggregation": "none"},
    "mean ensemble": {"ensemble": "mean"},
    "mean+max": {"cell_pooling": "mean+max"},
    "large cells": {"cell_size": 9, "voxel_size": 0.9},
    "orthographic": {"projection": "orthographic"},
    "ten views": {"num_views": 10},
    "before": {"adapter_placement": "before"},
    "parallel": {"adapter_placement": "parallel"},
    "one block": {"adapter_blocks": 1},
    "cls first": {"pooling": ["cls", "max"], "head_bias": True},
}


@pytest.fixture(params=list(VARIANTS))
def variant(request):
    return VARIANTS[request.param]


# The whole forward, from docs/method.md


def positions_and_cells(naive, model, cloud, encoding, aggregation):
    """Encodings [G, D], cells of each view [M][G] and voxels [G] of one cloud's centres."""
    config, table = model.config, model.spec.table(model.backbone).numpy()
    num_views, state = config.num_views, {n: t.numpy() for n, t in model.state_dict().items()}
    if model.modality == "1d":
        coordinates = naive.line_coordinates(cloud, num_views, (1, -1, 0), len(table))
        each_view = [[naive.read_line(table, c) for c in view] for view in coordinates]
        cells = naive.line_cells(coordinates, config.cell_size or 2)
    else:
        grid = {"vit": (3, 4), "dinov2": (4, 4)}[config.backbone_config.model_type]
        patch = config.backbone_config.patch_size
        canvas = (grid[1] * patch, grid[0] * patch)
        coordinates = naive.plane_coordinates(cloud, num_views, *canvas, 1.4, config.projection == "orthographic")
        each_view = [[naive.read_plane(table, pixel, canvas, grid) for pixel in view] for view in coordinates]
        cells = naive.plane_cells(coordinates, config.cell_size or 2)  # ⌈28 / 20⌉ and ⌈32 / 20⌉
    voxels = naive.voxels(cloud, config.voxel_size)
    if encoding == "virtual":
        positions = np.mean(each_view, axis=0)
    elif encoding == "sinusoidal":
        positions = np.stack([naive.geometry_encoding(center, 48) for center in cloud])
    elif encoding == "learnable":
        inner = naive.gelu(naive.linear(cloud, state, "learnable_encoding.0"))
        positions = naive.linear(inner, state, "learnable_encoding.2")
    else:
        positions = None
    return positions, [voxels] * num_views if aggregation == "3d" else cells, voxels


def adapted_block(naive, family, block, hidden, adapter):
    """One block of the caller's own backbone, its parts one by one: `adapter` maps f to s·A(f)."""
    hidden = torch.from_numpy(hidden)
    if family == "bert":  # post-norm: the sum is normed
        attended = block.attention(hidden)[0]
        f = block.output.dense(block.intermediate(attended))
        return block.output.LayerNorm(attended + f + torch.from_numpy(adapter(f.numpy()))).numpy()
    if family == "dinov2":
        attended = hidden + block.layer_scale1(block.attention(block.norm1(hidden))[0])
        f = block.layer_scale2(block.mlp(block.norm2(attended)))
    else:
        attended = hidden + block.attention(block.layernorm_before(hidden))[0]
        f = block.mlp(block.layernorm_after(attended))
    return (attended + f).numpy() + adapter(f.numpy())


@torch.no_grad()
def naive_forward(naive, make, model, backbone, points):
    """Hidden states before and after each block, last hidden state and feature."""
    config, state, family = model.config, make.arrays(model), model.config.backbone_config.model_type
    clouds = points.numpy()
    if config.sampling_start == "farthest":
        clouds = np.stack([naive.in_own_order(cloud) for cloud in clouds])
    tokens, centers = naive.tokenize(clouds, state, config.num_neighbors, config.neighborhood_norm, "tokenizer.")
    found = [
        positions_and_cells(naive, model, cloud, config.position_encoding, config.aggregation) for cloud in centers
    ]
    cls = np.tile(state["cls_token"], (len(tokens), 1, 1))
    hidden = np.concatenate([cls, tokens], axis=1)
    positions = 0
    if config.position_encoding != "none":
        positions = np.stack([np.concatenate([state["cls_position"][0], each]) for each, _, _ in found])
    if config.position_injection != "blocks":
        hidden = hidden + positions
    if family == "bert":
        norm = backbone.embeddings.LayerNorm
        hidden = naive.layer_norm(hidden, norm.weight.numpy(), norm.bias.numpy(), norm.eps)
    states = [hidden]
    attention = {n.removeprefix("local_attention."): v for n, v in state.items() if n.startswith("local_attention.")}
    blocks = find(backbone, model.spec.blocks)
    for index, block in enumerate(blocks):
        if config.position_injection != "input":
            hidden = hidden + positions
        adapted = config.adapter_blocks is None or index < config.adapter_blocks
        adapter = np.zeros_like
        if adapted:
            adapter = lambda f, i=index: naive.bottleneck(f, state, f"bottlenecks.{i}", config.adapter_scale)  # noqa: E731
        hidden = adapted_block(naive, family, block, hidden, adapter)
        if adapted and config.aggregation != "none":
            prefix = f"aggregations.{index}."
            norms = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            aggregated = naive.aggregate(
                hidden[:, 1:],
                [cells for _, cells, _ in found],
                [voxels for _, _, voxels in found],
                norms,
                attention,
                config.aggregation_scale,
                config.cell_pooling == "mean+max",
                config.ensemble == "adaptive",
            )
            hidden = np.concatenate([hidden[:, :1], aggregated], axis=1)
        states.append(hidden)
    if family != "bert":
        eps = backbone.config.layer_norm_eps
        hidden = naive.layer_norm(hidden, state["final_norm.weight"], state["final_norm.bias"], eps)
    pooled = {"max": hidden[:, 1:].max(axis=1), "cls": hidden[:, 0]}
    return centers, states, hidden, np.concatenate([pooled[name] for name in config.pooling], axis=-1)


WHOLE = [("bert", name) for name in VARIANTS if name not in ("before", "parallel", "ten views", "orthographic")]
WHOLE += [("dinov2", name) for name in VARIANTS if name not in ("before", "parallel", "ten views")]
WHOLE += [("vit", "default")]


@pytest.mark.parametrize(("family", "variant"), WHOLE, ids=lambda value: str(value).replace(" ", "_"))
@torch.no_grad()
def test_the_whole_forward_is_the_naive_one(naive, make, family, variant):
    # ViT's canvas is not square. Cells of 2 hold one to three of the 16 tokens, large cells up to all of them.
    backbone = make.backbone(family).double()
    model = make.model(backbone, **VARIANTS[variant]).double()
    points = make.points(2).double()
    found = model(points, output_hidden_states=True)
    centers, states, hidden, feature = naive_forward(naive, make, model, backbone, points)
    np.testing.assert_array_equal(found.point_centers, centers)
    assert len(found.hidden_states) == len(states) == 3
    for ours, expected in zip(found.hidden_states, states, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-8)
    np.testing.assert_allclose(found.last_hidden_state, hidden, atol=1e-8)
    np.testing.assert_allclose(found.pooler_output, feature, atol=1e-8)


# Outputs


@pytest.mark.parametrize("family", ["bert", "clip_text", "vit", "ast"])
@torch.no_grad()
def test_output_contract(make, family, variant):
    model = make.model(family, **variant)
    points = make.points(2)
    output = model(points, output_hidden_states=True)
    assert type(output) is Any2PointModelOutput
    assert output.last_hidden_state.shape == (2, 17, 48)
    assert output.point_centers.shape == (2, 16, 3)
    farthest = (points - points.mean(dim=1, keepdim=True)).norm(dim=-1).argmax(dim=1)
    assert torch.equal(output.point_centers[:, 0], points[torch.arange(len(points)), farthest])
    cls, largest = output.last_hidden_state[:, 0], output.last_hidden_state[:, 1:].amax(dim=1)
    expected = [cls, largest] if variant.get("pooling") else [largest, cls]
    assert torch.equal(output.pooler_output, torch.cat(expected, dim=-1))
    assert len(output.hidden_states) == 3
    last = output.hidden_states[-1]
    assert torch.equal(output.last_hidden_state, last if model.final_norm is None else model.final_norm(last))
    assert output.attentions is None
    assert output.last_hidden_state.isfinite().all()


@torch.no_grad()
def test_config_may_ask_for_hidden_states(make):
    model = make.model("vit")
    model.config.output_hidden_states = True
    assert len(model(make.points()).hidden_states) == 3
    assert model(make.points(), output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("injection", ["input", "blocks", "input+blocks"])
@pytest.mark.parametrize("family", ["bert", "vit", "clip_text"])
@torch.no_grad()
def test_position_injection_by_replay(make, family, injection):
    model = make.model(family, position_injection=injection, adapter_blocks=0)
    points = make.points(2)
    states = model(points, output_hidden_states=True).hidden_states
    tokens, centers = model.tokenizer(points)
    coordinates = model.projection(centers)
    encoding = model.projection.encode(coordinates, model.spec.table(model.backbone))
    positions = torch.cat([model.cls_position.expand(2, -1, -1), encoding], dim=1)
    hidden = torch.cat([model.cls_token.expand(2, -1, -1), tokens], dim=1)
    hidden = hidden + positions if "input" in injection else hidden
    if family == "bert":
        hidden = model.backbone.embeddings.LayerNorm(hidden)
    blocks = find(share_backbone(model.backbone), model.spec.blocks)
    for index in range(2):
        torch.testing.assert_close(states[index], hidden, atol=1e-6, rtol=0)
        hidden = call_block(blocks[index], hidden + positions if "blocks" in injection else hidden)
    torch.testing.assert_close(states[2], hidden, atol=1e-5, rtol=0)


@torch.no_grad()
def test_positions_none_knows_no_positions(make):
    model = make.model("vit", position_encoding="none", position_injection="input+blocks")
    assert model.cls_position is None
    points = make.points(2)
    tokens, _ = model.tokenizer(points)
    first = model(points, output_hidden_states=True).hidden_states[0]
    assert torch.equal(first, torch.cat([model.cls_token.expand(2, -1, -1), tokens], dim=1))


@torch.no_grad()
def test_aggregation_leaves_cls_alone_and_3d_uses_voxels(make):
    model = make.model("vit", aggregation="3d")
    points = make.points(2)
    states = model(points, output_hidden_states=True).hidden_states
    block = call_block(model.backbone.layers[0], states[0])
    torch.testing.assert_close(states[1][:, 0], block[:, 0], atol=1e-6, rtol=0)
    assert (states[1][:, 1:] - block[:, 1:]).abs().amax(dim=-1).min() > 1e-3
    _, centers = model.tokenizer(points)
    found = model.find_neighborhoods(centers, model.projection(centers))
    assert torch.equal(found.views.numbers, found.voxels.numbers.expand(-1, 3, -1))
    assert make.model("vit", aggregation="none").find_neighborhoods(centers, model.projection(centers)) is None


# One cloud, one answer


@torch.no_grad()
def test_a_cloud_s_logits_do_not_depend_on_its_batch(make, variant):
    for family in ("clip_text", "dinov2"):
        model = make.model(family, head=True, num_labels=4, **variant)
        points = make.points(4)
        logits = model(points).logits
        alone = torch.cat([model(cloud[None]).logits for cloud in points])
        torch.testing.assert_close(alone, logits, atol=1e-5, rtol=0)
        order = torch.tensor([3, 1, 0, 2, 1, 1])  # another order, size, and duplicates
        torch.testing.assert_close(model(points[order]).logits, logits[order], atol=1e-5, rtol=0)
        assert (logits[0] - logits[1]).abs().max() > 1e-3  # and clouds do differ


@torch.no_grad()
def test_evaluation_leaves_no_trace(make):
    model = make.model("bert", head=True)
    before = make.arrays(model)
    points = make.points(2)
    first = model(points).logits
    assert torch.equal(model(points).logits, first)
    for name, value in make.arrays(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@torch.no_grad()
def test_clouds_of_any_size(make):
    model = make.model("vit", num_neighbors=81, head=True)
    for size in (64, 100, 333):
        assert model(make.points(1, size)).last_hidden_state.shape == (1, 1 + size // 8, 48)
        assert model(make.points(1, size)).logits.isfinite().all()
    assert model(torch.ones(2, 64, 3)).logits.isfinite().all()


@torch.no_grad()
def test_points_are_left_alone_and_may_be_of_any_float(make):
    model = make.model("vit")
    points = make.points(2)
    before = points.clone()
    single = model(points).pooler_output
    assert torch.equal(points, before)
    torch.testing.assert_close(model(points.double()).pooler_output, single)
    assert model(points.half()).pooler_output.dtype == torch.float32


@pytest.mark.parametrize("family", ["bert", "dinov2"])
def test_autocast_works_and_stays_near(make, family):
    model = make.model(family, head=True, num_labels=3)
    points = make.points(4)
    with torch.no_grad():
        expected = model(points).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(points).logits
    assert 0 < (found - expected).abs().max() < 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.train()(points, labels=torch.tensor([0, 1, 2, 0])).loss
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_a_pickled_model_is_the_same(make):
    model, points = make.model("bert", head=True), make.points(2)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(points).logits, model(points).logits)


def test_one_config_makes_models_of_several_backbones(make):
    config = Any2PointConfig(**make.small)
    models = [Any2PointModel(config, backbone=make.backbone(name)) for name in ("vit", "bert")]
    recorded = [(m.modality, m.config.backbone_config.model_type) for m in models]
    assert recorded == [("2d", "vit"), ("1d", "bert")]
    assert config.to_dict() == Any2PointConfig(**make.small).to_dict()  # the caller's own is left alone


# Loss and input errors


@pytest.mark.parametrize(
    ("points", "rule"),
    [
        (torch.zeros(2, 128, 2), r"\[B, N, 3\], got \[2, 128, 2\]"),
        (torch.zeros(128, 3), r"\[B, N, 3\], got \[128, 3\]"),
        (torch.zeros(1, 3, 128), r"\[B, N, 3\], got \[1, 3, 128\]"),
        (np.zeros((2, 128, 3)), r"\[B, N, 3\], got ndarray"),
        (torch.zeros(2, 128, 3).long(), "floating point, got torch.int64"),
        (torch.zeros(0, 128, 3), "at least one cloud"),
        (torch.zeros(2, 3, 3), "at least 64 points, got 3"),
        (torch.zeros(2, 63, 3), "at least 64 points, got 63"),
    ],
)
def test_wrong_points_are_refused(make, points, rule):
    for head in (False, True):
        with pytest.raises(PointCloudError, match=rule):
            make.model("vit", head=head)(points)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_not_finite_are_refused_by_cloud(make, value):
    points = make.points(3)
    points[1, 5, 2] = value
    with pytest.raises(PointCloudError, match=r"NaN or infinity in clouds \[1\]"):
        make.model("vit")(points)


# What is trained


def test_trained_parameters_are_those_of_the_spec(make, family):
    model = make.model(family, head=True, num_labels=3)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "backbone." not in name}
    roots = {name.removeprefix("any2point.").split(".")[0] for name in trained}
    expected = {"tokenizer", "cls_token", "cls_position", "bottlenecks", "aggregations", "local_attention"}
    expected |= {"classifier"} if family in ("bert", "roberta") else {"classifier", "final_norm"}
    assert roots == expected
    per_block = {name.split(".", 3)[-1] for name in trained if "aggregations." in name}
    assert per_block == {f"{norm}.{part}" for norm in ("view_norm", "voxel_norm") for part in ("weight", "bias")}
    assert model.any2point.local_attention.norm_weight.shape == (3, 48)  # one for all blocks, of each view


def clip_text_large(**settings):
    backbone = CLIPTextConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=8, vocab_size=8,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    config = Any2PointConfig(backbone_config=backbone, num_neighbors=81, adapter_dim=16, num_labels=15, **settings)
    with torch.device("meta"):  # without its backbone
        return Any2PointForPointCloudClassification(config)


def test_parameter_counts_are_the_published_ones():
    model = clip_text_large()

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(model.any2point) == 948312
    assert count(model.classifier) == 463631
    assert count(model.any2point.tokenizer) == 276672
    assert count(model.any2point.bottlenecks) == 304320
    assert count(model.any2point.final_norm) == 1536
    assert model.any2point.cls_token.numel() + model.any2point.cls_position.numel() == 1536
    assert count(model.any2point.local_attention) == 226008 + 9216
    assert count(model.any2point.aggregations) == 129024
    assert count(clip_text_large(head_bias=True).classifier) == 463631 + 512


def test_a_new_model_starts_in_training_mode_and_its_backbone_never_does(make):
    model = Any2PointForPointCloudClassification(Any2PointConfig(**make.small), backbone=make.backbone("vit"))
    for mode in (True, False, True):
        model.train(mode)
        assert model.any2point.tokenizer.training == model.classifier.training == mode
        assert not any(module.training for module in model.backbone.modules())
