"""`any2point predict`: files at once, or with `--out` a collection shard by shard."""

import argparse
import json
from pathlib import Path

from .batch_job import add_batch_job, run_batch_job
from .options import positive

HELP = "classes of point-cloud files, or of a large collection"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".ply .off .obj .stl .pcd .xyz .txt .npy .npz; with --out one folder of files or one dataset",
    )
    add_batch_job(parser, out_required=False)
    parser.add_argument("--top", type=positive(int), default=3, help="classes to show (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(options: argparse.Namespace) -> None:
    """Calls one function and prints what it returns."""
    from .. import commands
    from ..modeling.errors import Any2PointError

    if options.out is not None:
        if len(options.files) > 1:
            raise Any2PointError(f"--out takes one folder or dataset, got {len(options.files)}. Give their folder.")
        run_batch_job("predict", options.files[0], options, top=options.top)
        return
    folders = [file for file in options.files if Path(file).is_dir()]
    if folders:
        raise Any2PointError(f"{folders[0]} is a folder. Give --out FILE.parquet to predict all clouds in it.")
    given = {"--split": options.split, "--skip-bad": options.skip_bad, "--workers": options.workers}
    given |= {"--shard-size": options.shard_size, "--engine": options.engine}
    ignored = [name for name, value in given.items() if value]
    if ignored:
        raise Any2PointError(f"{', '.join(ignored)} needs --out FILE.parquet, got none.")
    results = commands.predict(options.model, options.files, options.backbone, options.top, options.batch_size)
    if options.json:
        print(json.dumps(results))
        return
    for result in results:
        classes = ", ".join(f"{entry['label']} {entry['probability']:.3f}" for entry in result["classes"])
        print(f"{result['file']}: {classes}")
