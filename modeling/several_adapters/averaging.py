"""The weighted mean of adapters that differ only in their weights."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ..configuration_any2point import METHOD_FIELDS
from ..errors import Any2PointError

# Fields that must be equal. Names of the backbone, which all adapters share, may differ, and what only a loss reads.
_OF_THE_LOSS = ("class_weight", "label_smoothing")
_SHARED_FIELDS = (*(field for field in METHOD_FIELDS if field not in _OF_THE_LOSS), "id2label")


def average_adapters(
    adapters: Mapping[str, Any], names: Sequence[str], weights: Sequence[float], backbone: PreTrainedModel
) -> Any:
    """Makes a model whose trained tensors and running statistics are the weighted means of those of adapters.

    Args:
        adapters: models by name, on the same backbone.
        names: of the adapters to average.
        weights: one each, not negative; they are divided by their sum.
        backbone: of the new model; shared, not copied.

    Raises:
        Any2PointError: weights cannot be used, or the adapters differ in more than their weights.
    """
    _check_weights(names, weights)
    _check_alike(adapters)
    first = adapters[names[0]]
    config = copy.deepcopy(first.config)
    average = type(first)(config, backbone=backbone)
    # Keeps the adapters' record: for a module, the model has recorded the name it was loaded from, without revision.
    average.config.backbone, average.config.backbone_revision = config.backbone, config.backbone_revision
    average.to(first.base_model.cls_token.device)
    shares = [weight / math.fsum(weights) for weight in weights]
    states = [adapters[name].state_dict() for name in names]
    with torch.no_grad():
        for name, tensor in average.state_dict().items():
            if name in average._keys_to_ignore_on_save:
                continue
            parts = [state[name].to(tensor.device) for state in states]
            if tensor.is_floating_point():
                mean = sum(share * part.float() for share, part in zip(shares, parts, strict=True))
                tensor.copy_(mean)
            else:
                tensor.copy_(max(parts))  # how many batches a norm has seen
    return average.eval()


def _check_weights(names: Sequence[str], weights: Sequence[float]) -> None:
    if isinstance(names, str) or not names or len(names) != len(weights):
        raise Any2PointError(
            f"an average needs at least one adapter and a weight for each, got names {names!r} and weights {weights!r}."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or math.fsum(weights) == 0:
        raise Any2PointError(
            "weights of an average must be finite, not negative (variances are averaged too) and not all 0, got "
            f"{list(weights)}."
        )


def _check_alike(adapters: Mapping[str, Any]) -> None:
    """Raises an `Any2PointError` unless all adapters have the same settings and classes, and none has a LoRA."""
    if any(adapter.base_model.lora is not None for adapter in adapters.values()):
        raise Any2PointError(
            "adapters with a LoRA cannot be averaged: the product of two means is not the mean of the products. "
            "Average adapters without one."
        )
    (first_name, first), *others = ((name, adapter.config.to_dict()) for name, adapter in adapters.items())
    for name, other in others:
        for field in _SHARED_FIELDS:
            ours, theirs = first.get(field), other.get(field)
            if ours != theirs:
                raise Any2PointError(
                    f"adapters of an average must have the same settings and classes: {field} is {ours!r} in "
                    f"{first_name!r} and {theirs!r} in {name!r}."
                )
