"""The table of backbone families: where each keeps its parts, and what its positions lie on (method.md 2 and 3).

A family is described by data. What is done with a description is in `backbone.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedConfig

from .errors import UnsupportedBackboneError


def find(module: nn.Module, path: str) -> Any:
    """The attribute at a dotted path."""
    return reduce(getattr, path.split("."), module)


@dataclass(frozen=True)
class BackboneSpec:
    """Where a family keeps its parts; all paths are dotted attribute names.

    Args:
        modality: `"1d"` or `"2d"`.
        blocks: the list of blocks, from the backbone.
        attention: the module inside a block that returns (output, weights).
        feed_forward: inside a block, the module that takes the normed input, and the last one of the branch, whose
            output is added to the residual.
        num_rows: usable rows of the table of positions, a function of the config.
        positions: the table of positions, an embedding or a parameter, from the backbone; its usable rows are the
            last ones, after those of prefix tokens.
        input_norm: the norm before the first block, if any.
        final_norm: the norm after the last block, if any.
        cls_token: the CLS embedding, if the backbone has one.
        grid: for 2D, a function of the config to (rows, columns) of the table.
    """

    modality: Literal["1d", "2d"]
    blocks: str
    attention: str
    feed_forward: tuple[str, str]
    num_rows: Callable[[PreTrainedConfig], int]
    positions: str = "embeddings.position_embeddings"
    input_norm: str | None = None
    final_norm: str | None = None
    cls_token: str | None = None
    grid: Callable[[PreTrainedConfig], tuple[int, int]] | None = None

    def table(self, backbone: nn.Module) -> Tensor:
        """The usable rows of the backbone's own position table, [R, D] (a view, frozen)."""
        positions = find(backbone, self.positions)
        rows = positions.weight if isinstance(positions, nn.Module) else positions
        return rows.detach().reshape(-1, rows.shape[-1])[-self.num_rows(backbone.config) :]


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _image_grid(config: PreTrainedConfig) -> tuple[int, int]:
    (height, width), (patch_height, patch_width) = _pair(config.image_size), _pair(config.patch_size)
    return height // patch_height, width // patch_width


def _spectrogram_grid(config: PreTrainedConfig) -> tuple[int, int]:
    rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    columns = (config.max_length - config.patch_size) // config.time_stride + 1
    return rows, columns


def _spectrogram_rows(config: PreTrainedConfig) -> int:
    return math.prod(_spectrogram_grid(config))


def _all_rows(config: PreTrainedConfig) -> int:
    return config.max_position_embeddings


def _rows_after_padding(config: PreTrainedConfig) -> int:
    return config.max_position_embeddings - config.pad_token_id - 1  # RoBERTa never uses the rows before


def _image_rows(config: PreTrainedConfig) -> int:
    return math.prod(_image_grid(config))


# One entry a family, by `model_type` of its config.
BACKBONES: dict[str, BackboneSpec] = {
    "clip_text_model": BackboneSpec(
        modality="1d",
        blocks="encoder.layers",
        attention="self_attn",
        feed_forward=("mlp", "mlp"),
        num_rows=_all_rows,
        positions="embeddings.position_embedding",
        final_norm="final_layer_norm",
    ),
    "bert": BackboneSpec(
        modality="1d",
        blocks="encoder.layer",
        attention="attention.self",
        feed_forward=("intermediate", "output.dense"),
        num_rows=_all_rows,
        input_norm="embeddings.LayerNorm",
    ),
    "vit": BackboneSpec(
        modality="2d",
        blocks="layers",
        attention="attention",
        feed_forward=("mlp", "mlp"),
        num_rows=_image_rows,
        final_norm="layernorm",
        cls_token="embeddings.cls_token",
        grid=_image_grid,
    ),
    "dinov2": BackboneSpec(
        modality="2d",
        blocks="encoder.layer",
        attention="attention",
        feed_forward=("mlp", "layer_scale2"),
        num_rows=_image_rows,
        final_norm="layernorm",
        cls_token="embeddings.cls_token",
        grid=_image_grid,
    ),
}
BACKBONES["roberta"] = replace(BACKBONES["bert"], num_rows=_rows_after_padding)
BACKBONES["deit"] = BACKBONES["vit"]
BACKBONES["audio-spectrogram-transformer"] = replace(
    BACKBONES["vit"], num_rows=_spectrogram_rows, grid=_spectrogram_grid
)
BACKBONES["imagebind_audio"] = BACKBONES["audio-spectrogram-transformer"]


def backbone_spec(config: PreTrainedConfig) -> BackboneSpec:
    """The table's entry for a backbone's config.

    Raises:
        UnsupportedBackboneError: the family is not in the table.
    """
    spec = BACKBONES.get(config.model_type)
    if spec is None:
        raise UnsupportedBackboneError(
            f"the backbone's family must be one of {', '.join(sorted([*BACKBONES, 'clip']))}, got "
            f"{config.model_type!r}. Choose a backbone of one of these families."
        )
    return spec


def patch_size(config: PreTrainedConfig) -> tuple[int, int]:
    """(height, width) in pixels of the patches of a 2D backbone."""
    return _pair(config.patch_size)


def single_tower(config: PreTrainedConfig) -> PreTrainedConfig:
    """The text tower's config of a dual CLIP, any other config as it is."""
    return config.text_config if config.model_type == "clip" else config
