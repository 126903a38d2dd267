"""The rules that every point cloud keeps, from a file or from memory."""

import numpy as np
from numpy.typing import ArrayLike

from any2point_hf.modeling.errors import PointCloudError

from .invalid import LARGEST_COORDINATE, DroppedPoints, crowded_places, not_finite

MINIMUM_DISTINCT_POINTS = 8
"""Fewest different points that make a shape; the processor's rule, files may hold fewer."""

DROP_THEM = "Remove these points, or drop them by --drop-invalid (in Python drop_invalid=True)."
"""What to do about invalid points."""

_FAR = 1000  # times as far from the middle as nine in ten points


def check_points(
    points: ArrayLike,
    name: str,
    *,
    minimum_distinct: int = 1,
    dropped: DroppedPoints | None = None,
    fix: str = DROP_THEM,
) -> np.ndarray:
    """Checks that points form a usable cloud, and keeps their precision.

    Args:
        points: [N, 3] of any real number type.
        name: the file or argument, for the error message.
        minimum_distinct: how many different points there must be, ≥ 1.
        dropped: drops invalid points (`invalid_points`) and counts them; None refuses points that are not finite.
        fix: what the error says to do about points that are not finite.

    Returns:
        [N, 3] float32 or, for numbers that are more precise, float64; finite.

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
    array = array.astype(np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64)
    num_points = len(array)
    if dropped is not None:
        array = dropped.drop(array, name)
    elif unusable := int(not_finite(array).sum()):
        raise PointCloudError(
            f"{name} must be finite: {unusable} of {len(array)} points have a coordinate that is NaN, "
            f"infinite or beyond ±{LARGEST_COORDINATE:g}. {fix}"
        )
    remaining = array
    for found in range(minimum_distinct):  # sorting all points to count the different ones would cost far more
        if not len(remaining):
            lost = f", {num_points - len(array)} of them invalid and dropped" if num_points > len(array) else ""
            raise PointCloudError(
                f"{name} must have at least {minimum_distinct} distinct points, got {found} "
                f"(of {num_points} points{lost}). Check that the coordinates were not rounded or zeroed."
            )
        remaining = remaining[(remaining != remaining[0]).any(axis=1)]
    return array


def check_cloud(points: ArrayLike, name: str, dropped: DroppedPoints | None = None) -> np.ndarray:
    """Checks that points can be the input of a model: enough distinct ones, not too many at one place, none far away.

    Args:
        points: [N, 3] of any real number type.
        name: the file or argument, for the error message.
        dropped: drops invalid points and counts them; None refuses them.

    Returns:
        As `check_points`.

    Raises:
        PointCloudError: the points break a rule of `check_points` or `check_no_point_is_far`, or more than a quarter
            are at one place.
    """
    array = check_points(points, name, minimum_distinct=MINIMUM_DISTINCT_POINTS, dropped=dropped)
    places = crowded_places(array)
    if len(places):
        counts = [int((array == place).all(axis=1).sum()) for place in places]
        x, y, z = places[np.argmax(counts)]
        raise PointCloudError(
            f"{name} must not have more than a quarter of its points at one place: {max(counts)} of {len(array)} are "
            f"at ({x:g}, {y:g}, {z:g}), as a depth camera writes what it did not see. {DROP_THEM}"
        )
    check_no_point_is_far(array.astype(np.float64, copy=False), name)
    return array


def check_no_point_is_far(points: np.ndarray, name: str) -> None:
    """Checks that scaling to the unit sphere leaves a shape.

    Args:
        points: [N, 3] float64, finite.
        name: the file or argument, for the error message.

    Raises:
        PointCloudError: a point is a thousand times as far from the middle as nine in ten of all.
    """
    from_middle = np.abs(points - np.median(points, axis=0)).max(axis=1)
    ninth = int(0.9 * (len(points) - 1))
    usual = np.partition(from_middle, ninth)[ninth]
    far = int((from_middle > _FAR * usual).sum()) if usual else 0
    if far:
        raise PointCloudError(
            f"{name} must not have points far from all others: {far} of {len(points)} are more than {_FAR} times as "
            "far from the middle as most, and beside them the shape would be a single spot. Remove these points."
        )


def local_float32(points: np.ndarray) -> np.ndarray:
    """Points as float32; moved to their mean first where float32 would change the shape, as it would map coordinates.

    The model sees no difference, because the processor moves every cloud to its mean.
    """
    return (
        points.astype(np.float32, copy=False)
        if fits_float32(points)
        else (points - np.sort(points, axis=0).mean(axis=0)).astype(np.float32)  # a mean in any order of the points
    )


def in_needed_precision(points: np.ndarray) -> np.ndarray:
    """Points [N, 3] as float32 where float32 keeps the shape, else as they are."""
    return points.astype(np.float32, copy=False) if fits_float32(points) else points


def fits_float32(points: np.ndarray) -> bool:
    """Whether float32 moves no point by more than a millionth of the cloud's extent."""
    if points.dtype == np.float32 or not len(points):
        return True
    moved = np.abs(points.astype(np.float32) - points).max()
    return bool(moved <= 1e-6 * np.ptp(points, axis=0).max())
