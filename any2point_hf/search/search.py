"""Files as queries: their features, what an index finds for them, and the page that shows it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..large_collections.clouds import CloudCollection
from ..large_collections.sources import open_collection
from ..modeling.errors import Any2PointError, PointCloudError
from ..modeling.files import write_whole
from ..modeling.hub.names import pinned_name
from ..modeling.tokenizer.point_ops import split_features
from ..point_clouds.files import read_point_cloud
from ..trained_adapter import load
from .cloud_index import CloudIndex, Hit
from .inverted_lists import check_installed
from .thumbnails import check_page, thumbnail_page


def search(
    model: str,
    files: Sequence[str],
    index: str | os.PathLike,
    top: int = 10,
    backbone: str | None = None,
    batch_size: int = 32,
    page: str | os.PathLike | None = None,
    approximate: bool = False,
) -> list[dict[str, Any]]:
    """For each file: `file` and `found`, a list of `id`, `label` (if there are any) and `similarity`, the best first.

    Args:
        model: folder or Hub id of the adapter that the index was made with.
        files: paths of point clouds or meshes.
        index: what `any2point index` wrote.
        top: how many clouds to find for each file.
        backbone: Hub id or folder instead of the recorded one.
        batch_size: clouds at a time.
        page: an .html file to write, with a small picture of each query and of what was found.
        approximate: as in `CloudIndex.search`.

    Raises:
        Any2PointError: something in the input does not fit, such as an index of another model.
    """
    if page is not None:
        check_page(page)
    if approximate:
        check_installed()
    opened = CloudIndex.load(index)
    model = pinned_name(model)
    opened.check_model(model, backbone)
    found = opened.search(_features(model, files, backbone, batch_size), top, approximate)
    if page is not None:
        write_whole(Path(page), _page(files, found, opened))
    return [
        {"file": str(file), "found": [_plain(hit) for hit in hits]} for file, hits in zip(files, found, strict=True)
    ]


@torch.no_grad()
def _features(model: str, files: Sequence[str], backbone: str | None, batch_size: int) -> np.ndarray:
    loaded, processor = load(model, backbone)
    batches = processor.rows(list(files)).to(loaded.device).split(batch_size)
    pooled = [loaded.base_model(*split_features(batch)).pooler_output for batch in batches]
    return torch.cat(pooled).float().cpu().numpy()


def _plain(hit: Hit) -> dict[str, Any]:
    label = {} if hit.label is None else {"label": hit.label}
    return {"id": hit.id, **label, "similarity": round(hit.similarity, 6)}


def _page(files: Sequence[str], found: list[list[Hit]], index: CloudIndex) -> str:
    try:
        clouds = open_collection(index.settings["source"], index.settings["split"])
    except (Any2PointError, KeyError):  # moved since, or held in memory alone
        clouds = None
    wanted = {hit.id for hits in found for hit in hits}
    places = {} if clouds is None else {name: row for row, name in enumerate(clouds.ids()) if name in wanted}
    rows = []
    for file, hits in zip(files, found, strict=True):
        row: list[tuple[str, np.ndarray | None]] = [(Path(file).name, read_point_cloud(file))]
        for hit in hits:
            named = f"{hit.id}\n{hit.label}" if hit.label else hit.id
            row.append((f"{named}\n{hit.similarity:.3f}", _points(clouds, places.get(hit.id))))
        rows.append(row)
    return thumbnail_page(rows, "Clouds like these")


def _points(clouds: CloudCollection | None, place: int | None) -> np.ndarray | None:
    """The points of a cloud that was found; None where its source is not what it was."""
    if clouds is None or place is None:
        return None
    try:
        return clouds.read(place)
    except PointCloudError:
        return None
