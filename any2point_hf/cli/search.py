"""`any2point search`."""

import argparse
from pathlib import Path
from typing import Any

import shtab

from .options import add_backbone, add_batch_size, add_json, add_model, complete_with, positive

HELP = "the clouds of an index that are most like some files"
DESCRIPTION = """
Finds the clouds whose features are nearest to those of each file, by their cosine. All clouds of the index are
compared; a hundred thousand take some hundredths of a second for each file. With --approximate, a twentieth is.
"""
EXAMPLES = """
  any2point search chair.ply lamp.pcd --index scans.index --model my-adapter --top 5
  any2point search chair.ply --index scans.index --model my-adapter --html found.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument("files", nargs="+", metavar="CLOUD", help="point-cloud or mesh files"), shtab.FILE
    )
    complete_with(
        parser.add_argument("--index", required=True, metavar="FILE", help="what any2point index wrote"), shtab.FILE
    )
    add_model(parser)
    add_backbone(parser)
    parser.add_argument("--top", type=positive(int), default=10, metavar="N", help="clouds to find (default 10)")
    complete_with(
        parser.add_argument("--html", type=Path, metavar="FILE", help="page of small pictures to write"), shtab.FILE
    )
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="group the index first and compare each file with the nearest groups: for hundreds of files [search]",
    )
    add_batch_size(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..point_clouds.files import check_file
    from ..search.thumbnails import check_page

    for file in options.files:
        check_file(Path(file))
    if options.html is not None:
        check_page(options.html)

    from ..search.search import search

    results = search(
        options.model,
        options.files,
        options.index,
        top=options.top,
        backbone=options.backbone,
        batch_size=options.batch_size,
        page=options.html,
        approximate=options.approximate,
    )
    if options.json:
        return results
    for result in results:
        print(result["file"])
        for hit in result["found"]:
            print(f"  {hit['similarity']:7.4f}  {hit['id']}{'  ' + hit['label'] if 'label' in hit else ''}")
    return None
