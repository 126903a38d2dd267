"""Checks of a model's input, before its forward does any work."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .configuration_any2point import LARGEST_CLOUD, SMALLEST_CLOUD
from .errors import DatasetError, PointCloudError, listed
from .numerics.host_reads import host_may_read


def check_batch(points: Tensor) -> None:
    """Checks that points are [B, N, 3], floating, 64 ≤ N ≤ 65536 and finite.

    Whether they are finite is checked only on a CPU, and not in compiled code: elsewhere the host would wait for the
    device. There a cloud that is not finite gets NaN logits, and the logits of other clouds do not change
    (`finite_inputs`); in training the batch statistics spread the NaN, and the loss is NaN. The processor checks it
    too.

    Raises:
        PointCloudError: they are not.
    """
    if not isinstance(points, Tensor) or points.dim() != 3 or points.shape[-1] != 3:
        received = list(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise PointCloudError(
            f"points must be a tensor [B, N, 3], got {received}. Any2PointProcessor makes one from files and arrays."
        )
    if not points.is_floating_point():
        raise PointCloudError(f"points must be floating point, got {points.dtype}. Call points.float().")
    if points.shape[0] == 0:
        raise PointCloudError("a batch must hold at least one cloud, got none.")
    if points.shape[1] < SMALLEST_CLOUD:
        raise PointCloudError(
            f"a cloud must have at least {SMALLEST_CLOUD} points, got {points.shape[1]}. Any2PointProcessor repeats "
            "the points of smaller clouds."
        )
    if points.shape[1] > LARGEST_CLOUD:
        raise PointCloudError(
            f"a cloud in the model must have at most {LARGEST_CLOUD} points, got {points.shape[1]}. "
            "Any2PointProcessor(num_points=…) brings clouds of any size to fewer."
        )
    if host_may_read(points):
        finite = points.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            clouds = (~finite).nonzero().flatten().tolist()
            raise PointCloudError(f"points must be finite, got NaN or infinity in clouds {clouds[:8]} of the batch.")


def check_inputs(points: Tensor, point_features: Tensor | None, names: Sequence[str]) -> None:
    """Checks points as `check_batch` does, and that there are as many features of each as the model takes.

    Args:
        points: [B, N, 3].
        point_features: of the points, or None.
        names: of the F features that the model takes; may be empty.

    Raises:
        PointCloudError: they are not.
    """
    check_batch(points)
    if point_features is None and not names:
        return
    expected = [*points.shape[:2], len(names)]
    named = ", ".join(names)
    if not names:
        raise PointCloudError(
            f"this model takes no point_features (num_point_features=0), got {_received(point_features)}. Leave them "
            "out; labels are given by name, as labels=…"
        )
    if not isinstance(point_features, Tensor) or list(point_features.shape) != expected:
        raise PointCloudError(
            f"this model needs point_features {expected} ({named}) beside the points, got "
            f"{_received(point_features)}. Any2PointProcessor(point_feature_names=…) makes them."
        )
    if not point_features.is_floating_point():
        raise PointCloudError(
            f"point_features ({named}) must be floating point, colours 0…1, got {point_features.dtype}."
        )
    if host_may_read(point_features) and not point_features.isfinite().all():
        clouds = (~point_features.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
        raise PointCloudError(
            f"point_features must be finite, got NaN or infinity in clouds {clouds[:8]} of the batch."
        )


def _received(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return "none" if value is None else f"a {type(value).__name__}"


def finite_inputs(
    points: Tensor, point_features: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Returns points and features, zero in clouds with NaN or infinity, and which clouds have none.

    No table can be read at NaN. The model sets the tokens of these clouds to NaN afterwards.

    Args:
        points: [B, N, 3].
        point_features: [B, N, F], or None.
        dtype: of the model.

    Returns:
        Points and features (None for None) in the wider of dtype and float32; and [B, 1, 1] bool on the points' device.
    """
    dtype = torch.promote_types(dtype, torch.float32)  # never half precision
    points = points.to(dtype)
    finite = points.isfinite().flatten(1).all(dim=1).view(-1, 1, 1)
    if point_features is not None:
        point_features = point_features.to(dtype)
        finite = finite & point_features.isfinite().flatten(1).all(dim=1).view(-1, 1, 1)
        point_features = point_features.where(finite, 0.0)
    return points.where(finite, 0.0), point_features, finite


def check_labels(labels: Tensor, num_labels: int) -> None:
    """Checks that labels lie in 0…num_labels − 1; only on a CPU, and not in compiled code.

    Raises:
        DatasetError: one does not.
    """
    if not host_may_read(labels):
        return
    outside = labels[(labels < 0) | (labels >= num_labels)]
    if len(outside):
        raise DatasetError(
            f"labels must lie in 0…{num_labels - 1} (the model has {num_labels} classes), got {int(outside[0])}. Set "
            "num_labels in the config to the dataset's classes."
        )


def check_point_labels(labels: Tensor, points: Tensor, num_labels: int, ignored: int) -> None:
    """Checks that there is an integer for each point, and (on a CPU) that it is a part or the number to be ignored.

    Args:
        labels: [B, N] of the points.
        points: [B, N, 3].
        num_labels: number of parts.
        ignored: label of points without one.

    Raises:
        DatasetError: there is not.
    """
    expected = list(points.shape[:2])
    if not isinstance(labels, Tensor) or list(labels.shape) != expected:
        raise DatasetError(
            f"labels must be of the points, {expected} integers, got {_received(labels)}. For one label a cloud take "
            "Any2PointForPointCloudClassification."
        )
    _check_integers("labels", labels)
    if not host_may_read(labels):
        return
    outside = labels[(labels != ignored) & ((labels < 0) | (labels >= num_labels))]
    if len(outside):
        raise DatasetError(
            f"labels must lie in 0…{num_labels - 1} (the model has {num_labels} parts), or be {ignored} for points "
            f"without one, got {int(outside[0])}. Set num_labels in the config to the dataset's parts."
        )


def check_category(category: Tensor | None, batch_size: int, categories: Mapping[str, list[int]] | None) -> None:
    """Checks that each cloud has the number of a category where the model has categories, and none where not.

    Raises:
        DatasetError: it has not.
    """
    if categories is None:
        if category is not None:
            raise DatasetError(
                f"this model has no categories (category_parts of its config), got category={_received(category)}. "
                "Leave it out."
            )
        return
    names = listed(categories)
    if not isinstance(category, Tensor) or list(category.shape) != [batch_size]:
        raise DatasetError(
            f"this model needs category [{batch_size}], the number of each cloud's category ({names}), got "
            f"{_received(category)}."
        )
    _check_integers("category", category)
    if host_may_read(category):
        outside = category[(category < 0) | (category >= len(categories))]
        if len(outside):
            raise DatasetError(
                f"category must lie in 0…{len(categories) - 1} (the model's are {names}), got {int(outside[0])}."
            )


def _check_integers(name: str, values: Tensor) -> None:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise DatasetError(f"{name} must be integers, got {values.dtype}. Call {name}.long().")
