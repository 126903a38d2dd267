"""The published settings: six of the main results (Table 1) and three further backbones (Table 6).

`Any2PointConfig.from_preset(name)` makes a config of one. The fields in `released` are those that the authors' code
sets and the paper does not; only the conversion of their checkpoints uses them.
"""

from dataclasses import dataclass, replace
from typing import Any

from .errors import ConfigurationError, did_you_mean


@dataclass(frozen=True)
class PublishedDataset:
    """A dataset of the published settings, and how its clouds are used.

    Args:
        title: the dataset's name.
        class_names: in the order of the official labels.
        scale_to_unit_sphere: whether the processor scales the clouds to the unit sphere.
        recipe: name of the file in `any2point_hf/training/recipes/` that says how to train on it.
    """

    title: str
    class_names: tuple[str, ...]
    scale_to_unit_sphere: bool
    recipe: str


SCAN = PublishedDataset(
    title="ScanObjectNN (PB-T50-RS)",
    class_names=(
        *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow"),
        *("sink", "sofa", "toilet"),
    ),
    scale_to_unit_sphere=False,
    recipe="scanobjectnn",
)
MODELNET = PublishedDataset(
    title="ModelNet40",
    class_names=(
        *("airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone"),
        *("cup", "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard"),
        *("lamp", "laptop", "mantel", "monitor", "night_stand", "person", "piano", "plant", "radio"),
        *("range_hood", "sink", "sofa", "stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase"),
        *("wardrobe", "xbox"),
    ),
    scale_to_unit_sphere=True,
    recipe="modelnet",
)


@dataclass(frozen=True)
class Preset:
    """One published setting.

    Args:
        dataset: what it is trained on.
        backbone: Hub id; None where the backbone has to be converted first.
        backbone_config: the published backbone's own config, as a dict: enough to count parameters.
        config: fields of Any2PointConfig.
        released: further fields, only for the authors' checkpoints (method.md 6).
        accuracy: the published one, in percent, of the best epoch on the test split.
        backbone_script: name of the script that makes the backbone, where it is on no Hub.
    """

    dataset: PublishedDataset
    backbone: str | None
    backbone_config: dict[str, Any]
    config: dict[str, Any]
    released: dict[str, Any]
    accuracy: float
    backbone_script: str | None = None


_SHARED = {
    "num_points": 1024,
    "num_views": 6,
    "adapter_dropout": 0.1,
    "local_attention_dim": 12,
    "local_attention_heads": 6,
}
_ON_SCANS = {"adapter_start": "scan", "neighborhood_norm": "extent", "pooling": ["max", "cls"], "head_bias": False}
_ON_MODELNET = {
    "adapter_start": "modelnet",
    "neighborhood_norm": "deviation",
    "pooling": ["cls", "max"],
    "head_bias": True,
}

_BASE_SIZE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_CLIP_TEXT = {"model_type": "clip_text_model", **_BASE_SIZE}
_DINOV2 = {"model_type": "dinov2", "image_size": 518, "patch_size": 14}
_IMAGEBIND_AUDIO = {"model_type": "imagebind_audio"}

PRESETS: dict[str, Preset] = {
    "clip-text-scan": Preset(
        dataset=SCAN,
        backbone="openai/clip-vit-large-patch14",
        backbone_config=_CLIP_TEXT,
        config={
            "modality": "1d",
            **_SHARED,
            **_ON_SCANS,
            "num_neighbors": 81,
            "adapter_dim": 16,
            "adapter_scale": 0.3,
            "aggregation_scale": 0.3,
            "cell_size": 2,
            "cell_pooling": "mean",
            "voxel_size": 0.08,
            "position_injection": "input+blocks",
        },
        released={"line_direction": [-1, 0, 1], "layer_norm_eps": 1e-5, "final_norm_eps": 1e-6},
        accuracy=91.9,
    ),
    "dinov2-scan": Preset(
        dataset=SCAN,
        backbone="facebook/dinov2-base",
        backbone_config=_DINOV2,
        config={
            "modality": "2d",
            **_SHARED,
            **_ON_SCANS,
            "num_neighbors": 64,
            "adapter_dim": 8,
            "adapter_scale": 0.3,
            "aggregation_scale": 0.7,
            "cell_size": 26,
            "cell_pooling": "mean",
            "voxel_size": 0.16,
            "position_injection": "blocks",
            "camera_distance": 1.8,
            "plane": [518, 518],
        },
        released={"layer_norm_eps": 1e-6, "final_norm_eps": 1e-6},
        accuracy=87.7,
    ),
    "imagebind-audio-scan": Preset(
        dataset=SCAN,
        backbone=None,
        backbone_config=_IMAGEBIND_AUDIO,
        config={
            "modality": "2d",
            **_SHARED,
            **_ON_SCANS,
            "num_neighbors": 64,
            "adapter_dim": 12,
            "adapter_scale": 0.3,
            "aggregation_scale": 0.5,
            "cell_size": 16,
            "cell_pooling": "mean",
            "voxel_size": 0.16,
            "position_injection": "input",
            "camera_distance": 1.4,
        },
        released={"plane": [192, 304], "layer_norm_eps": 1e-6, "final_norm_eps": 1e-6},
        accuracy=87.0,
        backbone_script="convert_imagebind_audio",
    ),
    "clip-text-modelnet": Preset(
        dataset=MODELNET,
        backbone="openai/clip-vit-large-patch14",
        backbone_config=_CLIP_TEXT,
        config={
            "modality": "1d",
            **_SHARED,
            **_ON_MODELNET,
            "num_neighbors": 64,
            "adapter_dim": 16,
            "adapter_scale": 0.3,
            "aggregation_scale": 0.5,
            "cell_size": 2,
            "cell_pooling": "mean",
            "voxel_size": 0.16,
            "position_injection": "input",
        },
        released={"line_direction": [1, -1, 0], "layer_norm_eps": 1e-5, "final_norm_eps": 1e-5},
        accuracy=94.3,
    ),
    "dinov2-modelnet": Preset(
        dataset=MODELNET,
        backbone="facebook/dinov2-base",
        backbone_config=_DINOV2,
        config={
            "modality": "2d",
            **_SHARED,
            **_ON_MODELNET,
            "num_neighbors": 81,
            "adapter_dim": 8,
            "adapter_scale": 1.0,
            "aggregation_scale": 0.1,
            "cell_size": 26,
            "cell_pooling": "mean+max",
            "voxel_size": 0.16,
            "position_injection": "blocks",
            "camera_distance": 1.4,
            "plane": [518, 518],
        },
        released={"layer_norm_eps": 1e-5, "final_norm_eps": 1e-5},
        accuracy=93.2,
    ),
    "imagebind-audio-modelnet": Preset(
        dataset=MODELNET,
        backbone=None,
        backbone_config=_IMAGEBIND_AUDIO,
        config={
            "modality": "2d",
            **_SHARED,
            **_ON_MODELNET,
            "num_neighbors": 81,
            "adapter_dim": 8,
            "adapter_scale": 1.0,
            "aggregation_scale": 0.1,
            "cell_size": 16,
            "cell_pooling": "mean+max",
            "voxel_size": 0.16,
            "position_injection": "input",
            "camera_distance": 1.4,
        },
        released={"plane": [192, 304], "layer_norm_eps": 1e-5, "final_norm_eps": 1e-5},
        accuracy=92.7,
        backbone_script="convert_imagebind_audio",
    ),
}


def _on_other_backbone(name: str, backbone: str | None, backbone_config: dict[str, Any], **changes: Any) -> Preset:
    """Returns a setting on another backbone of its modality, with the same tokenizer and adapter values.

    `plane` is left out, so that the canvas is the new backbone's own.
    """
    preset = PRESETS[name]
    config = {field: value for field, value in preset.config.items() if field != "plane"}
    return replace(
        preset,
        backbone=backbone,
        backbone_config=backbone_config,
        config=config,
        **{"released": {}, "backbone_script": None, **changes},
    )


PRESETS["roberta-scan"] = _on_other_backbone(
    "clip-text-scan",
    "FacebookAI/roberta-base",
    {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
    accuracy=89.7,
)
PRESETS["deit-scan"] = _on_other_backbone(
    "dinov2-scan",
    "facebook/deit-base-patch16-224",
    {"model_type": "vit"},
    accuracy=87.3,
)
PRESETS["ssast-scan"] = _on_other_backbone(
    "imagebind-audio-scan",
    None,
    {"model_type": "audio-spectrogram-transformer", "frequency_stride": 16, "time_stride": 16},
    accuracy=87.1,
    backbone_script="convert_ssast",
)


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigurationError(
            f"a preset must be one of {', '.join(PRESETS)}, got {name!r}.{did_you_mean(name, PRESETS)}"
        )
    return PRESETS[name]
