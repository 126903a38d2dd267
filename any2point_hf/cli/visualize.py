"""`any2point visualize`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import shtab

from .options import add_backbone, add_drop_invalid, add_json, add_model, complete_with, count

HELP = "pictures of a model at work on a cloud: attention, similarity, clusters, tokens, parts"
DESCRIPTION = """
Draws the paper's figures 5, 6 and 7 of one cloud, or its parts, as a PNG and as a page of its own to turn in a
browser. Needs the extra `pictures`.
"""
EXAMPLES = """
  any2point visualize chair.ply --model my-adapter --kind attention
  any2point visualize shapes:chair --model my-adapter --kind similarity --token 3 --out pictures/
  any2point visualize scan.pcd --model my-adapter --kind clusters --block 5 --out clusters.html --json
  any2point visualize scan.ply --model my-segmenter --kind parts --category chair
  any2point visualize robots.npz --row 7 --model my-segmenter --kind parts
"""
KINDS = ("attention", "similarity", "clusters", "tokens", "parts")
OF_BLOCKS = ("attention", "clusters")
BUILT_IN = "shapes:"
BUILT_IN_POINTS = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument(
            "cloud",
            metavar="CLOUD",
            help="a .ply, .obj, .las, .xyz or other file (docs/data.md); or a built-in shape, such as shapes:chair; "
            "with --row a data set",
        ),
        shtab.FILE,
    )
    add_model(parser)
    add_backbone(parser)
    parser.add_argument(
        "--kind",
        choices=KINDS,
        required=True,
        help="attention: what the CLS token attends to; similarity: how alike positional encodings are to a token's; "
        "clusters: tokens by their similarity to the CLS token; tokens: where each view puts them; parts: those of a "
        "segmenter, beside the true ones of a built-in shape or data set",
    )
    parser.add_argument(
        "--block", type=_block, metavar="N|all", help="of attention and clusters, 0 for the first block (default all)"
    )
    parser.add_argument("--token", type=count, metavar="N", help="of similarity, 0 for the first token (default 0)")
    parser.add_argument("--category", metavar="NAME", help="of parts, where the model has categories")
    parser.add_argument(
        "--row",
        type=count,
        metavar="N",
        help="of parts: the cloud of this number, 0 for the first, in a data set's test split",
    )
    complete_with(
        parser.add_argument(
            "--out",
            type=Path,
            action="append",
            metavar="PATH",
            help="FILE.png, FILE.html or a folder for both (may be repeated; default: both, in the current folder)",
        ),
        shtab.FILE,
    )
    add_drop_invalid(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..pictures.packages import check_installed

    _check_options(options)
    name, cloud = _cloud(options)
    files = _files(options.out or [Path()], f"{name}-{options.kind}")
    check_installed()

    from .. import trained_adapter

    load = trained_adapter.load_segmenter if options.kind == "parts" else trained_adapter.load_either
    model, processor = load(options.model, options.backbone)
    processor.drop_invalid |= options.drop_invalid
    draw = _draw_parts if options.kind == "parts" else _draw_kind
    picture = draw(options, model, processor, cloud)
    picture = replace(picture, title=f"{picture.title}: {name}")
    for file in files:
        picture.save(file)
    if options.json:
        return {"cloud": options.cloud, "kind": options.kind, "files": [str(file) for file in files]}
    for file in files:
        print(f"written to {file}")
    return None


def _draw_kind(options: argparse.Namespace, model: Any, processor: Any, cloud: Any) -> Any:
    """The picture of one of the paper's kinds."""
    from ..pictures import kinds

    arguments: dict[str, Any] = {}
    if options.kind in OF_BLOCKS:
        arguments["block"] = None if options.block == "all" else options.block
    elif options.kind == "similarity":
        arguments["token"] = options.token or 0
    return getattr(kinds, f"draw_{options.kind}")(model, processor, cloud, **arguments)


def _draw_parts(options: argparse.Namespace, model: Any, processor: Any, cloud: Any) -> Any:
    """The picture of parts, beside the true ones where they are known."""
    from ..pictures.parts import draw_parts
    from ..segmentation.true_parts import KnownCloud, row_with_parts, shape_with_parts

    known = KnownCloud(cloud, None, None)
    if options.row is not None:
        known = row_with_parts(model, processor, options.cloud, options.row)
    elif options.cloud.startswith(BUILT_IN):
        known = shape_with_parts(model, options.cloud.removeprefix(BUILT_IN), BUILT_IN_POINTS)
    category = known.category if options.category is None else options.category
    return draw_parts(model, processor, known.cloud, category=category, truth=known.truth)


def _check_options(options: argparse.Namespace) -> None:
    """Checks that options are of the kind that is asked for."""
    from ..modeling.errors import Any2PointError

    kind = options.kind
    if options.block is not None and kind not in OF_BLOCKS:
        raise Any2PointError(f"--block belongs to {' and '.join(OF_BLOCKS)}, got --kind {kind}. Leave it out.")
    for option, of_kind in (("token", "similarity"), ("category", "parts"), ("row", "parts")):
        if getattr(options, option) is not None and kind != of_kind:
            raise Any2PointError(f"--{option} belongs to {of_kind}, got --kind {kind}. Leave it out.")


def _block(text: str) -> int | str:
    return text if text == "all" else count(text)


_block.__name__ = "block"  # what argparse calls it


def _cloud(options: argparse.Namespace) -> tuple[str, Any]:
    """The cloud's name, and either a built-in shape's points or the path of a file."""
    text = options.cloud
    if options.row is not None:
        return f"{Path(text).stem}-{options.row}", text
    from ..data.shapes import SHAPE_NAMES, make_cloud
    from ..modeling.errors import DatasetError
    from ..point_clouds.files import check_file

    if not text.startswith(BUILT_IN):
        check_file(Path(text))
        return Path(text).stem, text

    name = text.removeprefix(BUILT_IN)
    if name not in SHAPE_NAMES:
        raise DatasetError(f"{text!r} names no built-in shape; there are {', '.join(SHAPE_NAMES)}.")
    return name, make_cloud("test", SHAPE_NAMES.index(name), BUILT_IN_POINTS, seed=0)


def _files(outs: list[Path], name: str) -> list[Path]:
    """The files to write: those named, and both formats in a folder."""
    from ..modeling.errors import Any2PointError
    from ..pictures.picture import FORMATS

    files: list[Path] = []
    for out in outs:
        if out.suffix.lower() in FORMATS:
            files.append(out)
        elif out.suffix and not out.is_dir():
            raise Any2PointError(f"--out takes a file ending in {' or '.join(FORMATS)}, or a folder, got {out}.")
        else:
            files += [out / f"{name}{extension}" for extension in FORMATS]
    return files
