"""A cloud as a model takes it, with all of its points, and how answers come back to the points of a file."""

from dataclasses import dataclass

import numpy as np
from transformers.feature_extraction_utils import BatchFeature

from ..point_clouds.labels import IGNORED


@dataclass(frozen=True, eq=False)
class WholeCloud:
    """What `Any2PointProcessor.all_points` gives.

    Attributes:
        batch: `points` [1, n, 3] float32, centred and scaled, and maybe `point_features` [1, n, F]; in the given order.
        kept: [n] int64, which of the given points these are: all of them, unless invalid ones were dropped.
        given: [N, 3], the points as they were given: with their own centre and unit, invalid ones among them.
    """

    batch: BatchFeature
    kept: np.ndarray
    given: np.ndarray

    @property
    def total(self) -> int:
        """N, how many points were given."""
        return len(self.given)

    def in_given_order(self, labels: np.ndarray) -> np.ndarray:
        """The labels [n] of the batch's points as labels of the given points, [N]; dropped ones have `IGNORED`."""
        given = np.full(self.total, IGNORED, dtype=np.int64)
        given[self.kept] = labels
        return given

    def numbers_in_given_order(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers [n] of the batch's points, such as probabilities, as [N] float32; dropped points have NaN."""
        given = np.full(self.total, np.nan, dtype=np.float32)
        given[self.kept] = numbers
        return given
