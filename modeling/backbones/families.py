"""Functions for single families of backbones: counts of positions, switches, variants by config.

Only the table in `table.py` uses them.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .spec import BackboneSpec, pair, patch_size

ENDLESS_LINE = 512  # positions on the line of a family whose config sets no end


# Numbers of positions, and their grids.


def all_rows(config: PreTrainedConfig) -> int:
    """Number of rows of the table, all usable: `max_position_embeddings`."""
    return config.max_position_embeddings


def rows_after_padding(config: PreTrainedConfig) -> int:
    """Number of rows after that of the padding token."""
    return config.max_position_embeddings - (config.pad_token_id or 0) - 1  # RoBERTa never uses the rows before


def endless_rows(_: PreTrainedConfig) -> int:
    """Number of positions on the line where the config sets no end: `ENDLESS_LINE`."""
    return ENDLESS_LINE


def image_grid(config: PreTrainedConfig) -> tuple[int, int]:
    """(rows, columns) of an image's patches."""
    (height, width), (patch_height, patch_width) = pair(config.image_size), patch_size(config)
    return height // patch_height, width // patch_width


def image_rows(config: PreTrainedConfig) -> int:
    """Number of an image's patches."""
    return math.prod(image_grid(config))


def square_grid(config: PreTrainedConfig) -> tuple[int, int]:
    """(rows, columns) of `num_patches` in a square."""
    side = math.isqrt(config.num_patches)
    return side, side


def spectrogram_grid(config: PreTrainedConfig) -> tuple[int, int]:
    """(rows, columns) of a spectrogram's overlapping patches: frequency, then time."""
    rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    columns = (config.max_length - config.patch_size) // config.time_stride + 1
    return rows, columns


def spectrogram_rows(config: PreTrainedConfig) -> int:
    """Number of a spectrogram's patches."""
    return math.prod(spectrogram_grid(config))


@dataclass(frozen=True)
class FirstFrames:
    """The positions of a video's first frames; time is the slowest axis of its table."""

    num_prefix: int

    def __call__(self, backbone: Any) -> Tensor:
        """Returns R rows [1, R, D] of the table, one per patch, that follow those of prefix tokens."""
        positions = backbone.embeddings.position_embeddings
        return positions[:, self.num_prefix : self.num_prefix + image_rows(backbone.config)]


# Functions that switch something off on a backbone's own modules, and variants that follow from its config.


def unroll_shared_layers(backbone: Any) -> None:
    """Makes one module object for each time that ALBERT runs one of its few layers, so that each can have a hook.

    They share the layers' tensors.
    """
    encoder, config = backbone.encoder, backbone.config
    if hasattr(encoder, "unrolled"):
        return
    shared = {id(part): part for part in (*encoder.parameters(), *encoder.buffers(), config)}
    layers = []
    for depth in range(config.num_hidden_layers):
        group = encoder.albert_layer_groups[int(depth / (config.num_hidden_layers / config.num_hidden_groups))]
        layers += [copy.deepcopy(layer, dict(shared)) for layer in group.albert_layers]
    encoder.unrolled = nn.ModuleList(layers)
    encoder.register_state_dict_post_hook(_leave_unrolled_out)
    encoder.register_load_state_dict_post_hook(_do_not_miss_unrolled)


def _leave_unrolled_out(encoder: Any, state_dict: dict[str, Tensor], prefix: str, __: Any) -> None:
    """Removes the second names of shared tensors, so that the backbone saves as itself; LoRA and own tensors stay."""
    shared = {id(parameter) for parameter in encoder.albert_layer_groups.parameters()}
    own = {prefix + name for name, parameter in encoder.named_parameters() if id(parameter) not in shared}
    for name in [name for name in state_dict if name.startswith(f"{prefix}unrolled.") and name not in own]:
        del state_dict[name]


def _do_not_miss_unrolled(_: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if "unrolled." not in name or "lora_" in name]


def without_own_relative_attention(backbone: Any) -> None:
    """Switches off relative attention that a backbone computes itself (DeBERTa, data2vec)."""
    for module in backbone.modules():
        for name in ("relative_attention", "has_relative_position_bias"):
            if getattr(module, name, False):
                setattr(module, name, False)


def keep_beits_biases_aside(backbone: Any) -> None:
    """Moves each block's own bias to `own_position_bias`, so that the block does not add it."""
    for block in backbone.layers:
        if getattr(block, "relative_position_bias", None) is not None:
            block.own_position_bias, block.relative_position_bias = block.relative_position_bias, None
            block.register_state_dict_post_hook(_name_bias_as_before)
            block.register_load_state_dict_pre_hook(_find_bias_aside)


def _name_bias_as_before(_: nn.Module, state_dict: dict[str, Tensor], prefix: str, __: Any) -> None:
    """Gives the bias its old name, so that the backbone saves as itself."""
    _rename(state_dict, f"{prefix}own_position_bias.", f"{prefix}relative_position_bias.")


def _find_bias_aside(_: nn.Module, state_dict: dict[str, Tensor], prefix: str, *__: Any) -> None:
    _rename(state_dict, f"{prefix}relative_position_bias.", f"{prefix}own_position_bias.")


def _rename(state_dict: dict[str, Tensor], old: str, new: str) -> None:
    for name in [name for name in state_dict if name.startswith(old)]:
        state_dict[new + name[len(old) :]] = state_dict.pop(name)


def beit_biases(backbone: Any) -> list[nn.Module]:
    """Lists for each block the module that holds its bias, the shared one or the block's own."""
    shared = getattr(backbone, "shared_position_bias", None)
    return [shared if shared is not None else block.own_position_bias for block in backbone.layers]


def data2vec_biases(backbone: Any) -> list[nn.Module]:
    """Lists for each block the module that holds its bias, the shared one or the block's own."""
    shared = getattr(backbone.encoder, "relative_position_bias", None)
    blocks = backbone.encoder.layer
    return [shared if shared is not None else block.attention.attention.relative_position_bias for block in blocks]


def t5_bucket(backbone: Any, distances: Tensor) -> Tensor:
    """Whole distances [...] int64 to T5's buckets [...] int64."""
    attention = backbone.block[0].layer[0].SelfAttention
    return attention._relative_position_bucket(
        distances,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )


def mpnet_bucket(backbone: Any, distances: Tensor) -> Tensor:
    """Whole distances [...] int64 to MPNet's buckets [...] int64."""
    return backbone.encoder.relative_position_bucket(distances)  # with its defaults, as the encoder calls it


def ones_as_mask(_: nn.Module, num_tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Returns a mask of ones, [1, 1, 1, L] bool, for DeBERTa, which does not take None."""
    return {"attention_mask": torch.ones(1, 1, 1, num_tokens, dtype=torch.bool, device=device)}


def no_position_bias(_: nn.Module, num_tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Returns a bias of zeros, [1, L, L], for WavLM, which computes its own where it gets none."""
    return {"position_bias": torch.zeros(1, num_tokens, num_tokens, dtype=dtype, device=device)}


def electra_variant(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Where the table has the tokens' width, takes the projection out and the embeddings' norm in."""
    if config.embedding_size == config.hidden_size:
        return replace(spec, projected_by=None, input_norm="embeddings.LayerNorm")
    return spec


def beit_variant(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Keeps only the biases, table and final norm that the config asks for."""
    has_biases = config.use_relative_position_bias or config.use_shared_relative_position_bias
    return replace(
        spec,
        in_blocks=spec.in_blocks if has_biases else None,
        positions=spec.positions if config.use_absolute_position_embeddings else None,
        final_norm=None if config.use_mean_pooling else "layernorm",
    )


def deberta_variant(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Keeps the table only where the config asks for one."""
    return replace(spec, positions=spec.positions if config.position_biased_input else None)


def aimv2_variant(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Replaces the table by fixed sines where the config asks for them."""
    return replace(spec, positions=sines_of_the_grid) if config.is_native else spec


def sines_of_the_grid(backbone: Any) -> Tensor:
    """Returns AIMv2's fixed positions [R, D]: sines and cosines of the column, then of the row."""
    from transformers.models.aimv2.modeling_aimv2 import build_2d_sinusoidal_position_embedding

    rows, columns = image_grid(backbone.config)
    weight = backbone.embeddings.patch_embed.weight
    table = build_2d_sinusoidal_position_embedding(
        height=rows, width=columns, embed_dim=backbone.config.hidden_size, device=weight.device, dtype=weight.dtype
    )
    by_row, by_column = table.chunk(2, dim=-1)
    return torch.cat([by_column, by_row], dim=-1)


def move_positions_along(backbone: Any) -> None:
    """Makes VideoMAE's table a buffer; as a plain tensor it would stay on the CPU and be copied at every forward."""
    table = vars(backbone.embeddings).pop("position_embeddings", None)
    if table is not None:
        backbone.embeddings.register_buffer("position_embeddings", table, persistent=False)


def videomae_variant(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Adds the final norm that VideoMAE has where its config does not pool by the mean."""
    return spec if config.use_mean_pooling else replace(spec, final_norm="layernorm")


def speech_variant(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Puts the encoder's norm after the blocks where the config makes them pre-norm; else it stays before them."""
    if config.do_stable_layer_norm:  # pre-norm
        return replace(spec, input_norm=None, final_norm="encoder.layer_norm")
    return spec


def opt_variant(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Takes the final norm out where the config has none, as with post-norm blocks."""
    has_final_norm = config.do_layer_norm_before and not config._remove_final_layer_norm
    return spec if has_final_norm else replace(spec, final_norm=None)
