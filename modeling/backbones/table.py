"""The table of backbone families, by `model_type` of their config.

For a family that is not here `detector.py` guesses an entry. To describe one by hand, put an entry in `BACKBONES`
before making the model: `BACKBONES["my_type"] = BackboneSpec(...)`.
"""

from dataclasses import replace
from operator import attrgetter

from .families import (
    FirstFrames,
    aimv2_variant,
    all_rows,
    beit_biases,
    beit_variant,
    data2vec_biases,
    deberta_variant,
    electra_variant,
    endless_rows,
    image_grid,
    image_rows,
    keep_beits_biases_aside,
    move_positions_along,
    mpnet_bucket,
    no_position_bias,
    ones_as_mask,
    opt_variant,
    rows_after_padding,
    spectrogram_grid,
    spectrogram_rows,
    speech_variant,
    square_grid,
    t5_bucket,
    unroll_shared_layers,
    videomae_variant,
    without_own_relative_attention,
)
from .positions_in_blocks import BiasOnGrid, BiasOnLine, RotaryOnGrid, RotaryOnLine
from .spec import BackboneSpec
from .timm import timm_spec, without_relative_biases

_BERT = BackboneSpec(
    modality="1d",
    blocks="encoder.layer",
    attention="attention.self",
    feed_forward=("intermediate", "output.dense"),
    num_rows=all_rows,
    input_norm="embeddings.LayerNorm",
)
_ROBERTA = replace(_BERT, num_rows=rows_after_padding)
_CLIP_TEXT = BackboneSpec(
    modality="1d",
    blocks="encoder.layers",
    attention="self_attn",
    feed_forward=("mlp", "mlp"),
    num_rows=all_rows,
    positions="embeddings.position_embedding",
    final_norm="final_layer_norm",
)
_CLIP_VISION = replace(
    _CLIP_TEXT,
    modality="2d",
    num_rows=image_rows,
    grid=image_grid,
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
    num_rows=image_rows,
    final_norm="layernorm",
    cls_token="embeddings.cls_token",
    grid=image_grid,
)
_DINOV2 = replace(_VIT, blocks="encoder.layer", feed_forward=("mlp", "layer_scale2"))
_AST = replace(_VIT, num_rows=spectrogram_rows, grid=spectrogram_grid)
_LLAMA = BackboneSpec(
    modality="1d",
    blocks="layers",
    attention="self_attn",
    feed_forward=("mlp", "mlp"),
    num_rows=all_rows,
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
    num_rows=endless_rows,
    positions=None,
    in_blocks=BiasOnLine("block.0.layer.0.SelfAttention.relative_attention_bias", t5_bucket),
    final_norm="final_layer_norm",
    rms_norm=True,
    note="the encoder",
)
_BART = BackboneSpec(
    modality="1d",
    blocks="layers",
    attention="self_attn",
    feed_forward=("fc1", "fc2"),
    num_rows=all_rows,
    positions="embed_positions",
    input_norm="layernorm_embedding",
    note="the encoder",
)
_WAV2VEC2 = BackboneSpec(
    modality="1d",
    blocks="encoder.layers",
    attention="attention",
    feed_forward=("feed_forward", "feed_forward"),
    num_rows=endless_rows,
    positions=None,
    input_norm="encoder.layer_norm",
    resolve=speech_variant,
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
        input_norm=None,  # the embeddings' norm has the table's width, which may differ from the tokens'
        resolve=electra_variant,
        note="the table is projected to the tokens' width",
    ),
    "mpnet": replace(
        _ROBERTA,
        attention=None,
        in_blocks=BiasOnLine("encoder.relative_attention_bias", mpnet_bucket),
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
        prepare=unroll_shared_layers,
        weights=("encoder.albert_layer_groups",),
        note="one set of weights for all blocks of a group; each block has its own adapters",
    ),
    "deberta-v2": replace(
        _BERT,
        attention=None,
        arguments={},
        neutral=ones_as_mask,
        prepare=without_own_relative_attention,
        resolve=deberta_variant,
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
    "gpt2": replace(_CLIP_TEXT, blocks="h", attention="attn", num_rows=all_rows, positions="wpe", final_norm="ln_f"),
    "opt": replace(
        _CLIP_TEXT,
        blocks="decoder.layers",
        feed_forward=("fc1", "fc2"),
        positions="decoder.embed_positions",
        final_norm="decoder.final_layer_norm",
        resolve=opt_variant,
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
    "siglip2_vision_model": replace(_SIGLIP_VISION, num_rows=attrgetter("num_patches"), grid=square_grid),
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
        in_blocks=BiasOnGrid(beit_biases, "attention_mask"),
        weights=("layers", "shared_position_bias"),
        arguments={},
        prepare=keep_beits_biases_aside,
        resolve=beit_variant,
    ),
    "data2vec-vision": replace(
        _VIT,
        blocks="encoder.layer",
        attention=None,
        feed_forward=("intermediate", "output"),
        in_blocks=BiasOnGrid(data2vec_biases, "relative_position_bias"),
        weights=("encoder.layer", "encoder.relative_position_bias"),
        arguments={},
        prepare=without_own_relative_attention,
        resolve=beit_variant,
    ),
    "aimv2_vision_model": replace(
        _VIT,
        blocks="encoder.layers",
        feed_forward=("ffn", "ffn"),
        positions="embeddings.position_embedding",
        final_norm="rms_norm",
        rms_norm=True,
        cls_token=None,
        resolve=aimv2_variant,
    ),
    "videomae": replace(
        _VIT,
        blocks="encoder.layer",
        attention="attention.attention",
        feed_forward=("intermediate", "output.dense"),
        positions=FirstFrames(0),
        final_norm=None,
        cls_token=None,
        arguments={},
        prepare=move_positions_along,
        resolve=videomae_variant,
        note="the positions of the first frames",
    ),
    "vivit": replace(_VIT, positions=FirstFrames(1), note="the positions of the first frames"),
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
        num_rows=attrgetter("max_source_positions"),
        input_norm=None,
        final_norm="layer_norm",
    ),
    "wav2vec2": _WAV2VEC2,
    "hubert": _WAV2VEC2,
    "wavlm": replace(
        _WAV2VEC2,
        neutral=no_position_bias,
        note="positions are a convolution and gated biases, of no use for points",
    ),
}

WRITTEN_DOWN = dict(BACKBONES)  # entries added or replaced later are tried out like detected ones
