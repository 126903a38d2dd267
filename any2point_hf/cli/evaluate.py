"""`any2point evaluate`."""

import argparse
import json

from .options import add_data, positive

HELP = "accuracy of an adapter on a dataset's test split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--model", required=True, help="folder or Hub id of the adapter")
    add_data(parser)
    parser.add_argument("--backbone", help="Hub id or folder instead of the recorded backbone")
    parser.add_argument("--split", default="test", help="split to evaluate (default test)")
    parser.add_argument("--batch-size", type=positive(int), default=32, help="clouds at once (default 32)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Calls one function and prints what it returns."""
    from .. import commands

    result = commands.evaluate(options.model, options.data, options.backbone, options.split, options.batch_size)
    if options.json:
        print(json.dumps(result))
        return
    for name, accuracy in result["per_class"].items():
        print(f"{name:>16}  {'none' if accuracy is None else f'{accuracy:.4f}'}")
    print(f"accuracy {result['accuracy']:.4f}, mean class accuracy {result['mean_class_accuracy']:.4f}")
