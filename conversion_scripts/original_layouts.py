"""The names in the authors' released checkpoints: three backbones, each in two layouts, for scans and for ModelNet.

A scan's file names everything `encoder.…` and its head `prediction.head.…`; a ModelNet one has no such prefix and calls
its head `cls_head_finetune.…`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from any2point_hf.modeling.errors import CheckpointError
from any2point_hf.modeling.tokenizer.point_tokenizer import BOTTLENECKS_PER_STAGE

SCAN_PREFIX = "encoder."


@dataclass(frozen=True)
class Layout:
    """How the files of one backbone name its frozen blocks.

    Args:
        model_type: of the backbone.
        blocks: name of the list of blocks.
        views: name of the norms of the views' cells.
        frozen: maps names inside a block of the file to those inside a block of the backbone (the rows of several are
            joined).
    """

    model_type: str
    blocks: str
    views: str
    frozen: dict[str, tuple[str, ...]]


def _with_bias(names: dict[str, tuple[str, ...]], separator: str = ".") -> dict[str, tuple[str, ...]]:
    """The names of each module's weight and bias, made from a map of modules' names."""
    return {
        f"{old}{separator}{kind}": tuple(f"{name}.{kind}" for name in new)
        for old, new in names.items()
        for kind in ("weight", "bias")
    }


_TIMM_BLOCK = {
    "norm1": ("norm1",),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
LAYOUTS = {
    "clip-text": Layout(
        "clip_text_model",
        "resblocks",
        "out_transform_1d",
        _with_bias({"attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}, "_")
        | _with_bias(
            {
                "attn.out_proj": ("self_attn.out_proj",),
                "ln_1": ("layer_norm1",),
                "ln_2": ("layer_norm2",),
                "mlp.c_fc": ("mlp.fc1",),
                "mlp.c_proj": ("mlp.fc2",),
            }
        ),
    ),
    "dinov2": Layout(
        "dinov2",
        "blocks",
        "out_transform_2d",
        _with_bias(
            {
                "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
                "attn.proj": ("attention.o_proj",),
                **_TIMM_BLOCK,
            }
        )
        | {"ls1.gamma": ("layer_scale1.lambda1",), "ls2.gamma": ("layer_scale2.lambda1",)},
    ),
    "imagebind-audio": Layout(
        "imagebind_audio",
        "blocks",
        "out_transform_2d",
        _with_bias({"attn.qkv": ("attention.qkv",), "attn.proj": ("attention.out_proj",), **_TIMM_BLOCK}),
    ),
}

NUM_VIEWS = 6
WEIGHT, BIAS = ("weight",), ("weight", "bias")
COUNT = "num_batches_tracked"  # a file may have it or not
NORM = (*BIAS, "running_mean", "running_var", COUNT)
# The head's modules, in the order of our `HEAD`, and whether its hidden layers have a bias.
_HEADS = {
    "scan": (("0.0", "0.1", "2.0", "2.1", "4.0"), "prediction.head", WEIGHT),
    "modelnet": (("0", "1", "4", "5", "8"), "cls_head_finetune", BIAS),
}
HEAD = ("hidden1", "norm1", "hidden2", "norm2", "output")

SETTINGS = tuple(f"{backbone}-{dataset}" for dataset in _HEADS for backbone in LAYOUTS)


class Destination(NamedTuple):
    """Where a tensor of a file goes: our name, and the view that it belongs to (None for a whole tensor)."""

    name: str
    view: int | None = None


def layout_of(setting: str) -> tuple[Layout, str]:
    """The layout of a setting's files, and the prefix of their names."""
    backbone, _, dataset = setting.rpartition("-")
    return LAYOUTS[backbone], SCAN_PREFIX if dataset == "scan" else ""


def trained_names(setting: str, depth: int) -> dict[str, Destination]:
    """Every trained tensor and running statistic that a setting's file of this depth may have, and where it goes."""
    layout, prefix = layout_of(setting)
    names = {f"{prefix}cls_token": Destination("any2point.cls_token")}
    names[f"{prefix}cls_pos"] = Destination("any2point.cls_position")
    modules = [*_tokenizer(), *_blocks(layout, depth), ("norm", "any2point.final_norm", BIAS, None)]
    for old, own, kinds, view in modules:
        names |= {f"{prefix}{old}.{kind}": Destination(f"{own}.{kind}", view) for kind in kinds}
    for view in range(NUM_VIEWS):
        for old, own in {"attn1.{}.qkv": "qkv", "attn1.{}.proj": "out", "norm3.{}": "norm"}.items():
            target = f"any2point.local_attention.{own}"
            names |= {f"{prefix}{old.format(view)}.{kind}": Destination(f"{target}_{kind}", view) for kind in BIAS}
    places, head, hidden = _HEADS[setting.rpartition("-")[2]]
    for place, own, kinds in zip(places, HEAD, (hidden, NORM, hidden, NORM, BIAS), strict=True):
        names |= {f"{head}.{place}.{kind}": Destination(f"classifier.{own}.{kind}") for kind in kinds}
    return names


Module = tuple[str, str, tuple[str, ...], int | None]  # the file's name, ours, kinds of tensors, view


def _tokenizer() -> Iterator[Module]:
    yield "patch_embed.EncP.raw_point_embed.net.0", "any2point.tokenizer.stem", WEIGHT, None
    yield "patch_embed.EncP.raw_point_embed.net.1", "any2point.tokenizer.stem_norm", NORM, None
    for stage, num_bottlenecks in enumerate(BOTTLENECKS_PER_STAGE):
        for index in range(num_bottlenecks):
            old = f"patch_embed.EncP.LGA_list.{stage}.linear2.{index}"
            own = f"any2point.tokenizer.stages.{stage}.bottlenecks.{index}"
            yield f"{old}.net1.0", f"{own}.down", BIAS, None
            yield f"{old}.net1.1", f"{own}.down_norm", NORM, None
            yield f"{old}.net2.0", f"{own}.up", BIAS, None
            yield f"{old}.net2.1", f"{own}.up_norm", NORM, None


def _blocks(layout: Layout, depth: int) -> Iterator[Module]:
    for index in range(depth):
        old = f"{layout.blocks}.{index}"
        yield f"{old}.adapter.ln1", f"any2point.bottlenecks.{index}.down", BIAS, None
        yield f"{old}.adapter.ln2", f"any2point.bottlenecks.{index}.up", BIAS, None
        yield f"{old}.out_transform_3d.0", f"any2point.aggregations.{index}.voxel_norm", NORM, 0
        for view in range(NUM_VIEWS):
            yield f"{old}.{layout.views}.{view}.0", f"any2point.aggregations.{index}.view_norm", NORM, view


def frozen_names(setting: str, depth: int) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Maps every frozen tensor of a setting's file to its block and its names inside the backbone's block."""
    layout, prefix = layout_of(setting)
    return {
        f"{prefix}{layout.blocks}.{index}.{name}": (index, parts)
        for index in range(depth)
        for name, parts in layout.frozen.items()
    }


def depth_of(setting: str, state: dict[str, Tensor]) -> int:
    """How many blocks a file has."""
    layout, prefix = layout_of(setting)
    pattern = re.compile(rf"{re.escape(prefix)}{layout.blocks}\.(\d+)\.")
    return max((1 + int(match[1]) for match in map(pattern.match, state) if match), default=1)


def differences(setting: str, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names that a setting's file must have and this one has not, and names that it has beyond them."""
    depth = depth_of(setting, state)
    known = {**trained_names(setting, depth), **frozen_names(setting, depth)}
    missing = [name for name in known if name not in state and not name.endswith(COUNT)]
    return missing, [name for name in state if name not in known]


def recognize_setting(state: dict[str, Tensor]) -> str:
    """The setting that a state dict belongs to, as its names tell.

    Raises:
        CheckpointError: it belongs to none; the first differences from the nearest one are named.
    """
    nearest = min(SETTINGS, key=lambda setting: sum(map(len, differences(setting, state))))
    missing, unexpected = differences(nearest, state)
    if missing or unexpected:
        kind = f"it is nearest to {nearest}"
        if len(missing) > len(differences(nearest, {})[0]) / 2:
            kind += ", but may be another project's file"
        raise CheckpointError(
            f"the checkpoint must have exactly the names of one of {', '.join(SETTINGS)}; {kind}. "
            f"Missing ({len(missing)}): {_first(missing)}; unknown ({len(unexpected)}): {_first(unexpected)}."
        )
    return nearest


def _first(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "") or "none"
