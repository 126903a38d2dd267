"""`any2point reproduce`."""

import argparse
import shlex
import sys
from pathlib import Path

from .options import add_data, positive, seeds, settings

HELP = "one of the paper's tables on your data and backbones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--table", type=int, required=True, metavar="1…10", help="number of the table")
    add_data(parser)
    parser.add_argument("--backbone-1d", help="Hub id or folder of a language model")
    parser.add_argument("--backbone-2d", help="Hub id or folder of a vision model")
    parser.add_argument("--backbone-audio", help="Hub id or folder of an audio model (Tables 1 and 6)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and what was measured")
    parser.add_argument("--seeds", type=seeds, default=[0], metavar="N,N,...", help="of every row (default 0)")
    parser.add_argument("--quick", action="store_true", help="for a CPU: few epochs, points and training clouds")
    parser.add_argument("--epochs", type=positive(float), help="passes over the data (default 300, quick 4)")
    parser.add_argument("--num-points", type=positive(int), help="points a cloud (default 1024, quick 128)")
    parser.add_argument("--num-neighbors", type=positive(int), help="K (default the preset's, quick 16)")
    parser.add_argument(
        "--train-clouds", type=positive(int), help="at most so many, evenly of all classes (default all, quick 1000)"
    )
    parser.add_argument("--batch-size", type=positive(int), help="clouds a step (default 32)")
    parser.add_argument("--learning-rate", type=positive(float), help="highest rate (default 5e-4, quick 1e-3)")
    for modality in ("1d", "2d", "audio"):
        parser.add_argument(
            f"--set-{modality}",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            help=f"a field of Any2PointConfig with the {modality} backbone, such as plane=[32,32] (may be repeated)",
        )
    parser.add_argument(
        "--only",
        action="append",
        choices=("1d", "2d", "audio"),
        help="train these rows now, the others another time (may be repeated)",
    )


def run(options: argparse.Namespace) -> None:
    """Calls one function and prints what it returns."""
    from ..paper_tables import reproduce, runs

    options.interrupted = f"interrupted. What is done is in {options.output}; the same command goes on with the rest."
    kinds = ("1d", "2d", "audio")
    budget = ("epochs", "num_points", "num_neighbors", "train_clouds", "batch_size", "learning_rate")
    file = reproduce.reproduce(
        options.table,
        options.data,
        {kind: getattr(options, f"backbone_{kind}") for kind in kinds},
        options.output,
        budget=runs.make_budget(options.quick, **{name: getattr(options, name) for name in budget}),
        seeds=options.seeds,
        settings={kind: settings(getattr(options, f"set_{kind}")) for kind in kinds},
        modalities=options.only,
        command=shlex.join(["any2point", *sys.argv[1:]]),
    )
    print(f"written to {file}")
