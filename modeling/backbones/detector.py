"""Finding the parts of a family that is not in the table.

The parts are only guessed, by names that transformers' models share; `self_test.py` tries the guess out on the
backbone's own weights before it is used.
"""

import copy
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedBackboneError
from .part_of_model import DUAL_MODELS
from .positions_in_blocks import RotaryOnLine
from .spec import Always, BackboneSpec, find, pair
from .table import BACKBONES

_FEED_FORWARDS = (
    ("mlp", "mlp"),
    ("ffn", "ffn"),
    ("feed_forward", "feed_forward"),
    ("fc1", "fc2"),
    ("intermediate", "output.dense"),
)
_AFTER_FEED_FORWARD = ("layer_scale2", "ls2", "post_feedforward_layernorm")
_FINAL_NORMS = (
    *("norm", "final_norm", "layernorm", "layer_norm", "final_layer_norm", "final_layernorm", "post_layernorm"),
    *("ln_f", "norm_f", "ln", "LayerNorm", "emb_layer_norm_after"),
)
_INPUT_NORMS = (
    *("embeddings.LayerNorm", "embeddings.norm", "embeddings.layer_norm", "pre_layrnorm"),
    *("layernorm_embedding", "encoder.layernorm_embedding"),
)
MOST_PREFIX_ROWS = 5  # CLS, distillation, registers


def backbone_spec(config: PreTrainedConfig) -> BackboneSpec:
    """Returns the description of a backbone's family: from the table, or else as `detect` finds it.

    Raises:
        UnsupportedBackboneError: the family is not in the table, and its parts are not found.
    """
    spec = BACKBONES.get(config.model_type)
    if spec is None:
        return detect(config)
    return spec.resolve(spec, config) if spec.resolve is not None else spec


def unsupported(config: PreTrainedConfig, problem: str, found: str) -> UnsupportedBackboneError:
    """Makes the error of a family that cannot be used: what failed, what was found, what to do."""
    return UnsupportedBackboneError(
        f"the backbone must be a transformer whose blocks can be called one by one, got {config.model_type!r}: "
        f"{problem} Found: {found}. Known families: {', '.join(sorted([*BACKBONES, *DUAL_MODELS]))}. Choose one of "
        f"these, or describe yours by hand: any2point_hf.modeling.backbones.table.BACKBONES[{config.model_type!r}] = "
        "BackboneSpec(...)."
    )


def detect(config: PreTrainedConfig) -> BackboneSpec:
    """Describes a family that is not in the table, by the names of its modules.

    Raises:
        UnsupportedBackboneError: a part is missing; the message says which.
    """
    module = _empty_module(config)
    blocks, block = _find_blocks(config, module)
    children = ", ".join(name for name, _ in block.named_children())
    arguments = _block_arguments(config, block)
    feed_forward = next((names for names in _FEED_FORWARDS if all(_has(block, name) for name in names)), None)
    if feed_forward is None:
        raise unsupported(config, "no feed-forward part was found in its blocks.", f"blocks {blocks} of {children}")
    after = next((name for name in _AFTER_FEED_FORWARD if _has(block, name)), feed_forward[1])
    width = config.hidden_size
    final_norm = next(_norms(module, blocks, width), None)
    rotary = _find_rotary(config, module)
    table = None if _has(module, "rotary_emb") else _find_table(module, width)
    rows = 0 if table is None else _table_rows(module, table)
    grid: Any = _image_grid(config)
    is_plane = grid is not None and 0 <= rows - math.prod(grid) <= MOST_PREFIX_ROWS
    if grid is not None and not is_plane:
        table, rows = None, 0  # it is not known which row belongs to which patch
    num_rows = math.prod(grid) if is_plane else min(rows, getattr(config, "max_position_embeddings", rows)) or 512
    input_norm = next((name for name in _INPUT_NORMS if _is_norm(module, name, width)), None)
    if final_norm is not None and not getattr(config, "do_stable_layer_norm", True):
        input_norm, final_norm = final_norm, None  # a post-norm speech model's only norm comes before its blocks
    return BackboneSpec(
        modality="2d" if is_plane else "1d",
        blocks=blocks,
        feed_forward=(feed_forward[0], after),
        num_rows=Always(num_rows),
        attention=_find_attention(block),
        positions=table,
        in_blocks=rotary,
        input_norm=input_norm,
        final_norm=final_norm,
        rms_norm=final_norm is not None and "RMS" in type(find(module, final_norm)).__name__,
        norm_offset=1.0 if "gemma" in config.model_type else 0.0,
        cls_token="embeddings.cls_token" if _has(module, "embeddings.cls_token") else None,
        grid=Always(grid) if is_plane else None,
        arguments=arguments,
        detected=True,
    )


def _has(module: nn.Module, path: str) -> bool:
    try:
        return find(module, path) is not None
    except AttributeError:
        return False


def _is_norm(module: nn.Module, path: str, width: int) -> bool:
    return _has(module, path) and getattr(find(module, path), "weight", torch.empty(0)).shape == (width,)


def _table_rows(module: nn.Module, path: str) -> int:
    """Number of usable rows of a table; an embedding's rows up to its padding row, itself included, are never used."""
    table = find(module, path)
    if not isinstance(table, nn.Module):
        return table.shape[-2]
    padding = getattr(table, "padding_idx", None)
    weight: Any = table.weight
    return len(weight) - (0 if padding is None else padding + 1)


def _find_rotary(config: PreTrainedConfig, module: Any) -> RotaryOnLine | None:
    """Finds rotary positions, and from their cosines where a frequency's two channels lie; None if that fails."""
    if not _has(module, "rotary_emb"):
        return None
    by_layer_type = "layer_type" in inspect.signature(module.rotary_emb.forward).parameters
    arguments = (config.layer_types[0],) if by_layer_type else ()
    try:
        rotary = type(module.rotary_emb)(copy.deepcopy(config))
        cosines, _ = rotary(torch.empty(0), torch.arange(1.0, 5.0)[None], *arguments)
    except Exception:  # a foreign module may want anything
        return None
    halves = torch.equal(*cosines.chunk(2, dim=-1))
    interleaved = torch.equal(cosines[..., ::2], cosines[..., 1::2])
    return RotaryOnLine(by_layer_type=by_layer_type, interleaved=interleaved) if halves or interleaved else None


def _empty_module(config: PreTrainedConfig) -> PreTrainedModel:
    """Builds the architecture on the meta device, without memory for its weights."""
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            return AutoModel.from_config(copy.deepcopy(config))
    except Exception as error:  # whatever a foreign architecture raises means the same here
        raise unsupported(config, f"AutoModel cannot build it ({error}).", "no module") from error


def _find_blocks(config: PreTrainedConfig, module: nn.Module) -> tuple[str, nn.Module]:
    """Returns the path of the list of blocks, and its first block."""
    depth, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    lists = {name: part for name, part in module.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    if not isinstance(depth, int) or not isinstance(width, int):
        raise unsupported(config, "its config names no hidden_size and num_hidden_layers.", f"lists {list(lists)[:4]}")
    whole = [
        name
        for name, part in lists.items()
        if len(part) == depth and len({type(block) for block in part}) == 1 and "decoder" not in name.split(".")
    ]
    if not whole:
        raise unsupported(config, f"no list of {depth} equal blocks was found.", f"lists {list(lists)[:4]}")
    largest = max(whole, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
    return largest, lists[largest][0]


def _block_arguments(config: PreTrainedConfig, block: nn.Module) -> dict[str, None]:
    """Returns a block's constant arguments.

    Raises:
        UnsupportedBackboneError: it requires others than a mask and positions, which cannot be given.
    """
    parameters = list(inspect.signature(block.forward).parameters.values())[1:]
    required = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    unknown = [name for name in required if name not in ("attention_mask", "position_embeddings")]
    if unknown:
        raise unsupported(
            config, f"its blocks need more than tokens: {', '.join(unknown)}.", f"blocks {type(block).__name__}"
        )
    return {"attention_mask": None} if any(p.name == "attention_mask" for p in parameters) else {}


def _find_attention(block: nn.Module) -> str | None:
    names = [name for name, _ in block.named_children() if "attn" in name or name == "attention"]
    names = [name for name in names if "norm" not in name]
    return next((f"{name}.self" if _has(block, f"{name}.self") else name for name in names), None)


def _norms(module: nn.Module, blocks: str, width: int) -> Iterator[str]:
    """Yields paths of norms that may follow the blocks: beside their list, then at the top."""
    parent = blocks.rpartition(".")[0]
    for prefix in dict.fromkeys((parent, "")):
        for name in _FINAL_NORMS:
            path = f"{prefix}.{name}" if prefix else name
            if _is_norm(module, path, width):
                yield path


def _find_table(module: nn.Module, width: int) -> str | None:
    """Path of a table of positions of the tokens' width, by its name; None if there is none."""
    for name, parameter in module.named_parameters():
        is_named = "pos" in name.lower() or "wpe" in name
        if is_named and parameter.shape[-1] == width and parameter.dim() >= 2 and "bias" not in name:
            return name.removesuffix(".weight")
    return None


def _image_grid(config: PreTrainedConfig) -> tuple[int, int] | None:
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if image is None or patch is None:
        return None
    (height, width), (patch_height, patch_width) = pair(image), pair(patch)
    return height // patch_height, width // patch_width
