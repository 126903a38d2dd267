"""A picture of a cloud's parts: predicted, and beside them the true ones and the errors where these are known.

Unusual here: all points of the cloud are labelled, and every n-th of them is shown.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..modeling.errors import DatasetError
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..processing_any2point import Any2PointProcessor
from ..segmentation.labelling import LabelledPoints, label_points
from ..segmentation.part_metrics import IGNORED
from .picture import Picture
from .picture_content import Panel, category_colors

SHOWN_POINTS = 4096


def draw_parts(
    model: Any2PointForPointCloudSegmentation,
    processor: Any2PointProcessor,
    cloud: Any,
    *,
    category: str | int | None = None,
    truth: ArrayLike | None = None,
) -> Picture:
    """The part of every point in a colour of its own, the same as in a .ply of `write_parts`.

    Args:
        model: a segmenter.
        processor: the model's.
        cloud: [N, 3], a file, or any other cloud that the processor takes.
        category: name or id of the cloud's category, where the model has categories.
        truth: [N] ids of the true parts, −100 for a point without one. With it there are three panels: the prediction,
            the truth, and the wrong points in the colours of what they were taken for, over all others in grey.

    Raises:
        PointCloudError: the cloud cannot be used.
        DatasetError: the category is missing, unknown, or given to a model without any; or the truth has another length
            than the cloud, or ids that are no parts.
    """
    labelled = label_points(model, processor, cloud, category)
    return parts_picture(labelled, None if truth is None else _checked(truth, labelled))


def parts_picture(labelled: LabelledPoints, truth: np.ndarray | None = None) -> Picture:
    """The same of a cloud that is labelled already.

    Args:
        labelled: of `label_points`.
        truth: [N] int64, ids of the true parts or −100; None where they are not known.
    """
    usable = np.flatnonzero(labelled.parts != IGNORED)  # the others may lie anywhere
    shown = usable[:: -(-len(usable) // SHOWN_POINTS)]
    points = np.asarray(labelled.points, dtype=np.float64)[shown]
    points = (points - points.mean(axis=0)).astype(np.float32)
    parts = labelled.parts[shown]
    true = np.full(len(shown), IGNORED) if truth is None else np.asarray(truth)[shown]
    occurring = [int(part) for part in np.unique([*parts, *true]) if part != IGNORED]
    names = tuple(labelled.part_names[part] for part in occurring)
    colors = category_colors(len(labelled.part_names))
    limits = (0, len(names) - 1)
    hover = _hover(labelled, parts, labelled.probabilities[shown], true)

    def panel(title: str, of: np.ndarray, chosen: np.ndarray) -> Panel:
        background = points[~chosen] if not chosen.all() else None
        texts = tuple(text for text, is_chosen in zip(hover, chosen, strict=True) if is_chosen)
        values = np.searchsorted(occurring, of[chosen])
        return Panel(title, points[chosen], values, limits, hover=texts, background=background)

    panels = [panel("prediction" if truth is not None else "", parts, np.ones(len(shown), dtype=bool))]
    if truth is not None:
        is_known = true != IGNORED
        is_wrong = is_known & (parts != true)
        if is_known.any():
            panels.append(panel("truth", true, is_known))
        if is_wrong.any():
            share = 100 * is_wrong.sum() / is_known.sum()
            panels.append(panel(f"errors, {share:.1f} % of the points", parts, is_wrong))
    of_category = f" ({labelled.category})" if labelled.category else ""
    used = tuple(colors[part] for part in occurring)
    return Picture(f"Parts{of_category}", "part", tuple(panels), names, colors=used)


def _hover(labelled: LabelledPoints, parts: np.ndarray, probabilities: np.ndarray, true: np.ndarray) -> list[str]:
    """A text for each point: its part with the probability, and the true one where another is known."""
    names = labelled.part_names
    return [
        f"{names[part]} {probability:.2f}" + (f", is {names[own]}" if own not in (IGNORED, part) else "")
        for part, probability, own in zip(parts.tolist(), probabilities.tolist(), true.tolist(), strict=True)
    ]


def _checked(truth: ArrayLike, labelled: LabelledPoints) -> np.ndarray:
    array = np.asarray(truth)
    if array.shape != labelled.parts.shape or array.dtype.kind not in "iu":
        raise DatasetError(
            f"truth must have an integer for each of the {len(labelled.parts)} points, got {array.dtype} "
            f"{list(array.shape)}."
        )
    wrong = array[(array != IGNORED) & ((array < 0) | (array >= len(labelled.part_names)))]
    if len(wrong):
        raise DatasetError(f"truth must lie in 0…{len(labelled.part_names) - 1}, or be {IGNORED}, got {wrong[0]}.")
    return array
