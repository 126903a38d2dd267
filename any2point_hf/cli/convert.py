"""`any2point convert`."""

import argparse
import json
from pathlib import Path
from typing import Any

import shtab

from ..modeling.presets import PRESETS
from .options import add_json, complete_with

CONVERTIBLE = [name for name, preset in PRESETS.items() if preset.released]

HELP = "turn a released Any2Point .pth into an adapter"
DESCRIPTION = """
Turns a checkpoint that the authors of Any2Point released into an adapter in this library's layout: config, tensors,
processor, model card and a report of what went where. It is compared with the backbone, then loaded again and run.
Nothing is unpickled.
"""
EXAMPLES = """
  any2point convert --checkpoint scan.pth --backbone openai/clip-vit-large-patch14 --output clip-text-scan
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE.pth", help="the original .pth"),
        shtab.FILE,
    )
    complete_with(
        parser.add_argument(
            "--backbone", required=True, metavar="BACKBONE", help="folder or Hub id of the frozen backbone"
        ),
        shtab.DIRECTORY,
    )
    complete_with(
        parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write"),
        shtab.DIRECTORY,
    )
    parser.add_argument("--setting", choices=CONVERTIBLE, help="the file's setting, if it should be checked")
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function, which prints what it did, and returns its report for `--json`."""
    from ..conversion_scripts.checkpoint_file import check_checkpoint_file
    from ..modeling.files import check_output_folder

    check_checkpoint_file(options.checkpoint)
    check_output_folder(options.output)

    from ..conversion_scripts import convert_any2point_checkpoint as script

    script.convert(options.checkpoint, options.backbone, options.output, options.setting)
    if not options.json:
        return None
    report = json.loads((options.output / script.REPORT_FILE).read_text(encoding="utf-8"))
    return {"output": str(options.output), "report": report}
