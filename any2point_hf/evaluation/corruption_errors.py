"""What corruptions cost in accuracy, in the measures of PointCloud-C.

CE and RCE are the measures of the benchmark (arXiv 2202.03377): errors, and losses of accuracy, relative to those of a
published DGCNN on the same corruption. DGCNN's figures are of ModelNet40; on other data the ratios compare corruptions
with each other, and not with the published tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DGCNN_CLEAN = 0.926
DGCNN = {
    "scale": 0.906,
    "jitter": 0.684,
    "rotate": 0.785,
    "drop-global": 0.752,
    "drop-local": 0.793,
    "add-global": 0.705,
    "add-local": 0.725,
}
"""Overall accuracy of the published DGCNN on ModelNet40, mean over the five levels."""


@dataclass(frozen=True)
class Robustness:
    """Accuracies under corruptions.

    Args:
        clean: accuracy without corruption.
        levels: corruption to its accuracies, the weakest level first.
    """

    clean: float
    levels: Mapping[str, list[float]]

    @property
    def accuracy(self) -> dict[str, float]:
        """Corruption to its mean accuracy over the levels."""
        return {name: float(np.mean(values)) for name, values in self.levels.items()}

    @property
    def corruption_error(self) -> dict[str, float]:
        """CE: the error of each corruption as a multiple of DGCNN's."""
        return {name: (1 - value) / (1 - DGCNN[name]) for name, value in self.accuracy.items()}

    @property
    def relative_corruption_error(self) -> dict[str, float]:
        """RCE: what each corruption costs in accuracy, as a multiple of what it costs DGCNN."""
        return {name: (self.clean - value) / (DGCNN_CLEAN - DGCNN[name]) for name, value in self.accuracy.items()}

    @property
    def mean_corruption_error(self) -> float:
        """mCE: the mean of CE over the corruptions."""
        return float(np.mean(list(self.corruption_error.values())))

    @property
    def relative_mean_corruption_error(self) -> float:
        """RmCE: the mean of RCE over the corruptions."""
        return float(np.mean(list(self.relative_corruption_error.values())))

    def as_dict(self) -> dict[str, Any]:
        """All figures, as `any2point evaluate --corruptions --json` prints them."""
        return {
            "clean": self.clean,
            "levels": dict(self.levels),
            "accuracy": self.accuracy,
            "CE": self.corruption_error,
            "RCE": self.relative_corruption_error,
            "mCE": self.mean_corruption_error,
            "RmCE": self.relative_mean_corruption_error,
        }
