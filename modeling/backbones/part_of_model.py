"""Which part of a model is the backbone: a tower of a dual model, the encoder of an encoder-decoder.

Of a model that wraps a language model beside other parts (Gemma 3, Qwen2-VL, LLaVA …) it is that language model, and of
one with a head (`LlamaForCausalLM`) what is under the head.
"""

from transformers import PreTrainedConfig, PreTrainedModel

# By `model_type` of the whole: its towers, by modality. What is not here (CLAP's Swin of sounds) is not supported.
DUAL_MODELS = {
    "clip": {"1d": "text", "2d": "vision"},
    "siglip": {"1d": "text", "2d": "vision"},
    "siglip2": {"1d": "text", "2d": "vision"},
    "clap": {"1d": "text"},
}
ENCODER_DECODERS = ("t5", "mt5", "bart", "mbart", "whisper")

# Towers are classes of their own, which `AutoModel` does not all know.
TOWER_CLASSES = {
    "clip_text_model": "CLIPTextModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_text_model": "SiglipTextModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2_text_model": "Siglip2TextModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    "clap_text_model": "ClapTextModel",
}
# Dual models whose weights do not load into the class of a tower.
LOADED_WHOLE = ("clap",)
LANGUAGE_MODEL = "language_model"  # where a wrapper keeps it


def is_wrapper(config: PreTrainedConfig) -> bool:
    """Whether a model of this config wraps a language model that could be the backbone."""
    return (
        config.model_type not in DUAL_MODELS and not hasattr(config, "hidden_size") and hasattr(config, "text_config")
    )


def _tower(model_type: str, modality: str | None) -> str | None:
    towers = DUAL_MODELS.get(model_type)
    return None if towers is None else towers.get(modality or "1d", next(iter(towers.values())))


def tower_config(config: PreTrainedConfig, modality: str | None) -> PreTrainedConfig:
    """The config of a dual model's tower (of the text's by default), any other config as it is."""
    if is_wrapper(config):
        return config.text_config
    tower = _tower(config.model_type, modality)
    return config if tower is None else getattr(config, f"{tower}_config")


def tower_module(backbone: PreTrainedModel, modality: str | None) -> PreTrainedModel:
    """The tower, encoder or language model of a model, any other module as it is."""
    if "For" in type(backbone).__name__:
        backbone = getattr(backbone, "base_model", backbone)
    if is_wrapper(backbone.config):
        return getattr(backbone, LANGUAGE_MODEL, backbone)
    tower = _tower(backbone.config.model_type, modality)
    if tower is not None:
        return getattr(backbone, f"{tower}_model")
    if backbone.config.model_type in ENCODER_DECODERS:
        return getattr(backbone, "encoder", backbone)
    return backbone
