"""The markdown of a few-shot protocol: mean ± deviation over folds, and paired differences with an interval."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..modeling.files import write_whole
from ..paper.paired import t_quantile
from .rows import PRETRAINED, ROWS

MISSING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
Accuracies = Mapping[tuple[str, int, int], Mapping[int, float]]
"""For each (row, ways, shots): the accuracy of each fold, by the fold's number."""


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the deviation of the sample, which is 0 for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float | None] | None:
    """Mean difference over the folds that both have, and half the width of its 95 % t-interval.

    Args:
        first: accuracy by fold.
        second: the other's.

    Returns:
        None if they have no fold in common; the half width is None if they have only one.
    """
    differences = [first[fold] - second[fold] for fold in first if fold in second]
    if not differences:
        return None
    mean, deviation = mean_and_deviation(differences)
    count = len(differences)
    return mean, t_quantile(count - 1) * deviation / math.sqrt(count) if count > 1 else None


def write_few_shot_table(
    file: Path, accuracies: Accuracies, settings: Sequence[tuple[int, int]], facts: Sequence[str], command: str
) -> None:
    """Writes both tables anew, with what is done by now.

    Args:
        file: to write.
        accuracies: what was measured, from 0 to 1.
        settings: (ways, shots), a column each.
        facts: lines to write below the tables.
        command: the one that makes them.
    """
    headings = [f"{ways}-way {shots}-shot" for ways, shots in settings]
    lines = ["# Few-shot classification", "", *([f"`{command}`", ""] if command else [])]
    lines += ["Accuracy on the query clouds in percent, mean ± deviation over folds:", ""]
    lines += _head("row", headings)
    for row, meaning in ROWS.items():
        cells = [_accuracy(accuracies.get((row, *setting), {})) for setting in settings]
        lines.append(_line([f"{row}: {meaning}", *cells]))
    lines += ["", "Paired differences in points, mean and 95 % t-interval over folds:", ""]
    lines += _head("difference", headings)
    for row in ROWS:
        if row != PRETRAINED:
            pairs = [[accuracies.get((name, *setting), {}) for name in (PRETRAINED, row)] for setting in settings]
            lines.append(_line([f"{PRETRAINED} {MINUS} {row}", *(_difference(*pair) for pair in pairs)]))
    write_whole(file, "\n".join([*lines, "", *(f"- {fact}" for fact in facts), ""]))


def _head(first: str, headings: Sequence[str]) -> list[str]:
    return [_line([first, *headings]), _line(["---"] * (len(headings) + 1))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _accuracy(folds: Mapping[int, float]) -> str:
    if not folds:
        return MISSING
    mean, deviation = mean_and_deviation([100 * value for value in folds.values()])
    return f"{mean:.1f} ± {deviation:.1f} ({len(folds)} folds)" if len(folds) > 1 else f"{mean:.1f}"


def _difference(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    found = paired_difference(first, second)
    if found is None:
        return MISSING
    mean, half = found
    interval = "" if half is None else f" [{100 * (mean - half):+.1f}, {100 * (mean + half):+.1f}]"
    return f"{100 * mean:+.1f}{interval}"
