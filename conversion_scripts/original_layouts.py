"""The names in the authors' released checkpoints, and the config fields of each of their settings."""

from dataclasses import dataclass
from typing import Any

# Config fields that both released ScanObjectNN settings share.
_SCAN = {
    "num_points": 1024,
    "num_views": 6,
    "neighborhood_norm": "extent",
    "adapter_scale": 0.3,
    "adapter_dropout": 0.1,
    "local_attention_dim": 12,
    "local_attention_heads": 6,
    "cell_pooling": "mean",
    "pooling": ["max", "cls"],
    "head_bias": False,
    "final_norm_eps": 1e-6,
    "released_compatibility": True,
}


@dataclass(frozen=True)
class Setting:
    """One released setting.

    Args:
        model_type: of the backbones it can run on.
        blocks: name of the block list in the file, after the prefix `encoder.`.
        frozen: names inside a block of the file, to those inside a block of the backbone (several are stacked).
        config: config fields of this setting.
        scale_to_unit_sphere: of its processor.
    """

    model_type: str
    blocks: str
    frozen: dict[str, tuple[str, ...]]
    config: dict[str, Any]
    scale_to_unit_sphere: bool = False


def _with_bias(names: dict[str, tuple[str, ...]], separator: str = ".") -> dict[str, tuple[str, ...]]:
    """Each module's weight and bias."""
    return {
        f"{old}{separator}{kind}": tuple(f"{name}.{kind}" for name in new)
        for old, new in names.items()
        for kind in ("weight", "bias")
    }


SETTINGS = {
    "clip-text-scan": Setting(
        model_type="clip_text_model",
        blocks="resblocks",
        frozen=_with_bias({"attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}, "_")
        | _with_bias(
            {
                "attn.out_proj": ("self_attn.out_proj",),
                "ln_1": ("layer_norm1",),
                "ln_2": ("layer_norm2",),
                "mlp.c_fc": ("mlp.fc1",),
                "mlp.c_proj": ("mlp.fc2",),
            }
        ),
        config=_SCAN
        | {
            "num_neighbors": 81,
            "adapter_dim": 16,
            "aggregation_scale": 0.3,
            "cell_size": 2,
            "voxel_size": 0.08,
            "position_injection": "input+blocks",
            "line_direction": [-1, 0, 1],
            "layer_norm_eps": 1e-5,
        },
    ),
    "dinov2-scan": Setting(
        model_type="dinov2",
        blocks="blocks",
        frozen=_with_bias(
            {
                "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
                "attn.proj": ("attention.o_proj",),
                "norm1": ("norm1",),
                "norm2": ("norm2",),
                "mlp.fc1": ("mlp.fc1",),
                "mlp.fc2": ("mlp.fc2",),
            }
        )
        | {"ls1.gamma": ("layer_scale1.lambda1",), "ls2.gamma": ("layer_scale2.lambda1",)},
        config=_SCAN
        | {
            "num_neighbors": 64,
            "adapter_dim": 8,
            "aggregation_scale": 0.7,
            "cell_size": 26,
            "voxel_size": 0.16,
            "position_injection": "blocks",
            "camera_distance": 1.8,
            "plane": [518, 518],
            "layer_norm_eps": 1e-6,
        },
    ),
}

# Trained tensors: a pattern of the file's name, and our name; "@n" is the view that the tensor is of.
TRAINED = (
    (r"encoder\.cls_token", "any2point.cls_token"),
    (r"encoder\.cls_pos", "any2point.cls_position"),
    (r"encoder\.patch_embed\.EncP\.raw_point_embed\.net\.0\.(\w+)", r"any2point.tokenizer.stem.\1"),
    (r"encoder\.patch_embed\.EncP\.raw_point_embed\.net\.1\.(\w+)", r"any2point.tokenizer.stem_norm.\1"),
    *(
        (
            rf"encoder\.patch_embed\.EncP\.LGA_list\.(\d+)\.linear2\.(\d+)\.{old}\.(\w+)",
            rf"any2point.tokenizer.stages.\1.bottlenecks.\2.{new}.\3",
        )
        for old, new in {
            r"net1\.0": "down",
            r"net1\.1": "down_norm",
            r"net2\.0": "up",
            r"net2\.1": "up_norm",
        }.items()
    ),
    (r"encoder\.(?:res)?blocks\.(\d+)\.adapter\.ln1\.(\w+)", r"any2point.bottlenecks.\1.down.\2"),
    (r"encoder\.(?:res)?blocks\.(\d+)\.adapter\.ln2\.(\w+)", r"any2point.bottlenecks.\1.up.\2"),
    (
        r"encoder\.(?:res)?blocks\.(\d+)\.out_transform_3d\.0\.(\w+)",
        r"any2point.aggregations.\1.voxel_norm.\2@0",
    ),
    (
        r"encoder\.(?:res)?blocks\.(\d+)\.out_transform_[12]d\.(\d+)\.0\.(\w+)",
        r"any2point.aggregations.\1.view_norm.\3@\2",
    ),
    (r"encoder\.attn1\.(\d+)\.qkv\.(\w+)", r"any2point.local_attention.qkv_\2@\1"),
    (r"encoder\.attn1\.(\d+)\.proj\.(\w+)", r"any2point.local_attention.out_\2@\1"),
    (r"encoder\.norm3\.(\d+)\.(\w+)", r"any2point.local_attention.norm_\2@\1"),
    (r"encoder\.norm\.(\w+)", r"any2point.final_norm.\1"),
    (r"prediction\.head\.0\.0\.(\w+)", r"classifier.hidden1.\1"),
    (r"prediction\.head\.0\.1\.(\w+)", r"classifier.norm1.\1"),
    (r"prediction\.head\.2\.0\.(\w+)", r"classifier.hidden2.\1"),
    (r"prediction\.head\.2\.1\.(\w+)", r"classifier.norm2.\1"),
    (r"prediction\.head\.4\.0\.(\w+)", r"classifier.output.\1"),
)
