"""`any2point info`."""

import argparse
from typing import Any

from ..modeling.presets import find_preset
from .options import add_json, add_model, add_setting, config_fields, positive

HELP = "trainable and total parameters, part by part"
DESCRIPTION = """
Counts the parameters of an adapter and its backbone, or of a model that would be trained with a backbone or preset. Of
such a new model only the backbone's config is read, not its weights.
"""
EXAMPLES = """
  any2point info --model my-adapter
  any2point info --preset clip-text-scan
  any2point info --backbone google-bert/bert-base-uncased --set adapter_dim=8 --num-labels 40 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_model(parser, required=False)
    add_json(parser)
    add_setting(parser)
    parser.add_argument(
        "--num-labels", type=positive(int), metavar="N", help="classes of the head (default: the preset's, or 15)"
    )


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints or hands back what it returns."""
    from .. import commands
    from ..modeling.errors import Any2PointError

    if options.model and options.preset:
        raise Any2PointError("info takes --model or --preset, got both.")
    backbone_config, num_labels = None, 15
    if options.preset:
        preset = find_preset(options.preset)
        num_labels = len(preset.dataset.class_names)
        backbone_config = None if options.backbone else preset.backbone_config  # known: nothing to download
    fields = config_fields(options) | {"num_labels": options.num_labels or num_labels}
    result = commands.info(options.model, options.backbone, fields | {"backbone_config": backbone_config})
    if options.json:
        return result
    for name, count in result["parts"].items():
        print(f"{name:>20} {count:>12,}")
    print(f"{'trainable':>20} {result['trainable']:>12,}  (without head {result['trainable_without_head']:,})")
    print(f"{'total':>20} {result['total']:>12,}")
    return None
