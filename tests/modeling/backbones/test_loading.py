import copy
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModel, SwinConfig, SwinModel

from any2point_hf import AutoModelForPointCloudClassification
from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    BackboneLoadError,
    UnsupportedBackboneError,
)
from any2point_hf.modeling.backbones.blocks import freeze_backbone
from any2point_hf.modeling.backbones.bottleneck_hook import BottleneckHook
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.fingerprint import backbone_fingerprint
from any2point_hf.modeling.backbones.loading import (
    build_backbone,
    check_same_family,
    load_backbone,
    load_backbone_config,
    share_backbone,
)
from any2point_hf.modeling.backbones.part_of_model import tower_config
from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.errors import CheckpointError
from any2point_hf.modeling.publishing.push import push_files

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
    module = SwinModel(SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 1]))
    with pytest.raises(UnsupportedBackboneError, match="swin"):
        Any2PointModel(Any2PointConfig(), backbone=module)
    module.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedBackboneError, match="swin"):
        load_backbone(str(tmp_path))
    with pytest.raises(UnsupportedBackboneError, match="swin"):
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_place_of_a_file_is_refused(make, tmp_path):
    make.config("bert").save_pretrained(tmp_path)
    os.mkfifo(tmp_path / "model.safetensors")
    for load in (load_backbone, load_backbone_config, backbone_fingerprint, Any2PointModel.from_pretrained):
        with pytest.raises(CheckpointError, match=r"plain files, and \S+model\.safetensors is a pipe"):
            load(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(make, tmp_path, dtype, value):
    """One NaN in a query vanishes in attention on a CPU, and all outputs are finite, but wrong."""
    backbone = make.backbone("bert").to(dtype)
    with torch.no_grad():
        backbone.embeddings.word_embeddings.weight[3, 4] = value  # no token meets words
        backbone.encoder.layer[0].output.dense.bias[:2] = torch.finfo(dtype).max  # finite, though their sum is not
    backbone.save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path), dtype=dtype).dtype == dtype
    with torch.no_grad():
        backbone.encoder.layer[1].attention.self.query.weight[3, 4] = value
    backbone.save_pretrained(tmp_path)
    with pytest.raises(
        BackboneLoadError, match=r"finite, and encoder\.layer\.1\.attention\.self\.query\.weight has NaN"
    ):
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


# Backbones on the Hub


@pytest.fixture
def hub_backbone(hub, bert):
    """A BERT on a Hub of this machine."""
    hub.large_suffixes = ()
    files = {name: bert / name for name in ("config.json", "model.safetensors")}
    push_files(files, "me/bert", commit_message="A backbone")
    return "me/bert"


def test_a_backbone_comes_from_the_hub_and_then_from_its_cache(hub_backbone, hub_waits, monkeypatch):
    first = load_backbone(hub_backbone).state_dict()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    second = load_backbone(hub_backbone).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert hub_waits == []


def test_a_dead_hub_is_told_at_once(hub, hub_waits, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for load in (load_backbone, load_backbone_config):
        with pytest.raises(BackboneLoadError, match=r"'org/bert'.*cannot be reached.*HF_ENDPOINT"):
            load("org/bert")
    assert hub_waits == []


def test_a_backbone_that_is_not_on_the_hub(hub, hub_waits):
    with pytest.raises(BackboneLoadError, match=r"'org/bert' could not be loaded.*answered 40[14].*spelling"):
        load_backbone("org/bert")
    assert hub_waits == []


def test_code_of_a_backbone_is_never_run(tmp_path, monkeypatch):
    asked, ran = [], tmp_path / "ran"
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    classes = {"AutoConfig": "code.CodeConfig", "AutoModel": "code.CodeModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "code", "auto_map": classes}))
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w')")
    for load in (load_backbone_config, load_backbone):
        with pytest.raises(BackboneLoadError, match="custom code"):
            load(str(tmp_path))
    with pytest.raises(CheckpointError, match="custom code"):
        AutoModelForPointCloudClassification.from_pretrained(tmp_path)
    assert not asked
    assert not ran.exists()


ODD_CONFIGS = {
    "a kernel": (
        {"_attn_implementation": "kernels-community/flash-attn"},
        "fetch code: attn_implementation is 'kernels",
    ),
    "a million blocks": ({"num_hidden_layers": 10**6}, "claims 1,000,000 blocks"),
    "a dtype that is none": ({"dtype": "system"}, "no attribute 'system'"),
    "quantized by what is not here": ({"quantization_config": {"quant_method": "aqlm"}}, "aqlm"),
}


@pytest.mark.parametrize(("fields", "said"), ODD_CONFIGS.values(), ids=ODD_CONFIGS)
def test_an_odd_config_of_a_backbone_is_one_error(bert, tmp_path, fields, said):
    folder = shutil.copytree(bert, tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(BackboneLoadError, match=said):
        load_backbone(str(folder))


def test_odd_files_of_a_backbone_are_one_error(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Fraction(1)}, folder / "pytorch_model.bin")  # a pickle of more than tensors
    with pytest.raises(BackboneLoadError, match="Weights only load failed"):
        load_backbone(str(folder))
    (folder / "config.json").write_text(100_000 * "[")
    with pytest.raises(BackboneLoadError, match="recursion"):
        load_backbone(str(folder))
