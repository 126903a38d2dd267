"""`any2point evaluate`."""

import argparse
from typing import Any

from .options import add_backbone, add_batch_size, add_data, add_json, add_model

HELP = "accuracy of an adapter on a dataset's test split"
DESCRIPTION = """
Classifies all clouds of a split and prints the accuracy of each class, of all clouds, and the mean over classes. The
dataset's classes must be among those that the adapter was trained for.
"""
EXAMPLES = """
  any2point evaluate --model my-adapter --data shapes
  any2point evaluate --model my-adapter --data scans.npz --split train --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_model(parser)
    add_data(parser)
    add_backbone(parser)
    parser.add_argument("--split", default="test", metavar="NAME", help="split to evaluate (default test)")
    add_batch_size(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from .. import trained_adapter

    result = trained_adapter.evaluate(
        options.model, options.data, options.backbone, options.split, options.batch_size, options.drop_invalid
    )
    if options.json:
        return result
    for name, accuracy in result["per_class"].items():
        print(f"{name:>16}  {'none' if accuracy is None else f'{accuracy:.4f}'}")
    print(f"accuracy {result['accuracy']:.4f}, mean class accuracy {result['mean_class_accuracy']:.4f}")
    return None
