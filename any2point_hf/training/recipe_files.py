"""Where recipes are: the published ones in `recipes/`, others wherever a user keeps them."""

import os
from pathlib import Path

from ..modeling.errors import did_you_mean, require

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def recipe_file(source: str | os.PathLike[str]) -> Path:
    """The file of a recipe, which is not opened.

    Args:
        source: a name, such as "scanobjectnn", or a path that ends in .yaml or .yml.

    Raises:
        ConfigurationError: there is no such recipe.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        names = recipe_names()
        meant = did_you_mean(str(source), names)
        require(str(source) in names, f"a recipe is one of {', '.join(names)}, or a path to a .yaml", source, meant)
        path = RECIPES / f"{source}.yaml"
    require(path.is_file(), "a recipe must be an existing file", str(path.absolute()), " Check the path.")
    return path
