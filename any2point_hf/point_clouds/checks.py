"""The rules that every point cloud keeps, from a file or from memory."""

import numpy as np
from numpy.typing import ArrayLike

from any2point_hf.modeling.errors import PointCloudError

MINIMUM_DISTINCT_POINTS = 8
"""Fewest different points that make a shape; the processor's rule, files may hold fewer."""

_LARGEST_COORDINATE = 1e38  # the difference of two such coordinates still fits float32


def check_points(points: ArrayLike, name: str, *, minimum_distinct: int = 1) -> np.ndarray:
    """Checks that points form a usable cloud and converts them.

    Args:
        points: [N, 3] of any real number type.
        name: the file or argument, for the error message.
        minimum_distinct: how many different points there must be, ≥ 1.

    Returns:
        [N, 3] float32, finite.

    Raises:
        PointCloudError: points are ragged, not numbers, not [N, 3], empty, not finite or too few.
    """
    try:
        array = np.asarray(points)
    except ValueError as error:  # numpy's answer to rows of different lengths
        raise PointCloudError(f"{name} must have three numbers in every row; its rows differ in length.") from error
    if array.dtype.kind not in "fiu":
        raise PointCloudError(f"{name} must hold real numbers, got dtype {array.dtype}. Convert it to float32.")
    if array.ndim != 2 or array.shape[1] != 3:
        raise PointCloudError(
            f"{name} must have the shape [N, 3] (x, y, z), got {list(array.shape)}. "
            "Transpose it, or select the three coordinate columns."
        )
    if not len(array):
        raise PointCloudError(f"{name} holds no points; at least {minimum_distinct} are needed.")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    unusable = int((~(np.abs(array) <= _LARGEST_COORDINATE)).any(axis=1).sum())
    if unusable:
        raise PointCloudError(
            f"{name} must be finite: {unusable} of {len(array)} points have a coordinate that is NaN, "
            f"infinite or beyond ±{_LARGEST_COORDINATE:g}. Remove these points."
        )
    remaining = array
    for found in range(minimum_distinct):  # sorting all points to count the different ones would cost far more
        if not len(remaining):
            raise PointCloudError(
                f"{name} must have at least {minimum_distinct} distinct points, got {found} "
                f"(of {len(array)} points). Check that the coordinates were not rounded or zeroed."
            )
        remaining = remaining[(remaining != remaining[0]).any(axis=1)]
    return array
