"""Vision transformers of timm, which transformers wraps as `timm_wrapper`; their sizes are read from their modules."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..errors import UnsupportedBackboneError
from .spec import Always, BackboneSpec


def timm_spec(spec: BackboneSpec, config: PreTrainedConfig) -> BackboneSpec:
    """Returns a timm model's spec, and writes the sizes that its config lacks into it.

    Raises:
        UnsupportedBackboneError: timm is not installed, or the architecture is no plain vision transformer.
    """
    model = _empty_model(config)
    blocks: Any = getattr(model, "blocks", None)
    patch_embed: Any = getattr(model, "patch_embed", None)
    grid: Any = getattr(patch_embed, "grid_size", None)
    is_transformer = isinstance(blocks, (nn.Sequential, nn.ModuleList)) and hasattr(blocks[0], "attn")
    if not is_transformer or not hasattr(blocks[0], "mlp") or grid is None:
        raise UnsupportedBackboneError(
            f"of timm's models only vision transformers are supported, got {config.architecture!r}. Choose one such as "
            "vit_base_patch16_224."
        )
    config.hidden_size, config.num_hidden_layers = model.embed_dim, len(blocks)
    config.patch_size = list(patch_embed.patch_size)
    norm = model.norm if isinstance(model.norm, nn.LayerNorm) else None
    config.layer_norm_eps = norm.eps if norm is not None else 1e-6
    return replace(
        spec,
        feed_forward=("mlp", "ls2" if hasattr(blocks[0], "ls2") else "mlp"),
        num_rows=Always(grid[0] * grid[1]),
        grid=Always(tuple(grid)),
        positions="timm_model.pos_embed" if getattr(model, "pos_embed", None) is not None else None,
        input_norm="timm_model.norm_pre" if isinstance(getattr(model, "norm_pre", None), nn.LayerNorm) else None,
        final_norm="timm_model.norm" if norm is not None else None,
        cls_token="timm_model.cls_token" if getattr(model, "cls_token", None) is not None else None,
    )


def without_relative_biases(backbone: nn.Module) -> None:
    """Switches off the biases of timm's BEiT, which fit only its own grid of tokens."""
    module: Any
    for module in backbone.modules():
        if getattr(module, "relative_position_bias_table", None) is not None:
            module.relative_position_bias_table = None


def _empty_model(config: PreTrainedConfig) -> Any:
    """Builds the architecture on the meta device, without memory for its weights."""
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            return AutoModel.from_config(copy.deepcopy(config)).timm_model
    except (ImportError, RuntimeError) as error:
        raise UnsupportedBackboneError(
            f"a backbone of timm needs timm (pip install timm), which could not make {config.architecture!r}: {error}"
        ) from error
