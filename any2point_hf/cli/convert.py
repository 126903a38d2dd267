"""`any2point convert`."""

import argparse
from pathlib import Path

from ..modeling.presets import PRESETS

CONVERTIBLE = [name for name, preset in PRESETS.items() if preset.released]

HELP = "turn a released Any2Point .pth into an adapter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .pth")
    parser.add_argument("--backbone", required=True, help="Hub id or folder of the frozen backbone")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--setting", choices=CONVERTIBLE, help="the file's setting, if it should be checked")


def run(options: argparse.Namespace) -> None:
    """Calls one function and prints what it returns."""
    from ..conversion_scripts import convert_any2point_checkpoint

    convert_any2point_checkpoint.convert(options.checkpoint, options.backbone, options.output, options.setting)
