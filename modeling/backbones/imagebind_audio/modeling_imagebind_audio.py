"""The audio encoder of ImageBind (arXiv 2305.05665), which transformers does not have: a ViT over mel spectrograms.

The trip of the data: spectrogram [B, 1, 128, 204] → 12 × 19 overlapping patches → norm → [CLS; patches] + positions
[B, 229, D] → pre-norm blocks → final norm → CLS → joint embedding [B, 1024], L2-normalised and scaled.

Unusual here: every attention has one learned key row and one learned value row after those of the tokens, as
`torch.nn.MultiheadAttention(add_bias_kv=True)` has, so that L tokens attend to L + 1 rows; no norm comes before the
first block.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .configuration_imagebind_audio import ImageBindAudioConfig

PATCH_NORM_EPS = 1e-5  # not the blocks' eps


class ImageBindAudioEmbeddings(nn.Module):
    """Spectrograms to tokens. Shapes: [B, 1, mel bins, frames] -> [B, 1 + rows · columns, D]."""

    def __init__(self, config: ImageBindAudioConfig) -> None:
        super().__init__()
        self.spectrogram_size = (config.num_mel_bins, config.max_length)
        strides = (config.frequency_stride, config.time_stride)
        self.projection = nn.Conv2d(1, config.hidden_size, kernel_size=config.patch_size, stride=strides, bias=False)
        self.norm = nn.LayerNorm(config.hidden_size, eps=PATCH_NORM_EPS)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + math.prod(config.grid), config.hidden_size))

    def forward(self, input_features: Tensor) -> Tensor:
        """Tokens in the weights' dtype, the CLS token first, patches row by row (frequency, then time).

        Raises:
            ValueError: the spectrograms are not of the shape that the positions were learned for.
        """
        if input_features.dim() != 4 or tuple(input_features.shape[1:]) != (1, *self.spectrogram_size):
            raise ValueError(
                f"input_features must be [B, 1, {self.spectrogram_size[0]}, {self.spectrogram_size[1]}] (mel bins, "
                f"then frames), got {list(input_features.shape)}."
            )
        patches = self.projection(input_features.to(self.projection.weight.dtype))
        patches = self.norm(patches.flatten(2).transpose(1, 2))
        cls_tokens = self.cls_token.expand(len(patches), -1, -1)
        return torch.cat([cls_tokens, patches], dim=1) + self.position_embeddings


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[Tensor, Tensor]:
    """Attention spelled out: query [B, H, L, d], key and value [B, H, K, d] -> [B, L, H, d], weights [B, H, L, K]."""
    scores = (query * scaling) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    return (weights @ value).transpose(1, 2), weights


class ImageBindAudioAttention(nn.Module):
    """Multi-head self-attention with one learned key row and value row after those of the tokens.

    `append_key_value_rows = False` leaves the two rows out.
    """

    def __init__(self, config: ImageBindAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.append_key_value_rows: bool = True
        self.is_causal = False
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.bias_k = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.bias_v = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        """Maps [B, L, D] to [B, L, D] and, in the eager implementation, the weights [B, H, L, L + 1].

        `attention_mask`, if any, is added to the scores and covers the learned row too: [B or 1, H or 1, L, L + 1].
        """
        query, key, value = self.qkv(hidden_states).chunk(3, dim=-1)
        if self.append_key_value_rows:
            key, value = _with_row(key, self.bias_k), _with_row(value, self.bias_v)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        heads = (self._split_heads(rows) for rows in (query, key, value))
        attended, weights = attend(self, *heads, attention_mask, scaling=self.head_dim**-0.5, **kwargs)
        return self.out_proj(attended.reshape(hidden_states.shape)), weights

    def _split_heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, K, D] -> [B, H, K, d]


def _with_row(rows: Tensor, learned: Tensor) -> Tensor:
    return torch.cat([rows, learned.to(rows.dtype).expand(rows.shape[0], -1, -1)], dim=1)  # [B, L, D] -> [B, L + 1, D]


class ImageBindAudioMLP(nn.Module):
    """The feed-forward branch of a block. Shapes: [..., D] -> [..., D]."""

    def __init__(self, config: ImageBindAudioConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Linear, activation, linear."""
        return self.fc2(self.activation(self.fc1(hidden_states)))


class ImageBindAudioLayer(GradientCheckpointingLayer):
    """A pre-norm block. Shapes: [B, L, D] -> [B, L, D]."""

    def __init__(self, config: ImageBindAudioConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ImageBindAudioAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ImageBindAudioMLP(config)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> Tensor:
        """Attention and MLP, each with its norm before it and added to the residual."""
        attended, _ = self.attention(self.norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.norm2(hidden_states))


class ImageBindAudioModel(PreTrainedModel):
    """ImageBind's audio encoder of two seconds of sound, with its projection into the joint space.

    Args:
        config: its sizes; the defaults are those of the published encoder.
    """

    config: ImageBindAudioConfig
    base_model_prefix = "imagebind_audio"
    main_input_name = "input_features"
    input_modalities: Any = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules: Any = ("ImageBindAudioEmbeddings", "ImageBindAudioLayer")
    _supports_sdpa = True
    _supports_attention_backend = True
    _input_embed_layer = "projection"
    _can_record_outputs: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "hidden_states": ImageBindAudioLayer,
        "attentions": ImageBindAudioAttention,
    }

    def __init__(self, config: ImageBindAudioConfig) -> None:
        super().__init__(config)
        self.embeddings = ImageBindAudioEmbeddings(config)
        self.layers = nn.ModuleList(ImageBindAudioLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.joint_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        deviation = self.config.initializer_range
        if isinstance(module, ImageBindAudioEmbeddings):
            init.normal_(module.cls_token, std=deviation)
            init.normal_(module.position_embeddings, std=deviation)
        elif isinstance(module, ImageBindAudioAttention):
            init.normal_(module.bias_k, std=deviation)
            init.normal_(module.bias_v, std=deviation)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, input_features: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        """Encodes a batch of spectrograms.

        Args:
            input_features: [B, 1, num_mel_bins, max_length] floating, normalised log-mel spectrograms.
            kwargs: `output_hidden_states`, `output_attentions` (weights are of the eager implementation alone) and
                `return_dict`, as usual; the rest goes on to the attention.

        Returns:
            `last_hidden_state` [B, 1 + patches, D] after the final norm; `pooler_output` [B, projection_dim], the
            joint embedding of length `logit_scale`; `hidden_states` and `attentions` of every block if asked.

        Raises:
            ValueError: the spectrograms are of another shape.
        """
        hidden_states = self.embeddings(input_features)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        joint = F.normalize(self.joint_projection(hidden_states[:, 0]), dim=-1) * self.config.logit_scale
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=joint)


AutoModel.register(ImageBindAudioConfig, ImageBindAudioModel, exist_ok=True)
