"""Reads the command line with argparse; errors are one line and suggest the word that was probably meant."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..modeling.errors import did_you_mean

FAULT_OF_INPUT = 2


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs, but keeps the line breaks of those that have indented lines, such as examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        filled = super()._fill_text
        return "\n\n".join(part if "\n  " in part else filled(part, width, indent) for part in paragraphs)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; its subparsers are of the same kind."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter} | kwargs)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Refuses unknown options first; otherwise argparse would ask for an option that was given, but misspelt."""
        args = sys.argv[1:] if args is None else args
        for text in args:
            name = text.partition("=")[0]
            if name == "--" or (self._subparsers is not None and not text.startswith("-")):
                break
            known = [option for option in self._option_string_actions if option.startswith("--")]
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                self.error(f"there is no option {name}.{did_you_mean(name, known)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"must be one of {', '.join(choices)}, got {value}.{did_you_mean(str(value), choices)}"
            )

    def error(self, message: str) -> NoReturn:
        """Ends with one line on standard error and the exit code of a user's mistake."""
        stop = "" if message.endswith((".", "?")) else "."
        self.exit(FAULT_OF_INPUT, f"error: {message}{stop} See {self.prog} --help.\n")
