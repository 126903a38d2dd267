"""Former path of training/recipe.py."""

from .training.recipe import *  # noqa: F403
