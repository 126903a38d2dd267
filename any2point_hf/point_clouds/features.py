"""What points have besides their coordinates (colour, normal, intensity, reflectance): names and scales.

A feature is one number for each point, and has one name wherever it comes from. Groups of names, such as `rgb`, may be
given instead of their features.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from any2point_hf.modeling.errors import ConfigurationError, PointCloudError

FEATURE_GROUPS: dict[str, tuple[str, ...]] = {
    "rgb": ("red", "green", "blue"),
    "normal": ("normal_x", "normal_y", "normal_z"),
    "intensity": ("intensity",),
    "reflectance": ("reflectance",),
}
"""Names of groups, which are also names of columns of data sets, and their features.

Colours are 0…1 and normals have length 1. Intensity and reflectance are 0…1 where they are stored as integers of 8 or
16 bits, else as they are in the file.
"""

COLORS, NORMALS = FEATURE_GROUPS["rgb"], FEATURE_GROUPS["normal"]
SCALED_BY_TYPE = ("intensity", "reflectance")
"""Features that are 0…1 where they are stored as integers of 8 or 16 bits."""

_ROUNDING = 1e-5  # colours between those of a mesh's corners may lie so far above 1
_KNOWN = frozenset(name for names in FEATURE_GROUPS.values() for name in names)


class _Everything(frozenset[str]):
    """The names of `FEATURE_GROUPS`, which says of every other name too that it holds it."""

    def __contains__(self, name: object) -> bool:
        return True


EVERYTHING = _Everything(_KNOWN)
"""What a reader is asked for to get every column besides the coordinates."""

_PREFIXES = ("diffuse_", "scalar_", "color_", "colour_", "rgb_")
_SYNONYMS = {"r": "red", "g": "green", "b": "blue", "i": "intensity", "intensities": "intensity"}
_SYNONYMS |= {"rf": "red", "gf": "green", "bf": "blue"}  # CloudCompare's, for 0…1
_SYNONYMS |= {"reflectivity": "reflectance", "reflectances": "reflectance"}
_SYNONYMS |= {
    f"{word}{axis}": f"normal_{axis}" for axis in "xyz" for word in ("n", "n_", "normal", "norm_", "normals_")
}
_PLURALS = {"colors": "rgb", "color": "rgb", "colours": "rgb", "normals": "normal"}


def feature_names(given: Iterable[str]) -> list[str]:
    """Names of features, in order, out of those of features, groups and columns: ["rgb", "nx"] -> ["red", "green", …].

    Raises:
        ConfigurationError: a name is empty, or a feature is named twice.
    """
    words = [given] if isinstance(given, str) else list(given)
    if not all(word.strip() for word in words):
        raise ConfigurationError(f"features of points must have names, such as rgb or intensity, got {words}.")
    names = [name for word in words for name in features_of(word.strip())]
    if len({*names}) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ConfigurationError(f"features of points must be named once, got {twice!r} twice.")
    return names


def feature_of_column(column: str) -> str:
    """The feature that a file's column holds by its name: "nx" -> "normal_x"; a name that is not known stays."""
    name = column.strip().lower().replace(" ", "_").replace(".", "_")
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return _SYNONYMS.get(name, name)


def features_of(array: str) -> tuple[str, ...]:
    """The features that an array by this name holds: "normals" -> normal_x, normal_y, normal_z."""
    group = _PLURALS.get(array.lower(), array.lower())
    return FEATURE_GROUPS.get(group, (feature_of_column(array),))


def wanted_columns(columns: Iterable[str], wanted: Collection[str] | None) -> dict[str, str]:
    """Maps the features that a file has, and that are wanted, to its own names for them.

    Args:
        columns: the file's names, without those of the coordinates.
        wanted: names of features; None for all of `FEATURE_GROUPS`.
    """
    found: dict[str, str] = {}
    for column in columns:
        name = feature_of_column(column)
        if name in (_KNOWN if wanted is None else wanted):
            found.setdefault(name, column)
    return found


def spread_groups(arrays: Mapping[str, Any], num_points: int, name: str) -> dict[str, np.ndarray]:
    """Features [N] by name out of arrays by a feature's or a group's name, such as `rgb` [N, 3] or `intensity` [N].

    Args:
        arrays: by the names of features or groups.
        num_points: N.
        name: the file or argument, for the error message.

    Raises:
        PointCloudError: an array has another shape, or two hold the same feature.
    """
    features: dict[str, np.ndarray] = {}
    for key, values in arrays.items():
        try:
            names, array = features_of(key), np.asarray(values)
        except ValueError as error:  # numpy's answer to rows of different lengths
            raise PointCloudError(f"{name}: {key} must be numbers, as many in every row.") from error
        if array.shape == (num_points, 4) and names == COLORS:
            array = array[:, :3]  # the fourth is opacity
        if array.shape != (num_points, len(names)) and (len(names) > 1 or array.shape != (num_points,)):
            expected = [num_points, len(names)] if len(names) > 1 else [num_points]
            raise PointCloudError(
                f"{name}: {key} must be numbers {expected}, a row for each of the {num_points} points, got "
                f"{list(array.shape)}."
            )
        if twice := [name for name in names if name in features]:
            other = next(other for other in arrays if twice[0] in features_of(other))
            raise PointCloudError(f"{name}: {other} and {key} both hold {', '.join(twice)}. Leave one of them out.")
        features |= dict(zip(names, array.reshape(num_points, -1).T, strict=True))
    return features


def grouped_features(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by the names of groups, such as `rgb` [N, 3], of features [N]; a group that is not whole is left apart."""
    arrays, left = {}, dict(features)
    for group, names in FEATURE_GROUPS.items():
        if len(names) > 1 and all(name in left for name in names):
            arrays[group] = np.stack([left.pop(name) for name in names], axis=1)
    return arrays | left


def scaled_features(features: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Brings features to their stated scales.

    Colours are told apart by their type and, where that says nothing, by the largest of all three: up to 1, up to 255,
    or up to 65535.

    Args:
        features: [N] by name, as they are stored.
        name: the file or argument, for the error message.

    Returns:
        [N] float32 by name.

    Raises:
        PointCloudError: a feature is no finite number, or a colour lies outside of 0…65535.
    """
    for feature, values in features.items():
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise PointCloudError(f"{name}: {feature} must be finite numbers, got {_fault(values)}. Mend or remove it.")
    result = {
        feature: _unit_integers(values) if feature in SCALED_BY_TYPE else values.astype(np.float32)
        for feature, values in features.items()
    }
    colors = [feature for feature in COLORS if feature in features]
    if colors:
        factor = _color_factor({feature: features[feature] for feature in colors}, name)
        result |= {feature: (features[feature] * factor).astype(np.float32) for feature in colors}
    if all(feature in features for feature in NORMALS):
        normals = np.stack([features[feature] for feature in NORMALS], axis=1).astype(np.float64)
        result |= dict(zip(NORMALS, unit_length(normals).T, strict=True))
    return result


def as_declared(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers read from text in the integer type that the file states; as they are if that cannot hold them.

    The type tells the scale: a dark colour of 8 bits may have no value above 1.
    """
    if dtype.kind not in "iu" or not np.isfinite(values).all() or (values != values.round()).any():
        return values
    bounds = np.iinfo(dtype)
    fits = not len(values) or (values.min() >= bounds.min and values.max() <= bounds.max)
    return values.astype(dtype) if fits else values


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, 3] divided by their lengths, as float32; those of no length stay 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _unit_integers(values: np.ndarray) -> np.ndarray:
    largest = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(values.dtype.newbyteorder("="), 1)
    return (values / largest).astype(np.float32)


def _color_factor(colors: Mapping[str, np.ndarray], name: str) -> float:
    if all(values.dtype == np.uint8 for values in colors.values()):
        return 1 / 255
    lowest = min(values.min() for values in colors.values())
    highest = max(values.max() for values in colors.values())
    if lowest < 0 or highest > 65535:
        raise PointCloudError(
            f"{name}: colours must lie in 0…1, 0…255 or 0…65535, got values from {lowest:g} to {highest:g}."
        )
    are_integers = all(values.dtype.kind in "iu" for values in colors.values())
    if highest <= 1 + _ROUNDING and not are_integers:
        return 1.0
    return 1 / 255 if highest <= 255 else 1 / 65535


def _fault(values: np.ndarray) -> str:
    if values.dtype.kind not in "fiub":
        return f"dtype {values.dtype}"
    return f"{int((~np.isfinite(values)).sum())} of {len(values)} that are NaN or infinite"


def missing_features(missing: Collection[str], found: Collection[str], name: str) -> PointCloudError:
    """The error of a cloud that lacks features that were asked for.

    Args:
        missing: names of the features that it lacks.
        found: names of those that it has.
        name: the file or argument.
    """
    has = ", ".join(sorted(found)) or "none"
    return PointCloudError(
        f"{name} must have {', '.join(missing)} for every point; the features found there are: {has}. Give clouds with "
        "them (docs/data.md names the columns), or use a model without them."
    )
