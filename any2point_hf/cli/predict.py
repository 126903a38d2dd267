"""`any2point predict`: files at once, or with `--out FILE.parquet` a collection shard by shard."""

import argparse
import math
from pathlib import Path
from typing import Any

import shtab

from .batch_job import add_batch_job, run_batch_job
from .options import complete_with, positive, share

HELP = "classes or numbers of point-cloud files or parts of their points, or of a large collection"
DESCRIPTION = """
Prints the most probable classes of each file, or its numbers; with a segmenter, how many of its points are of which
part, and with --out every point with its part. With --out FILE.parquet a whole folder or dataset is worked through
shard by shard, and after a kill the same command goes on from there.
"""
EXAMPLES = """
  any2point predict chair.ply scan.pcd --model my-adapter
  any2point predict *.off --model user/my-adapter --top 1 --json
  any2point predict scans/ --model my-adapter --out classes.parquet
  any2point predict chair.ply --model my-segmenter --category chair --out chair-parts.ply
  any2point predict *.off --model my-segmenter --out parts/ --format npy --json
  any2point predict street.las --model my-segmenter --block 4 --out street.ply
"""

DEFAULT_TOP = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument(
            "files",
            nargs="+",
            metavar="FILE",
            help=".ply, .obj, .las, .xyz, .npy and others (docs/data.md); with --out FILE.parquet a folder of files or "
            "one dataset",
        ),
        shtab.FILE,
    )
    add_batch_job(
        parser,
        out_required=False,
        out="PATH",
        what="FILE.parquet to write; of a segmenter also FILE.ply, .npy or .csv for one file, or a folder for several",
    )
    parser.add_argument("--top", type=positive(int), metavar="N", help="classes to show (default 3)")
    parser.add_argument(
        "--min-confidence",
        type=share,
        metavar="P",
        help="say 'unsure' where no class has this probability, 0 to 1 (default: always answer)",
    )
    group = parser.add_argument_group("a segmenter")
    group.add_argument("--category", metavar="NAME", help="of all clouds, where the model has categories")
    group.add_argument("--format", choices=("ply", "npy", "csv"), help="of the files in the folder --out (default ply)")
    group.add_argument(
        "--block",
        type=positive(float),
        metavar="WIDTH",
        help="label a scene by squares of its ground plane, this wide in the file's unit (default: as one cloud)",
    )
    group.add_argument(
        "--context", type=float, metavar="WIDTH", help="of the margin around a square (default: a quarter of --block)"
    )


def run(options: argparse.Namespace) -> list[dict[str, Any]] | dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    _check_files(options)

    from ..modeling.errors import Any2PointError
    from ..trained_adapter import task_of

    task = task_of(options.model)
    is_segmenter = task == "segmentation"
    _check_task_options(options, is_segmenter)
    if task == "regression" and options.top is not None:
        raise Any2PointError(f"--top lists classes, and {options.model} is a regression. Leave it out.")
    if options.out is not None and (options.out.suffix == ".parquet" or not is_segmenter):
        return _run_batch_job(options, is_segmenter)
    return _run_on_parts(options) if is_segmenter else _run_on_classes(options)


def _run_batch_job(options: argparse.Namespace, is_segmenter: bool) -> dict[str, Any] | None:
    settings = {"category": options.category} if is_segmenter else _of_classes(options)
    if settings.get("top", 1) is None:
        settings["top"] = DEFAULT_TOP
    return run_batch_job("segment" if is_segmenter else "predict", options.files[0], options, **settings)


def _run_on_classes(options: argparse.Namespace) -> list[dict[str, Any]] | None:
    from .. import trained_adapter

    results = trained_adapter.predict(
        options.model,
        options.files,
        options.backbone,
        batch_size=options.batch_size,
        drop_invalid=options.drop_invalid,
        **_of_classes(options),
    )
    if options.json:
        return results
    for result in results:
        print(f"{result['file']}: {_shown(result)}")
    return None


def _shown(result: dict[str, Any]) -> str:
    if "values" in result:
        return ", ".join(f"{name} {value:.4g}" for name, value in result["values"].items())
    classes = ", ".join(f"{entry['label']} {entry['probability']:.3f}" for entry in result["classes"])
    if "labels" in result:
        return f"{', '.join(result['labels']) or 'none'} ({classes})"
    return f"unsure: {classes}" if result.get("answer", "") is None else classes


def _of_classes(options: argparse.Namespace) -> dict[str, Any]:
    """The options that belong to classifiers."""
    return {"top": options.top, "min_confidence": options.min_confidence}


def _run_on_parts(options: argparse.Namespace) -> list[dict[str, Any]] | None:
    from ..segmentation.predicting import predict_parts

    results = predict_parts(
        options.model,
        options.files,
        options.backbone,
        options.category,
        options.out,
        options.format or "ply",
        options.batch_size,
        options.drop_invalid,
        options.block,
        options.context,
    )
    if options.json:
        return results
    for result in results:
        parts = ", ".join(f"{part['name']} {100 * part['share']:.1f} %" for part in result["parts"])
        written = f"; written to {result['out']}" if result["out"] else ""
        print(
            f"{result['file']}: {result['points']:,} points: {parts} (mean confidence {result['confidence']:.3f})"
            f"{written}"
        )
    return None


def _check_task_options(options: argparse.Namespace, is_segmenter: bool) -> None:
    """Checks that no option is of the other task."""
    from ..modeling.errors import Any2PointError

    if is_segmenter:
        given = {"--top": options.top, "--min-confidence": options.min_confidence}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise Any2PointError(
                f"{wrong[0]} belongs to classifiers, and {options.model} is a segmenter. Leave it out."
            )
        return
    given = {"--category": options.category, "--format": options.format, "--block": options.block}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise Any2PointError(f"{wrong[0]} belongs to segmenters, and {options.model} is a classifier. Leave it out.")


def _check_files(options: argparse.Namespace) -> None:
    """Checks that there is what is to be read, and that no option is of large collections where there is none."""
    from ..data.names import check_source
    from ..modeling.errors import Any2PointError
    from ..point_clouds.files import check_file

    if options.context is not None and options.block is None:
        raise Any2PointError(f"--context is the margin of a --block, got {options.context:g} without one. Give both.")
    if options.context is not None and not 0 <= options.context < math.inf:
        raise Any2PointError(f"--context must be a width of at least 0, got {options.context:g}.")
    if options.out is not None and options.out.suffix == ".parquet":
        if options.block is not None:
            raise Any2PointError(f"--block labels files, got --out {options.out}. Give a folder, .ply, .npy or .csv.")
        if len(options.files) > 1:
            raise Any2PointError(f"--out takes one folder or dataset, got {len(options.files)}. Give their folder.")
        check_source(options.files[0])
        return
    folders = [file for file in options.files if Path(file).is_dir()]
    if folders:
        raise Any2PointError(f"{folders[0]} is a folder. Give --out FILE.parquet to predict all clouds in it.")
    given = {"--split": options.split, "--skip-bad": options.skip_bad, "--workers": options.workers}
    given |= {"--shard-size": options.shard_size, "--engine": options.engine}
    ignored = [name for name, value in given.items() if value]
    if ignored:
        raise Any2PointError(f"{', '.join(ignored)} needs --out FILE.parquet, got {options.out or 'none'}.")
    for file in options.files:
        check_file(Path(file))
