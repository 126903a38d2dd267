"""Puts clouds of any size into batches, for the stock Trainer or a DataLoader."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.feature_extraction_utils import BatchFeature

from ..processing_any2point import Any2PointProcessor


@dataclass
class DataCollatorForPointClouds:
    """Rows with clouds of any size -> a batch for the model. `Trainer(processing_class=processor)` needs no other.

    Args:
        processor: centres, scales and samples each cloud, with the same result every time.
    """

    processor: Any2PointProcessor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """A batch of `points` [B, num_points, 3] float32 and, if the rows have a class, `labels` [B] int64.

        If they have several classes or numbers, `labels` are [B, names] float32, or [B] for a single number without a
        name. If they have labels of points, `labels` are [B, num_points] int64, those of the points in the batch, and
        there may be `category` [B] int64.

        Args:
            rows: each with `points` (an array, tensor or nested list [N, 3], or the path of a file), and maybe `label`
                or `labels`: an integer; several classes or numbers as floating-point numbers or as a dict of named
                values; or integers [N], which may also be called `part`, −100 for a point without one. With labels of
                points, or none, `category` is an integer. Other entries are left out.

        Raises:
            PointCloudError: a row has no points, or they cannot be used.
            DatasetError: a label is no integer, or only some rows have one, or a row has not as many as points.
        """
        return self.processor.pad(rows)
