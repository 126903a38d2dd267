"""`any2point few-shot`: how much a backbone helps when there are few training clouds."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import shtab

from .options import add_drop_invalid, add_json, complete_with, counts, positive

HELP = "accuracy with few training clouds, beside controls and baselines"
DESCRIPTION = """
Trains on folds of a few classes with a few clouds each, and asks for 20 other clouds of each class: adapters on the
backbone, on the same backbone with permuted and with random weights, and on none; a linear probe on frozen features;
and Point-NN, which trains nothing. Writes mean and deviation over folds, and paired differences. What is done is kept
in --output, and the same command goes on with the rest.
"""
EXAMPLES = """
  any2point few-shot --data modelnet40/ --backbone google-bert/bert-base-uncased --output few-shot
  any2point few-shot --data ModelNetFewshot/ --backbone google-bert/bert-base-uncased --output few-shot
  any2point few-shot --data shapes --backbone facebook/dinov2-small --output few-shot --ways 5 --shots 10 --folds 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument(
            "--data",
            required=True,
            metavar="DATA",
            help="whatever train takes, of which the training split is used alone; or the folder of the field's "
            "published folds, with 5way_10shot/0.pkl and so on",
        ),
        shtab.FILE,
    )
    add_drop_invalid(parser)
    complete_with(
        parser.add_argument(
            "--backbone", required=True, metavar="BACKBONE", help="folder or Hub id of the frozen transformer"
        ),
        shtab.DIRECTORY,
    )
    complete_with(
        parser.add_argument(
            "--output", type=Path, required=True, metavar="FOLDER", help="folder for the table and what was measured"
        ),
        shtab.DIRECTORY,
    )
    parser.add_argument(
        "--ways", type=counts, default=[5, 10], metavar="N,N,...", help="how many classes (default 5,10)"
    )
    parser.add_argument(
        "--shots", type=counts, default=[10, 20], metavar="N,N,...", help="training clouds a class (default 10,20)"
    )
    parser.add_argument(
        "--folds", type=positive(int), default=10, metavar="N", help="how many of each ways and shots (default 10)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..modeling.files import check_output_folder

    check_output_folder(options.output)

    from ..few_shot.protocol import few_shot

    options.interrupted = f"interrupted. What is done is in {options.output}; the same command goes on with the rest."
    file = few_shot(
        options.data,
        options.backbone,
        options.output,
        ways=options.ways,
        shots=options.shots,
        folds=options.folds,
        drop_invalid=options.drop_invalid,
        command=shlex.join(["any2point", *sys.argv[1:]]),
    )
    if options.json:
        return {"file": str(file)}
    print(f"written to {file}")
    return None
