"""Tokens start at the size of the backbone's embeddings, and the aggregation at a twentieth of the tokens'."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointModel
from any2point_hf.modeling.numerics import start_scales
from any2point_hf.modeling.numerics.named_dropout import NamedDropout
from any2point_hf.modeling.numerics.start_scales import embedding_rms, made_up_clouds, rms

pytestmark = pytest.mark.usefixtures("one_thread")

SCALED = {"adapter_start": "scaled", "token_scale": "embedding"}
# A 1D one with norms before and after, rotary positions and relative biases; 2D ones with and without word embeddings.
BACKBONES = ["clip_text", "bert", "llama", "t5", "albert", "gemma2", "vit", "dinov2", "clip", "ast", "imagebind_audio"]


def new_model(make, family="bert", head=False, **settings):
    backbone = make.backbone(family) if isinstance(family, str) else family
    model_class = Any2PointForPointCloudClassification if head else Any2PointModel
    return model_class(Any2PointConfig(**{**make.small, **SCALED, **settings}), backbone=backbone)


def tokens_of(model, clouds):
    """The tokens that go into the first block, without positions, with the statistics of these clouds: [B, G, D]."""
    tokens = model.train().tokenizer(clouds)[0]
    return tokens if model.token_scale is None else model.token_scale(tokens)


def mean_cosine(tokens):
    """Of all pairs of tokens: [B, G, D] -> float."""
    directions = F.normalize(tokens.flatten(0, 1), dim=-1)
    count = len(directions)
    return float(((directions @ directions.T).sum() - count) / (count * (count - 1)))


def shares(model, clouds):
    """What each block's aggregation adds, as a share of its tokens' RMS."""
    found = []

    def look(_, inputs, output):
        found.append(float(rms(output - inputs[0]) / rms(inputs[0])))

    hooks = [part.register_forward_hook(look) for part in model.aggregations.values()]
    model.train()(clouds)
    for hook in hooks:
        hook.remove()
    return found


# Made-up clouds


def test_made_up_clouds_are_always_the_same_and_touch_the_unit_sphere():
    state = torch.get_rng_state()
    clouds = made_up_clouds(128)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(made_up_clouds(128), clouds)
    assert clouds.shape == (4, 128, 3)
    torch.testing.assert_close(clouds.norm(dim=-1).amax(dim=1), torch.ones(4))


def test_made_up_clouds_are_ellipsoids_and_boxes():
    *ellipsoids, first, second = made_up_clouds(500)
    for points in ellipsoids:  # a quadric: (x/a)² + (y/b)² + (z/c)² = 1
        solution = torch.linalg.lstsq(points.square(), torch.ones(500, 1))
        assert (points.square() @ solution.solution - 1).abs().max() < 1e-3
    for points in (first, second):
        on_a_side = (points.abs() / points.abs().amax(dim=0)) > 1 - 1e-5
        assert on_a_side.any(dim=1).all()


# Tokens


@torch.no_grad()
@pytest.mark.parametrize("family", BACKBONES)
def test_tokens_have_the_size_of_the_embeddings(make, family):
    model = new_model(make, family, adapter_start="modelnet")
    expected = embedding_rms(model.backbone, model.spec)
    assert rms(tokens_of(model, made_up_clouds(128))).item() == pytest.approx(expected, rel=0.05)
    assert rms(tokens_of(model, make.points(8))).item() == pytest.approx(expected, rel=0.35)  # of other clouds


@torch.no_grad()
def test_the_size_is_that_of_words_or_else_of_the_table(make):
    bert, vit = make.backbone("bert"), make.backbone("vit")
    spec = new_model(make, bert).spec
    assert embedding_rms(bert, spec) == pytest.approx(rms(bert.get_input_embeddings().weight).item())
    spec = new_model(make, vit).spec
    assert embedding_rms(vit, spec) == pytest.approx(rms(spec.table(vit)).item())


@torch.no_grad()
@pytest.mark.parametrize(("family", "factor"), [("gemma2", 48**0.5), ("gemma3", 48**0.5), ("granite", 3.0)])
def test_the_size_is_that_after_a_familys_own_factor(make, family, factor):
    model = new_model(make, family, token_scale="none", adapter_start="modelnet")
    if family == "granite":
        model.backbone.config.embedding_multiplier = factor
    words = rms(model.backbone.get_input_embeddings().weight).item()
    assert embedding_rms(model.backbone, model.spec) == pytest.approx(factor * words)


@torch.no_grad()
def test_a_last_projection_is_centred_and_nothing_else(make):
    clouds = made_up_clouds(128)
    centred, plain = (new_model(make, make.backbone("bert"), token_scale=scale) for scale in ("embedding", "none"))
    assert isinstance(centred.tokenizer.projection, torch.nn.Identity)  # 48 is a multiple of 24
    assert not centred.token_scale.center.any()
    wide = make.config("bert")
    wide.hidden_size, wide.num_attention_heads = 56, 4
    backbone = type(make.backbone("bert"))(wide)
    centred, plain = (new_model(make, backbone, token_scale=scale) for scale in ("embedding", "none"))
    assert isinstance(centred.tokenizer.projection, torch.nn.Linear)
    assert centred.token_scale.center.any()
    before, after = (tokens_of(model, clouds) for model in (plain, centred))
    assert mean_cosine(before) > 0.9
    assert abs(mean_cosine(after)) < 0.1
    assert (after.flatten(0, 1).mean(dim=0).abs() < 1e-3 * rms(after)).all()
    assert mean_cosine(tokens_of(centred, make.points(8))) < 0.6  # of other clouds
    assert plain.token_scale is None


@pytest.mark.filterwarnings("ignore:wav2vec2 has no positions")
@pytest.mark.parametrize("family", ["wav2vec2", "dinov3", "beit"])
def test_tokens_of_a_backbone_without_embeddings_stay_as_they_are(make, family):
    with pytest.warns(UserWarning, match="has neither word embeddings nor a table of positions"):
        model = new_model(make, family)
    assert (model.token_scale.scale, model.token_scale.center.abs().max()) == (1, 0)


# Aggregation


@torch.no_grad()
@pytest.mark.parametrize("family", BACKBONES)
def test_the_aggregation_starts_at_a_twentieth_of_the_tokens(make, family):
    model = new_model(make, family)
    on_its_own = shares(model, made_up_clouds(128))
    assert len(on_its_own) == 2
    assert on_its_own == pytest.approx([0.05] * 2, rel=0.02)
    for share in shares(model, make.points(8)):  # other clouds
        assert 0.03 < share < 0.07


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"token_scale": "none"},
        {"aggregation_scale": 2.0},
        {"aggregation_scale": 0.1},
        {"aggregation_scale": 0.1, "cell_pooling": "mean+max", "num_views": 6},
        {"cell_pooling": "mean+max"},
        {"ensemble": "mean"},
        {"aggregation": "3d"},
        {"adapter_blocks": [1]},
        {"adapter_blocks": 1},
        {"position_injection": "input+blocks"},
        {"adapter_dropout": 0.5},
    ],
    ids=str,
)
def test_it_does_so_with_every_setting(make, settings):
    model = new_model(make, "clip_text", **settings)
    found = shares(model, make.points(8))
    assert len(found) == len(model.adapted_blocks)
    assert all(0.03 < share < 0.07 for share in found)


@torch.no_grad()
def test_an_aggregation_of_no_weight_stays_finite(make):
    model = new_model(make, "clip_text", aggregation_scale=0.0)
    assert shares(model, make.points(8)) == [0.0, 0.0]
    assert all(part.view_norm.weight.isfinite().all() for part in model.aggregations.values())


@torch.no_grad()
def test_the_unit_of_c_is_the_size_of_the_blocks_tokens(make):
    model = new_model(make, "clip_text")
    for index, part in model.aggregations.items():
        inputs = []
        hook = part.register_forward_hook(lambda _, given, __, inputs=inputs: inputs.append(given[0]))
        model.train()(made_up_clouds(128))
        hook.remove()
        assert part.stream_rms.item() == pytest.approx(rms(inputs[0]).item(), rel=0.05), index


@pytest.mark.parametrize("settings", [{"backbone_blocks": 0}, {"adapter_blocks": 0}, {"aggregation": "none"}], ids=str)
def test_without_aggregation_only_tokens_are_scaled(make, settings):
    model = new_model(make, **settings)
    assert len(model.aggregations) == 0
    assert model.token_scale.scale != 1
    assert model(make.points()).pooler_output.isfinite().all()


def test_other_starts_measure_nothing(make, monkeypatch):
    monkeypatch.setattr(start_scales, "made_up_clouds", None)
    model = new_model(make, adapter_start="modelnet", token_scale="none")
    assert model.token_scale is None
    assert all(part.stream_rms is None for part in model.aggregations.values())


# What is left behind


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_nothing_else_is_changed(make, family):
    backbone = make.backbone(family)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    torch.manual_seed(3)
    plain = new_model(make, backbone, head=True, adapter_start="modelnet", token_scale="none")
    plain_random = torch.rand(())
    torch.manual_seed(3)
    model = new_model(make, backbone, head=True)
    assert torch.rand(()) == plain_random
    tensors, plain_tensors = model.state_dict(), plain.state_dict()
    added = tensors.keys() - plain_tensors.keys()
    assert {name.rpartition(".")[2] for name in added} == {"center", "scale", "stream_rms"}
    changed = [name for name, tensor in plain_tensors.items() if not torch.equal(tensor, tensors[name])]
    assert set(changed) == {f"any2point.aggregations.{block}.view_norm.weight" for block in range(2)}
    own = model.backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in before.items())
    assert all(not module._forward_hooks for module in model.any2point.aggregations.values())
    hooks = [sum(len(module._forward_hooks) for module in each.modules()) for each in (plain, model)]
    assert hooks[0] == hooks[1] == 2  # the bottlenecks
    assert [module.training for module in plain.modules()] == [
        module.training for name, module in model.named_modules() if not name.endswith("token_scale")
    ]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(buffer.requires_grad for buffer in model.buffers())
    trained = [{name for name, each in one.named_parameters() if each.requires_grad} for one in (plain, model)]
    assert trained[0] == trained[1]
    assert {module.key for module in model.modules() if isinstance(module, NamedDropout)} == {None}


def test_a_failure_leaves_no_hooks(make, monkeypatch):
    model = new_model(make, adapter_start="modelnet")
    model.config.adapter_start = "scaled"
    monkeypatch.setattr(type(model), "encode_positions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start_scales.start_scales(model)
    assert all(not part._forward_hooks for part in model.aggregations.values())


def test_the_same_seed_gives_the_same_scales(make):
    backbone = make.backbone("bert")
    found = []
    for seed in (0, 0):
        torch.manual_seed(seed)
        found.append(new_model(make, backbone).state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@torch.no_grad()
def test_what_was_found_is_saved_and_loading_measures_nothing(make, tmp_path, monkeypatch):
    backbone = make.backbone("bert")
    model = new_model(make, backbone, head=True).eval()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {name for name in saved if "token_scale" in name or "stream" in name} == {
        *("any2point.token_scale.center", "any2point.token_scale.scale"),
        *("any2point.aggregations.0.stream_rms", "any2point.aggregations.1.stream_rms"),
    }
    monkeypatch.setattr(start_scales, "made_up_clouds", None)
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path, backbone=backbone)
    tensors = loaded.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in saved.items())
    points = make.points()
    assert torch.equal(loaded(points).logits, model(points).logits)


@torch.no_grad()
def test_a_bfloat16_backbone_is_measured_as_well(make):
    backbone = make.backbone("clip_text").bfloat16()
    model = new_model(make, backbone)
    assert model.cls_token.dtype == torch.float32
    assert {tensor.dtype for name, tensor in model.named_buffers() if "scale" in name} == {torch.float32}
    size = embedding_rms(backbone, model.spec)
    assert rms(tokens_of(model, made_up_clouds(128))).item() == pytest.approx(size, rel=0.05)
    assert all(0.03 < share < 0.07 for share in shares(model, make.points(8)))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scales_follow_the_models_dtype(make, dtype):
    model = new_model(make, head=True).to(dtype)
    assert model(make.points().to(dtype)).logits.dtype == dtype
