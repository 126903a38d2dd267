"""Calls of the models by their adapters' names; on a Space with ZeroGPU, where a GPU is lent for a call at a time.

Unusual here: ZeroGPU runs what it decorates in a process of its own and pickles arguments and results, and of errors
only the text comes back. So names go in instead of models, and an error of a visitor's comes out as text.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..modeling.errors import Any2PointError
from ..point_clouds.files import PointCloud
from .inference import Adapter, classify, embed, segment

ModelCall = Callable[..., Any]
"""`call(task, name, cloud, category=None)`: what `classify`, `embed` or `segment` says of a cloud."""


def model_call(adapters: Mapping[str, Adapter]) -> ModelCall:
    """What calls these adapters.

    Args:
        adapters: by name.
    """

    @lend_gpu
    def run(
        task: str, name: str, points: np.ndarray, features: dict[str, np.ndarray], category: str | None
    ) -> tuple[Any, str]:
        adapter, cloud = adapters[name], PointCloud(points, features)
        try:
            if task == "segment":
                return segment(adapter, cloud, category), ""
            return {"classify": classify, "embed": embed}[task](adapter, cloud), ""
        except Any2PointError as error:
            return None, str(error)

    def call(task: str, name: str, cloud: PointCloud, category: str | None = None) -> Any:
        result, fault = run(task, name, cloud.points, dict(cloud.features), category)
        if fault:
            raise Any2PointError(fault)
        return result

    return call


def lend_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function by `spaces.GPU` where the package `spaces` is, as on the Hub's Spaces."""
    try:
        from spaces import GPU
    except ImportError:
        return function
    return GPU(function)
