"""`any2point visualize`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import shtab

from .options import add_backbone, add_drop_invalid, add_json, add_model, complete_with, count

HELP = "pictures of a model at work on a cloud: attention, similarity, clusters, tokens"
DESCRIPTION = """
Draws the paper's figures 5, 6 and 7 of one cloud, as a PNG and as a page of its own to turn in a browser. Needs
the extra `pictures`.
"""
EXAMPLES = """
  any2point visualize chair.ply --model my-adapter --kind attention
  any2point visualize shapes:chair --model my-adapter --kind similarity --token 3 --out pictures/
  any2point visualize scan.pcd --model my-adapter --kind clusters --block 5 --out clusters.html --json
"""
KINDS = ("attention", "similarity", "clusters", "tokens")
OF_BLOCKS = ("attention", "clusters")
BUILT_IN = "shapes:"
BUILT_IN_POINTS = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument(
            "cloud",
            metavar="CLOUD",
            help="a .ply, .obj, .las, .xyz or other file (docs/data.md); or a built-in shape, such as shapes:chair",
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
        "clusters: tokens by their similarity to the CLS token; tokens: where each view puts them",
    )
    parser.add_argument(
        "--block", type=_block, metavar="N|all", help="of attention and clusters, 0 for the first block (default all)"
    )
    parser.add_argument("--token", type=count, metavar="N", help="of similarity, 0 for the first token (default 0)")
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
    from ..modeling.errors import Any2PointError
    from ..pictures.packages import check_installed

    if options.block is not None and options.kind not in OF_BLOCKS:
        raise Any2PointError(f"--block belongs to {' and '.join(OF_BLOCKS)}, got --kind {options.kind}. Leave it out.")
    if options.token is not None and options.kind != "similarity":
        raise Any2PointError(f"--token belongs to similarity, got --kind {options.kind}. Leave it out.")
    name, cloud = _cloud(options.cloud)
    files = _files(options.out or [Path()], f"{name}-{options.kind}")
    check_installed()

    from .. import trained_adapter
    from ..pictures import kinds

    model, processor = trained_adapter.load(options.model, options.backbone)
    processor.drop_invalid |= options.drop_invalid
    arguments: dict[str, Any] = {}
    if options.kind in OF_BLOCKS:
        arguments["block"] = None if options.block == "all" else options.block
    elif options.kind == "similarity":
        arguments["token"] = options.token or 0
    draw = getattr(kinds, f"draw_{options.kind}")
    picture = draw(model, processor, cloud, **arguments)
    picture = replace(picture, title=f"{picture.title}: {name}")
    for file in files:
        picture.save(file)
    if options.json:
        return {"cloud": options.cloud, "kind": options.kind, "files": [str(file) for file in files]}
    for file in files:
        print(f"written to {file}")
    return None


def _block(text: str) -> int | str:
    return text if text == "all" else count(text)


_block.__name__ = "block"  # what argparse calls it


def _cloud(text: str) -> tuple[str, Any]:
    """The cloud's name, and either a built-in shape's points or the path of a file."""
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
