"""Turns a checkpoint of the authors' released code into an adapter of this package.

    any2point convert --checkpoint ckpt.pth --backbone openai/clip-vit-large-patch14 --output any2point-clip-text-scan

The result computes what the released code computes (`released_compatibility=True`, method.md 6). The backbone's
weights in the file are compared with the given backbone's, never stored. Nothing is written unless all of it fits.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from any2point_hf.conversion_scripts.conversion_output import exit_code, whole_folder
from any2point_hf.conversion_scripts.converted_model_card import converted_model_card
from any2point_hf.conversion_scripts.original_checkpoint import (
    OriginalCheckpoint,
    check_numbers,
    read_original_checkpoint,
)
from any2point_hf.conversion_scripts.original_layouts import (
    SETTINGS,
    depth_of,
    frozen_names,
    layout_of,
    recognize_setting,
    trained_names,
)
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.loading import load_backbone
from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.configuration_any2point import Any2PointConfig, recorded_path
from any2point_hf.modeling.errors import CheckpointError
from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from any2point_hf.modeling.presets import PRESETS
from any2point_hf.processing_any2point import Any2PointProcessor

LARGEST_FROZEN_DIFFERENCE = 1e-4
REPORT_FILE = "conversion_report.json"


def convert(checkpoint: Path, backbone: str, output: Path, setting: str | None = None) -> None:
    """Converts one file; see the module's docstring.

    Args:
        checkpoint: the authors' `.pth`.
        backbone: Hub id or folder of the backbone that it was trained on.
        output: folder for config, adapter, processor, model card and report.
        setting: the preset that the file must belong to; by default the one that its tensors' names tell.

    Raises:
        Any2PointError: something does not fit; raised before anything is written.
    """
    original = read_original_checkpoint(checkpoint)
    state = original.tensors
    found = recognize_setting(state)
    if setting is not None and setting != found:
        raise CheckpointError(f"--setting says {setting}, but the file's names are those of {found}.")
    check_numbers(checkpoint, state)
    module = load_backbone(backbone, dtype=torch.float32)
    frozen = frozen_tensors(state, found, module)
    difference = check_frozen(state, frozen)
    trained = trained_tensors(state, found)
    config = _config(found, backbone, num_labels=trained["classifier.output.bias"].numel())
    model = Any2PointForPointCloudClassification(config, backbone=module)
    model.config.backbone = config.backbone
    load_trained(model, trained)
    report = _report(checkpoint, found, original, frozen, difference)
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        processor = Any2PointProcessor(
            config.num_points, PRESETS[found].dataset.scale_to_unit_sphere, sampling_start=str(config.sampling_start)
        )
        processor.save_pretrained(folder)
        card = converted_model_card(found, model, output.resolve().name)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        predicted = _check_reloaded(folder, model, module)
    print(
        f"setting {found}: {len(report['trained'])} trained tensors converted; {len(frozen)} frozen ones equal the "
        f"backbone's, largest difference {difference:.3g}; left out: {', '.join(report['left out']) or 'nothing'}.\n"
        f"Reloaded and run on one cloud: {predicted}. What went where is in {output / REPORT_FILE}."
    )


def frozen_tensors(state: dict[str, Tensor], setting: str, backbone: PreTrainedModel) -> dict[str, Tensor]:
    """Maps the original names of the frozen tensors to the backbone's tensors that they must equal.

    Raises:
        CheckpointError: the backbone is of another family or depth than the file.
    """
    layout, _ = layout_of(setting)
    if backbone.config.model_type != layout.model_type:
        raise CheckpointError(
            f"{setting} runs on a {layout.model_type} backbone, got one of {backbone.config.model_type}. Pass the "
            f"backbone that the checkpoint was trained on{_hint(setting)}."
        )
    blocks = find(backbone, backbone_spec(backbone.config).blocks)
    depth = depth_of(setting, state)
    if depth != len(blocks):
        raise CheckpointError(
            f"the checkpoint has {depth} blocks, and the backbone has {len(blocks)}. Pass the backbone that the "
            f"checkpoint was trained on{_hint(setting)}."
        )
    own = [dict(block.named_parameters()) for block in blocks]
    return {
        name: torch.cat([own[index][part].detach() for part in parts])
        for name, (index, parts) in frozen_names(setting, depth).items()
    }


def _hint(setting: str) -> str:
    preset = PRESETS[setting]
    return f", {preset.backbone or 'the output of ' + str(preset.backbone_script)}"


def check_frozen(state: dict[str, Tensor], frozen: dict[str, Tensor]) -> float:
    """Largest difference of the file's frozen tensors from the backbone's.

    Raises:
        CheckpointError: it is more than 1e-4, or a tensor is of another shape.
    """
    reshaped = [name for name in frozen if state[name].shape != frozen[name].shape]
    if reshaped:
        name = reshaped[0]
        raise CheckpointError(
            f"the checkpoint's blocks must have the backbone's shapes; {name} is {list(state[name].shape)}, the "
            f"backbone's is {list(frozen[name].shape)}. Pass the backbone that the checkpoint was trained on."
        )
    differences = {name: (state[name].float() - frozen[name].float()).abs().max().item() for name in frozen}
    worst = max(differences, key=differences.__getitem__)
    if not differences[worst] <= LARGEST_FROZEN_DIFFERENCE:
        raise CheckpointError(
            f"the checkpoint's frozen weights must equal the backbone's to {LARGEST_FROZEN_DIFFERENCE}; {worst} "
            f"differs by {differences[worst]:.3g}. Pass the backbone that the checkpoint was trained on."
        )
    return differences[worst]


def trained_tensors(state: dict[str, Tensor], setting: str) -> dict[str, Tensor]:
    """Maps our names to the trained tensors and running statistics of a state dict; those of views are stacked."""
    views: dict[str, list[Tensor]] = {}
    converted: dict[str, Tensor] = {}
    for name, (own, view) in trained_names(setting, depth_of(setting, state)).items():
        if name not in state or _is_count_of_views(own):
            continue
        if view is not None:
            views.setdefault(own, []).append(state[name])
        else:
            is_convolution = own.endswith("weight") and state[name].dim() > 2
            converted[own] = state[name].flatten(1) if is_convolution else state[name]
    for own, tensors in views.items():
        if len({tensor.shape for tensor in tensors}) > 1:
            raise CheckpointError(f"the views' tensors of {own} must have one shape, got several.")
        converted[own] = torch.stack(tensors)
    return {own: tensor.contiguous() for own, tensor in converted.items()}


def _is_count_of_views(name: str) -> bool:
    """Whether a tensor of this name is the count of batches of a cell norm, which ours do not have.

    The count is used neither at inference nor in training with a momentum.
    """
    return name.endswith("num_batches_tracked") and ".aggregations." in name


def _config(setting: str, backbone: str, num_labels: int) -> Any2PointConfig:
    preset = PRESETS[setting]
    names = preset.dataset.class_names
    labels: dict[str, Any] = {"num_labels": num_labels}
    if num_labels == len(names):
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    fields = {**preset.config, **preset.released, **labels}
    return Any2PointConfig(backbone=recorded_path(backbone), released_compatibility=True, **fields)


def load_trained(model: Any2PointForPointCloudClassification, trained: dict[str, Tensor]) -> None:
    """Puts converted tensors into a model, all of them and nothing else.

    Raises:
        CheckpointError: shapes differ; the first ones are named.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if ".backbone." not in name}
    reshaped = [
        f"{name} {list(tensor.shape)} for {list(own[name].shape)}"
        for name, tensor in trained.items()
        if tensor.shape != own[name].shape
    ]
    if reshaped:
        raise CheckpointError(
            f"the checkpoint's trained tensors must have the setting's shapes; {len(reshaped)} are wrongly shaped: "
            f"{reshaped[:4]}."
        )
    model.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in trained.items()}, strict=False)


def _report(
    checkpoint: Path, setting: str, original: OriginalCheckpoint, frozen: dict[str, Tensor], difference: float
) -> dict[str, Any]:
    """What went where: every tensor of the file is in exactly one of its lists."""
    names = trained_names(setting, depth_of(setting, original.tensors))
    targets = {name: target for name, target in names.items() if name in original.tensors}
    counts = [name for name, target in targets.items() if _is_count_of_views(target.name)]
    return {
        "checkpoint": str(checkpoint),
        "setting": setting,
        "trained": {
            name: target.name + ("" if target.view is None else f"[{target.view}]")
            for name, target in targets.items()
            if name not in counts
        },
        "frozen, equal to the backbone's and not stored": list(frozen),
        "largest difference of the frozen": difference,
        "left out": [*original.other, *counts],
    }


@torch.no_grad()
def _check_reloaded(folder: Path, model: Any2PointForPointCloudClassification, backbone: PreTrainedModel) -> str:
    """Loads what was written, runs it on one cloud and returns the class that the cloud gets, as text.

    Raises:
        CheckpointError: the logits are not finite, or not those of the model that was saved.
    """
    reloaded = Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone)
    reloaded.base_model.must_warn = model.base_model.must_warn = False  # one cloud is all that is wanted here
    points = torch.rand(1, model.config.num_points, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits, expected = reloaded(points).logits, model.eval()(points).logits
    if not (logits - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1):  # NaN is refused too
        raise CheckpointError("the converted model must give the same finite logits when it is reloaded, and does not.")
    id2label: Any = model.config.id2label
    return f"{id2label[int(logits.argmax())]}, of {model.config.num_labels} classes"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns 0, or 2 where the user's input is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .pth")
    parser.add_argument("--backbone", required=True, help="Hub id or folder of the frozen backbone")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--setting", choices=SETTINGS, help="the file's setting, if it should be checked")
    options = parser.parse_args(arguments)
    return exit_code(lambda: convert(options.checkpoint, options.backbone, options.output, options.setting))


if __name__ == "__main__":
    sys.exit(main())
