"""Categories of clouds and the parts that each may have: their form in a config, their checks and their mask."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import require

_MOST_PAIRS = 2**24  # of a category and a part, which the mask holds

_FORM = "category_parts must name each category's parts, as {'chair': [0, 1, 2], 'lamp': [3, 4]}"


def as_category_parts(given: Any) -> dict[str, list[int]] | None:
    """Returns a dict from a category's name to its parts, of a dict or of the pairs that a config.json holds.

    Its order is that of the categories' ids; JSON files are written with sorted keys, so they hold pairs.

    Raises:
        ConfigurationError: it is of another form, or two categories share a name.
    """
    if given is None:
        return None
    try:
        pairs = [(name, list(parts)) for name, parts in (given.items() if isinstance(given, Mapping) else list(given))]
    except (TypeError, ValueError):
        pairs = [(None, [])]
    is_named = all(isinstance(name, str) and name for name, _ in pairs)
    are_numbers = all(isinstance(part, int) and not isinstance(part, bool) for _, parts in pairs for part in parts)
    require(is_named and are_numbers and len(pairs) > 0, _FORM, given)
    categories = dict(pairs)
    require(len(categories) == len(pairs), "category_parts must name each category once", [name for name, _ in pairs])
    return categories


def check_category_parts(categories: Mapping[str, list[int]] | None, num_labels: int) -> None:
    """Checks that every category has parts, and each part a number below `num_labels`.

    Raises:
        ConfigurationError: one does not.
    """
    if categories is None:
        return
    require(
        len(categories) * num_labels <= _MOST_PAIRS,
        f"category_parts times num_labels must be at most {_MOST_PAIRS}",
        (len(categories), num_labels),
    )
    for name, parts in categories.items():
        require(len(parts) > 0, f"a category must have at least one part, and {name!r} has none in category_parts", [])
        require(
            all(0 <= part < num_labels for part in parts) and len(set(parts)) == len(parts),
            f"the parts of {name!r} in category_parts must be different numbers in 0…{num_labels - 1} (num_labels)",
            parts,
        )


def parts_mask(categories: Mapping[str, Sequence[int]], num_labels: int, device: torch.device) -> Tensor:
    """Which parts a category may have: [categories, parts] bool; the host does not wait for the device."""
    mask = torch.zeros(len(categories), num_labels, dtype=torch.bool)
    for row, parts in zip(mask, categories.values(), strict=True):
        row[list(parts)] = True
    return mask.to(device, non_blocking=True)
