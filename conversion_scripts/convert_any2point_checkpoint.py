"""Turns a checkpoint of the authors' released code into an adapter of this package.

    any2point convert --checkpoint ckpt.pth --backbone openai/clip-vit-large-patch14 --output any2point-clip-text-scan

The result computes what the released code computes (`released_compatibility=True`, method.md 6). The backbone's
weights in the file are compared with the given backbone's, never stored. Nothing is written unless all of it fits.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from any2point_hf.conversion_scripts.original_layouts import SETTINGS, TRAINED, Setting
from any2point_hf.modeling.backbone import load_backbone
from any2point_hf.modeling.backbone_specs import backbone_spec, find
from any2point_hf.modeling.configuration_any2point import Any2PointConfig, recorded_path
from any2point_hf.modeling.errors import Any2PointError, CheckpointError
from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from any2point_hf.processing_any2point import Any2PointProcessor

LARGEST_FROZEN_DIFFERENCE = 1e-4


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
        for pattern, replacement in TRAINED:
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
    left_over = [name for name in state if name not in frozen and not any(re.fullmatch(p, name) for p, _ in TRAINED)]
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
