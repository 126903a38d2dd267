"""`any2point reproduce`: one of the paper's tables, its figures, or ShapeNetPart."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import shtab

from .options import add_data, add_json, complete_with, positive, seeds, settings

HELP = "one of the paper's tables on your data and backbones, or its figures with your adapters"
DESCRIPTION = """
Trains the rows of one of the paper's ten tables with each seed, and three controls that tell what the backbone brings,
and writes the table beside the paper's numbers, with every row's paired difference to the full method; or draws figures
5, 6 and 7 with adapters of yours, or measures segmenters on ShapeNetPart. Finished rows of tables are kept in --output,
and the same command goes on with the rest.
"""
EXAMPLES = """
  any2point reproduce --table 4 --data shapes --backbone-1d google-bert/bert-base-uncased --output tables --quick
  any2point reproduce --table 3 --data DATA --backbone-1d ID --backbone-2d ID --output tables --quick --seeds 0,1,2
  any2point reproduce --table 1 --data scanobjectnn/ --backbone-1d clip/ --backbone-2d dinov2/ --output tables
  any2point reproduce --parts --data shapenetpart/ --model my-segmenter --output parts
  any2point reproduce --figures --data shapes --model text-adapter --model image-adapter --output figures
"""

OF_TABLES: tuple[str, ...] = (
    *("epochs", "num_points", "num_neighbors", "train_clouds", "batch_size", "learning_rate", "quick", "only"),
    *(f"{option}_{kind}" for kind in ("1d", "2d", "audio") for option in ("backbone", "set")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", type=int, metavar="1…10", help="number of the table")
    what.add_argument("--figures", action="store_true", help="figures 5, 6 and 7, of the adapters given with --model")
    what.add_argument(
        "--parts",
        action="store_true",
        help="ShapeNetPart beside published numbers, of the segmenters given with --model",
    )
    add_data(parser)
    complete_with(
        parser.add_argument(
            "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results and what was measured"
        ),
        shtab.DIRECTORY,
    )
    add_json(parser)
    complete_with(
        parser.add_argument_group("figures").add_argument(
            "--model",
            action="append",
            default=[],
            metavar="ADAPTER",
            help="folder or Hub id of a trained adapter, a column of the figures (may be repeated)",
        ),
        shtab.DIRECTORY,
    )
    group = parser.add_argument_group("tables: backbones")
    kinds = {"1d": "a language model", "2d": "a vision model", "audio": "an audio model (Tables 1 and 6)"}
    for modality, kind in kinds.items():
        complete_with(
            group.add_argument(f"--backbone-{modality}", metavar="BACKBONE", help=f"folder or Hub id of {kind}"),
            shtab.DIRECTORY,
        )
    for modality in kinds:
        group.add_argument(
            f"--set-{modality}",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            help=f"a field of Any2PointConfig with the {modality} backbone, such as plane=[32,32] (may be repeated)",
        )
    group.add_argument(
        "--only",
        action="append",
        choices=tuple(kinds),
        help="train these rows now, the others another time (may be repeated)",
    )
    _add_budget(parser.add_argument_group("tables: training"))


def _add_budget(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--seeds", type=seeds, default=[0], metavar="N,N,...", help="of every row (default 0; differences need 3)"
    )
    group.add_argument("--quick", action="store_true", help="for a CPU: few epochs, points and training clouds")
    group.add_argument(
        "--epochs", type=positive(float), metavar="N", help="passes over the data (default 300, quick 4)"
    )
    group.add_argument("--num-points", type=positive(int), metavar="N", help="points a cloud (default 1024, quick 128)")
    group.add_argument("--num-neighbors", type=positive(int), metavar="N", help="K (default the preset's, quick 16)")
    group.add_argument(
        "--train-clouds",
        type=positive(int),
        metavar="N",
        help="at most so many, evenly of all classes (default all, quick 1000)",
    )
    group.add_argument("--batch-size", type=positive(int), metavar="N", help="clouds a step (default 32)")
    group.add_argument(
        "--learning-rate", type=positive(float), metavar="RATE", help="highest rate (default 5e-4, quick 1e-3)"
    )


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..modeling.errors import Any2PointError
    from ..modeling.files import check_output_folder
    from ..paper.tables import check_backbones
    from ..pictures.packages import check_installed

    check_output_folder(options.output)
    command = shlex.join(["any2point", *sys.argv[1:]])
    if options.figures or options.parts:
        _check_no_option_of_tables(options)
    if options.parts:
        from ..paper.parts import reproduce_parts

        return _say(options, reproduce_parts(options.data, options.model, options.output, command=command))
    if options.figures:
        check_installed()

        from ..paper.figures import reproduce_figures

        file = reproduce_figures(
            options.data, options.model, options.output, drop_invalid=options.drop_invalid, command=command
        )
        return _say(options, file)
    if options.model:
        raise Any2PointError(
            "--model belongs to --figures and --parts, got --table. Leave it out, or ask for the figures."
        )
    kinds = ("1d", "2d", "audio")
    backbones = {kind: getattr(options, f"backbone_{kind}") for kind in kinds}
    check_backbones(options.table, {kind for kind, backbone in backbones.items() if backbone})

    from ..paper import reproduce, runs

    options.interrupted = f"interrupted. What is done is in {options.output}; the same command goes on with the rest."
    budget = ("epochs", "num_points", "num_neighbors", "train_clouds", "batch_size", "learning_rate")
    file = reproduce.reproduce(
        options.table,
        options.data,
        backbones,
        options.output,
        budget=runs.make_budget(options.quick, **{name: getattr(options, name) for name in budget}),
        seeds=options.seeds,
        settings={kind: settings(getattr(options, f"set_{kind}")) for kind in kinds},
        modalities=options.only,
        drop_invalid=options.drop_invalid,
        command=command,
    )
    return _say(options, file)


def _check_no_option_of_tables(options: argparse.Namespace) -> None:
    from ..modeling.errors import Any2PointError

    what = "--parts" if options.parts else "--figures"
    if not options.model:
        raise Any2PointError(f"{what} needs --model: the folder or Hub id of a trained adapter; got none.")
    ignored = [f"--{name.replace('_', '-')}" for name in OF_TABLES if getattr(options, name)]
    if ignored:
        raise Any2PointError(f"{', '.join(ignored)} belongs to --table, got {what}. Leave it out.")


def _say(options: argparse.Namespace, file: Path) -> dict[str, Any] | None:
    if options.json:
        return {"table": options.table, "file": str(file)}
    print(f"written to {file}")
    return None
