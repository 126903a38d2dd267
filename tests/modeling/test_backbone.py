import copy
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, GPT2Config, GPT2Model

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    BackboneLoadError,
    UnsupportedBackboneError,
)
from any2point_hf.modeling.backbone import (
    build_backbone,
    check_same_family,
    freeze_backbone,
    load_backbone,
    load_backbone_config,
    share_backbone,
)
from any2point_hf.modeling.backbone_detector import backbone_spec
from any2point_hf.modeling.backbone_specs import find
from any2point_hf.modeling.bottleneck_hook import BottleneckHook
from any2point_hf.modeling.errors import CheckpointError
from any2point_hf.modeling.towers import tower_config

NO_ADAPTERS = {"adapter_blocks": 0, "aggregation": "none"}


def bottleneck_hooks(module):
    return [
        hook
        for part in module.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks)
        for hook in hooks.values()
        if isinstance(hook, BottleneckHook)
    ]


def test_long_tables_give_lines_of_77(make):
    config = make.config("bert")
    config.max_position_embeddings = 100
    model = Any2PointModel(Any2PointConfig(backbone_config=config, **NO_ADAPTERS))
    assert model.projection.length == 77
    assert make.model(model.backbone, line_length=90, **NO_ADAPTERS).projection.length == 90
    with pytest.raises(ValueError, match="line_length must not exceed the backbone's 100 positions, got 101"):
        make.model(model.backbone, line_length=101, **NO_ADAPTERS)


def test_overrides_of_the_canvas(make):
    projection = make.model("vit", plane=[40, 60], cell_size=7, camera_distance=1.8, **NO_ADAPTERS).projection
    assert (projection.width, projection.height, projection.cell_size) == (40, 60, 7)
    assert projection.camera_distance == 1.8


def test_modality_may_be_overridden_where_it_makes_sense(make):
    model = make.model("vit", modality="1d")
    assert model.projection.length == 12
    assert model(make.points()).last_hidden_state.isfinite().all()
    with pytest.raises(ValueError, match=r"grid.*bert"):
        make.model("bert", modality="2d")


def test_freezing_switches_weights_training_and_causality_off(make):
    shared = share_backbone(make.backbone("clip_text"))
    shared.train()
    for layer in shared.encoder.layers:
        layer.self_attn.is_causal = True
    freeze_backbone(shared, backbone_spec(shared.config), 0.25)
    assert not any(module.training for module in shared.modules())
    assert not any(parameter.requires_grad for parameter in shared.parameters())
    assert [layer.self_attn.is_causal for layer in shared.encoder.layers] == [False, False]
    assert {layer.layer_norm2.eps for layer in shared.encoder.layers} == {0.25}


@torch.no_grad()
def test_whole_model_does_not_know_the_order_of_points(make, family):
    model = make.model(family)
    points = make.points(1)
    order = torch.cat([torch.zeros(1).long(), 1 + torch.randperm(127)])  # sampling starts at the first point
    found, expected = model(points[:, order]), model(points)
    torch.testing.assert_close(found.point_centers, expected.point_centers)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=0)


def test_gradients_reach_every_adapter_and_no_backbone_parameter(make, family):
    torch.manual_seed(1)
    model = make.model(family, head=True, num_labels=3).train()
    assert not model.backbone.training
    model(make.points(4), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    for name, parameter in model.named_parameters():
        if "backbone." in name:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if name.endswith("weight"):
                assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_save_and_load_give_the_same_logits(make, family, tmp_path):
    backbone = make.backbone(family)
    backbone.save_pretrained(tmp_path / "backbone")
    model = make.model(backbone, head=True, num_labels=3)
    model.save_pretrained(tmp_path / "adapter")
    points = make.points()
    expected = model(points).logits
    for given in (backbone, tmp_path / "backbone", str(tmp_path / "backbone")):
        loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "adapter", backbone=given)
        assert not loaded.training
        torch.testing.assert_close(loaded(points).logits, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_recorded_folder_is_found_again(make, tmp_path, monkeypatch):
    make.backbone("bert").save_pretrained(tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    config = Any2PointConfig(**make.small, backbone="backbone", num_labels=3)
    model = make.randomize(Any2PointForPointCloudClassification(config)).eval()
    assert model.config.backbone_config.model_type == "bert"
    model.save_pretrained("adapter")
    monkeypatch.chdir("/")
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "adapter")
    points = make.points()
    assert torch.equal(loaded(points).logits, model(points).logits)


@pytest.mark.parametrize("family", ["bert", "vit", "clip_text", "dinov2"])
def test_a_half_precision_backbone_works_under_single_precision_adapters(make, family):
    backbone = make.backbone(family)
    model = make.model(backbone)
    half = Any2PointModel(model.config, backbone=copy.deepcopy(backbone).bfloat16())
    half.load_state_dict({n: t for n, t in model.state_dict().items() if "backbone." not in n}, strict=False)
    half.eval()
    points = make.points()
    found = half(points)
    assert half.dtype == found.last_hidden_state.dtype == torch.float32
    assert next(half.backbone.parameters()).dtype == torch.bfloat16
    expected = model(points).last_hidden_state
    error = (found.last_hidden_state - expected).norm() / expected.norm()
    assert 0 < error < 0.03
    half.train()(points).last_hidden_state.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_the_whole_model_in_another_dtype(make, dtype):
    for family in ("bert", "dinov2"):
        model = make.model(family, head=True)
        points = make.points()
        expected = model(points).last_hidden_state
        found = copy.deepcopy(model).to(dtype)(points)
        assert found.logits.dtype == found.last_hidden_state.dtype == dtype
        error = (found.last_hidden_state.float() - expected).norm() / expected.norm()
        assert error < (0.1 if dtype == torch.bfloat16 else 1e-5)


@torch.no_grad()
def test_sdpa_and_eager_agree_and_eager_gives_attentions(make, family):
    model = make.model(family)
    points = make.points()
    model.set_attn_implementation("sdpa")
    sdpa = model(points)
    assert sdpa.attentions is None
    with pytest.raises(ValueError, match=r"eager.*got 'sdpa'.*set_attn_implementation"):
        model(points, output_attentions=True)
    model.set_attn_implementation("eager")
    eager = model(points, output_attentions=True)
    torch.testing.assert_close(eager.last_hidden_state, sdpa.last_hidden_state, atol=1e-5, rtol=0)
    num_keys = 18 if family == "imagebind_audio" else 17  # its learned row is a key too
    assert [a.shape for a in eager.attentions] == [(2, 4, 17, num_keys)] * 2
    for attention in eager.attentions:
        assert (attention > 0).all()
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 4, 17))
    assert model(points).attentions is None


@torch.no_grad()
def test_models_on_one_backbone_do_not_meet(make, family):
    backbone = make.backbone(family)
    weights = [parameter.clone() for parameter in backbone.parameters()]
    modes = [parameter.requires_grad for parameter in backbone.parameters()]
    first = make.model(backbone)
    points = make.points()
    before = first(points).last_hidden_state
    second = make.model(backbone, adapter_scale=1.0, adapter_placement="before", layer_norm_eps=0.1)
    third = make.model(first.backbone)
    assert torch.equal(first(points).last_hidden_state, before)
    assert not torch.allclose(second(points).last_hidden_state, before)
    assert len(bottleneck_hooks(third.backbone)) == len(bottleneck_hooks(first.backbone)) == 2
    assert not bottleneck_hooks(backbone)
    for parameter, value in zip(backbone.parameters(), weights, strict=True):
        assert torch.equal(parameter, value)
    memory = {parameter.data_ptr() for parameter in backbone.parameters()}
    assert all(parameter.data_ptr() in memory for parameter in second.backbone.parameters())  # no weight is copied
    assert all(modes)


@torch.no_grad()
def test_the_caller_s_own_hooks_and_settings_stay(make):
    backbone = make.backbone("vit").train()
    calls = []
    backbone.layers[0].register_forward_hook(lambda *_: calls.append(1))
    eps = backbone.layers[0].layernorm_before.eps
    model = make.model(backbone, layer_norm_eps=0.25, final_norm_eps=0.5)
    model(make.points())
    assert calls == [1]
    assert backbone.training
    assert backbone.layers[0].layernorm_before.eps == eps
    assert model.backbone.layers[0].layernorm_before.eps == 0.25
    assert model.backbone.layernorm.eps == eps
    assert model.final_norm.eps == 0.5


@torch.no_grad()
def test_a_deep_copy_is_independent(make):
    for placement in ("after", "parallel"):
        model = make.model("bert", adapter_placement=placement)
        points = make.points()
        before = model(points).last_hidden_state
        twin = copy.deepcopy(model)
        assert torch.equal(twin(points).last_hidden_state, before)
        for bottleneck in twin.bottlenecks.values():
            bottleneck.up.weight.add_(1)
        assert torch.equal(model(points).last_hidden_state, before)
        changed = twin(points).last_hidden_state
        assert not torch.allclose(changed, before)
        for bottleneck in model.bottlenecks.values():
            bottleneck.up.weight.zero_()
        assert torch.equal(twin(points).last_hidden_state, changed)


def test_an_unsupported_module_or_folder_is_refused(tmp_path):
    module = GPT2Model(GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=30))
    with pytest.raises(UnsupportedBackboneError, match="gpt2"):
        Any2PointModel(Any2PointConfig(), backbone=module)
    module.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedBackboneError, match="gpt2"):
        load_backbone(str(tmp_path))
    with pytest.raises(UnsupportedBackboneError, match="gpt2"):
        Any2PointModel(Any2PointConfig(backbone=str(tmp_path)))


def test_no_backbone_is_refused():
    with pytest.raises(UnsupportedBackboneError, match="a backbone must be named"):
        Any2PointModel(Any2PointConfig())


def test_a_folder_without_a_backbone_is_refused(make, tmp_path):
    for load in (load_backbone, load_backbone_config):
        with pytest.raises(BackboneLoadError, match="Hub id or a folder"):
            load(str(tmp_path))
    make.config("bert").save_pretrained(tmp_path)
    assert load_backbone_config(str(tmp_path)).model_type == "bert"
    with pytest.raises(BackboneLoadError, match="could not be loaded"):
        load_backbone(str(tmp_path))


@torch.no_grad()
def test_the_text_tower_of_a_dual_clip_is_taken(make, tmp_path):
    dual = make.backbone("clip")
    dual.save_pretrained(tmp_path)
    assert tower_config(load_backbone_config(str(tmp_path)), None).model_type == "clip_text_model"
    tower = load_backbone(str(tmp_path))
    assert tower.config.model_type == "clip_text_model"
    for name, value in share_backbone(dual).state_dict().items():
        assert torch.equal(tower.state_dict()[name.removeprefix("text_model.")], value), name
    model = make.model(dual)
    assert model.config.backbone_config.model_type == "clip_text_model"
    from_folder = Any2PointModel(Any2PointConfig(**make.small, backbone=str(tmp_path)))
    adapters = {n: t for n, t in model.state_dict().items() if "backbone." not in n}
    from_folder.load_state_dict(adapters, strict=False)
    points = make.points()
    torch.testing.assert_close(
        from_folder.eval()(points).last_hidden_state, model(points).last_hidden_state, atol=1e-6, rtol=0
    )


def test_a_random_backbone_is_built_from_its_config(make, family):
    config = make.config(family)
    model = Any2PointModel(Any2PointConfig(**make.small, backbone_config=config))
    assert len(find(model.backbone, model.spec.blocks)) == 2
    if family != "clip":
        built = build_backbone(config)
        assert type(built) is type(AutoModel.from_config(config))
        assert built.config is not config


def test_adapters_fit_only_their_family_width_and_depth(make):
    recorded = make.config("bert")
    check_same_family(recorded, make.config("bert"))
    check_same_family(make.config("clip_text"), make.config("clip"))
    with pytest.raises(CheckpointError, match="made for model_type=bert, the given backbone has model_type=roberta"):
        check_same_family(recorded, make.config("roberta"))
    for name, value in (("hidden_size", 64), ("num_hidden_layers", 3)):
        given = make.config("bert")
        setattr(given, name, value)
        with pytest.raises(CheckpointError, match=f"{name}={value}"):
            check_same_family(recorded, given)


@pytest.mark.parametrize("module", ["backbone", "released_compatibility"])
def test_modules_may_be_imported_before_all_others(module):
    # Registering with transformers imports the model; that must not happen halfway through one of its own modules.
    command = [sys.executable, "-c", f"import any2point_hf.modeling.{module}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
