"""`any2point evaluate`."""

import argparse
from typing import Any

from .options import add_backbone, add_batch_size, add_data, add_json, add_model

HELP = "accuracy of an adapter on a dataset's test split"
DESCRIPTION = """
Classifies all clouds of a split and prints the accuracy of each class, of all clouds, and the mean over classes. The
dataset's classes must be among those that the adapter was trained for.

With --corruptions it prints instead the accuracy under the seven corruptions of PointCloud-C at five levels, and the
errors relative to those of a published DGCNN on ModelNet40 (CE, and RCE of the loss of accuracy).
"""
EXAMPLES = """
  any2point evaluate --model my-adapter --data shapes
  any2point evaluate --model my-adapter --data scans.npz --split train --json
  any2point evaluate --model my-adapter --data ModelNet40/ --corruptions
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_model(parser)
    add_data(parser)
    add_backbone(parser)
    parser.add_argument("--split", default="test", metavar="NAME", help="split to evaluate (default test)")
    parser.add_argument("--corruptions", action="store_true", help="accuracy under PointCloud-C's corruptions instead")
    add_batch_size(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from .. import trained_adapter

    if options.corruptions:
        return _corruptions(options)
    result = trained_adapter.evaluate(
        options.model, options.data, options.backbone, options.split, options.batch_size, options.drop_invalid
    )
    if options.json:
        return result
    for name, accuracy in result["per_class"].items():
        print(f"{name:>16}  {'none' if accuracy is None else f'{accuracy:.4f}'}")
    print(f"accuracy {result['accuracy']:.4f}, mean class accuracy {result['mean_class_accuracy']:.4f}")
    return None


def _corruptions(options: argparse.Namespace) -> dict[str, Any] | None:
    from .. import trained_adapter
    from ..evaluation.robustness import evaluate_corruptions

    def report(name: str, accuracies: list[float]) -> None:
        if not options.json:
            print(f"{name:>16}  {'  '.join(f'{value:.4f}' for value in accuracies)}", flush=True)

    opened = trained_adapter.open_split(
        options.model, options.data, options.backbone, options.split, options.drop_invalid
    )
    result = evaluate_corruptions(opened, options.batch_size, report=report)
    if options.json:
        return result.as_dict()
    for name, error in result.corruption_error.items():
        print(
            f"{name:>16}  mean {result.accuracy[name]:.4f}  CE {error:.3f}  "
            f"RCE {result.relative_corruption_error[name]:.3f}"
        )
    print(f"mCE {result.mean_corruption_error:.3f}, RmCE {result.relative_mean_corruption_error:.3f}")
    return None
