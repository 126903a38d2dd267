"""The table of backbone families, by `model_type` of their config.

A family that is not here goes through `backbone_detector.py`. To describe one by hand, put an entry in `BACKBONES`
before making the model: `BACKBONES["my_type"] = BackboneSpec(...)`.
"""

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .backbone_specs import BackboneSpec, pair, patch_size
from .positions_in_blocks import BiasOnGrid, BiasOnLine, RotaryOnGrid, RotaryOnLine
from .timm_backbone import timm_spec, without_relative_biases

ENDLESS_LINE = 512  # positions of a family whose config sets no end


# How many positions, and their grids.


def _all_rows(config: PreTrainedConfig) -> int:
    return config.max_position_embeddings


def _rows_after_padding(config: PreTrainedConfig) -> int:
    return config.max_position_embeddings - (config.pad_token_id or 0) - 1  # RoBERTa never uses the rows before


def _endless_rows(_: PreTrainedConfig) -> int:
    return ENDLESS_LINE


def _image_grid(config: PreTrainedConfig) -> tuple[int, int]:
    (height, width), (patch_height, patch_width) = pair(config.image_size), patch_size(config)
    return height // patch_height, width // patch_width


def _image_rows(config: PreTrainedConfig) -> int:
    return math.prod(_image_grid(config))


def _square_grid(config: PreTrainedConfig) -> tuple[int, int]:
    side = math.isqrt(config.num_patches)
    return side, side


def _spectrogram_grid(config: PreTrainedConfig) -> tuple[int, int]:
    rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    columns = (config.max_length - config.patch_size) // config.time_stride + 1
    return rows, columns


def _spectrogram_rows(config: PreTrainedConfig) -> int:
    return math.prod(_spectrogram_grid(config))


def _first_frame(num_prefix: int) -> object:
    """The positions of a video's first frames; time is the slowest axis of its table."""

    def rows(backbone: nn.Module) -> Tensor:
        positions = backbone.embeddings.position_embeddings
        return positions[:, num_prefix : num_prefix + _image_rows(backbone.config)]

    return rows


# What has to be switched off on a backbone's own modules, and what follows from its config.


def _unroll_shared_layers(backbone: nn.Module) -> None:
    """ALBERT runs few layers many times: as many module objects over the same tensors, so that each has its hook."""
    encoder, config = backbone.encoder, backbone.config
    if hasattr(encoder, "unrolled"):
        return
    shared = {id(part): part for part in (*encoder.parameters(), *encoder.buffers(), config)}
    layers = []
    for depth in range(config.num_hidden_layers):
        group = encoder.albert_layer_groups[int(depth / (config.num_hidden_layers / config.num_hidden_groups))]
        layers += [copy.deepcopy(layer, dict(shared)) for layer in group.albert_layers]
    encoder.unrolled = nn.ModuleList(layers)


def _without_own_relative_attention(backbone: nn.Module) -> None:
    for module in backbone.modules():
        for name in ("relative_attention", "has_relative_position_bias"):
            if getattr(module, name, False):
                setattr(module, name, False)


def _keep_beits_biases_aside(backbone: nn.Module) -> None:
    for block in backbone.layers:
        if getattr(block, "relative_position_bias", None) is not None:
            block.own_position_bias, block.relative_position_bias = block.relative_position_bias, None


def _beit_biases(backbone: nn.Module) -> list[nn.Module]:
    shared = getattr(backbone, "shared_position_bias", None)
    return [shared if shared is not None else block.own_position_bias for block in backbone.layers]


def _data2vec_biases(backbone: nn.Module) -> list[nn.Module]:
    shared = getattr(backbone.encoder, "relative_position_bias", None)
    blocks = backbone.encoder.layer
    return [shared if shared is not None else block.attention.attention.relative_position_bias for block in blocks]


def _t5_bucket(backbone: nn.Module, distances: Tensor) -> Tensor:
    attention = backbone.block[0].layer[0].SelfAttention
    return attention._relative_position_bucket(
        distances,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )


def _mpnet_bucket(backbone: nn.Module, distances: Tensor) -> Tensor:
    return backbone.encoder.relative_position_bucket(distances)  # with its defaults, as the encoder calls it


def _ones_as_mask(_: nn.Module, num_tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    return {"attention_mask": torch.ones(1, 1, 1, num_tokens, dtype=torch.bool, device=device)}


def _no_position_bias(_: nn.Module, num_tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    return {"position_bias": torch.zeros(1, num_tokens, num_tokens, dtype=dtype, device=device)}


def _electra(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    if config.embedding_size == config.hidden_size:
        return replace(spec, projected_by=None, input_norm="embeddings.LayerNorm")
    return spec


def _beit(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    has_biases = config.use_relative_position_bias or config.use_shared_relative_position_bias
    return replace(
        spec,
        in_blocks=spec.in_blocks if has_biases else None,
        positions=spec.positions if config.use_absolute_position_embeddings else None,
        final_norm=None if config.use_mean_pooling else "layernorm",
    )


def _deberta(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    return replace(spec, positions=spec.positions if config.position_biased_input else None)


def _aimv2(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    return replace(spec, positions=_sines_of_the_grid) if config.is_native else spec


def _sines_of_the_grid(backbone: nn.Module) -> Tensor:
    """AIMv2's fixed positions: sines and cosines of the column, then of the row."""
    from transformers.models.aimv2.modeling_aimv2 import build_2d_sinusoidal_position_embedding

    rows, columns = _image_grid(backbone.config)
    weight = backbone.embeddings.patch_embed.weight
    table = build_2d_sinusoidal_position_embedding(
        height=rows, width=columns, embed_dim=backbone.config.hidden_size, device=weight.device, dtype=weight.dtype
    )
    by_row, by_column = table.chunk(2, dim=-1)
    return torch.cat([by_column, by_row], dim=-1)


def _videomae(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    return spec if config.use_mean_pooling else replace(spec, final_norm="layernorm")


def _speech(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    if config.do_stable_layer_norm:  # then the blocks are pre-norm, and the encoder's norm comes after them
        return replace(spec, input_norm=None, final_norm="encoder.layer_norm")
    return spec


def _opt(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    has_final_norm = config.do_layer_norm_before and not config._remove_final_layer_norm
    return spec if has_final_norm else replace(spec, final_norm=None)


_BERT = BackboneSpec(
    modality="1d",
    blocks="encoder.layer",
    attention="attention.self",
    feed_forward=("intermediate", "output.dense"),
    num_rows=_all_rows,
    input_norm="embeddings.LayerNorm",
)
_ROBERTA = replace(_BERT, num_rows=_rows_after_padding)
_CLIP_TEXT = BackboneSpec(
    modality="1d",
    blocks="encoder.layers",
    attention="self_attn",
    feed_forward=("mlp", "mlp"),
    num_rows=_all_rows,
    positions="embeddings.position_embedding",
    final_norm="final_layer_norm",
)
_CLIP_VISION = replace(
    _CLIP_TEXT,
    modality="2d",
    num_rows=_image_rows,
    grid=_image_grid,
    input_norm="pre_layrnorm",
    final_norm="post_layernorm",
    cls_token="embeddings.class_embedding",
)
_SIGLIP_VISION = replace(_CLIP_VISION, input_norm=None, cls_token=None)
_VIT = BackboneSpec(
    modality="2d",
    blocks="layers",
    attention="attention",
    feed_forward=("mlp", "mlp"),
    num_rows=_image_rows,
    final_norm="layernorm",
    cls_token="embeddings.cls_token",
    grid=_image_grid,
)
_DINOV2 = replace(_VIT, blocks="encoder.layer", feed_forward=("mlp", "layer_scale2"))
_AST = replace(_VIT, num_rows=_spectrogram_rows, grid=_spectrogram_grid)
_LLAMA = BackboneSpec(
    modality="1d",
    blocks="layers",
    attention="self_attn",
    feed_forward=("mlp", "mlp"),
    num_rows=_all_rows,
    positions=None,
    in_blocks=RotaryOnLine(),
    final_norm="norm",
    rms_norm=True,
)
_GEMMA = replace(_LLAMA, feed_forward=("mlp", "post_feedforward_layernorm"), norm_offset=1.0)
_T5 = BackboneSpec(
    modality="1d",
    blocks="block",
    attention="layer.0.SelfAttention",
    attention_output=2,
    feed_forward=("layer.1.DenseReluDense", "layer.1.DenseReluDense"),
    num_rows=_endless_rows,
    positions=None,
    in_blocks=BiasOnLine("block.0.layer.0.SelfAttention.relative_attention_bias", _t5_bucket),
    final_norm="final_layer_norm",
    rms_norm=True,
    note="the encoder",
)
_BART = BackboneSpec(
    modality="1d",
    blocks="layers",
    attention="self_attn",
    feed_forward=("fc1", "fc2"),
    num_rows=_all_rows,
    positions="embed_positions",
    input_norm="layernorm_embedding",
    note="the encoder",
)
_WAV2VEC2 = BackboneSpec(
    modality="1d",
    blocks="encoder.layers",
    attention="attention",
    feed_forward=("feed_forward", "feed_forward"),
    num_rows=_endless_rows,
    positions=None,
    input_norm="encoder.layer_norm",
    resolve=_speech,
    note="positions are a convolution over frames, of no use for points",
)

BACKBONES: dict[str, BackboneSpec] = {
    # Language
    "clip_text_model": _CLIP_TEXT,
    "siglip_text_model": _CLIP_TEXT,
    "siglip2_text_model": _CLIP_TEXT,
    "clap_text_model": _ROBERTA,
    "bert": _BERT,
    "ernie": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "distilbert": replace(_BERT, blocks="transformer.layer", attention="attention", feed_forward=("ffn", "ffn")),
    "electra": replace(
        _BERT,
        projected_by="embeddings_project",
        input_norm=None,  # of the table's width, where that is another than the tokens'
        resolve=_electra,
        note="the table is projected to the tokens' width",
    ),
    "mpnet": replace(
        _ROBERTA,
        attention=None,
        in_blocks=BiasOnLine("encoder.relative_attention_bias", _mpnet_bucket),
        weights=("encoder.layer", "encoder.relative_attention_bias"),
        note="a table and relative biases, both used",
    ),
    "albert": replace(
        _BERT,
        blocks="encoder.unrolled",
        attention="attention",
        feed_forward=("ffn", "ffn_output"),
        projected_by="encoder.embedding_hidden_mapping_in",
        input_norm=None,
        prepare=_unroll_shared_layers,
        weights=("encoder.albert_layer_groups",),
        note="one set of weights for all blocks of a group; each block has its own adapters",
    ),
    "deberta-v2": replace(
        _BERT,
        attention=None,
        arguments={},
        neutral=_ones_as_mask,
        prepare=_without_own_relative_attention,
        resolve=_deberta,
        note="relative attention is switched off: it cannot be given a cloud's own positions",
    ),
    "modernbert": replace(
        _LLAMA,
        attention="attn",
        in_blocks=RotaryOnLine(by_layer_type=True),
        input_norm="embeddings.norm",
        final_norm="final_norm",
        rms_norm=False,
    ),
    "eurobert": _LLAMA,
    "nomic_bert": replace(_LLAMA, input_norm="embeddings.LayerNorm", final_norm=None, rms_norm=False),
    "gpt2": replace(_CLIP_TEXT, blocks="h", attention="attn", num_rows=_all_rows, positions="wpe", final_norm="ln_f"),
    "opt": replace(
        _CLIP_TEXT,
        blocks="decoder.layers",
        feed_forward=("fc1", "fc2"),
        positions="decoder.embed_positions",
        final_norm="decoder.final_layer_norm",
        resolve=_opt,
    ),
    "gpt_neox": replace(_LLAMA, attention="attention", final_norm="final_layer_norm", rms_norm=False),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "granite": _LLAMA,
    "olmo2": replace(_GEMMA, norm_offset=0.0),
    "gemma2": _GEMMA,
    "gemma3_text": replace(_GEMMA, in_blocks=RotaryOnLine(by_layer_type=True)),
    "t5": _T5,
    "mt5": _T5,
    "bart": _BART,
    "mbart": replace(_BART, final_norm="layer_norm"),
    # Vision
    "clip_vision_model": _CLIP_VISION,
    "siglip_vision_model": _SIGLIP_VISION,
    "siglip2_vision_model": replace(_SIGLIP_VISION, num_rows=lambda config: config.num_patches, grid=_square_grid),
    "vit": _VIT,
    "vit_mae": _VIT,
    "vit_msn": _VIT,
    "deit": _VIT,
    "ijepa": replace(_VIT, cls_token=None),
    "dinov2": _DINOV2,
    "dinov2_with_registers": replace(_DINOV2, note="without its registers"),
    "dinov3_vit": replace(
        _DINOV2,
        blocks="model.layer",
        positions=None,
        in_blocks=RotaryOnGrid(),
        final_norm="norm",
        note="without its registers",
    ),
    "beit": replace(
        _VIT,
        in_blocks=BiasOnGrid(_beit_biases, "attention_mask"),
        weights=("layers", "shared_position_bias"),
        arguments={},
        prepare=_keep_beits_biases_aside,
        resolve=_beit,
    ),
    "data2vec-vision": replace(
        _VIT,
        blocks="encoder.layer",
        attention=None,
        feed_forward=("intermediate", "output"),
        in_blocks=BiasOnGrid(_data2vec_biases, "relative_position_bias"),
        weights=("encoder.layer", "encoder.relative_position_bias"),
        arguments={},
        prepare=_without_own_relative_attention,
        resolve=_beit,
    ),
    "aimv2_vision_model": replace(
        _VIT,
        blocks="encoder.layers",
        feed_forward=("ffn", "ffn"),
        positions="embeddings.position_embedding",
        final_norm="rms_norm",
        rms_norm=True,
        cls_token=None,
        resolve=_aimv2,
    ),
    "videomae": replace(
        _VIT,
        blocks="encoder.layer",
        attention="attention.attention",
        feed_forward=("intermediate", "output.dense"),
        positions=_first_frame(0),
        final_norm=None,
        cls_token=None,
        arguments={},
        resolve=_videomae,
        note="the positions of the first frames",
    ),
    "vivit": replace(_VIT, positions=_first_frame(1), note="the positions of the first frames"),
    "timm_wrapper": replace(
        _VIT,
        blocks="timm_model.blocks",
        attention=None,
        arguments={},
        prepare=without_relative_biases,
        resolve=timm_spec,
        note="needs timm; vision transformers alone; no attention weights",
    ),
    # Audio
    "audio-spectrogram-transformer": _AST,
    "imagebind_audio": _AST,
    "whisper": replace(
        _BART,
        num_rows=lambda config: config.max_source_positions,
        input_norm=None,
        final_norm="layer_norm",
    ),
    "wav2vec2": _WAV2VEC2,
    "hubert": _WAV2VEC2,
    "wavlm": replace(
        _WAV2VEC2,
        neutral=_no_position_bias,
        note="positions are a convolution and gated biases, of no use for points",
    ),
}

WRITTEN_DOWN = frozenset(BACKBONES)  # what is added later is tried out like a detected family
