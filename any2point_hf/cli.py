"""The command line: `any2point train | evaluate | predict | embed | info | convert | reproduce`.

Every error that a user can cause is one line on standard error and exit code 2, without a traceback.
"""

import _thread
import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import cli_actions
from .cli_options import add_batch_job, add_data, add_recipe, add_setting, count, positive, seed, seeds
from .modeling.presets import PRESETS

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

    def interrupt_again(unraisable: Any) -> None:
        """Where an exception cannot be raised, such as inside pyarrow, Python drops it: the interrupt comes again."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, _thread.interrupt_main).start()
        else:
            sys.__unraisablehook__(unraisable)

    in_main_thread = threading.current_thread() is threading.main_thread()
    handles_interrupts = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handles_interrupts:
        signal.signal(signal.SIGINT, note_interrupt)
        sys.unraisablehook = interrupt_again
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
            sys.unraisablehook = sys.__unraisablehook__
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
    add_data(train)
    add_setting(train)
    train.add_argument("--output", type=Path, required=True, help="folder for the adapter and its checkpoints")
    add_recipe(train)
    which_seeds = train.add_mutually_exclusive_group()
    which_seeds.add_argument("--seed", type=seed, default=0, help="of start values, order and augmentation (default 0)")
    which_seeds.add_argument(
        "--seeds",
        type=seeds,
        metavar="N,N,...",
        help="train once with each into --output/seed-N, and report mean and deviation; what is done is not repeated",
    )
    train.add_argument(
        "--validation-share",
        type=positive(float),
        metavar="SHARE",
        help="hold this share of the training clouds out and keep the epoch that is best on them (default: no choice)",
    )
    train.add_argument("--workers", type=count, default=0, help="processes that load batches (default 0: none)")
    train.add_argument(
        "--log",
        action="append",
        default=[],
        choices=("tensorboard", "trackio", "wandb"),
        help="log to this tool of yours (may be repeated; nothing is sent anywhere otherwise)",
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    train.set_defaults(run=cli_actions.train)

    evaluate = commands.add_parser("evaluate", help="accuracy of an adapter on a dataset's test split")
    evaluate.add_argument("--model", required=True, help="folder or Hub id of the adapter")
    add_data(evaluate)
    evaluate.add_argument("--backbone", help="Hub id or folder instead of the recorded backbone")
    evaluate.add_argument("--split", default="test", help="split to evaluate (default test)")
    evaluate.add_argument("--batch-size", type=positive(int), default=32, help="clouds at once (default 32)")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.set_defaults(run=cli_actions.evaluate)

    predict = commands.add_parser("predict", help="classes of point-cloud files, or of a large collection")
    predict.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".ply .off .obj .stl .pcd .xyz .txt .npy .npz; with --out one folder of files or one dataset",
    )
    add_batch_job(predict, out_required=False)
    predict.add_argument("--top", type=positive(int), default=3, help="classes to show (default 3)")
    predict.add_argument("--json", action="store_true", help="print one JSON list")
    predict.set_defaults(run=cli_actions.predict)

    embed = commands.add_parser("embed", help="embeddings of a large collection of clouds")
    embed.add_argument(
        "source", help="a folder of point-cloud files, or a dataset: as --data, Arrow, parquet or Hub id"
    )
    add_batch_job(embed, out_required=True)
    embed.set_defaults(run=cli_actions.embed)

    info = commands.add_parser("info", help="trainable and total parameters, part by part")
    info.add_argument("--model", help="folder or Hub id of an adapter")
    add_setting(info)
    info.add_argument("--num-labels", type=positive(int), help="classes of the head (default: the preset's, or 15)")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=cli_actions.info)

    convert = commands.add_parser("convert", help="turn a released Any2Point .pth into an adapter")
    convert.add_argument("--checkpoint", type=Path, required=True, help="the original .pth")
    convert.add_argument("--backbone", required=True, help="Hub id or folder of the frozen backbone")
    convert.add_argument("--output", type=Path, required=True, help="folder to write")
    convert.add_argument("--setting", choices=CONVERTIBLE, help="the file's setting, if it should be checked")
    convert.set_defaults(run=cli_actions.convert)

    reproduce = commands.add_parser("reproduce", help="one of the paper's tables on your data and backbones")
    reproduce.add_argument("--table", type=int, required=True, metavar="1…10", help="number of the table")
    add_data(reproduce)
    reproduce.add_argument("--backbone-1d", help="Hub id or folder of a language model")
    reproduce.add_argument("--backbone-2d", help="Hub id or folder of a vision model")
    reproduce.add_argument("--backbone-audio", help="Hub id or folder of an audio model (Tables 1 and 6)")
    reproduce.add_argument("--output", type=Path, required=True, help="folder for the table and what was measured")
    reproduce.add_argument("--seeds", type=seeds, default=[0], metavar="N,N,...", help="of every row (default 0)")
    reproduce.add_argument("--quick", action="store_true", help="for a CPU: few epochs, points and training clouds")
    reproduce.add_argument("--epochs", type=positive(float), help="passes over the data (default 300, quick 4)")
    reproduce.add_argument("--num-points", type=positive(int), help="points a cloud (default 1024, quick 128)")
    reproduce.add_argument("--num-neighbors", type=positive(int), help="K (default the preset's, quick 16)")
    reproduce.add_argument(
        "--train-clouds", type=positive(int), help="at most so many, evenly of all classes (default all, quick 1000)"
    )
    reproduce.add_argument("--batch-size", type=positive(int), help="clouds a step (default 32)")
    reproduce.add_argument("--learning-rate", type=positive(float), help="highest rate (default 5e-4, quick 1e-3)")
    for modality in ("1d", "2d", "audio"):
        reproduce.add_argument(
            f"--set-{modality}",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            help=f"a field of Any2PointConfig with the {modality} backbone, such as plane=[32,32] (may be repeated)",
        )
    reproduce.add_argument(
        "--only",
        action="append",
        choices=("1d", "2d", "audio"),
        help="train these rows now, the others another time (may be repeated)",
    )
    reproduce.set_defaults(run=cli_actions.reproduce)
    return parser


if __name__ == "__main__":
    sys.exit(main())
