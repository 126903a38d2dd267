"""The paper's ten tables as data: each row's wording and figures, and the config values that make it (method.md 7)."""

from collections.abc import Container

from ..modeling.errors import Any2PointError
from .rows import LORA_RANK, PROMPTS_PER_BLOCK, PaperTable, Row, with_controls

YES, NO = "✓", "-"


def _both(line: float, plane: float) -> dict[str, float]:
    return {"1D": line, "2D": plane}


def _of_modality(modality: str, cells: tuple[str, ...], parameters: float, **accuracy: float) -> Row:
    return Row(cells, accuracy, parameters, modality=modality)


def _placed(placement: str, *accuracies: tuple[float, float]) -> list[Row]:
    """Rows of Table 7: a bottleneck at this place, in the first 3, 6, 9 and 12 blocks."""
    ticks = tuple(YES if placement == name else NO for name in ("after", "before", "parallel"))
    return [
        Row((*ticks, str(depth)), _both(*pair), fields={"adapter_placement": placement, "adapter_blocks": depth})
        for depth, pair in zip((3, 6, 9, 12), accuracies, strict=True)
    ]


def _projected(projection: str, column: int, *accuracies: float) -> list[Row]:
    """Rows of Table 8: a projection (the column with the tick) with 4, 6 and 8 views."""
    ticks = tuple(YES if index == column else NO for index in range(3))
    heading = "1D" if projection == "line" else "2D"
    kind = {} if projection == "line" else {"projection": projection}
    return [
        Row((*ticks, str(views)), {heading: accuracy}, fields={**kind, "num_views": views})
        for views, accuracy in zip((4, 6, 8), accuracies, strict=True)
    ]


def _cells(heading: str, sizes: tuple[int, int, int], voxel: float, *accuracies: float) -> list[Row]:
    """Rows of Table 9: three sizes of a cell with one size of a voxel."""
    return [
        Row(
            (NO, str(size), str(voxel)) if heading == "1D" else (str(size), NO, str(voxel)),
            {heading: accuracy},
            fields={"cell_size": size, "voxel_size": voxel},
        )
        for size, accuracy in zip(sizes, accuracies, strict=True)
    ]


_NO_ADAPTER = {"adapter_blocks": 0}
_BOTTLENECK_ONLY = {"aggregation": "none"}
_NO_POSITIONS = {"position_encoding": "none"}
_FULL = "Full fine-tuning: all blocks of the backbone, without its own dropout."
_PROMPTS = f"Prompt tuning: {PROMPTS_PER_BLOCK} prompts for each block, as in Jia et al.'s deep variant."
_LORA = f"LoRA: rank {LORA_RANK} on all linear layers of the attention."

TABLES: dict[int, PaperTable] = {
    1: PaperTable(
        "Comparisons on accuracy on 3D classification datasets",
        ("Method", "Pre-train"),
        (
            _of_modality("audio", ("Any2Point", "Audio"), 0.8, **{"SCAN.": 87.0, "MN.": 92.7}),
            _of_modality("2d", ("Any2Point", "2D"), 0.8, **{"SCAN.": 87.7, "MN.": 93.2}),
            _of_modality("1d", ("Any2Point", "Language"), 0.9, **{"SCAN.": 91.9, "MN.": 94.3}),
        ),
        figures=("SCAN.", "MN."),
    ),
    2: PaperTable(
        "Ablation Study on Different PEFT Methods",
        ("Method",),
        (
            Row(("Full Fine-Tuning",), _both(79.9, 85.3), 86.3, _NO_ADAPTER, "full", note=_FULL),
            Row(("Prompt Tuning",), _both(89.1, 86.4), 0.4, _NO_ADAPTER, "prompt", note=_PROMPTS),
            Row(("Adapter Tuning",), _both(89.6, 85.9), 0.4, _BOTTLENECK_ONLY),
            Row(("LoRA",), _both(86.3, 85.1), 0.9, _NO_ADAPTER, "lora", note=_LORA),
            Row(("Any2Point",), _both(91.9, 87.7), 0.8),
        ),
    ),
    3: PaperTable(
        "Ablation Study on Main Components",
        ("3D-to-any V.P.", "Any-to-3D G.A."),
        (
            Row((NO, NO), _both(88.7, 86.1), 0.3, _NO_POSITIONS | _NO_ADAPTER),
            Row((YES, NO), _both(89.3, 86.6), 0.3, _NO_ADAPTER),
            Row((NO, YES), _both(90.9, 87.6), 0.8, _NO_POSITIONS),
            Row((YES, YES), _both(91.9, 87.7), 0.8),
        ),
    ),
    4: PaperTable(
        "Ablation Study on 3D-to-any Virtual Projection",
        ("Sinusoidal", "Learnable", "3D-to-any V.P."),
        (
            Row((NO, NO, NO), _both(90.9, 87.6), fields=_NO_POSITIONS),
            Row((YES, NO, NO), _both(87.4, 86.0), fields={"position_encoding": "sinusoidal"}),
            Row((NO, YES, NO), _both(90.5, 86.5), fields={"position_encoding": "learnable"}),
            Row((NO, NO, YES), _both(91.9, 87.7)),
        ),
    ),
    5: PaperTable(
        "Ablation Study on Any-to-3D Guided Adapter",
        ("1D/2D-guided L.A.", "Ada. Any-to-3D Ens."),
        (
            Row(
                (NO, NO),
                _both(89.3, 86.6),
                0.25,
                _BOTTLENECK_ONLY,
                note="The first row is a bottleneck alone, as the paper's text says; its figures are those of the "
                "paper's Table 3 without any adapter.",
            ),
            Row((YES, NO), _both(90.2, 86.8), 0.8, {"ensemble": "mean"}),
            Row((YES, YES), _both(91.9, 87.7), 0.8),
        ),
    ),
    6: PaperTable(
        "More Results on ScanObjectNN",
        ("Method", "Pre-train", "Model"),
        (
            _of_modality("audio", ("Any2Point", "Audio", "SSAST"), 0.8, **{"SCAN.": 87.1}),
            _of_modality("2d", ("Any2Point", "2D", "DeiT"), 0.8, **{"SCAN.": 87.3}),
            _of_modality("1d", ("Any2Point", "Language", "RoBERTa"), 0.9, **{"SCAN.": 89.7}),
        ),
        figures=("SCAN.",),
    ),
    7: PaperTable(
        "Ablation Study on Adapter Positions and Depths",
        ("After", "Before", "Parallel", "Insertion Depth"),
        (
            *_placed("after", (90.4, 86.9), (90.6, 87.1), (90.2, 87.2), (91.9, 87.7)),
            *_placed("before", (89.9, 86.2), (91.1, 86.4), (90.4, 86.4), (91.3, 87.0)),
            *_placed("parallel", (90.3, 86.7), (91.5, 86.8), (90.4, 86.8), (90.7, 87.1)),
        ),
    ),
    8: PaperTable(
        "Ablation Study on the Components of 3D-to-any Virtual Projection",
        ("2D Proj. V1", "2D Proj. V2", "1D Proj.", "View Num."),
        (
            *_projected("perspective", 0, 86.2, 87.7, 87.2),
            *_projected("orthographic", 1, 86.4, 87.1, 86.5),
            *_projected("line", 2, 90.6, 91.9, 89.8),
        ),
    ),
    9: PaperTable(
        "Ablation Study on the Different Local Neighborhood Sizes",
        ("Patch Size", "Line Size", "Grid Size"),
        (
            *_cells("2D", (16, 26, 34), 0.08, 86.5, 87.2, 86.4),
            *_cells("2D", (16, 26, 34), 0.16, 87.0, 87.7, 86.0),
            *_cells("1D", (1, 2, 3), 0.08, 90.9, 91.9, 90.8),
            *_cells("1D", (1, 2, 3), 0.16, 88.9, 89.3, 91.1),
        ),
    ),
    10: PaperTable(
        "Ablation Study on the 1D/2D-guided Local Aggregation",
        ("3D-guided L.A.", "2D-guided L.A.", "1D-guided L.A."),
        (
            Row((YES, NO, NO), {"2D": 86.2}, fields={"aggregation": "3d"}),
            Row((NO, YES, NO), {"2D": 87.7}, fields={"aggregation": "source"}),
            Row((YES, NO, NO), {"1D": 87.4}, fields={"aggregation": "3d"}),
            Row((NO, NO, YES), {"1D": 91.9}, fields={"aggregation": "source"}),
        ),
    ),
}


def find_table(number: int) -> PaperTable:
    """A table by its number, with the control rows below the paper's.

    Raises:
        Any2PointError: the paper has no such table.
    """
    if number not in TABLES:
        raise Any2PointError(f"--table must be one of {', '.join(map(str, TABLES))}, got {number}.")
    return with_controls(TABLES[number])


def check_backbones(number: int, backbones: Container[str]) -> None:
    """Checks that a table has the backbones that it needs.

    A table whose rows are each about one modality needs one backbone at least; the others compare modalities and need
    the backbones of all.

    Args:
        number: of the table.
        backbones: the modalities that have one.

    Raises:
        Any2PointError: there is no such table, or a backbone is missing.
    """
    table = find_table(number)
    wanted = table.modalities()
    missing = [name for name in wanted if name not in backbones]
    if missing and (len(missing) == len(wanted) or table.rows[0].modality is None):
        joined = " or " if table.rows[0].modality else " and "
        options = joined.join(f"--backbone-{name}" for name in missing)
        raise Any2PointError(f"table {number} needs {options}: Hub id or folder of a frozen transformer; got none.")
