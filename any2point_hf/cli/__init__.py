"""The command line: `any2point COMMAND`, each command a file of this folder.

A command's file has `HELP` (a line), `DESCRIPTION` (a paragraph), `EXAMPLES`, `add_arguments(parser)` and
`run(options)`, which prints text for people, or with `--json` returns one value instead. Every error that a user can
cause gives one line on standard error and exit code 2, without a traceback.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from types import ModuleType

import shtab

from .. import (
    __version__,
    calm_threads,  # noqa: F401 - before torch
)
from . import (
    calibrate,
    convert,
    demo,
    embed,
    evaluate,
    export,
    few_shot,
    index,
    info,
    predict,
    push,
    reproduce,
    search,
    train,
    visualize,
)
from .early_checks import check_names
from .interrupts import noting
from .options import add_verbose
from .parser import FAULT_OF_INPUT, Parser

# in the order of --help
COMMANDS = (
    *(train, evaluate, calibrate, predict, embed, index, search, info),
    *(push, export, convert, reproduce, few_shot, visualize, demo),
)
EPILOG = """
examples:
  any2point train --data shapes --backbone google-bert/bert-base-uncased --output my-adapter
  any2point predict chair.ply scan.pcd --model my-adapter
  any2point COMMAND --help

exit codes:
  0  done
  1  a defect of any2point, with a traceback: please report it
  2  something to be mended by you, or Ctrl-C: one line on standard error says what was wrong and what to do

Progress is a line an epoch and, on a terminal, one bar; --verbose brings back what the libraries below say.

With --json, standard output is exactly one JSON value; progress, warnings and errors go to standard error.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = make_parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    from huggingface_hub.errors import StrictDataclassError

    from ..modeling.errors import Any2PointError

    interrupts: list[int] = []
    try:
        with noting(interrupts):
            _run(options)
    except (Exception, KeyboardInterrupt) as error:
        if interrupts or isinstance(error, KeyboardInterrupt):  # libraries may raise another error for it
            return _fault(getattr(options, "interrupted", "interrupted."))
        if isinstance(error, StrictDataclassError):  # transformers' wrapper; the rule is in its cause
            return _fault(str(error.__cause__ or error))
        if isinstance(error, Any2PointError):
            return _fault(str(error))
        if isinstance(error, OSError):
            return _fault(f"the system refused: {error}. Check the path, its permissions and the space on the disk.")
        raise
    return 0


def _run(options: argparse.Namespace) -> None:
    if not options.verbose:
        from ..quiet import keep_libraries_quiet

        keep_libraries_quiet()
    check_names(options)
    if not getattr(options, "json", False):
        options.run(options)
        return
    with contextlib.redirect_stdout(sys.stderr):  # libraries may print too
        result = options.run(options)
    if result is not None:  # of several processes, only the first one has a result
        print(json.dumps(result))


def _fault(message: str) -> int:
    if "tqdm" in sys.modules:  # a plain print would land on the line of an open progress bar
        from tqdm import tqdm

        tqdm.write(f"error: {message}", file=sys.stderr)
    else:
        print(f"error: {message}", file=sys.stderr)
    return FAULT_OF_INPUT


def command_name(command: ModuleType) -> str:
    """What is typed for a command: its file's name, with hyphens."""
    return command.__name__.rpartition(".")[2].replace("_", "-")


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="any2point",
        description="Understand 3D point clouds with the transformers you already have.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"any2point {__version__}", help="print the version")
    shtab.add_argument_to(parser, help="print a script that completes commands, options and files in this shell")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(
            command_name(command),
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=f"examples:{command.EXAMPLES}",
        )
        command.add_arguments(subparser)
        add_verbose(subparser)
        subparser.set_defaults(run=command.run)
    return parser
