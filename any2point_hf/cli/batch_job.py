"""What `any2point embed` and `predict --out` share: how a large collection is worked through."""

import argparse
from pathlib import Path
from typing import Any

from .options import count, positive


def add_batch_job(parser: argparse.ArgumentParser, out_required: bool) -> None:
    """How a large collection is worked through."""
    parser.add_argument("--model", required=True, help="folder or Hub id of the adapter")
    parser.add_argument("--backbone", help="Hub id or folder instead of the recorded backbone")
    parser.add_argument("--batch-size", type=positive(int), default=32, help="clouds at once (default 32)")
    parser.add_argument("--out", type=Path, required=out_required, metavar="FILE.parquet", help="file to write")
    parser.add_argument("--split", help="split of a dataset (default: test if there is one, else the only one)")
    parser.add_argument("--shard-size", type=positive(int), help="clouds of a shard (default 1024)")
    parser.add_argument("--workers", type=count, help="processes that read files (default 0: none)")
    parser.add_argument("--skip-bad", action="store_true", help="list clouds that cannot be used and go on")
    parser.add_argument(
        "--engine", choices=("accelerate", "ray"), help="what shares out the shards (default accelerate)"
    )


def run_batch_job(what: str, source: str, options: argparse.Namespace, **settings: Any) -> None:
    """Runs or goes on with a `BatchJob`, and prints how many clouds were written."""
    from accelerate import PartialState

    from ..large_collections.batch_inference import run_job
    from ..large_collections.job import BatchJob

    options.interrupted = (
        f"interrupted. Finished shards are in {options.out}.shards; the same command goes on from there."
    )
    names = ("model", "out", "backbone", "split", "shard_size", "batch_size", "workers", "skip_bad")
    settings |= {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    job = BatchJob(what, source=source, **settings)
    counts = run_job(job, engine=options.engine or "accelerate")
    if PartialState().is_main_process:
        skipped = f", {counts['skipped']} skipped (listed in {job.out.with_suffix('.bad.jsonl')})"
        print(f"{counts['clouds']} clouds written to {job.out}{skipped if counts['skipped'] else ''}")
