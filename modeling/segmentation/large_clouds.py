"""Labels for clouds of any size: passes over random subsets, until each point has an answer (method.md 8)."""

from typing import Any

from torch import Tensor

from .subsets import (
    SUBSETS_AT_ONCE,
    PointAnswers,
    Subset,
    check_cloud,
    deal,
    label_subsets,
    own_order,
    share_answers_of_equal_points,
)


def label_large_cloud(
    model: Any,
    points: Tensor,
    point_features: Tensor | None = None,
    category: int | None = None,
    num_points: int | None = None,
    batch_size: int = SUBSETS_AT_ONCE,
    seed: int = 0,
) -> Tensor:
    """Labels every point of one cloud, however many there are.

    The points are dealt into random subsets of `num_points`, each of which is spread over the whole cloud and goes
    through the model alone. The last subset is filled up with points of the others, as context: a point's label is the
    one of the subset that it was dealt to; points of the same coordinates and features share one label. A cloud of no
    more than `num_points` goes through the model whole. For a scene, of which a subset would show too little, take
    `label_scene`.

    Args:
        model: an `Any2PointForPointCloudSegmentation`. It runs in eval mode, and is left in the mode it was in.
        points: [N, 3] float, in the unit that the model takes (`Any2PointProcessor.all_points`), N ≥ 64. They may be on
            another device than the model.
        point_features: [N, F] float, or None.
        category: of the cloud, where the model has categories.
        num_points: of a subset, 64…65536; by default the config's.
        batch_size: how many subsets go through the model at once.
        seed: of the dealing.

    Returns:
        [N] int64 parts, in the order of the points, on their device.

    Raises:
        PointCloudError: points or features of another shape or kind than the model takes, or not finite.
        DatasetError: the category is out of range, missing, or given where there are none.
        ConfigurationError: num_points or batch_size is out of range.
    """
    return answer_large_cloud(model, points, point_features, category, num_points, batch_size, seed).parts


def answer_large_cloud(
    model: Any,
    points: Tensor,
    point_features: Tensor | None = None,
    category: int | None = None,
    num_points: int | None = None,
    batch_size: int = SUBSETS_AT_ONCE,
    seed: int = 0,
) -> PointAnswers:
    """As `label_large_cloud`, and says how sure the model is: parts and their probabilities, both [N]."""
    num_points = model.config.num_points if num_points is None else num_points
    check_cloud(points, point_features, num_points, batch_size)
    device, points = points.device, points.detach().cpu()
    features = None if point_features is None else point_features.detach().cpu()
    order = own_order(points, features)
    dealt = deal(len(points), min(num_points, len(points)), seed)
    subsets = (
        Subset(rows, is_asked, points[rows], None if features is None else features[rows])
        for rows, is_asked in ((order[places], is_asked) for places, is_asked in dealt)
    )
    answers = label_subsets(model, subsets, category, batch_size, len(points))
    shared = share_answers_of_equal_points(answers, order, points, features)
    return PointAnswers(*(found.to(device) for found in shared))
