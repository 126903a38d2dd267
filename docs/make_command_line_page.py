"""Writes the commands of docs/command_line.md from their parsers; a test checks that they are up to date.

python docs/make_command_line_page.py
"""

import argparse
from pathlib import Path
from types import ModuleType

from any2point_hf.cli import COMMANDS, command_name, make_parser

PAGE = Path(__file__).with_name("command_line.md")
BEGIN, END = "<!-- commands: docs/make_command_line_page.py -->\n", "<!-- end of commands -->\n"
MARKDOWN = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "*": "\\*", "[": "\\["})


def section(command: ModuleType, parser: argparse.ArgumentParser) -> str:
    """What a command does, examples and options."""
    examples = "\n".join(line.strip() for line in command.EXAMPLES.strip().splitlines())
    rows = [row(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    table = "\n".join(["| argument | |", "|---|---|", *rows])
    return (
        f"## `any2point {command_name(command)}`\n\n{command.DESCRIPTION.strip()}\n\n```\n{examples}\n```\n\n{table}\n"
    )


def row(action: argparse.Action) -> str:
    """An argument and what it means."""
    values = action.metavar or "|".join(map(str, action.choices or ()))
    values = " ".join(values) if isinstance(values, tuple) else values
    names = [option if action.nargs == 0 else f"{option} {values}" for option in action.option_strings] or [values]
    required = "; required" if action.required and action.option_strings else ""
    names = ", ".join(f"`{name}`".replace("|", "\\|") for name in names)
    return f"| {names} | {action.help.translate(MARKDOWN)}{required} |"


def page() -> str:
    """The whole page with its commands as they are now."""
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    sections = [section(*pair) for pair in zip(COMMANDS, commands.choices.values(), strict=True)]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + "\n" + "\n".join(sections) + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
