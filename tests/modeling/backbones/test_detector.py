"""Families that are not in the table: those whose parts are found, and those that are refused."""

import time
import warnings
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, ClapAudioConfig, ClapAudioModel

from any2point_hf.modeling import Any2PointConfig, Any2PointModel, UnsupportedBackboneError
from any2point_hf.modeling.backbones.blocks import call_block
from any2point_hf.modeling.backbones.detector import backbone_spec, detect
from any2point_hf.modeling.backbones.part_of_model import DUAL_MODELS
from any2point_hf.modeling.backbones.positions_in_blocks import RotaryOnLine
from any2point_hf.modeling.backbones.table import BACKBONES

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {"vocab_size": 30, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 29, "max_position_embeddings": 26}
UNLISTED = {
    "starcoder2": {**SIZES, **WORDS, "num_key_value_heads": 2},
    "glm": {**SIZES, **WORDS, "num_key_value_heads": 2, "head_dim": 12},
    "cohere": {**SIZES, **WORDS},
    "megatron-bert": {**SIZES, **WORDS},
    "bert-generation": {**SIZES, **WORDS},
    "yolos": {**SIZES, "image_size": [32, 32], "patch_size": 8},
    "splinter": {**SIZES, **WORDS},
}
REFUSED = {
    "swin": {"image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1]},
    "xmod": {**SIZES, **WORDS, "languages": ("en",), "default_language": "en"},
    "xlnet": {"vocab_size": 30, "d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "mamba": {"vocab_size": 30, "hidden_size": 48, "num_hidden_layers": 2},
    "wav2vec2-bert": {**SIZES, "feature_projection_input_dim": 16},
    "convnext": {"num_stages": 2, "depths": [1, 1], "hidden_sizes": [12, 24]},
    "resnet": {"depths": [1, 1], "hidden_sizes": [12, 24], "embedding_size": 12},
    "gptj": {"vocab_size": 30, "n_embd": 48, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "bloom": {"vocab_size": 30, "hidden_size": 48, "n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_a_backbone_is_refused_quickly(make, model_type):
    config = AutoConfig.for_model(model_type, **REFUSED[model_type])
    backbone = AutoModel.from_config(config)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnsupportedBackboneError, match=f"got '{model_type}': .* Found: ") as raised:
            Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)
    assert time.perf_counter() - start < 10
    for name in (*BACKBONES, *DUAL_MODELS):
        assert f"{name}," in str(raised.value) or f"{name}." in str(raised.value)
    assert f"BACKBONES['{model_type}'] = BackboneSpec(...)" in str(raised.value)


def test_claps_audio_tower_is_refused():
    config = ClapAudioConfig(depths=[1, 1], num_attention_heads=[1, 1], patch_embeds_hidden_size=12)
    with pytest.raises(UnsupportedBackboneError, match="got 'clap_audio_model'"):
        Any2PointModel(Any2PointConfig(), backbone=ClapAudioModel(config))


@pytest.mark.parametrize("model_type", UNLISTED)
def test_unlisted_families_are_found_tested_and_warned_of(make, model_type):
    config = AutoConfig.for_model(model_type, **UNLISTED[model_type])
    backbone = AutoModel.from_config(config).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)
        except UnsupportedBackboneError as error:
            pytest.fail(str(error))
    assert any("is in no table of families" in str(warning.message) for warning in caught)
    outputs = model.train()(make.points())
    outputs.last_hidden_state.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad and p.grad is not None)
    assert all(p.grad is None for p in model.backbone.parameters())


@pytest.mark.parametrize(
    "family", ["bert", "vit", "clip_text", "dinov2", "llama", "modernbert", "gpt2", "olmo2", "distilbert"]
)
def test_what_is_found_of_listed_families_is_what_is_written_down(make, family):
    config = make.tower_config(family)
    found, listed = detect(config), backbone_spec(config)
    for field in ("modality", "blocks", "feed_forward", "final_norm", "rms_norm", "cls_token"):
        assert getattr(found, field) == getattr(listed, field), field
    assert found.num_rows(config) == listed.num_rows(config) or isinstance(listed.in_blocks, RotaryOnLine)
    assert found.positions == listed.positions
    assert found.in_blocks == listed.in_blocks
    assert found.detected
    assert not listed.detected


def causal_although_told_otherwise(backbone):
    """Blocks that keep a causal mask of their own."""
    for layer in backbone.encoder.layer:
        layer.register_forward_hook(lambda _m, args, output: args[0].cumsum(1) + 0 * output)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (causal_although_told_otherwise, "it is not bidirectional"),
        (
            lambda backbone: backbone.encoder.layer[0].register_forward_hook(
                lambda _m, _a, output: output + torch.arange(output.shape[1]).view(1, -1, 1)
            ),
            "its blocks know an order of their own",
        ),
        (
            lambda backbone: backbone.encoder.layer[0].register_forward_hook(lambda _m, _a, output: output * torch.nan),
            "its outputs are not finite tokens",
        ),
        (
            lambda backbone: backbone.encoder.layer[0].register_forward_hook(lambda _m, _a, output: output.detach()),
            "gradients do not reach all tokens",
        ),
    ],
)
def test_the_self_test_says_what_failed(make, monkeypatch, damage, message):
    config = BertConfig(**SIZES, **WORDS)
    monkeypatch.setitem(BACKBONES, "bert", replace(BACKBONES["bert"], detected=True))
    backbone = AutoModel.from_config(config)
    damage(backbone)
    with pytest.raises(UnsupportedBackboneError, match=message):
        Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)


@torch.no_grad()
def test_a_missing_is_causal_means_no_causality(make):
    """transformers' sdpa takes attention without that attribute for causal."""
    backbone = AutoModel.from_config(AutoConfig.for_model("layoutlm", **UNLISTED["megatron-bert"])).eval()
    assert not any(hasattr(module, "is_causal") for module in backbone.encoder.layer.modules())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = Any2PointModel(Any2PointConfig(**make.small), backbone=backbone).backbone.encoder.layer
    tokens = torch.randn(1, 6, 48)
    changed = torch.cat([tokens[:, :-1], torch.randn(1, 1, 48)], dim=1)
    moved = (call_block(blocks[0], changed) - call_block(blocks[0], tokens)).abs().amax(dim=-1)
    assert (moved > 1e-5).all()  # the first token sees the last


@pytest.mark.parametrize("model_type", ["starcoder2", "megatron-bert", "cohere"])
def test_weights_in_half_precision_pass_the_self_test(make, model_type):
    config = AutoConfig.for_model(model_type, **UNLISTED[model_type])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Any2PointModel(Any2PointConfig(**make.small), backbone=AutoModel.from_config(config).bfloat16())
    assert model.spec.detected
    assert next(model.backbone.parameters()).dtype == torch.bfloat16
    assert model(make.points()).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_overridden_families_in_half_precision_pass_the_self_test(make, monkeypatch, family):
    """BERT norms the sum that a bottleneck adds to; T5 may keep the last product of its branch in float32."""
    monkeypatch.setitem(BACKBONES, family, replace(BACKBONES[family], detected=True))
    backbone = make.backbone(family).bfloat16()
    for name, module in backbone.named_modules():
        if name.endswith("DenseReluDense.wo"):
            module.float()
    with pytest.warns(UserWarning, match="passed a self-test"):
        model = Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)
    assert model(make.points()).last_hidden_state.isfinite().all()


def test_interleaved_rotations_keep_the_length_of_what_they_turn():
    config = AutoConfig.for_model("cohere", **UNLISTED["cohere"])
    spec = detect(config)
    assert spec.in_blocks == RotaryOnLine(interleaved=True)
    backbone = AutoModel.from_config(config)
    places = torch.randn(1, 3, 5, 1) * 10
    cosines, sines = spec.in_blocks.arguments(backbone, places, (77,), torch.float32)(0)["position_embeddings"]
    assert torch.equal(cosines[..., ::2], cosines[..., 1::2])
    torch.testing.assert_close(cosines**2 + sines**2, torch.ones_like(cosines))


def test_mixers_that_keep_reflections_are_refused(make):
    config = AutoConfig.for_model("fnet", hidden_size=48, num_hidden_layers=2, intermediate_size=64, vocab_size=30)
    with pytest.raises(UnsupportedBackboneError, match=r"know an order of their own|could not be run|no feed-forward"):
        Any2PointModel(Any2PointConfig(**make.small), backbone=AutoModel.from_config(config))


def test_a_table_of_unknown_layout_is_left_alone():
    """YOLOS keeps rows of detection tokens behind those of its patches."""
    spec = detect(AutoConfig.for_model("yolos", **{**UNLISTED["yolos"], "num_detection_tokens": 100}))
    assert spec.positions is None
    assert not spec.has_positions


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": "encoder.layers"},
        {"feed_forward": ("mlp", "mlp")},
        {"positions": "embeddings.positions"},
        {"final_norm": "norm"},
        {"num_rows": lambda _: 99},
    ],
    ids=lambda wrong: next(iter(wrong)),  # a lambda's own name differs between processes
)
def test_a_wrong_description_by_hand_is_refused(make, monkeypatch, wrong):
    config = AutoConfig.for_model("megatron-bert", **UNLISTED["megatron-bert"])
    monkeypatch.setitem(BACKBONES, "megatron-bert", replace(detect(config), detected=False, **wrong))
    with pytest.raises(UnsupportedBackboneError, match="got 'megatron-bert'"):
        Any2PointModel(Any2PointConfig(**make.small, backbone_config=config))


def test_a_description_that_replaces_the_tables_own_is_tried_out(make, monkeypatch):
    config = BertConfig(**SIZES, **WORDS)
    monkeypatch.setitem(BACKBONES, "bert", replace(BACKBONES["bert"], feed_forward=("mlp", "mlp")))
    with pytest.raises(UnsupportedBackboneError, match=r"got 'bert'.*a part that is not there"):
        Any2PointModel(Any2PointConfig(**make.small, backbone_config=config))


def test_a_family_may_be_described_by_hand(make, monkeypatch):
    config = AutoConfig.for_model("megatron-bert", **UNLISTED["megatron-bert"])
    monkeypatch.setitem(BACKBONES, "megatron-bert", replace(detect(config), detected=False, note="by hand"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Any2PointModel(Any2PointConfig(**make.small, backbone_config=config))
    assert model.spec.note == "by hand"
    assert model(make.points()).last_hidden_state.isfinite().all()
