"""`any2point embed`."""

import argparse

from .batch_job import add_batch_job, run_batch_job

HELP = "embeddings of a large collection of clouds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "source", help="a folder of point-cloud files, or a dataset: as --data, Arrow, parquet or Hub id"
    )
    add_batch_job(parser, out_required=True)


def run(options: argparse.Namespace) -> None:
    """Calls one function and prints what it returns."""
    run_batch_job("embed", options.source, options)
