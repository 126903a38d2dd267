"""A batch whose clouds go through different adapters: grouped by adapter, run, and put back in their order."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Any2PointError
from ..input_checks import check_batch


def forward_mixed(
    model: Any,
    points: Tensor,
    point_features: Tensor | None,
    adapter_names: Sequence[str],
    labels: Tensor | None = None,
    category: Tensor | None = None,
    **options: Any,
) -> Any:
    """Runs each cloud of a batch through its own adapter.

    Args:
        model: one with several adapters.
        points: [B, N, 3] float.
        point_features: [B, N, F] float for the adapters that take them, or None; the others do not get them.
        adapter_names: B names, one a cloud.
        labels: [B] int64, each among the classes of its own adapter; of segmentation models [B, N].
        category: [B] int64 for the adapters that have categories, or None; the others do not get it.
        options: of the model's forward.

    Returns:
        The model's output. Logits are as wide as the widest head, and −inf beyond an adapter's own classes; the loss is
        the mean over clouds of their own adapter's.

    Raises:
        Any2PointError: a name is unknown, or there are more or fewer names than clouds.
    """
    check_batch(points)
    if isinstance(adapter_names, str) or len(adapter_names) != len(points):
        raise Any2PointError(
            f"adapter_names must hold one name a cloud, got {len(points)} clouds and {adapter_names!r}."
        )
    adapters = {name: model._find_adapter(name) for name in adapter_names}  # all are known before any is run
    rows = {name: [row for row, its_name in enumerate(adapter_names) if its_name == name] for name in adapters}
    outputs = []
    for name, waiting in adapters.items():
        adapter = model if waiting is None else model._bring_along(waiting)
        index = torch.tensor(rows[name], device=points.device)
        own_targets = {} if labels is None else {"labels": labels[index]}
        if category is not None and adapter.config.category_parts is not None:
            own_targets |= {"category": category[index]}
        takes_them = adapter.config.num_point_features > 0
        own_features = point_features[index] if takes_them and point_features is not None else None
        outputs.append(adapter.forward(points[index], own_features, **own_targets, **options, return_dict=True))
    order = torch.tensor([row for group in rows.values() for row in group], device=points.device).argsort()
    shared_keys = [key for key in outputs[0] if all(key in output for output in outputs)]
    merged = {key: _merge(key, [output[key] for output in outputs], order) for key in shared_keys if key != "loss"}
    if labels is not None:
        shares = [len(group) / len(points) for group in rows.values()]
        merged["loss"] = sum(share * output["loss"] for share, output in zip(shares, outputs, strict=True))
    return type(outputs[0])(**merged)


def _merge(key: str, parts: list[Any], order: Tensor) -> Any:
    """Joins the groups' outputs of one field, and puts the rows in the batch's order."""
    if isinstance(parts[0], tuple):  # of all blocks
        return tuple(_merge(key, list(layer), order) for layer in zip(*parts, strict=True))
    if key == "logits":
        width = max(part.shape[-1] for part in parts)
        parts = [F.pad(part, (0, width - part.shape[-1]), value=float("-inf")) for part in parts]
    return torch.cat(parts)[order]
