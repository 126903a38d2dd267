"""Pictures of a training: its curves, and which classes were taken for which."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..pictures.packages import from_extra

with from_extra():
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, which the colour-blind tell apart; the markers differ too.
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": "#000000", "marker": "o"},
    "validation": {"color": "#E69F00", "marker": "s"},
    "test": {"color": "#0072B2", "marker": "^"},
}
COLOR_MAP = "Blues"  # one hue from light to dark: the same order for every eye
ABSENT = "#dddddd"  # rows of classes without clouds
_MEASURES = {"instance_miou": "instance mIoU", "mean_average_precision": "mAP", "r2": "R² (0 and below at the bottom)"}
_COUNTS_UP_TO = 20  # classes; beyond them numbers are too small to read
_MOST_MARKERS = 40


def draw_training_curves(history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draws loss and accuracy by epoch, side by side; the epoch that is best on the validation split is marked.

    In place of the accuracy it draws the instance mIoU of segmentation, the mAP of several classes or R² of numbers.

    Args:
        history: `trainer.state.log_history`, logged each epoch.
        path: of the .png to write.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    _draw_curves(loss, {"train": "loss", **_names(history, "loss")}, history)
    measure = next((name for name in _MEASURES if _names(history, name)), "accuracy")
    chosen_by = f"eval_validation_{measure}"
    _draw_curves(accuracy, _names(history, measure), history)
    loss.set_ylabel("loss")
    accuracy.set_ylabel(_MEASURES.get(measure, "accuracy"))
    accuracy.set_ylim(-0.02, 1.02)
    best = max(history, key=lambda entry: entry.get(chosen_by, -1.0), default={})
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.set_xlim(0, max((entry["epoch"] for entry in history), default=1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#e5e5e5", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if chosen_by in best:
            axes.axvline(best["epoch"], color="#999999", linestyle="--", linewidth=1, label="epoch kept", zorder=1)
        axes.legend(frameon=False)
    _save(figure, path)


def _names(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, str]:
    """Maps each split that was evaluated to the name of its metric in the history."""
    names = {"validation": f"eval_validation_{metric}", "test": f"eval_test_{metric}"}
    if not any(names["test"] in entry for entry in history):  # a lone evaluated split is logged without its name
        names["test"] = f"eval_{metric}"
    return {split: name for split, name in names.items() if any(name in entry for entry in history)}


def _draw_curves(axes: Axes, names: Mapping[str, str], history: Sequence[Mapping[str, Any]]) -> None:
    for split, name in names.items():
        points = {entry["epoch"]: max(entry[name], 0) for entry in history if name in entry}  # an epoch's last entry
        axes.plot(
            list(points), list(points.values()), label=split, markevery=-(-len(points) // _MOST_MARKERS) or 1,
            markersize=4, linewidth=1.5, clip_on=False, zorder=3, **_STYLES[split],
        )  # fmt: skip


def draw_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], path: str | os.PathLike) -> None:
    """Draws which classes were taken for which; a cell's colour is its share of the row.

    Up to twenty classes the cells also hold their counts.

    Args:
        matrix: counts [classes, classes], a row for each class, a column for each answer.
        class_names: of the rows and columns.
        path: of the .png to write.
    """
    matrix = np.asarray(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.ma.masked_where(np.broadcast_to(totals == 0, matrix.shape), matrix / np.maximum(totals, 1))
    size = len(class_names)
    side = 1.6 + (0.55 if size <= _COUNTS_UP_TO else 0.24) * max(size, 4)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap=COLOR_MAP, vmin=0, vmax=1)
    axes.set_facecolor(ABSENT)
    font_size = 9 if size <= _COUNTS_UP_TO else 8
    ticks: dict[str, Any] = {"ticks": range(size), "labels": class_names, "fontsize": font_size, "parse_math": False}
    axes.set_xticks(rotation=90 if size > 4 else 0, **ticks)
    axes.set_yticks(**ticks)
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the class's clouds", fraction=0.03, pad=0.02)
    if size <= _COUNTS_UP_TO:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=font_size, color=color)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a .png whose bytes depend only on what is drawn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of class names in other scripts
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
