"""The names in the authors' released checkpoints: three backbones, each in two layouts, for scans and for ModelNet.

A scan's file names everything `encoder.…` and its head `prediction.head.…`; a ModelNet one has no such prefix and calls
its head `cls_head_finetune.…`. Names here are without the prefix.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from any2point_hf.modeling.errors import CheckpointError

SCAN_PREFIX = "encoder."


@dataclass(frozen=True)
class Layout:
    """How the files of one backbone name its frozen blocks.

    Args:
        model_type: of the backbone.
        blocks: name of the list of blocks.
        frozen: names inside a block of the file, to those inside a block of the backbone (several are stacked).
    """

    model_type: str
    blocks: str
    frozen: dict[str, tuple[str, ...]]


def _with_bias(names: dict[str, tuple[str, ...]], separator: str = ".") -> dict[str, tuple[str, ...]]:
    """Each module's weight and bias."""
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
        _with_bias({"attn.qkv": ("attention.qkv",), "attn.proj": ("attention.out_proj",), **_TIMM_BLOCK}),
    ),
}

# Trained tensors: a pattern of the file's name, and our name; "@n" is the view that the tensor is of.
_EMBEDDER = r"patch_embed\.EncP\.raw_point_embed\.net"
_STAGE = r"patch_embed\.EncP\.LGA_list\.(\d+)\.linear2\.(\d+)"
_BLOCK = r"(?:res)?blocks\.(\d+)"
TRAINED = {
    r"cls_token": "any2point.cls_token",
    r"cls_pos": "any2point.cls_position",
    rf"{_EMBEDDER}\.0\.(\w+)": r"any2point.tokenizer.stem.\1",
    rf"{_EMBEDDER}\.1\.(\w+)": r"any2point.tokenizer.stem_norm.\1",
    rf"{_STAGE}\.net1\.0\.(\w+)": r"any2point.tokenizer.stages.\1.bottlenecks.\2.down.\3",
    rf"{_STAGE}\.net1\.1\.(\w+)": r"any2point.tokenizer.stages.\1.bottlenecks.\2.down_norm.\3",
    rf"{_STAGE}\.net2\.0\.(\w+)": r"any2point.tokenizer.stages.\1.bottlenecks.\2.up.\3",
    rf"{_STAGE}\.net2\.1\.(\w+)": r"any2point.tokenizer.stages.\1.bottlenecks.\2.up_norm.\3",
    rf"{_BLOCK}\.adapter\.ln1\.(\w+)": r"any2point.bottlenecks.\1.down.\2",
    rf"{_BLOCK}\.adapter\.ln2\.(\w+)": r"any2point.bottlenecks.\1.up.\2",
    rf"{_BLOCK}\.out_transform_3d\.0\.(\w+)": r"any2point.aggregations.\1.voxel_norm.\2@0",
    rf"{_BLOCK}\.out_transform_[12]d\.(\d+)\.0\.(\w+)": r"any2point.aggregations.\1.view_norm.\3@\2",
    r"attn1\.(\d+)\.qkv\.(\w+)": r"any2point.local_attention.qkv_\2@\1",
    r"attn1\.(\d+)\.proj\.(\w+)": r"any2point.local_attention.out_\2@\1",
    r"norm3\.(\d+)\.(\w+)": r"any2point.local_attention.norm_\2@\1",
    r"norm\.(\w+)": r"any2point.final_norm.\1",
    r"prediction\.head\.0\.0\.(\w+)": r"classifier.hidden1.\1",
    r"prediction\.head\.0\.1\.(\w+)": r"classifier.norm1.\1",
    r"prediction\.head\.2\.0\.(\w+)": r"classifier.hidden2.\1",
    r"prediction\.head\.2\.1\.(\w+)": r"classifier.norm2.\1",
    r"prediction\.head\.4\.0\.(\w+)": r"classifier.output.\1",
    r"cls_head_finetune\.0\.(\w+)": r"classifier.hidden1.\1",
    r"cls_head_finetune\.1\.(\w+)": r"classifier.norm1.\1",
    r"cls_head_finetune\.4\.(\w+)": r"classifier.hidden2.\1",
    r"cls_head_finetune\.5\.(\w+)": r"classifier.norm2.\1",
    r"cls_head_finetune\.8\.(\w+)": r"classifier.output.\1",
}

# Every file has these, by which it is recognised together with the names of its first frozen block.
_HEADS = {"scan": "prediction.head.4.0.weight", "modelnet": "cls_head_finetune.8.weight"}
_SIGNATURE = ("cls_token", "cls_pos", "attn1.0.qkv.weight", "norm3.0.weight", "norm.weight")


class Destination(NamedTuple):
    """Where a tensor of a file goes: our name, and the view that it is of (None for a whole tensor)."""

    name: str
    view: int | None


def destination(name: str) -> Destination | None:
    """Where a trained tensor of the file goes; None for the others."""
    name = name.removeprefix(SCAN_PREFIX)
    for pattern, replacement in TRAINED.items():
        match = re.fullmatch(pattern, name)
        if match is not None:
            own, _, view = match.expand(replacement).partition("@")
            return Destination(own, int(view) if view else None)
    return None


def layout_of(setting: str) -> tuple[Layout, str]:
    """The layout of a setting's files, and the prefix of their names."""
    backbone, _, dataset = setting.rpartition("-")
    return LAYOUTS[backbone], SCAN_PREFIX if dataset == "scan" else ""


SETTINGS = tuple(f"{backbone}-{dataset}" for dataset in _HEADS for backbone in LAYOUTS)


def signature(setting: str) -> list[str]:
    """Names that every file of a setting has."""
    layout, prefix = layout_of(setting)
    block = [f"{layout.blocks}.0.{name}" for name in (*layout.frozen, "adapter.ln1.weight")]
    return [*(prefix + name for name in (*_SIGNATURE, *block)), _HEADS[setting.rpartition("-")[2]]]


def recognize_setting(state: dict[str, Tensor]) -> str:
    """The setting that a state dict is of, by its names.

    Raises:
        CheckpointError: it is of none; the first differences from the nearest one are named.
    """
    # A DINOv2 file also has all names of an ImageBind one: the longest signature that fits is the file's.
    by_length = sorted(SETTINGS, key=lambda setting: -len(signature(setting)))
    for setting in by_length:
        if all(name in state for name in signature(setting)):
            return setting
    nearest = max(by_length, key=lambda setting: sum(name in state for name in signature(setting)))
    missing = [name for name in signature(nearest) if name not in state]
    blocks = re.compile(rf"(?:{SCAN_PREFIX})?{layout_of(nearest)[0].blocks}\.\d+\.")
    unexpected = [name for name in state if destination(name) is None and not blocks.match(name)]
    raise CheckpointError(
        f"the checkpoint must be one of {', '.join(SETTINGS)}, and its names are of none of them. The nearest is "
        f"{nearest}: of its names the file misses {missing[:4]}, and it has {unexpected[:4] or list(state)[:4]}. It "
        "may be another project's file."
    )
