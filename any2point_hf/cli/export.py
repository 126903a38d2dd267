"""`any2point export`."""

import argparse
from pathlib import Path
from typing import Any

import shtab

from .options import add_backbone, add_json, add_model, complete_with

HELP = "a model as an ONNX or torch.export file"
DESCRIPTION = """
Writes a trained model, backbone and farthest point sampling included, as one file that runs without this library. It is
compared with the model on fresh clouds before it is put in place. ONNX needs the extra `export`.
"""
EXAMPLES = """
  any2point export --model my-adapter --format onnx --output model.onnx
  any2point export --model my-adapter --format torch --output model.pt2 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_model(parser)
    parser.add_argument(
        "--format", choices=("onnx", "torch"), required=True, help="onnx; torch for torch.export.load (.pt2)"
    )
    complete_with(
        parser.add_argument(
            "--output", type=Path, required=True, metavar="FILE", help="file to write, whole or not at all"
        ),
        shtab.FILE,
    )
    add_backbone(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..modeling.errors import Any2PointError

    suffix = {"onnx": ".onnx", "torch": ".pt2"}[options.format]
    if options.output.suffix != suffix:
        raise Any2PointError(f"--output must end in {suffix} for --format {options.format}, got {options.output}.")

    from ..export import export_file
    from ..trained_adapter import load_either

    report = export_file(*load_either(options.model, options.backbone), options.format, options.output)
    if options.json:
        return report
    opset = f", opset {report['opset']}" if report["opset"] else ""
    print(f"wrote {', '.join(report['files'])}: {report['bytes'] / 1e6:.1f} MB, {report['num_points']} points{opset}")
    print(f"largest difference of a logit from the model's: {report['max_difference']:.1e}")
    return None
