"""What `any2point embed` and `predict --out` share: how a large collection is worked through."""

import argparse
from pathlib import Path
from typing import Any

import shtab

from .options import (
    add_backbone,
    add_batch_size,
    add_drop_invalid,
    add_json,
    add_model,
    complete_with,
    count,
    positive,
)


def add_batch_job(
    parser: argparse.ArgumentParser, out_required: bool, out: str = "FILE.parquet", what: str = "file to write"
) -> None:
    """Adds the options that say how a large collection is worked through."""
    add_model(parser)
    add_backbone(parser)
    add_batch_size(parser)
    add_drop_invalid(parser)
    add_json(parser)
    group = parser.add_argument_group("a large collection, shard by shard")
    complete_with(
        group.add_argument("--out", type=Path, required=out_required, metavar=out, help=what),
        shtab.FILE,
    )
    group.add_argument(
        "--split", metavar="NAME", help="split of a dataset (default: test if there is one, else the only one)"
    )
    group.add_argument("--shard-size", type=positive(int), metavar="N", help="clouds of a shard (default 1024)")
    group.add_argument("--workers", type=count, metavar="N", help="processes that read files (default 0: none)")
    group.add_argument("--skip-bad", action="store_true", help="list clouds that cannot be used and go on")
    group.add_argument(
        "--engine", choices=("accelerate", "ray"), help="what shares out the shards (default accelerate)"
    )


def run_batch_job(what: str, source: str, options: argparse.Namespace, **settings: Any) -> dict[str, Any] | None:
    """Runs a `BatchJob` or goes on with it; prints how many clouds were written, or returns it for `--json`."""
    from ..data.names import check_source
    from ..large_collections.output_file import check_output_file

    check_output_file(options.out, what)
    check_source(source)

    from accelerate import PartialState

    from ..large_collections.batch_inference import run_job
    from ..large_collections.job import BatchJob

    options.interrupted = (
        f"interrupted. Finished shards are in {options.out}.shards; the same command goes on from there."
    )
    names = ("model", "out", "backbone", "split", "shard_size", "batch_size", "workers", "skip_bad", "drop_invalid")
    settings |= {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    job = BatchJob(what, source=source, **settings)
    counts = run_job(job, engine=options.engine or "accelerate")
    if not PartialState().is_main_process:
        return None
    listed = str(job.out.with_suffix(".bad.jsonl")) if counts["skipped"] else None
    if options.json:
        return {"out": str(job.out), **counts, "skipped_listed_in": listed}
    skipped = f", {counts['skipped']} skipped (listed in {listed})" if listed else ""
    dropped = (
        f", {counts['dropped_points']:,} invalid points of {counts['clouds_with_dropped_points']:,} clouds dropped "
        "(column dropped_points)"
        if counts.get("dropped_points")
        else ""
    )
    print(f"{counts['clouds']} clouds written to {job.out}{skipped}{dropped}")
    return None
