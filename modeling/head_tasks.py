"""What a classifier's numbers mean (`problem_type`, by the names of transformers): their targets, loss and units.

| `problem_type`                        | labels                | loss                             | logits           |
|---------------------------------------|-----------------------|----------------------------------|------------------|
| `None`, `single_label_classification` | [B] int               | cross-entropy                    | of a softmax     |
| `multi_label_classification`          | [B, classes], 0 and 1 | binary cross-entropy             | of sigmoids      |
| `regression`                          | [B, targets], or [B]  | mean squared error, standardised | in their units   |

Unusual here: transformers guesses a missing `problem_type` from the first labels. Here `None` is one class for each
cloud, and labels of any other kind are refused.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import ConfigurationError, DatasetError
from .head_fields import BALANCED, MULTI_LABEL, REGRESSION, SINGLE_LABEL, problem_of
from .input_checks import check_labels
from .numerics.host_reads import host_may_read
from .numerics.precision import at_least_float32


def check_targets(labels: Any, batch_size: int, config: Any) -> None:
    """Checks labels against what the head says; their values only on a CPU, and not in compiled code.

    Args:
        labels: of a batch.
        batch_size: B.
        config: of the model.

    Raises:
        DatasetError: another shape or kind than the table above has, a class out of range, or a target that is not
            finite.
    """
    problem, count = problem_of(config), config.num_labels
    if problem == SINGLE_LABEL:
        _check_shape(labels, [[batch_size]], "integers, a class for each cloud", problem)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise DatasetError(_rule(labels, [[batch_size]], "integers, a class for each cloud", problem))
        check_labels(labels, count)
        return
    shapes = [[batch_size, count], *([[batch_size]] if problem == REGRESSION and count == 1 else [])]
    if problem == REGRESSION:
        kind = "finite numbers, the targets of each cloud"
        wrong_kind = isinstance(labels, Tensor) and (labels.is_complex() or labels.dtype == torch.bool)
    else:
        kind, wrong_kind = "0 or 1 for each class", isinstance(labels, Tensor) and labels.is_complex()
    _check_shape(labels, shapes, kind, problem)
    if wrong_kind:
        raise DatasetError(_rule(labels, shapes, kind, problem))
    if not host_may_read(labels):
        return
    values = labels.float()
    wrong = ~values.isfinite() if problem == REGRESSION else ~((values >= 0) & (values <= 1))
    if wrong.any():
        row = int(wrong.reshape(batch_size, -1).any(dim=1).nonzero()[0])
        raise DatasetError(
            f"labels must be {kind} (problem_type={problem!r}), got {float(values[wrong][0]):g} for cloud {row} of the "
            "batch. Correct the data, or leave such clouds out."
        )


def _check_shape(labels: Any, shapes: list[list[int]], kind: str, problem: str) -> None:
    if not isinstance(labels, Tensor) or list(labels.shape) not in shapes:
        raise DatasetError(_rule(labels, shapes, kind, problem))


def _rule(labels: Any, shapes: list[list[int]], kind: str, problem: str) -> str:
    received = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
    return (
        f"labels must be {' or '.join(map(str, shapes))} {kind} (problem_type={problem!r}), got {received}. Several "
        f"classes a cloud need problem_type={MULTI_LABEL!r} in the config, numbers {REGRESSION!r}, one class "
        f"{SINGLE_LABEL!r}; num_labels says how many there are."
    )


def head_loss(outputs: Tensor, labels: Tensor, config: Any) -> Tensor:
    """The loss of a head's outputs, as the `*ForSequenceClassification` of transformers have it.

    The cross-entropy is that of `torch.nn.functional.cross_entropy` with `label_smoothing` and `class_weight`, but the
    clouds' losses are added up and divided by their number instead of by the sum of their weights: so it does not
    matter how a step's clouds are divided into batches and processes. Weights of mean 1 over the training clouds, as
    "balanced" ones are, make both the same over the whole split. The binary cross-entropy smooths labels y to
    y (1 − s) + s / 2.

    Args:
        outputs: [B, num_labels] of the head; for regression they are standardised.
        labels: as `check_targets` takes them.
        config: of the model.

    Raises:
        ConfigurationError: as in `class_weights`.
    """
    wide = outputs.to(at_least_float32(outputs.dtype))
    problem, smoothing = problem_of(config), config.label_smoothing
    if problem == REGRESSION:
        mean, deviation = _units(config, wide)
        return F.mse_loss(wide, (labels.to(wide.dtype).view(wide.shape) - mean) / deviation)
    if problem == MULTI_LABEL:
        targets = labels.to(wide.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(wide, targets)
    weight = class_weights(config, wide)
    if weight is None:
        return F.cross_entropy(wide, labels.long(), label_smoothing=smoothing)
    summed = F.cross_entropy(wide, labels.long(), weight=weight, label_smoothing=smoothing, reduction="sum")
    return summed / len(wide)


def class_weights(config: Any, like: Tensor) -> Tensor | None:
    """[num_labels], the weights of a config's classes or parts, of the dtype and on the device of `like`; or None.

    Raises:
        ConfigurationError: `class_weight` is still "balanced", which only a training can compute.
    """
    if config.class_weight == BALANCED:
        raise ConfigurationError(
            "class_weight='balanced' is computed by make_trainer from its training split, got a loss without a "
            "training. Give a list of weights, one for each class."
        )
    return None if config.class_weight is None else _on_device(config.class_weight, like)


def in_units_of_targets(outputs: Tensor, config: Any) -> Tensor:
    """Standardised outputs [B, num_labels] of a regression in their own units, in float32 at least."""
    wide = outputs.to(at_least_float32(outputs.dtype))
    mean, deviation = _units(config, wide)
    return wide * deviation + mean


def _units(config: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    count = config.num_labels
    return _on_device(config.target_mean or [0.0] * count, like), _on_device(config.target_std or [1.0] * count, like)


def _on_device(values: list[float], like: Tensor) -> Tensor:
    """Numbers of a config as a tensor beside another one; the host does not wait for the device."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
