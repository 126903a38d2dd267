"""Which part of a model is the backbone: a tower of a dual model, the encoder of an encoder-decoder.

In a model that wraps a language model beside other parts (Gemma 3, Qwen2-VL, LLaVA …) it is that language model, and in
a model with a head (`LlamaForCausalLM`) it is the model under the head.
"""

from transformers import PreTrainedConfig, PreTrainedModel

# Towers by modality, for each `model_type` of a whole dual model. Others (CLAP's Swin of sounds) are not supported.
DUAL_MODELS = {
    "clip": {"1d": "text", "2d": "vision"},
    "siglip": {"1d": "text", "2d": "vision"},
    "siglip2": {"1d": "text", "2d": "vision"},
    "clap": {"1d": "text"},
}
ENCODER_DECODERS = ("t5", "mt5", "bart", "mbart", "whisper")

# Each tower has a class of its own; `AutoModel` does not know all of them.
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
LANGUAGE_MODEL = "language_model"  # the attribute of a wrapper that holds it


def is_wrapper(config: PreTrainedConfig) -> bool:
    """Whether a model of this config wraps a language model that could be the backbone."""
    return (
        config.model_type not in DUAL_MODELS and not hasattr(config, "hidden_size") and hasattr(config, "text_config")
    )


def _tower(model_type: str, modality: str | None) -> str | None:
    towers = DUAL_MODELS.get(model_type)
    return None if towers is None else towers.get(modality or "1d", next(iter(towers.values())))


def tower_config(config: PreTrainedConfig, modality: str | None) -> PreTrainedConfig:
    """Returns the config of a dual model's tower (by default the text's) or of a wrapped language model.

    Any other config is returned as it is.
    """
    if is_wrapper(config):
        return config.text_config
    tower = _tower(config.model_type, modality)
    return config if tower is None else getattr(config, f"{tower}_config")


def tower_module(backbone: PreTrainedModel, modality: str | None) -> PreTrainedModel:
    """Returns a model's tower, encoder, language model or what is under its head; any other module as it is."""
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
