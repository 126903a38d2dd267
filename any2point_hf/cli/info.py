"""`any2point info`."""

import argparse
from typing import Any

import shtab

from ..modeling.presets import find_preset
from .options import (
    add_drop_invalid,
    add_json,
    add_model,
    add_setting,
    backbone,
    complete_with,
    config_fields,
    positive,
)

HELP = "trainable and total parameters, part by part; or what each block does to the tokens"
DESCRIPTION = """
Counts the parameters of an adapter and its backbone, or of a model that would be trained with a backbone or preset. Of
such a new model only the backbone's config is read, not its weights. With --diagnose it is run on 32 training clouds
instead, and what every block, bottleneck and aggregation does to the tokens is measured.
"""
EXAMPLES = """
  any2point info --model my-adapter
  any2point info --preset clip-text-scan
  any2point info --backbone google-bert/bert-base-uncased --set adapter_dim=8 --num-labels 40 --json
  any2point info --model my-adapter --diagnose shapes
  any2point info --backbone google-bert/bert-base-uncased --num-points 128 --num-neighbors 16 --diagnose scans.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_model(parser, required=False)
    add_json(parser)
    add_setting(parser)
    parser.add_argument(
        "--num-labels", type=positive(int), metavar="N", help="classes of the head (default: the preset's, or 15)"
    )
    complete_with(
        parser.add_argument(
            "--diagnose", metavar="DATA", help="measure every block on clouds of this dataset's train split (as --data)"
        ),
        shtab.FILE,
    )
    add_drop_invalid(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..modeling.errors import Any2PointError

    if options.model and options.preset:
        raise Any2PointError("info takes --model or --preset, got both.")
    if options.drop_invalid and not options.diagnose:
        raise Any2PointError("--drop-invalid belongs to --diagnose, got none. Leave it out.")
    backbone_config, num_labels = None, 15
    if options.preset:
        preset = find_preset(options.preset)
        num_labels = len(preset.dataset.class_names)
        backbone_config = None if options.backbone else preset.backbone_config  # known: nothing to download
    fields = config_fields(options) | {"num_labels": options.num_labels or num_labels}
    if options.diagnose:
        result = _diagnose(options, fields)
    else:
        from .. import trained_adapter

        result = trained_adapter.info(options.model, options.backbone, fields | {"backbone_config": backbone_config})
    if options.json:
        return result
    if options.diagnose:
        _print_diagnosis(result)
        return None
    for name, count in result["parts"].items():
        print(f"{name:>20} {count:>12,}")
    print(f"{'trainable':>20} {result['trainable']:>12,}  (without head {result['trainable_without_head']:,})")
    print(f"{'total':>20} {result['total']:>12,}")
    return None


def _diagnose(options: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """The numbers of an adapter, or of a new model as a training with seed 0 starts it."""
    from transformers import set_seed

    from .. import trained_adapter
    from ..data import load_point_cloud_dataset
    from ..diagnose import choose_clouds, diagnose
    from ..modeling.configuration_any2point import Any2PointConfig
    from ..modeling.errors import Any2PointError, DatasetError
    from ..modeling.hub.names import pinned_name
    from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
    from ..processing_any2point import Any2PointProcessor
    from ..training.recipe import Recipe, read_recipe

    if not (options.model or options.preset or options.backbone):
        raise Any2PointError("--diagnose needs --model, --preset or --backbone, got none.")
    named = None if options.model else backbone(options)
    features = fields.get("point_feature_names", [])
    if options.model:
        options.model = pinned_name(options.model)
        known = trained_adapter.processor_of(options.model)
        features = known.point_feature_names if known else []
    dataset = load_point_cloud_dataset(options.diagnose, drop_invalid=options.drop_invalid, features=features)
    if "train" not in dataset:
        raise DatasetError(f"--diagnose needs a dataset with a split train, got {', '.join(dataset)}.")
    if options.model:
        model, processor = trained_adapter.load_either(options.model, options.backbone)
    else:
        recipe = read_recipe(find_preset(options.preset).dataset.recipe) if options.preset else Recipe()
        set_seed(0)
        model = Any2PointForPointCloudClassification(Any2PointConfig(backbone=named, **fields))
        scale = recipe.scale_to_unit_sphere
        settings: dict[str, Any] = {"point_feature_names": features, "sampling_start": model.config.sampling_start}
        processor = Any2PointProcessor(model.config.num_points, scale, **settings)
    return diagnose(model, choose_clouds(dataset["train"], processor).to(model.device))


def _print_diagnosis(result: dict[str, Any]) -> None:
    statistics = {
        "train": "never trained, so in train mode, by the statistics of this batch",
        "eval": "trained, so in eval mode, by its running statistics",
    }
    print(f"measured on {result['num_clouds']} training clouds of {result['num_tokens']} tokens each, without dropout")
    print(statistics[result["mode"]])
    print(f"tokens as the tokenizer leaves them: RMS {result['tokens_rms']:.4g}, ", end="")
    print(f"cosine between tokens of a cloud {result['tokens_cosine']:.4f}")
    positions = result["positions_rms"]
    print("position encodings added: " + ("none" if positions is None else f"RMS {positions:.4g}"))
    print("\nRMS, of what is added also as a share of the stream:")
    parts = ("feed_forward", "bottleneck", "aggregation")
    added = "".join(f"{part.replace('_', '-'):>19}" for part in parts)
    print(f"block {'stream':>9}{added} {'effective rank':>15} {'cosine to clean':>16}")
    for block in result["blocks"]:
        added = "".join(_added(block[f"{part}_rms"], block[f"{part}_share"]) for part in parts)
        ends = f"{block['effective_rank']:>15.1f} {block['clean_cosine']:>16.4f}"
        print(f"{block['block']:>5} {block['stream_rms']:>9.4g}{added} {ends}")


def _added(value: float | None, share: float | None) -> str:
    return f"{'-':>19}" if value is None or share is None else f"{value:>10.4g} {100 * share:>6.1f} %"
