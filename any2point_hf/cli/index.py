"""`any2point index`."""

import argparse
from typing import Any

import shtab

from .batch_job import add_batch_job, run_batch_job
from .options import complete_with

HELP = "an index of a collection of clouds, for `any2point search`"
DESCRIPTION = """
Writes the features of every cloud of a folder or dataset to a file that `any2point search` reads. It is what `any2point
embed` writes; after a kill the same command goes on.
"""
EXAMPLES = """
  any2point index scans/ --model my-adapter --out scans.index
  any2point index modelnet40/ --split train --model my-adapter --out modelnet40.index
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument("source", metavar="SOURCE", help="a folder of point-cloud files, or a dataset: as --data"),
        shtab.FILE,
    )
    add_batch_job(parser, out_required=True, out="FILE.index")


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    return run_batch_job("embed", options.source, options)
