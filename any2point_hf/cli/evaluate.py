"""`any2point evaluate`."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import add_backbone, add_batch_size, add_data, add_json, add_label_column, add_model

if TYPE_CHECKING:
    from ..trained_adapter import SplitOfAdapter

HELP = "accuracy of an adapter, its errors of numbers or its IoU of parts, on a dataset's test split"
DESCRIPTION = """
Classifies all clouds of a split and prints the accuracy of each class, of all clouds, the mean over classes, and how
far the probabilities are from the share of right answers (expected calibration error, 15 bins). The dataset's classes
must be among those that the adapter was trained for.

With several classes a cloud it prints the average precision and F1 of each (at a probability of 0.5), their means, and
the share of clouds whose classes are all right. Of numbers it prints R2, mean absolute and root mean squared error.

A segmenter labels every point of every cloud, and the IoU of each part and category is printed, the mean over clouds
(instance mIoU), the mean over categories (class mIoU) and the share of right points; without categories also the mean
IoU of all points together, by which scenes are measured (S3DIS, SemanticKITTI).

With --corruptions it prints instead the accuracy under the seven corruptions of PointCloud-C at five levels, and the
errors relative to those of a published DGCNN on ModelNet40 (CE, and RCE of the loss of accuracy).
"""
EXAMPLES = """
  any2point evaluate --model my-adapter --data shapes
  any2point evaluate --model my-adapter --data scans.npz --split train --json
  any2point evaluate --model my-adapter --data ModelNet40/ --corruptions
  any2point evaluate --model my-segmenter --data shapes-parts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_model(parser)
    add_data(parser)
    add_label_column(parser)
    add_backbone(parser)
    parser.add_argument("--split", default="test", metavar="NAME", help="split to evaluate (default test)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--corruptions", action="store_true", help="accuracy under PointCloud-C's corruptions instead")
    instead.add_argument("--retrieval", action="store_true", help="how well clouds find others of their class instead")
    instead.add_argument(
        "--probe",
        action="store_true",
        help="accuracy of a linear probe and of the ten nearest neighbours on the features instead, fitted to the "
        "split train",
    )
    add_batch_size(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from .. import trained_adapter
    from ..modeling.errors import Any2PointError

    opening = (options.model, options.data, options.backbone, options.split)
    if options.corruptions or options.retrieval or options.probe:
        task = trained_adapter.task_of(options.model)
        if task != "classification":
            what = "a segmenter" if task == "segmentation" else f"for {task}"
            raise Any2PointError(
                f"--corruptions, --retrieval and --probe are about one class a cloud, and {options.model} is {what}. "
                "Evaluate it without them."
            )
        opened = trained_adapter.open_split(*opening, options.drop_invalid)
        measure = _corruptions if options.corruptions else _retrieval if options.retrieval else _probe
        return measure(opened, options)
    result = trained_adapter.evaluate(*opening, options.batch_size, options.drop_invalid, options.label_column)
    if options.json:
        return result
    if "per_part" in result:
        _print_parts(result)
        return None
    if "per_target" in result or "f1_macro" in result:
        _print_by_name(result)
        return None
    _print_by_class(result["per_class"])
    print(
        f"accuracy {result['accuracy']:.4f}, mean class accuracy {result['mean_class_accuracy']:.4f}, "
        f"expected calibration error {result['expected_calibration_error']:.4f}"
    )
    return None


def _print_by_name(result: dict[str, Any]) -> None:
    """Prints the metrics of each class or target in a line, and their means."""
    from ..modeling.publishing.card_words import METRICS

    def line(values: dict[str, Any]) -> str:
        shown = {METRICS[name]: f"{value:.4g}" for name, value in values.items() if isinstance(value, float)}
        return ", ".join(f"{name} {text}" for name, text in shown.items())

    for name, values in result.get("per_target", result.get("per_class", {})).items():
        print(f"{name:>16}  {line(values)}")
    means = {name: value for name, value in result.items() if name in METRICS and name != "num_clouds"}
    print(f"{line(means)} of {result['num_clouds']} clouds")


def _corruptions(opened: "SplitOfAdapter", options: argparse.Namespace) -> dict[str, Any] | None:
    from ..evaluation.robustness import evaluate_corruptions

    def report(name: str, accuracies: list[float]) -> None:
        if not options.json:
            print(f"{name:>16}  {'  '.join(f'{value:.4f}' for value in accuracies)}", flush=True)

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


def _retrieval(opened: "SplitOfAdapter", options: argparse.Namespace) -> dict[str, Any] | None:
    from ..evaluation.frozen_features import evaluate_retrieval

    result = evaluate_retrieval(opened, options.batch_size)
    if options.json:
        return result
    _print_by_class(result["per_class"])
    scores = (result["recall_at_1"], result["mean_average_precision"])
    print("R@1 {}, mAP {}".format(*("none" if score is None else f"{score:.4f}" for score in scores)))
    return None


def _probe(opened: "SplitOfAdapter", options: argparse.Namespace) -> dict[str, Any] | None:
    from ..evaluation.frozen_features import evaluate_probe

    result = evaluate_probe(opened, batch_size=options.batch_size)
    if options.json:
        return result
    print(f"linear probe {result['linear_probe']:.4f}, ten nearest neighbours {result['nearest_neighbors']:.4f}")
    return None


def _print_parts(result: dict[str, Any]) -> None:
    _print_by_class(result["per_part"])
    scene = result.get("scene")
    if scene is None:
        print("categories:")
        _print_by_class(result["per_category"])
    else:
        print(
            f"as a scene, all points together: mIoU {scene['scene_miou']:.4f}, mean accuracy of parts "
            f"{scene['mean_part_accuracy']:.4f}"
        )
    print(
        f"instance mIoU {result['instance_miou']:.4f}, class mIoU {result['class_miou']:.4f}, accuracy "
        f"{result['accuracy']:.4f} of {result['num_points']:,} points in {result['num_clouds']:,} clouds"
    )


def _print_by_class(values: dict[str, float | None]) -> None:
    for name, value in values.items():
        print(f"{name:>16}  {'none' if value is None else f'{value:.4f}'}")
