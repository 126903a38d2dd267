"""`any2point embed`."""

import argparse
from typing import Any

import shtab

from .batch_job import add_batch_job, run_batch_job
from .options import complete_with

HELP = "embeddings of a large collection of clouds"
DESCRIPTION = """
Writes the pooled feature of every cloud of a folder or dataset to a parquet file, a row each. The work goes shard by
shard: after a kill the same command goes on from there.
"""
EXAMPLES = """
  any2point embed scans/ --model my-adapter --out features.parquet
  any2point embed modelnet40/ --split train --model my-adapter --out train.parquet --skip-bad --workers 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument(
            "source",
            metavar="SOURCE",
            help="a folder of point-cloud files, or a dataset: as --data",
        ),
        shtab.FILE,
    )
    add_batch_job(parser, out_required=True)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    return run_batch_job("embed", options.source, options)
