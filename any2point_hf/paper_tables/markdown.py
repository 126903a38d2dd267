"""The markdown of one of the paper's tables with our figures beside the paper's."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..whole_files import write_whole
from .tables import PaperTable

MISSING = "\N{EN DASH}"
Records = Mapping[tuple[int, str], Sequence[dict[str, Any]]]  # of a row's number and the heading of an accuracy


def write_table(
    file: Path,
    number: int,
    table: PaperTable,
    records: Records,
    *,
    scaled: Mapping[tuple[int, str], Mapping[str, str]],
    command: str,
    facts: Sequence[str],
    num_test_clouds: int,
) -> None:
    """Writes a table anew, beside the old one and then in its place.

    Args:
        file: to write.
        number: of the paper.
        table: the paper's.
        records: what was measured, one record a seed; `accuracy` of 1, `trained_without_head`, `minutes`.
        scaled: of what was fitted to a smaller backbone, the paper's cell to ours.
        command: that makes the table.
        facts: lines for below it.
        num_test_clouds: of the split that the accuracies are of.
    """
    headings = [*table.columns, "#P paper (M)", "#P ours (M)"]
    headings += [f"{heading} {whose} (%)" for heading in table.figures for whose in ("paper", "ours")]
    lines = [f"# Table {number}: {table.title}", ""]
    lines += [f"`{command}`", ""] if command else []
    lines += [_line([*headings, "minutes a run"]), _line(["---"] * (len(headings) + 1))]
    for index, row in enumerate(table.rows):
        measured = {heading: records.get((index, heading), ()) for heading in table.figures}
        cells = [_with_ours(cell, {h: scaled.get((index, h), {}) for h in table.figures}) for cell in row.cells]
        cells.append(MISSING if row.parameters is None else str(row.parameters))
        cells.append(_means(measured, "trained_without_head", 1e-6, 2))
        for heading in table.figures:
            cells.append(str(row.accuracy.get(heading, MISSING)))
            cells.append(_accuracy(measured[heading]))
        lines.append(_line([*cells, _means(measured, "minutes", 1, 1)]))
    lines += ["", *(f"- {fact}" for fact in [*facts, *(row.note for row in table.rows if row.note)])]
    lines += [f"- {_standard_error(records, num_test_clouds)}", ""]
    write_whole(file, "\n".join(lines))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _with_ours(cell: str, scaled: Mapping[str, Mapping[str, str]]) -> str:
    """A cell of the paper, with what it became on our backbones."""
    ours = [f"{heading}: {values[cell]}" for heading, values in scaled.items() if cell in values]
    return f"{cell} ({', '.join(ours)})" if ours else cell


def _accuracy(records: Sequence[dict[str, Any]]) -> str:
    """In percent: the mean over seeds, ± their deviation where there are several."""
    percents = [100 * record["accuracy"] for record in records]
    if len(percents) < 2:
        return f"{percents[0]:.1f}" if percents else MISSING
    return f"{statistics.fmean(percents):.1f} ± {statistics.stdev(percents):.1f} ({len(percents)} seeds)"


def _means(measured: Mapping[str, Sequence[dict[str, Any]]], name: str, unit: float, digits: int) -> str:
    """A number of every accuracy's runs, one after the other."""
    means = [statistics.fmean(record[name] for record in records) * unit for records in measured.values() if records]
    return " / ".join(f"{mean:.{digits}f}" for mean in means) or MISSING


def _standard_error(records: Records, num_clouds: int) -> str:
    accuracies = [record["accuracy"] for runs in records.values() for record in runs]
    share = statistics.fmean(accuracies) if accuracies else 0.9
    error = 100 * math.sqrt(share * (1 - share) / num_clouds)
    return (
        f"One standard error of an accuracy of {100 * share:.0f} % on {num_clouds} test clouds is {error:.1f} points. "
        "Ours are of the last epoch; the paper's of the best epoch on the test split."
    )
