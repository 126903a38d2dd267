"""Tiny random configs of all supported families: 48 wide, 2 blocks, 4 heads; and inputs of their native forward."""

import torch
from transformers import AutoConfig

BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {"vocab_size": 30, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 29}
TEXT = {**BERT, **WORDS, "max_position_embeddings": 26}
LLAMA = {**TEXT, "max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 12}
IMAGE = {**BERT, "image_size": 32, "patch_size": 8}
DINO = {**BERT, "image_size": 28, "patch_size": 7, "mlp_ratio": 2}
T5 = {**WORDS, "d_model": 48, "num_layers": 2, "num_heads": 4, "d_kv": 12, "d_ff": 64}
BART = {**WORDS, "d_model": 48, "max_position_embeddings": 24}
BART |= {f"encoder_{name}": value for name, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 64}.items()}
BART |= {f"decoder_{name}": value for name, value in {"layers": 1, "attention_heads": 4, "ffn_dim": 64}.items()}
SPEECH = {**BERT, "conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_feat_extract_layers": 2}
SPEECH |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
VIDEO = {**BERT, "image_size": 32, "num_frames": 4}
SIGLIP2_IMAGE = {**BERT, "num_patches": 16, "patch_size": 8}

# By the name that tests use: model_type and fields of the config.
FAMILIES = {
    "clip_text": ("clip_text_model", {**TEXT, "max_position_embeddings": 20}),
    "clip_vision": ("clip_vision_model", IMAGE),
    "clip": ("clip", {"text_config": {**TEXT, "max_position_embeddings": 20}, "vision_config": IMAGE}),
    "siglip_text": ("siglip_text_model", TEXT),
    "siglip_vision": ("siglip_vision_model", IMAGE),
    "siglip2_text": ("siglip2_text_model", TEXT),
    "siglip2_vision": ("siglip2_vision_model", SIGLIP2_IMAGE),
    "clap": ("clap", {"text_config": TEXT, "projection_dim": 16}),
    "bert": ("bert", {**TEXT, "max_position_embeddings": 24}),
    "roberta": ("roberta", TEXT),
    "xlm-roberta": ("xlm-roberta", TEXT),
    "distilbert": (
        "distilbert",
        {**WORDS, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 24},
    ),
    "electra": ("electra", {**TEXT, "embedding_size": 24}),
    "electra_base": ("electra", {**TEXT, "embedding_size": 48}),
    "mpnet": ("mpnet", TEXT),
    "albert": ("albert", {**TEXT, "embedding_size": 16}),
    "albert_groups": ("albert", {**TEXT, "embedding_size": 16, "num_hidden_groups": 2}),
    "deberta": (
        "deberta-v2",
        {**TEXT, "relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}
        | {"pos_att_type": ["p2c", "c2p"], "position_buckets": 4, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    ),
    "modernbert": ("modernbert", {**TEXT, "cls_token_id": 0, "sep_token_id": 2, "local_attention": 4}),
    "eurobert": ("eurobert", LLAMA),
    "nomic_bert": ("nomic_bert", TEXT),
    "gpt2": (
        "gpt2",
        {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 24, "vocab_size": 30, "bos_token_id": 0}
        | {"eos_token_id": 29},
    ),
    "opt": ("opt", {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 48}),
    "gpt_neox": ("gpt_neox", {**TEXT, "rotary_pct": 0.5}),
    "llama": ("llama", LLAMA),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", LLAMA),
    "gemma2": ("gemma2", {**LLAMA, "sliding_window": 4}),
    "gemma3": ("gemma3_text", {**LLAMA, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    "mistral": ("mistral", {**LLAMA, "sliding_window": 4}),
    "phi3": ("phi3", LLAMA),
    "granite": ("granite", LLAMA),
    "olmo2": ("olmo2", LLAMA),
    "t5": ("t5", T5),
    "mt5": ("mt5", T5),
    "bart": ("bart", BART),
    "mbart": ("mbart", BART),
    "vit": ("vit", {**IMAGE, "image_size": (24, 32)}),
    "deit": ("deit", IMAGE),
    "dinov2": ("dinov2", DINO),
    "dinov2_registers": ("dinov2_with_registers", DINO),
    "dinov3": ("dinov3_vit", IMAGE),
    "vit_mae": ("vit_mae", {**IMAGE, "mask_ratio": 0.0}),
    "vit_msn": ("vit_msn", IMAGE),
    "beit": ("beit", {**IMAGE, "use_relative_position_bias": True}),
    "beit_shared": (
        "beit",
        {**IMAGE, "use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True}
        | {"use_mean_pooling": False},
    ),
    "data2vec_vision": ("data2vec-vision", {**IMAGE, "use_relative_position_bias": True}),
    "data2vec_shared": ("data2vec-vision", {**IMAGE, "use_shared_relative_position_bias": True}),
    "data2vec_text": ("data2vec-text", TEXT),
    "ijepa": ("ijepa", IMAGE),
    "aimv2": ("aimv2_vision_model", IMAGE),
    "ast": ("audio-spectrogram-transformer", {**BERT, "num_mel_bins": 32, "max_length": 66, "patch_size": 16}),
    "imagebind_audio": ("imagebind_audio", {**BERT, "projection_dim": 8}),
    "whisper": ("whisper", {**BART, "num_mel_bins": 8, "max_source_positions": 24, "decoder_start_token_id": 0}),
    "wav2vec2": ("wav2vec2", SPEECH),
    "wav2vec2_stable": ("wav2vec2", {**SPEECH, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
    "hubert": ("hubert", SPEECH),
    "wavlm": ("wavlm", {**SPEECH, "num_buckets": 8, "max_bucket_distance": 16}),
    "videomae": ("videomae", {**VIDEO, "patch_size": 8, "tubelet_size": 2}),
    "vivit": ("vivit", {**VIDEO, "tubelet_size": [2, 8, 8]}),
}


def make_config(family):
    model_type, fields = FAMILIES[family]
    return AutoConfig.for_model(model_type, **fields)


def make_native_inputs(backbone):
    """A batch of two for a backbone's own forward (of an encoder-decoder: its encoder's)."""
    config = backbone.config
    kind = config.model_type
    if kind in ("wav2vec2", "hubert", "wavlm"):
        return {"input_values": torch.randn(2, 200)}
    if kind == "whisper":
        return {"input_features": torch.randn(2, config.num_mel_bins, 2 * config.max_source_positions)}
    if kind == "imagebind_audio":
        return {"input_features": torch.randn(2, 1, config.num_mel_bins, config.max_length)}
    if kind == "audio-spectrogram-transformer":
        return {"input_values": torch.randn(2, config.max_length, config.num_mel_bins)}
    if kind in ("videomae", "vivit"):
        return {"pixel_values": torch.randn(2, config.num_frames, 3, config.image_size, config.image_size)}
    if kind == "siglip2_vision_model":
        pixels = torch.randn(2, config.num_patches, 3 * config.patch_size**2)
        mask = torch.ones(2, config.num_patches, dtype=torch.long)
        return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[4, 4]] * 2)}
    if hasattr(config, "image_size"):
        height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
        return {"pixel_values": torch.randn(2, 3, height, width)}
    return {"input_ids": torch.randint(3, config.vocab_size - 1, (2, 12))}
