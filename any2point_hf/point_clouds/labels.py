"""The rules that labels of points keep."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from any2point_hf.modeling.errors import DatasetError

IGNORED = -100
"""The label of points that have none; they count nowhere."""


def checked_parts(part: ArrayLike, num_points: int, part_names: Sequence[str], name: str) -> np.ndarray:
    """Labels of points as int64 [N].

    Args:
        part: [N] integers, or floating-point numbers that are whole.
        num_points: N.
        part_names: whose places the labels are.
        name: of the cloud, for the error message.

    Raises:
        DatasetError: another number of labels than of points, one that is no integer, or one out of range.
    """
    array = whole_labels(part, num_points, name)
    wrong = (array != IGNORED) & ((array < 0) | (array >= len(part_names)))
    if wrong.any():
        index = int(wrong.argmax())
        raise DatasetError(
            f"{name}: labels of points must be 0…{len(part_names) - 1} ({len(part_names)} parts), or {IGNORED} for a "
            f"point without one, got {array[index]} at point {index} ({int(wrong.sum())} such points). Correct them, "
            "or name all parts."
        )
    return array


def whole_labels(part: ArrayLike, num_points: int, name: str) -> np.ndarray:
    """Labels of points as int64 [N], whatever their range; raises as `checked_parts`."""
    try:
        array = np.asarray(part)
    except ValueError as error:  # numpy's answer to lists of different lengths
        raise DatasetError(f"{name} must have one label for each point, got lists that differ in length.") from error
    if array.shape == (num_points, 1):
        array = array[:, 0]
    if array.shape != (num_points,):
        raise DatasetError(
            f"{name} must have as many labels as points, [{num_points}], got {list(array.shape)}. Cut or sample both "
            "alike."
        )
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == array.round()).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        unlike = array if array.dtype.kind != "f" else array[~(array == array.round())]
        shown = f"{unlike[0]}" if len(unlike) else array.dtype
        raise DatasetError(
            f"{name}: labels of points must be integers, got {shown}. Choose another column, or convert it."
        )
    return array.astype(np.int64)
