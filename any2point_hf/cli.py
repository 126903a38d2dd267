"""The command line: `any2point train | evaluate | predict | info | convert`.

Every error that a user can cause is one line on standard error and exit code 2, without a traceback.
"""

import argparse
import json
import math
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .modeling.presets import PRESETS, find_preset

FAULT_OF_INPUT = 2
CONVERTIBLE = [name for name, preset in PRESETS.items() if preset.released]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    from huggingface_hub.errors import StrictDataclassError

    from .modeling.errors import Any2PointError

    interrupts: list[int] = []

    def note_interrupt(number: int, _: Any) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    handles_interrupts = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handles_interrupts:
        signal.signal(signal.SIGINT, note_interrupt)
    try:
        options.run(options)
    except (Exception, KeyboardInterrupt) as error:
        if interrupts or isinstance(error, KeyboardInterrupt):  # libraries may turn it into an error of their own
            return _fault(getattr(options, "interrupted", "interrupted."))
        if isinstance(error, StrictDataclassError):  # transformers' wrapper; the rule is in its cause
            return _fault(str(error.__cause__ or error))
        if isinstance(error, Any2PointError):
            return _fault(str(error))
        if isinstance(error, OSError):
            return _fault(f"the system refused: {error}. Check the path, its permissions and the space on the disk.")
        raise
    finally:
        if handles_interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return 0


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
    _add_setting(train)
    train.add_argument("--output", type=Path, required=True, help="folder for the adapter and its checkpoints")
    train.add_argument("--epochs", type=_positive(float), default=300, help="passes over the data (default 300)")
    train.add_argument("--batch-size", type=_positive(int), default=32, help="clouds a step (default 32)")
    train.add_argument("--learning-rate", type=_positive(float), default=5e-4, help="highest rate (default 5e-4)")
    seeds = train.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=_seed, default=0, help="of start values, order and augmentation (default 0)")
    seeds.add_argument(
        "--seeds",
        type=_seeds,
        metavar="N,N,...",
        help="train once with each into --output/seed-N, and report mean and deviation; what is done is not repeated",
    )
    train.add_argument(
        "--scale",
        type=_positive(float),
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="augment by a factor of each axis (default: the preset's, or 2/3 3/2)",
    )
    train.add_argument("--shift", type=float, help="augment by a shift of each axis (default: the preset's, or 0.2)")
    train.add_argument(
        "--rotate",
        choices=("x", "y", "z", "none"),
        help="augment by rotation about this axis (default: the preset's, or none)",
    )
    train.add_argument(
        "--keep-scale",
        action=argparse.BooleanOptionalAction,
        help="do not scale clouds to the unit sphere (default: the preset's, or scale them)",
    )
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
    _add_setting(info)
    info.add_argument("--num-labels", type=_positive(int), help="classes of the head (default: the preset's, or 15)")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_info)

    convert = commands.add_parser("convert", help="turn a released Any2Point .pth into an adapter")
    convert.add_argument("--checkpoint", type=Path, required=True, help="the original .pth")
    convert.add_argument("--backbone", required=True, help="Hub id or folder of the frozen backbone")
    convert.add_argument("--output", type=Path, required=True, help="folder to write")
    convert.add_argument("--setting", choices=CONVERTIBLE, help="the file's setting, if it should be checked")
    convert.set_defaults(run=_convert)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        required=True,
        help="'shapes' (built in); the folder of ScanObjectNN, ModelNet or ShapeNetPart as published (FOLDER#OBJ_BG "
        "for a variant); a folder root/<class>/<split>/* or root/<split>/<class>/*; or an .npz",
    )


def _add_setting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", metavar="NAME", help=f"a published setting: {', '.join(PRESETS)}")
    parser.add_argument("--backbone", help="Hub id or folder of the frozen transformer (default: the preset's)")
    parser.add_argument("--num-points", type=_positive(int), help="points a cloud (default: the preset's, or 1024)")
    parser.add_argument(
        "--num-neighbors", type=_positive(int), help="K of the tokenizer (default: the preset's, or 64)"
    )
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


def _seeds(text: str) -> list[int]:
    seeds = [_seed(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"must name each seed once, got {text}")
    return seeds


def _config_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Any2PointConfig that the command line sets, on top of those of its preset."""
    from .modeling.configuration_any2point import Any2PointConfig
    from .modeling.errors import Any2PointError

    fields = dict(find_preset(options.preset).config) if options.preset else {}
    given = {"num_points": options.num_points, "num_neighbors": options.num_neighbors}
    fields |= {name: value for name, value in given.items() if value is not None}
    for setting in options.settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in Any2PointConfig.__annotations__ or name.startswith("backbone"):
            raise Any2PointError(f"--set takes FIELD=VALUE with a field of Any2PointConfig, got {setting!r}.")
        try:
            fields[name] = json.loads(text)
        except ValueError:
            fields[name] = text
    return fields


def _backbone(options: argparse.Namespace) -> str:
    """The backbone that the command line names, or its preset's."""
    from .modeling.errors import Any2PointError

    preset = find_preset(options.preset) if options.preset else None
    backbone = options.backbone or (preset and preset.backbone)
    if not backbone:
        made_by = f" (the folder that conversion_scripts/{preset.backbone_script}.py wrote)" if preset else ""
        raise Any2PointError(f"--backbone is needed{made_by}, got neither it nor a --preset that has one.")
    return backbone


def _augmentation(options: argparse.Namespace) -> Any:
    """The augmentation that the command line asks for, on top of its preset's."""
    from .data.augmentation import Augmentation

    augmentation = Augmentation()
    if options.preset:
        dataset = find_preset(options.preset).dataset
        augmentation = Augmentation(dataset.scale, dataset.shift, dataset.rotation_axis)
    if options.scale is not None:
        augmentation = replace(augmentation, scale=tuple(options.scale))
    if options.shift is not None:
        augmentation = replace(augmentation, shift=options.shift)
    if options.rotate is not None:
        augmentation = replace(augmentation, rotation_axis=None if options.rotate == "none" else options.rotate)
    return augmentation


def _train(options: argparse.Namespace) -> None:
    from .commands import train
    from .seeds import train_with_seeds

    options.interrupted = (
        f"interrupted. The checkpoint of the last whole epoch, if there was one, is in {options.output}; go on from it "
        "with --resume."
    )
    keep_scale = options.keep_scale
    if keep_scale is None:
        keep_scale = bool(options.preset) and not find_preset(options.preset).dataset.scale_to_unit_sphere

    def train_once(seed: int, output: Path) -> dict[str, float]:
        return train(
            options.data,
            _backbone(options),
            output,
            _config_fields(options),
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=seed,
            augmentation=_augmentation(options),
            scale_to_unit_sphere=not keep_scale,
            resume=options.resume and any(output.glob("checkpoint-*")) if options.seeds else options.resume,
        )

    if options.seeds:
        given = ("data", "preset", "backbone", "num_points", "num_neighbors", "settings", "epochs", "batch_size")
        given += ("learning_rate", "scale", "shift", "rotate", "keep_scale")
        settings = {name: getattr(options, name) for name in given}
        summary = train_with_seeds(options.seeds, options.output, settings, train_once)
        values = ", ".join(f"{name} {part['mean']:.4f} ± {part['deviation']:.4f}" for name, part in summary.items())
        print(f"{len(options.seeds)} seeds (last epoch, test split): {values}, written to {options.output}")
        return
    metrics = train_once(options.seed, options.output)
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
    from .modeling.errors import Any2PointError

    if options.model and options.preset:
        raise Any2PointError("info takes --model or --preset, got both.")
    backbone_config, num_labels = None, 15
    if options.preset:
        preset = find_preset(options.preset)
        num_labels = len(preset.dataset.class_names)
        backbone_config = None if options.backbone else preset.backbone_config  # known: nothing to download
    fields = _config_fields(options) | {"num_labels": options.num_labels or num_labels}
    result = info(options.model, options.backbone, fields | {"backbone_config": backbone_config})
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
