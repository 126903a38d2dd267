"""`ImageBindAudioConfig`: sizes of ImageBind's audio encoder (arXiv 2305.05665), by default the published ones."""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ...errors import ConfigurationError


@strict
class ImageBindAudioConfig(PreTrainedConfig):
    r"""Settings of an `ImageBindAudioModel`.

    Args:
        hidden_size: width of the tokens.
        num_hidden_layers: blocks.
        num_attention_heads: must divide the width.
        intermediate_size: width inside the blocks' MLP.
        hidden_act: activation of the MLP; `"gelu"` is the exact one.
        layer_norm_eps: eps of the blocks' norms and of the final norm; the patches' norm keeps torch's 1e-5.
        num_mel_bins: rows of the spectrogram.
        max_length: its columns (frames).
        patch_size: side of a patch, in bins and in frames.
        frequency_stride: bins from one patch to the next; less than `patch_size` lets patches overlap.
        time_stride: frames from one patch to the next.
        projection_dim: width of the joint embedding.
        logit_scale: length of the joint embedding, an L2-normalised vector times this.
        initializer_range: standard deviation of random weights.

    Raises:
        StrictDataclassError: a value of the wrong type or out of range (its rule is in the message).
    """

    model_type = "imagebind_audio"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    num_mel_bins: int = 128
    max_length: int = 204
    patch_size: int = 16
    frequency_stride: int = 10
    time_stride: int = 10
    projection_dim: int = 1024
    logit_scale: float | int = 20.0
    initializer_range: float = 0.02

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches: along frequency and along time."""
        rows = (self.num_mel_bins - self.patch_size) // self.frequency_stride + 1
        columns = (self.max_length - self.patch_size) // self.time_stride + 1
        return rows, columns

    def validate_architecture(self) -> None:
        """Checks the ranges that types do not express; transformers runs it whenever a config is made."""
        for name in ImageBindAudioConfig.__annotations__:
            value = getattr(self, name)
            if name != "hidden_act" and not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(f"{name} must be positive and finite, got {value!r}.")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigurationError(
                f"num_attention_heads must divide hidden_size ({self.hidden_size}), got {self.num_attention_heads}."
            )
        if min(self.num_mel_bins, self.max_length) < self.patch_size:
            raise ConfigurationError(
                f"num_mel_bins and max_length must hold a patch of {self.patch_size}, got {self.num_mel_bins} and "
                f"{self.max_length}."
            )
        super().validate_architecture()


AutoConfig.register(ImageBindAudioConfig.model_type, ImageBindAudioConfig, exist_ok=True)
