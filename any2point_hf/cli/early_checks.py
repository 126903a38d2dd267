"""Checks of the names and paths that options give, before a command imports torch, which takes seconds.

The rules are those that the command itself follows; they are in modules that import next to nothing. What can only be
known from a file's contents or from the Hub is found later.
"""

import argparse
from pathlib import Path

from ..modeling.errors import BackboneLoadError


def check_names(options: argparse.Namespace) -> None:
    """Checks the options that mean the same in every command that has them.

    Raises:
        Any2PointError: something is not there, or cannot be called so.
    """
    from ..data.names import check_source
    from ..modeling.hub.names import check_name
    from ..modeling.presets import find_preset
    from ..training.recipe_files import recipe_file
    from .options import settings

    given = {name: value for name, value in vars(options).items() if value is not None}
    if "preset" in given:
        find_preset(given["preset"])
    if "recipe" in given:
        recipe_file(given["recipe"])
    models = given.get("model", [])
    for model in [models] if isinstance(models, str) else models:
        check_name(model)
    for name in ("backbone", "backbone_1d", "backbone_2d", "backbone_audio"):
        if name in given:
            _check_backbone(given[name])
    for name in ("settings", "set_1d", "set_2d", "set_audio"):
        settings(given.get(name, []))
    for name in ("data", "diagnose"):
        if name in given:
            check_source(given[name])


def _check_backbone(backbone: str) -> None:
    from ..modeling.hub.names import is_repository_name

    if not Path(backbone).is_dir() and not is_repository_name(backbone):
        raise BackboneLoadError(
            f"the backbone must be a Hub id or a folder with config.json and weights, and {backbone!r} is neither: "
            "there is no such folder. Check the spelling."
        )
