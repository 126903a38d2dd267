"""Turns a checkpoint of the authors' released code into an adapter of this package.

    any2point convert --checkpoint ckpt.pth --backbone openai/clip-vit-large-patch14 --output any2point-clip-text-scan

The result computes what the released code computes (`released_compatibility=True`, method.md 6). The backbone's
weights in the file are compared with the given backbone's, never stored. Nothing is written unless all of it fits.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from any2point_hf.modeling.backbone import load_backbone
from any2point_hf.modeling.backbone_specs import backbone_spec, find
from any2point_hf.modeling.configuration_any2point import Any2PointConfig, recorded_path
from any2point_hf.modeling.errors import Any2PointError, CheckpointError
from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from any2point_hf.processing_any2point import Any2PointProcessor

LARGEST_FROZEN_DIFFERENCE = 1e-4

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
_TRAINED = (
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


def read_original_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of an original `.pth` by their original names, without wrappers and `module.` prefixes.

    Raises:
        CheckpointError: missing, not a checkpoint, truncated, or with pickled objects other than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"--checkpoint must be a file, and {path} is not there. Check the path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types here, all meaning the same to the user
        raise CheckpointError(
            f"{path} must be a whole PyTorch checkpoint of plain tensors. It is truncated, of another format, or holds "
            "pickled code, which is never run."
        ) from error
    for wrapper in ("base_model", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = content.items() if isinstance(content, dict) else ()
    state = {name.removeprefix("module."): value for name, value in tensors if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} must hold a state dict of tensors, found none.")
    return state


def recognize_setting(state: dict[str, Tensor]) -> str:
    """The setting a state dict is of, by its names.

    Raises:
        CheckpointError: it is of none.
    """
    for name, setting in SETTINGS.items():
        expected = [f"encoder.{setting.blocks}.0.{tensor}" for tensor in setting.frozen]
        if all(tensor in state for tensor in (*expected, "encoder.cls_pos", "prediction.head.4.0.weight")):
            return name
    raise CheckpointError(
        f"the checkpoint must be one of {', '.join(SETTINGS)}; its names are of none of them. It begins with "
        f"{', '.join(list(state)[:4])}."
    )


def trained_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names to the trained tensors and running statistics of a state dict, views stacked."""
    views: dict[str, dict[int, Tensor]] = {}
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in _TRAINED:
            match = re.fullmatch(pattern, name)
            if match is None:
                continue
            new_name, _, view = match.expand(replacement).partition("@")
            if view:
                views.setdefault(new_name, {})[int(view)] = tensor
            else:
                is_convolution = new_name.endswith("weight") and tensor.dim() > 2
                converted[new_name] = tensor.flatten(1) if is_convolution else tensor
            break
    for name, tensors in views.items():
        if not name.endswith("num_batches_tracked"):  # our cell norms do not count batches
            converted[name] = torch.stack([tensors[view] for view in sorted(tensors)])
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def frozen_tensors(backbone: torch.nn.Module, setting: Setting) -> dict[str, Tensor]:
    """The original names to the backbone's tensors that they must equal."""
    frozen = {}
    for index, block in enumerate(find(backbone, backbone_spec(backbone.config).blocks)):
        own = dict(block.named_parameters())
        for name, parts in setting.frozen.items():
            frozen[f"encoder.{setting.blocks}.{index}.{name}"] = torch.cat([own[part].detach() for part in parts])
    return frozen


def check_frozen(state: dict[str, Tensor], frozen: dict[str, Tensor]) -> float:
    """Largest difference of the file's frozen tensors from the backbone's.

    Raises:
        CheckpointError: it is more than 1e-4, or tensors are missing or of another shape.
    """
    absent = [name for name in frozen if name not in state]
    if absent:
        raise CheckpointError(
            f"the checkpoint must hold the backbone's blocks; {len(absent)} tensors miss: {absent[:4]}."
        )
    reshaped = [name for name in frozen if state[name].shape != frozen[name].shape]
    if reshaped:
        name = reshaped[0]
        raise CheckpointError(
            f"the checkpoint's blocks must have the backbone's shapes; {name} is {list(state[name].shape)}, the "
            f"backbone's is {list(frozen[name].shape)}. Pass the backbone that the checkpoint was trained on."
        )
    differences = {name: (state[name].float() - frozen[name].float()).abs().max().item() for name in frozen}
    worst = max(differences, key=differences.get)
    if not differences[worst] <= LARGEST_FROZEN_DIFFERENCE:
        raise CheckpointError(
            f"the checkpoint's frozen weights must equal the backbone's to {LARGEST_FROZEN_DIFFERENCE}; {worst} "
            f"differs by {differences[worst]:.3g}. Pass the backbone that the checkpoint was trained on."
        )
    return differences[worst]


def convert(checkpoint: Path, backbone: str, output: Path, setting_name: str | None = None) -> None:
    """Converts one file; see the module's docstring.

    Raises:
        Any2PointError: whatever does not fit, before anything is written.
    """
    state = read_original_checkpoint(checkpoint)
    found = recognize_setting(state)
    if setting_name is not None and setting_name != found:
        raise CheckpointError(f"--setting says {setting_name}, but the file's names are those of {found}.")
    setting = SETTINGS[found]
    module = load_backbone(backbone)
    if module.config.model_type != setting.model_type:
        raise CheckpointError(
            f"{found} runs on a {setting.model_type} backbone, got {module.config.model_type} from {backbone!r}."
        )
    frozen = frozen_tensors(module, setting)
    difference = check_frozen(state, frozen)
    print(f"setting {found}; frozen weights: {len(frozen)} tensors, largest difference {difference:.3g}")

    trained = trained_tensors(state)
    num_labels = len(trained["classifier.output.bias"])
    config = Any2PointConfig(backbone=recorded_path(backbone), num_labels=num_labels, **setting.config)
    model = Any2PointForPointCloudClassification(config, backbone=module)
    load_trained(model, trained)
    left_over = [name for name in state if name not in frozen and not any(re.fullmatch(p, name) for p, _ in _TRAINED)]
    if left_over:
        raise CheckpointError(f"{len(left_over)} tensors of the checkpoint are of no use here: {left_over[:4]}.")

    model.save_pretrained(output)
    Any2PointProcessor(config.num_points, setting.scale_to_unit_sphere).save_pretrained(output)
    print(f"{len(trained)} trained tensors written to {output}")
    reloaded = Any2PointForPointCloudClassification.from_pretrained(output, backbone=module)
    points = torch.rand(1, config.num_points, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        logits = reloaded(points).logits
    if not logits.isfinite().all():
        raise CheckpointError(f"the converted model gives logits that are not finite; {output} is of no use.")
    print(f"reloaded and run on one cloud: class {int(logits.argmax())} of {num_labels}")


def load_trained(model: Any2PointForPointCloudClassification, trained: dict[str, Tensor]) -> None:
    """Puts converted tensors into a model, all of them and nothing else.

    Raises:
        CheckpointError: names or shapes differ; the first differences are named.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if ".backbone." not in name}
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - trained.keys() - optional)
    unexpected = sorted(trained.keys() - own.keys())
    shared = own.keys() & trained.keys()
    reshaped = [
        f"{name} {list(trained[name].shape)} for {list(own[name].shape)}"
        for name in sorted(shared)
        if trained[name].shape != own[name].shape
    ]
    if missing or unexpected or reshaped:
        raise CheckpointError(
            "the checkpoint must hold exactly the setting's trained tensors. "
            f"Missing: {missing[:4]}; unexpected: {unexpected[:4]}; wrongly shaped: {reshaped[:4]}."
        )
    model.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in trained.items()}, strict=False)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 where the user's input is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .pth")
    parser.add_argument("--backbone", required=True, help="Hub id or folder of the frozen backbone")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--setting", choices=SETTINGS, help="the file's setting, if it should be checked")
    options = parser.parse_args(arguments)
    try:
        convert(options.checkpoint, options.backbone, options.output, options.setting)
    except Any2PointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
