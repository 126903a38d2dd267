"""The command line: `any2point train | evaluate | predict | info | convert`.

Every error that a user can cause is one line on standard error and exit code 2, without a traceback.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FAULT_OF_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    from huggingface_hub.errors import StrictDataclassError

    from .modeling.errors import Any2PointError

    try:
        options.run(options)
    except (Exception, KeyboardInterrupt) as error:
        if _was_interrupted(error):
            return _fault(getattr(options, "interrupted", "interrupted."))
        if isinstance(error, StrictDataclassError):  # transformers' wrapper; the rule is in its cause
            return _fault(str(error.__cause__ or error))
        if isinstance(error, Any2PointError):
            return _fault(str(error))
        if isinstance(error, OSError):
            return _fault(f"the system refused: {error}. Check the path, its permissions and the space on the disk.")
        raise
    return 0


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error; a writer that it stops may raise its own error while closing its file."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fault(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return FAULT_OF_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="any2point", description="Understand 3D point clouds with the transformers you already have."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="fine-tune a frozen backbone on point clouds")
    _add_data(train)
    _add_backbone(train)
    train.add_argument("--output", type=Path, required=True, help="folder for the adapter and its checkpoints")
    train.add_argument("--epochs", type=_positive(float), default=300, help="passes over the data (default 300)")
    train.add_argument("--batch-size", type=_positive(int), default=32, help="clouds a step (default 32)")
    train.add_argument("--learning-rate", type=_positive(float), default=5e-4, help="highest rate (default 5e-4)")
    train.add_argument("--seed", type=_seed, default=0, help="of start values, order and augmentation (default 0)")
    train.add_argument(
        "--scale",
        type=_positive(float),
        nargs=2,
        default=(2 / 3, 3 / 2),
        metavar=("LOW", "HIGH"),
        help="augment by a factor of each axis (default 2/3 3/2)",
    )
    train.add_argument("--shift", type=float, default=0.2, help="augment by a shift of each axis (default 0.2)")
    train.add_argument("--rotate", choices=("x", "y", "z"), help="augment by rotation about this axis")
    train.add_argument("--keep-scale", action="store_true", help="do not scale clouds to the unit sphere (scans)")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="accuracy of an adapter on a dataset's test split")
    evaluate.add_argument("--model", required=True, help="folder or Hub id of the adapter")
    _add_data(evaluate)
    evaluate.add_argument("--backbone", help="Hub id or folder instead of the recorded backbone")
    evaluate.add_argument("--split", default="test", help="split to evaluate (default test)")
    evaluate.add_argument("--batch-size", type=_positive(int), default=32, help="clouds at once (default 32)")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="classes of point-cloud files")
    predict.add_argument("files", nargs="+", metavar="FILE", help=".ply .off .obj .stl .pcd .xyz .txt .npy .npz")
    predict.add_argument("--model", required=True, help="folder or Hub id of the adapter")
    predict.add_argument("--backbone", help="Hub id or folder instead of the recorded backbone")
    predict.add_argument("--top", type=_positive(int), default=3, help="classes to show (default 3)")
    predict.add_argument("--batch-size", type=_positive(int), default=32, help="clouds at once (default 32)")
    predict.add_argument("--json", action="store_true", help="print one JSON list")
    predict.set_defaults(run=_predict)

    info = commands.add_parser("info", help="trainable and total parameters, part by part")
    info.add_argument("--model", help="folder or Hub id of an adapter")
    _add_backbone(info, required=False)
    info.add_argument("--num-labels", type=_positive(int), default=15, help="classes of the head (default 15)")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_info)

    convert = commands.add_parser("convert", help="turn a released Any2Point .pth into an adapter")
    convert.add_argument("--checkpoint", type=Path, required=True, help="the original .pth")
    convert.add_argument("--backbone", required=True, help="Hub id or folder of the frozen backbone")
    convert.add_argument("--output", type=Path, required=True, help="folder to write")
    convert.add_argument("--setting", help="the file's setting, if it should be checked")
    convert.set_defaults(run=_convert)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        required=True,
        help="'shapes' (built in), a folder root/<class>/<split>/* or root/<split>/<class>/*, or an .npz",
    )


def _add_backbone(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--backbone", required=required, help="Hub id or folder of the frozen transformer")
    parser.add_argument("--num-points", type=_positive(int), default=1024, help="points a cloud (default 1024)")
    parser.add_argument("--num-neighbors", type=_positive(int), default=64, help="K of the tokenizer (default 64)")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of Any2PointConfig, its value as JSON or a word, such as --set adapter_dim=8 or --set "
        "line_direction=[1,0,0] (may be repeated)",
    )


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be positive and finite, got {text}")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie in 0…4294967295, got {text}")
    return value


def _config_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Any2PointConfig that the command line sets."""
    from .modeling.configuration_any2point import Any2PointConfig
    from .modeling.errors import Any2PointError

    fields = {"num_points": options.num_points, "num_neighbors": options.num_neighbors}
    for setting in options.settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in Any2PointConfig.__annotations__ or name.startswith("backbone"):
            raise Any2PointError(f"--set takes FIELD=VALUE with a field of Any2PointConfig, got {setting!r}.")
        try:
            fields[name] = json.loads(text)
        except ValueError:
            fields[name] = text
    return fields


def _train(options: argparse.Namespace) -> None:
    from .commands import train
    from .data.augmentation import Augmentation

    options.interrupted = (
        f"interrupted. The checkpoint of the last whole epoch, if there was one, is in {options.output}; go on from it "
        "with --resume."
    )
    metrics = train(
        options.data,
        options.backbone,
        options.output,
        _config_fields(options),
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        augmentation=Augmentation(tuple(options.scale), options.shift, options.rotate),
        scale_to_unit_sphere=not options.keep_scale,
        resume=options.resume,
    )
    print(
        f"accuracy {metrics['accuracy']:.4f} (last epoch, test split), adapter {metrics['adapter_megabytes']:.2f} MB "
        f"written to {options.output}"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from .commands import evaluate

    result = evaluate(options.model, options.data, options.backbone, options.split, options.batch_size)
    if options.json:
        print(json.dumps(result))
        return
    for name, accuracy in result["per_class"].items():
        print(f"{name:>16}  {'none' if accuracy is None else f'{accuracy:.4f}'}")
    print(f"accuracy {result['accuracy']:.4f}, mean class accuracy {result['mean_class_accuracy']:.4f}")


def _predict(options: argparse.Namespace) -> None:
    from .commands import predict

    results = predict(options.model, options.files, options.backbone, options.top, options.batch_size)
    if options.json:
        print(json.dumps(results))
        return
    for result in results:
        classes = ", ".join(f"{entry['label']} {entry['probability']:.3f}" for entry in result["classes"])
        print(f"{result['file']}: {classes}")


def _info(options: argparse.Namespace) -> None:
    from .commands import info

    fields = _config_fields(options) | {"num_labels": options.num_labels}
    result = info(options.model, options.backbone, fields)
    if options.json:
        print(json.dumps(result))
        return
    for name, count in result["parts"].items():
        print(f"{name:>20} {count:>12,}")
    print(f"{'trainable':>20} {result['trainable']:>12,}  (without head {result['trainable_without_head']:,})")
    print(f"{'total':>20} {result['total']:>12,}")


def _convert(options: argparse.Namespace) -> None:
    from .conversion_scripts.convert_any2point_checkpoint import convert

    convert(options.checkpoint, options.backbone, options.output, options.setting)


if __name__ == "__main__":
    sys.exit(main())
