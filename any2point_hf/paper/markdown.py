"""The markdown of one of the paper's tables with our figures beside the paper's."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..modeling.files import write_whole
from .paired import FEWEST_SEEDS, common_seeds, paired_difference
from .rows import PaperTable

MISSING = "\N{EN DASH}"
Cell = tuple[int, str]  # a row's number and the heading of an accuracy
Records = Mapping[Cell, Mapping[int, dict[str, Any]]]  # a record by seed

_DIFFERENCE = (
    "Difference: in points, to the full Any2Point on the same backbone, mean over the seeds that both were trained "
    f"with and its two-sided 95 % t-interval; from {FEWEST_SEEDS} seeds on."
)
_WHICH_EPOCH = "Ours are of the last epoch; the paper's of the best epoch on the test split."


def write_table(
    file: Path,
    number: int,
    table: PaperTable,
    records: Records,
    full: Mapping[Cell, Mapping[int, dict[str, Any]]],
    *,
    scaled: Mapping[Cell, Mapping[str, str]],
    command: str,
    facts: Sequence[str],
) -> None:
    """Writes a table anew, beside the old one and then in its place.

    Args:
        file: to write.
        number: the table's number in the paper.
        table: the paper's, with control rows.
        records: what was measured for each cell and seed: `accuracy` (from 0 to 1), `trained_without_head`, `minutes`.
        full: the same for the full Any2Point that a cell is compared with; a cell that is itself the full Any2Point has
            no entry.
        scaled: for each cell, maps the paper's values that were fitted to a backbone of another size to ours.
        command: the one that makes the table.
        facts: lines to write below the table.
    """
    headings = [*table.columns, "#P paper (M)", "#P ours (M)"]
    for heading in table.figures:
        headings += [f"{heading} paper (%)", f"{heading} ours (%)", f"{heading} difference"]
    lines = [f"# Table {number}: {table.title}", ""]
    lines += [f"`{command}`", ""] if command else []
    lines += [_line([*headings, "minutes a run"]), _line(["---"] * (len(headings) + 1))]
    for index, row in enumerate(table.rows):
        measured = {heading: records.get((index, heading), {}) for heading in table.figures}
        cells = [_with_ours(cell, {h: scaled.get((index, h), {}) for h in table.figures}) for cell in row.cells]
        cells.append(MISSING if row.parameters is None else str(row.parameters))
        cells.append(_means(measured, "trained_without_head", 1e-6, 2))
        for heading in table.figures:
            cells.append(str(row.accuracy.get(heading, MISSING)))
            cells.append(_accuracy(measured[heading]))
            compared = full.get((index, heading))
            cells.append(MISSING if compared is None else _difference(measured[heading], compared))
        lines.append(_line([*cells, _means(measured, "minutes", 1, 1)]))
    notes = dict.fromkeys(row.note for row in table.rows if row.note)
    lines += ["", *(f"- {fact}" for fact in [*facts, _DIFFERENCE, _WHICH_EPOCH, *notes]), ""]
    write_whole(file, "\n".join(lines))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _with_ours(cell: str, scaled: Mapping[str, Mapping[str, str]]) -> str:
    """A cell of the paper, followed by what it became on our backbones in brackets."""
    ours = [f"{heading}: {values[cell]}" for heading, values in scaled.items() if cell in values]
    return f"{cell} ({', '.join(ours)})" if ours else cell


def _accuracy(records: Mapping[int, dict[str, Any]]) -> str:
    """The mean accuracy over seeds, in percent."""
    if not records:
        return MISSING
    mean = f"{100 * statistics.fmean(record['accuracy'] for record in records.values()):.1f}"
    return mean if len(records) == 1 else f"{mean} ({len(records)} seeds)"


def _difference(records: Mapping[int, dict[str, Any]], full: Mapping[int, dict[str, Any]]) -> str:
    """The paired difference in points, or how many seeds are still to be trained for it."""
    first, second = ({seed: 100 * run["accuracy"] for seed, run in runs.items()} for runs in (records, full))
    missing = FEWEST_SEEDS - len(common_seeds(first, second))
    if missing > 0:
        return f"{missing} {'seed' if missing == 1 else 'seeds'} missing"
    mean, half_width, count = paired_difference(first, second)
    return f"{mean:+.1f} ± {half_width:.1f} ({count} seeds)"


def _means(measured: Mapping[str, Mapping[int, dict[str, Any]]], name: str, unit: float, digits: int) -> str:
    """The mean over seeds of one recorded number, for the runs of each accuracy in turn, separated by slashes."""
    means = [statistics.fmean(run[name] for run in runs.values()) * unit for runs in measured.values() if runs]
    return " / ".join(f"{mean:.{digits}f}" for mean in means) or MISSING
