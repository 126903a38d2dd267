"""`any2point predict`: files at once, or with `--out` a collection shard by shard."""

import argparse
from pathlib import Path
from typing import Any

import shtab

from .batch_job import add_batch_job, run_batch_job
from .options import complete_with, positive

HELP = "classes of point-cloud files, or of a large collection"
DESCRIPTION = """
Prints the most probable classes of each file. With --out a whole folder or dataset is worked through shard by shard
into a parquet file, and after a kill the same command goes on from there.
"""
EXAMPLES = """
  any2point predict chair.ply scan.pcd --model my-adapter
  any2point predict *.off --model user/my-adapter --top 1 --json
  any2point predict scans/ --model my-adapter --out classes.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument(
            "files",
            nargs="+",
            metavar="FILE",
            help=".ply, .obj, .las, .xyz, .npy and others (docs/data.md); with --out a folder of files or one dataset",
        ),
        shtab.FILE,
    )
    add_batch_job(parser, out_required=False)
    parser.add_argument("--top", type=positive(int), default=3, metavar="N", help="classes to show (default 3)")


def run(options: argparse.Namespace) -> list[dict[str, Any]] | dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..modeling.errors import Any2PointError
    from ..point_clouds.files import check_file

    if options.out is not None:
        if len(options.files) > 1:
            raise Any2PointError(f"--out takes one folder or dataset, got {len(options.files)}. Give their folder.")
        return run_batch_job("predict", options.files[0], options, top=options.top)
    folders = [file for file in options.files if Path(file).is_dir()]
    if folders:
        raise Any2PointError(f"{folders[0]} is a folder. Give --out FILE.parquet to predict all clouds in it.")
    given = {"--split": options.split, "--skip-bad": options.skip_bad, "--workers": options.workers}
    given |= {"--shard-size": options.shard_size, "--engine": options.engine}
    ignored = [name for name, value in given.items() if value]
    if ignored:
        raise Any2PointError(f"{', '.join(ignored)} needs --out FILE.parquet, got none.")
    for file in options.files:
        check_file(Path(file))

    from .. import trained_adapter

    results = trained_adapter.predict(
        options.model, options.files, options.backbone, options.top, options.batch_size, options.drop_invalid
    )
    if options.json:
        return results
    for result in results:
        classes = ", ".join(f"{entry['label']} {entry['probability']:.3f}" for entry in result["classes"])
        print(f"{result['file']}: {classes}")
    return None
