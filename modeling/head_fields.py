"""The fields of a config that say what its head's numbers mean, and their checks; it imports next to nothing."""

import math
from collections.abc import Mapping
from typing import Any

from .errors import require

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
OF_LABELS = ("class_weight", "target_mean", "target_std")
BALANCED = "balanced"
"""The `class_weight` that a training computes from its training split."""


def problem_of(config: Any) -> str:
    """What a config's head is for: its `problem_type`, `None` being one class for each cloud."""
    return config.problem_type or SINGLE_LABEL


def check_head_fields(config: Any) -> None:
    """Checks the fields of a config that say what its head's numbers mean.

    Raises:
        ConfigurationError: they do not fit each other, or the number of labels.
    """
    problem, count = problem_of(config), config.num_labels
    for name in OF_LABELS:
        numbers = getattr(config, name)
        is_finite = not isinstance(numbers, list) or all(math.isfinite(number) for number in numbers)
        require(is_finite, f"{name} must be finite", numbers)
    scale = {"target_mean": config.target_mean, "target_std": config.target_std}
    for name, values in scale.items():
        require(values is None or problem == REGRESSION, f"{name} belongs to problem_type='regression'", values)
        require(values is None or len(values) == count, f"{name} must have {count} numbers (num_labels)", values)
    require(
        (config.target_mean is None) == (config.target_std is None),
        "target_mean and target_std are given together",
        scale,
    )
    require(min(config.target_std or [1]) > 0, "target_std must be positive", config.target_std)
    weight = config.class_weight
    if weight is None:
        return
    fix = " Leave it out, or weigh the classes yourself."
    require(problem == SINGLE_LABEL, "class_weight is for one class a cloud, not for other problem types", problem, fix)
    if weight != BALANCED:
        fits = isinstance(weight, list) and len(weight) == count and min(weight) >= 0 < max(weight)
        rule = f'class_weight must be "{BALANCED}" or {count} numbers (num_labels), none negative and not all 0'
        require(fits, rule, weight)


def for_new_labels(recorded: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values without weights and units of its labels, where other labels than the recorded are asked for.

    Args:
        recorded: of a config.json.
        given: what `from_pretrained` is to change, such as `num_labels` of a new head.
    """
    number = len(given["id2label"]) if given.get("id2label") else given.get("num_labels")
    recorded_number = len(recorded.get("id2label") or ()) or recorded.get("num_labels") or 2
    is_new_problem = given.get("problem_type", recorded.get("problem_type")) != recorded.get("problem_type")
    if number in (None, recorded_number) and not is_new_problem:
        return recorded
    return {name: value for name, value in recorded.items() if name not in OF_LABELS}


def require_single_label(config: Any, what: str) -> None:
    """Raises a `ConfigurationError` unless a config's head chooses one class for each cloud (or for each point).

    Args:
        config: of a model.
        what: does not work otherwise, such as "a calibration".
    """
    fix = " Take a model that chooses one class."
    require(problem_of(config) == SINGLE_LABEL, f"{what} needs one class for each cloud", problem_of(config), fix)
