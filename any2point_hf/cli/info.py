"""`any2point info`."""

import argparse
import json

from ..modeling.presets import find_preset
from .options import add_setting, config_fields, positive

HELP = "trainable and total parameters, part by part"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--model", help="folder or Hub id of an adapter")
    add_setting(parser)
    parser.add_argument("--num-labels", type=positive(int), help="classes of the head (default: the preset's, or 15)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Calls one function and prints what it returns."""
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
        print(json.dumps(result))
        return
    for name, count in result["parts"].items():
        print(f"{name:>20} {count:>12,}")
    print(f"{'trainable':>20} {result['trainable']:>12,}  (without head {result['trainable_without_head']:,})")
    print(f"{'total':>20} {result['total']:>12,}")
