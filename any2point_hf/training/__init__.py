"""Fine-tuning with the stock Trainer: how to train (recipe.py), what a step is fed (batches.py), one run and several.

The names of `trainer.py` can be imported from here too, because this was once a single module; they are loaded when
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import *  # noqa: F403


def __getattr__(name: str) -> Any:
    trainer = importlib.import_module(".trainer", __name__)
    if name.startswith("__") or not hasattr(trainer, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(trainer, name)
