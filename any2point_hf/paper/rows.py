"""What a row of a table is, the control rows of our own, and fitting a row to a backbone of another size.

A row is never a fork of the code: it is fields of Any2PointConfig on top of the setting that its whole table shares. A
row of Table 2 also names a tuning method (`tuning_baselines.py`), and a control row the weights that the backbone has.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

PAPER_BLOCKS = 12  # blocks of the backbones in Table 7; its depths are scaled to other numbers
PAPER_CELL = 26  # pixels of a cell on the plane; Table 9 also tries 16 and 34
PROMPTS_PER_BLOCK = 10  # 0.1 M on 12 blocks of width 768: with the tokenizer's 0.3 the paper's 0.4 M
LORA_RANK = 8  # 0.6 M on q, k, v and output of these blocks: with the tokenizer's 0.3 the paper's 0.9 M
Weights = Literal["pretrained", "permuted", "random"]
CONTROLS: tuple[tuple[str, dict[str, Any], Weights, str], ...] = (  # name, fields, weights, note
    (
        "No backbone",
        {"backbone_blocks": 0, "adapter_blocks": 0},
        "pretrained",
        "No backbone: tokenizer and head alone, without any block.",
    ),
    (
        "Permuted weights",
        {},
        "permuted",
        "Permuted weights: each matrix of the pretrained blocks with its entries in random order: the same statistics, "
        "no knowledge.",
    ),
    ("Random weights", {}, "random", "Random weights: the start values of the backbone's own family."),
)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        cells: the paper's wording, one for each of the table's columns.
        accuracy: the paper's figures in percent, by the heading of their column.
        parameters: the paper's #P in millions, if it gives one.
        fields: of Any2PointConfig, in place of the setting's own.
        method: how the backbone is tuned, a name of `tuning_baselines.METHODS`.
        modality: the kind of backbone that the row is about (Tables 1 and 6); None where the columns tell it.
        note: what a reader must know to compare; written below the table.
        weights: of the backbone, `"pretrained"`, or what `control_backbones.py` makes of them.
    """

    cells: tuple[str, ...]
    accuracy: Mapping[str, float]
    parameters: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    method: str = "any2point"
    modality: str | None = None
    note: str = ""
    weights: Weights = "pretrained"


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Args:
        title: of the paper.
        columns: headings of the rows' cells.
        rows: from top to bottom.
        figures: headings of the accuracies: `"1D"` and `"2D"`, or names of data sets.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    figures: tuple[str, ...] = ("1D", "2D")

    def modalities(self) -> list[str]:
        """The kinds of backbone that its rows are about."""
        return list(dict.fromkeys(kind for row in self.rows for kind in self.trained_for(row, True).values()))

    def trained_for(self, row: Row, on_scans: bool) -> dict[str, str]:
        """Maps the heading of each accuracy to the modality that is trained for it, on scans or on CAD models.

        A row without accuracies from the paper, such as a control, is trained for all columns.
        """
        if row.modality is None:
            return {heading: heading.lower() for heading in row.accuracy or self.figures}
        return {"SCAN." if on_scans or "MN." not in self.figures else "MN.": row.modality}


FULL = Row(("Any2Point",), {})  # the setting itself, which all rows are compared with


def with_controls(table: PaperTable) -> PaperTable:
    """The table with rows of our own below the paper's, which tell what the backbone and its knowledge bring.

    These rows are no backbone at all, and the full Any2Point on permuted and on random weights. A table whose rows are
    each about one modality has them for every modality.
    """
    kinds = {row.modality: row.cells[1:] for row in table.rows}
    if None in kinds:
        kinds = {None: ("",) * (len(table.columns) - 1)}
    rows = [
        Row((name, *others), {}, modality=modality, fields=fields, weights=weights, note=note)
        for name, fields, weights, note in CONTROLS
        for modality, others in kinds.items()
    ]
    return replace(table, rows=(*table.rows, *rows))


def fit_row(fields: Mapping[str, Any], modality: str, num_blocks: int, cell_size: float) -> dict[str, Any]:
    """A row's fields for a backbone of another size than the paper's.

    Args:
        fields: of the row.
        modality: `"1d"`, `"2d"` or `"audio"`.
        num_blocks: of the backbone; a depth d of the paper's 12 blocks becomes ⌈d · num_blocks / 12⌉.
        cell_size: the setting's own; on a plane it takes the place of the paper's 26, and a row's cell size keeps its
            ratio to 26.
    """
    fitted = dict(fields)
    if "adapter_blocks" in fitted:
        depth = math.ceil(fitted["adapter_blocks"] * num_blocks / PAPER_BLOCKS)
        fitted["adapter_blocks"] = None if depth == num_blocks else depth
    if "cell_size" in fitted and modality != "1d":
        size = round(fitted["cell_size"] * cell_size / PAPER_CELL, 4)
        fitted["cell_size"] = int(size) if size == int(size) else size
    return fitted
