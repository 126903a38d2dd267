"""The four kinds of pictures of a model at work on a cloud: what is measured, and how it is laid out.

Unusual here: the model sees the processor's points, and the picture shows more of the same cloud, each point with the
value of the nearest token, so that a model of few points still gives a picture of a shape.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedModel

from ..modeling.errors import Any2PointError
from ..point_clouds.checks import check_cloud
from ..point_clouds.files import PointCloud, read_point_cloud_with_features
from ..point_clouds.invalid import DroppedPoints
from ..processing_any2point import Any2PointProcessor
from .clusters import clusters
from .measures import cls_attention, cls_similarity, on_points, position_similarity, token_positions
from .packages import check_installed
from .picture import Picture
from .picture_content import Panel

SHOWN_POINTS = 2048
CLUSTER_NAMES = ("least similar", "between", "most similar")

check_installed()  # before a model runs for a picture that cannot be drawn

Cloud = np.ndarray | Mapping[str, Any] | PointCloud | str | os.PathLike


class PreparedCloud(NamedTuple):
    """A cloud for the model and for the picture, in one frame: points [N, 3 + F] and shown [S, 3], both float32."""

    points: np.ndarray
    shown: np.ndarray


def draw_attention(
    model: PreTrainedModel, processor: Any2PointProcessor, cloud: Cloud, *, block: int | None = None
) -> Picture:
    """How much the CLS token attends to each place, the mean over heads, in a panel for each block (figure 5).

    Args:
        model: an Any2Point model.
        processor: the model's.
        cloud: [n, 3], a file, or any other cloud that the processor takes.
        block: only this one, 0 for the first.

    Returns:
        The picture; each panel's colours run from 0 to the block's largest share.

    Raises:
        PointCloudError: the cloud cannot be used.
        UnsupportedBackboneError: the backbone's attention weights cannot be obtained.
        Any2PointError: there is no such block.
    """
    chosen = _blocks(model, block)
    prepared = prepare(processor, cloud)
    centers, weights = cls_attention(model, prepared.points)
    shares = 100 * on_points(prepared.shown, centers, weights)
    panels = (Panel(f"block {i}", prepared.shown, shares[i], (0.0, float(shares[i].max()))) for i in chosen)
    return Picture("Attention of the CLS token", "share of the CLS token's attention (%)", tuple(panels))


def draw_clusters(
    model: PreTrainedModel, processor: Any2PointProcessor, cloud: Cloud, *, block: int | None = None
) -> Picture:
    """Three clusters of the tokens by their cosine similarity to the CLS token, in a panel for each block (figure 6).

    Args:
        model: an Any2Point model.
        processor: the model's.
        cloud: [n, 3], a file, or any other cloud that the processor takes.
        block: only this one, 0 for the first.

    Raises:
        PointCloudError: the cloud cannot be used.
        Any2PointError: there is no such block.
    """
    chosen = _blocks(model, block)
    prepared = prepare(processor, cloud)
    centers, similarities = cls_similarity(model, prepared.points)
    limits = (0, len(CLUSTER_NAMES) - 1)
    panels = [
        Panel(f"block {i}", prepared.shown, on_points(prepared.shown, centers, clusters(similarities[i])), limits)
        for i in chosen
    ]
    title = "Clusters of similarity to the CLS token"
    return Picture(title, "similarity to the CLS token", tuple(panels), CLUSTER_NAMES)


def draw_similarity(model: PreTrainedModel, processor: Any2PointProcessor, cloud: Cloud, *, token: int = 0) -> Picture:
    """How alike one token's positional encoding is to every token's: averaged over views, and in each view (figure 7).

    Args:
        model: an Any2Point model.
        processor: the model's.
        cloud: [n, 3], a file, or any other cloud that the processor takes.
        token: number of the one token, 0…G − 1; the picture marks it.

    Raises:
        PointCloudError: the cloud cannot be used.
        UnsupportedBackboneError: the backbone has no positions, or they are biases between tokens.
        Any2PointError: there is no such token.
    """
    prepared = prepare(processor, cloud)
    centers, averaged, per_view = position_similarity(model, prepared.points, token)
    values = on_points(prepared.shown, centers, np.concatenate([averaged[None], per_view]))
    limits = (math.floor(10 * values.min()) / 10, 1.0)
    names = ["mean of views", *(f"view {index}" for index in range(len(per_view)))] if len(per_view) else ["encodings"]
    marked = centers[token : token + 1]
    panels = (Panel(name, prepared.shown, v, limits, marked=marked) for name, v in zip(names, values, strict=True))
    title = f"Similarity of positional encodings to that of token {token}"
    return Picture(title, "cosine similarity", tuple(panels))


def draw_tokens(model: PreTrainedModel, processor: Any2PointProcessor, cloud: Cloud) -> Picture:
    """The centres of the point tokens over the cloud, coloured by where each view puts them (section 3.2).

    Args:
        model: an Any2Point model.
        processor: the model's.
        cloud: [n, 3], a file, or any other cloud that the processor takes.

    Returns:
        The picture; on planes it has a panel for the rows and one for the columns of each view.

    Raises:
        PointCloudError: the cloud cannot be used.
    """
    prepared = prepare(processor, cloud)
    centers, positions, extent, cells = token_positions(model, prepared.points)
    num_views = len(positions)
    axes = ("position",) if len(extent) == 1 else ("row", "column")
    panels = []
    for axis, (name, length) in enumerate(zip(axes, extent, strict=True)):
        for view in range(num_views):
            places = positions[view, :, axis]
            hover = tuple(
                f"token {token}: {name} {place:.1f}, cell {cell}"
                for token, (place, cell) in enumerate(zip(places.tolist(), cells[view].tolist(), strict=True))
            )
            title = f"view {view}" if len(axes) == 1 else f"view {view}, {name}s"
            limits = (0.0, length - 1.0)
            panels.append(Panel(title, centers, places, limits, hover=hover, background=prepared.shown))
    label = "position on the line" if len(axes) == 1 else "row or column on the plane"
    columns = num_views if len(axes) == 2 and num_views <= 6 else None
    return Picture("Virtual positions of the point tokens", label, tuple(panels), columns=columns)


def prepare(processor: Any2PointProcessor, cloud: Cloud) -> PreparedCloud:
    """Centres and scales a cloud, and samples it twice: for the model, and more densely for the picture."""
    if isinstance(cloud, (str, os.PathLike)):
        cloud = read_point_cloud_with_features(
            cloud, processor.point_feature_names, seed=processor.seed, drop_invalid=processor.drop_invalid
        )
    points = processor.rows([cloud])[0].numpy()
    places = cloud.points if isinstance(cloud, PointCloud) else cloud["points"] if isinstance(cloud, Mapping) else cloud
    places = np.asarray(places)[:, :3]
    if processor.drop_invalid:
        places = check_cloud(places, "cloud", DroppedPoints())  # the processor has told what is dropped
    num_shown = min(len(places), SHOWN_POINTS)
    if num_shown <= processor.num_points:
        return PreparedCloud(points, points[:, :3])
    settings = (processor.scale_to_unit_sphere, processor.seed)
    denser = Any2PointProcessor(num_shown, *settings, sampling_start=processor.sampling_start)
    return PreparedCloud(points, denser([places], return_tensors="np")["points"][0])


def _blocks(model: Any, block: int | None) -> list[int]:
    """All blocks, or the one asked for."""
    count = len(model.base_model.blocks())
    if count == 0:
        raise Any2PointError("this picture shows a block of the backbone, and the model uses none (backbone_blocks=0).")
    if block is None:
        return list(range(count))
    if not 0 <= block < count:
        raise Any2PointError(f"block must lie in 0…{count - 1} (the blocks there are), got {block}.")
    return [block]
