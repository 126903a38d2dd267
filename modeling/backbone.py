"""Frozen backbones: a declarative table of families, loading, freezing, and calling one block (SPEC 3).

Unusual here: the backbone's forward is never run. Its blocks are called one by one, without a mask, which makes every
family bidirectional; a given module is shared tensor by tensor, so that hooks of one model never reach another.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig, AutoModel, CLIPTextModel, PreTrainedConfig, PreTrainedModel

from .errors import BackboneLoadError, CheckpointError, UnsupportedBackboneError
from .guided_adapter import Bottleneck


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


def _image_rows(config: PreTrainedConfig) -> int:
    return math.prod(_image_grid(config))


# One entry a family, by `model_type` of its config.
BACKBONES: dict[str, BackboneSpec] = {
    "clip_text_model": BackboneSpec(
        modality="1d",
        blocks="encoder.layers",
        attention="self_attn",
        feed_forward=("mlp", "mlp"),
        num_rows=lambda config: config.max_position_embeddings,
        positions="embeddings.position_embedding",
        final_norm="final_layer_norm",
    ),
    "bert": BackboneSpec(
        modality="1d",
        blocks="encoder.layer",
        attention="attention.self",
        feed_forward=("intermediate", "output.dense"),
        num_rows=lambda config: config.max_position_embeddings,
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
BACKBONES["roberta"] = replace(  # its rows up to the padding's are never used
    BACKBONES["bert"], num_rows=lambda config: config.max_position_embeddings - config.pad_token_id - 1
)
BACKBONES["deit"] = BACKBONES["vit"]
BACKBONES["audio-spectrogram-transformer"] = replace(
    BACKBONES["vit"], num_rows=lambda config: math.prod(_spectrogram_grid(config)), grid=_spectrogram_grid
)


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


def load_backbone_config(backbone: str, revision: str | None = None, **kwargs: Any) -> PreTrainedConfig:
    """The config of a backbone on the Hub or in a folder (its text tower's for a dual CLIP).

    Raises:
        BackboneLoadError: there is no such backbone, or no network to fetch it.
    """
    options = {name: kwargs[name] for name in _DOWNLOAD_OPTIONS if name in kwargs}
    try:
        return single_tower(AutoConfig.from_pretrained(backbone, revision=revision, **options))
    except (OSError, ValueError) as error:
        raise _load_error(backbone, error) from error


_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")


def load_backbone(backbone: str, revision: str | None = None, **kwargs: Any) -> PreTrainedModel:
    """Loads a backbone by `AutoModel` (out of a dual CLIP, only the text tower).

    Args:
        backbone: Hub id or folder.
        revision: on the Hub.
        kwargs: of `AutoModel.from_pretrained`, such as `dtype`, `device_map`, `quantization_config`, `token`.

    Raises:
        BackboneLoadError: there are no such files, or no network to fetch them.
        UnsupportedBackboneError: the family is not in the table.
    """
    options = {name: kwargs[name] for name in _DOWNLOAD_OPTIONS if name in kwargs}
    try:
        config = AutoConfig.from_pretrained(backbone, revision=revision, **options)
    except (OSError, ValueError) as error:
        raise _load_error(backbone, error) from error
    backbone_spec(single_tower(config))
    auto_class = CLIPTextModel if config.model_type == "clip" else AutoModel
    try:
        return auto_class.from_pretrained(backbone, revision=revision, **kwargs)
    except (OSError, SafetensorError) as error:
        raise _load_error(backbone, error) from error


def _load_error(backbone: str, error: Exception) -> BackboneLoadError:
    return BackboneLoadError(
        f"the backbone must be a Hub id or a folder with config.json and weights, and {backbone!r} could not be "
        f"loaded. Check the spelling, the folder's files and the network. The loader said: {error}"
    )


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone with random weights (its config copied, because transformers writes into it)."""
    return AutoModel.from_config(copy.deepcopy(config))


def share_backbone(backbone: nn.Module) -> nn.Module:
    """A copy of the module tree (of a dual CLIP, its text tower) over the same tensors.

    The caller's module keeps its own settings, and the hooks of another Any2Point model on it are left behind; no
    weight is copied.
    """
    backbone = backbone.text_model if backbone.config.model_type == "clip" else backbone
    tensors = [*backbone.parameters(), *backbone.buffers()]
    shared = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    for module in shared.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, BottleneckHook)]:
                del hooks[key]
    return shared


def freeze_backbone(backbone: nn.Module, spec: BackboneSpec, layer_norm_eps: float | None) -> None:
    """Freezes the weights, switches training behaviour and causality off, and sets the blocks' norm eps if asked."""
    backbone.requires_grad_(False).eval()
    for module in find(backbone, spec.blocks).modules():
        if getattr(module, "is_causal", False):
            module.is_causal = False
        if layer_norm_eps is not None and isinstance(module, nn.LayerNorm):
            module.eps = layer_norm_eps


def call_block(block: nn.Module, hidden: Tensor) -> Tensor:
    """One frozen block on [B, L, D], with full attention over the L tokens of each cloud."""
    dtype = next(p.dtype for p in block.parameters() if p.is_floating_point())
    output = block(hidden.to(dtype), attention_mask=None)
    output = output[0] if isinstance(output, tuple) else output
    return output.to(hidden.dtype)


class BottleneckHook:
    """Adds a bottleneck to one block's feed-forward branch (SPEC 3, Table 7).

    A callable object, not a closure, so that copying a model copies its hooks along with their bottlenecks. It belongs
    to one block and holds no state between calls, as gradient checkpointing replays it.
    """

    def __init__(self, bottleneck: Bottleneck) -> None:
        self.bottleneck = bottleneck

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> Any:
        """After: f + s·A(f) of the branch's output. Before (as a pre-hook): h + s·A(h) of its input."""
        if output is None:
            return (inputs[0] + self.bottleneck(inputs[0]), *inputs[1:])
        return output + self.bottleneck(output)


class ParallelBottleneckHook(BottleneckHook):
    """Keeps s·A(h) of the branch's input (as a pre-hook) and adds it to the branch's output."""

    pending: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> Any:
        """The pre-hook and the hook of one call always follow each other, also when checkpointing replays them."""
        if output is None:
            self.pending = self.bottleneck(inputs[0])
            return None
        pending, self.pending = self.pending, None
        return output + pending


def insert_bottleneck(
    block: nn.Module, spec: BackboneSpec, bottleneck: Bottleneck, placement: str
) -> list[RemovableHandle]:
    """Hooks a bottleneck on a block's feed-forward branch, `"after"`, `"before"` or `"parallel"` to it."""
    first, last = (find(block, name) for name in spec.feed_forward)
    if placement == "after":
        return [last.register_forward_hook(BottleneckHook(bottleneck))]
    if placement == "before":
        return [first.register_forward_pre_hook(BottleneckHook(bottleneck))]
    hook = ParallelBottleneckHook(bottleneck)
    return [first.register_forward_pre_hook(hook), last.register_forward_hook(hook)]


@contextmanager
def record_attention(backbone: nn.Module, spec: BackboneSpec, wanted: bool | None) -> Iterator[list[Tensor]]:
    """Collects each block's attention weights [B, heads, L, L] of the calls inside, if they are wanted.

    Raises:
        ValueError: the backbone's attention implementation does not return them.
    """
    weights: list[Tensor] = []
    implementation = backbone.config._attn_implementation
    if wanted and implementation != "eager":
        raise ValueError(
            f'attentions are returned by attn_implementation="eager" alone, got {implementation!r}. Call '
            'model.set_attn_implementation("eager") first.'
        )
    blocks = find(backbone, spec.blocks) if wanted else ()
    handles = [
        find(block, spec.attention).register_forward_hook(lambda _m, _i, output: weights.append(output[1]))
        for block in blocks
    ]
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()


def check_same_family(recorded: PreTrainedConfig, given: PreTrainedConfig) -> None:
    """Compares the backbone an adapter was made for with the one it is put on.

    Raises:
        CheckpointError: family, width or depth differ.
    """
    given = single_tower(given)
    names = ("model_type", "hidden_size", "num_hidden_layers")
    differing = [name for name in names if getattr(recorded, name) != getattr(given, name)]
    if differing:
        raise CheckpointError(
            "an adapter only fits the backbone it was made for; it was made for "
            + ", ".join(f"{name}={getattr(recorded, name)}" for name in differing)
            + ", the given backbone has "
            + ", ".join(f"{name}={getattr(given, name)}" for name in differing)
            + ". Pass the recorded backbone, or train a new adapter for this one."
        )


def find(module: nn.Module, path: str) -> Any:
    """The attribute at a dotted path."""
    return reduce(getattr, path.split("."), module)
