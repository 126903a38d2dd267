"""`any2point push`."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import shtab

from .options import add_json, complete_with

HELP = "share a trained adapter on the Hugging Face Hub"
DESCRIPTION = """
Pushes the config, tensors, processor and model card of an adapter to a repository, made if it is not there. Nothing
else of the folder is pushed. Log in first, with `hf auth login` or HF_TOKEN.
"""
EXAMPLES = """
  any2point push my-adapter
  any2point push my-adapter user/any2point-clip-text-scan --private
  any2point push my-adapter --create-pr --message "Longer training" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(parser.add_argument("folder", metavar="FOLDER", help="what `any2point train` left"), shtab.DIRECTORY)
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="user/name, or a name for ANY2POINT_NAMESPACE or the logged-in user (default: the folder's)",
    )
    parser.add_argument(
        "--private", action="store_true", default=None, help="a new repository is seen by its owner alone"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to, made if it is not there")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument(
        "--message", default="Upload adapter", metavar="TEXT", help="of the commit (default: Upload adapter)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..modeling.hub.names import check_adapter_folder, pushed_name

    check_adapter_folder(Path(options.folder))
    pushed_name(options.name or Path(options.folder).resolve().name)

    from ..push import push

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = push(
            options.folder,
            options.name,
            private=options.private,
            revision=options.revision,
            create_pr=options.create_pr,
            message=options.message,
        )
    for warning in caught:
        if warning.category is UserWarning:
            print(f"warning: {warning.message}", file=sys.stderr)
    if options.json:
        return result
    print(f"pushed {', '.join(result['files'])} to {result['repository']}: {result['url']}")
    return None
