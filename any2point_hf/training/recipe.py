"""Recipes: how to train, in one YAML file (section 4.1; method.md 7). The published ones are in `recipes/`."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import yaml

from ..data.augmentation import Augmentation
from ..modeling.configuration_any2point import METHOD_FIELDS
from ..modeling.errors import ConfigurationError, did_you_mean, require
from .recipe_files import recipe_file

FEWEST_EPOCHS, MOST_EPOCHS = 10, 200  # of a recipe whose length is given in steps
Settings = TypeVar("Settings", bound=Any)  # any dataclass


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are ModelNet's published setting.

    Args:
        epochs: passes over the training split, where `steps` is None.
        steps: a length in steps instead of epochs: as many passes as give one process this many steps, but at least 10
            and at most 200 (`sized`).
        batch_size: clouds a step and device.
        gradient_accumulation: steps whose gradients are added up before the weights change.
        learning_rate: the highest one.
        lowest_learning_rate: where the cosine ends.
        warm_up_share: share of all steps in which the learning rate rises; 10 of 300 epochs as published.
        weight_decay: of all trained weights except norms, biases and tokens.
        largest_gradient_norm: gradients beyond it are scaled down.
        precision: of the products in the forward pass; weights stay float32. float16 needs a GPU.
        surplus_points: how many points are sampled for each one that a step takes at random; 1200 for 1024 as
            published.
        scale_to_unit_sphere: the processor's setting; False for scans, whose size means something.
        augmentation: of training batches.
        config: fields of Any2PointConfig that differ from its defaults.

    Raises:
        ConfigurationError: a value that is out of its range.
    """

    epochs: float = 300
    steps: int | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 5e-4
    lowest_learning_rate: float = 1e-6
    warm_up_share: float = 10 / 300
    weight_decay: float = 0.05
    largest_gradient_norm: float = 10.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    surplus_points: float = 1200 / 1024
    scale_to_unit_sphere: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation", "learning_rate", "largest_gradient_norm"):
            require(0 < getattr(self, name) < math.inf, f"{name} must be positive and finite", getattr(self, name))
        require(self.steps is None or self.steps > 0, "steps must be positive", self.steps)
        for name in ("lowest_learning_rate", "weight_decay"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must be finite, not negative", getattr(self, name))
        require(0 <= self.warm_up_share < 1, "warm_up_share must lie in [0, 1)", self.warm_up_share)
        require(1 <= self.surplus_points < math.inf, "surplus_points must be at least 1", self.surplus_points)
        precisions = ("float32", "bfloat16", "float16")
        require(self.precision in precisions, f"precision must be one of {', '.join(precisions)}", self.precision)
        unknown = ", ".join(name for name in self.config if name not in METHOD_FIELDS)
        require(not unknown, "config must hold fields of Any2PointConfig other than the backbone's", unknown)

    def steps_per_epoch(self, num_clouds: int) -> int:
        """How often the weights change while one process passes over this many training clouds."""
        return math.ceil(num_clouds / (self.batch_size * self.gradient_accumulation))

    def sized(self, num_clouds: int) -> "Recipe":
        """The recipe for this many training clouds: with epochs in place of `steps`, rounded up and within 10…200."""
        if self.steps is None:
            return self
        epochs = math.ceil(self.steps / self.steps_per_epoch(num_clouds))
        return replace(self, epochs=min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS), steps=None)

    def settings(self) -> dict[str, Any]:
        """What a run records of its recipe, as JSON values; without `config`, whose fields the adapter's config has."""
        values = asdict(self)
        values.pop("config")
        if self.steps is None:
            values.pop("steps")
        if self.augmentation.mirror_axis is None:  # which earlier versions did not record
            values["augmentation"].pop("mirror_axis")
        values["augmentation"]["scale"] = list(values["augmentation"]["scale"])
        return values


def read_recipe(source: str | os.PathLike[str]) -> Recipe:
    """A recipe by its name (a file of `recipes/`) or from a YAML file of one's own.

    Args:
        source: such as "scanobjectnn", or a path that ends in .yaml or .yml. What the file leaves out has its default.

    Raises:
        ConfigurationError: there is no such recipe, the file is not YAML, or it has an unknown field or a wrong value.
    """
    path = recipe_file(source)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return _recipe(values)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} must be YAML: {' '.join(str(error).split())}.") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def changed(settings: Settings, **changes: Any) -> Settings:
    """A dataclass, such as a recipe, with other values; None leaves a field as it is.

    Epochs take the place of a recipe's steps, and an augmentation's fields may be given as a mapping.

    Raises:
        ConfigurationError: a value that is out of its range.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if "epochs" in given and isinstance(settings, Recipe):
        given = {"steps": None} | given
    if isinstance(given.get("augmentation"), Mapping):
        given["augmentation"] = replace(settings.augmentation, **given["augmentation"])
    return replace(settings, **given)


def _recipe(values: Any) -> Recipe:
    require(isinstance(values, dict), "a recipe must be a mapping of names to values", values)
    _check_values(values, Recipe())
    both = ", ".join(name for name in ("epochs", "steps") if name in values)
    require("," not in both, "a recipe gives its length in epochs or in steps", both)
    if "augmentation" in values:
        augmentation = values["augmentation"] or {}
        require(isinstance(augmentation, dict), "augmentation must be a mapping of names to values", augmentation)
        _check_values(augmentation, Augmentation())
        named = {name: augmentation[name] for name in ("rotation_axis", "mirror_axis") if name in augmentation}
        augmentation = augmentation | {name: None if axis == "none" else axis for name, axis in named.items()}
        if "scale" in augmentation:
            augmentation = augmentation | {"scale": tuple(augmentation["scale"])}
        values = values | {"augmentation": Augmentation(**augmentation)}
    return Recipe(**values)


def _check_values(values: dict[str, Any], defaults: Recipe | Augmentation) -> None:
    """Checks that each name is a field, and each value of the kind that the field's default is of."""
    names = [part.name for part in fields(defaults)]
    for name, value in values.items():
        require(name in names, f"a field must be one of {', '.join(names)}", name, did_you_mean(name, names))
        default = getattr(defaults, name)
        if isinstance(default, bool):
            require(isinstance(value, bool), f"{name} must be true or false", value)
        elif name == "steps":
            require(value is None or (_is_number(value) and isinstance(value, int)), "steps must be an integer", value)
        elif isinstance(default, int) and name != "epochs":
            require(_is_number(value) and isinstance(value, int), f"{name} must be an integer", value)
        elif isinstance(default, (int, float)):
            hint = " YAML takes 5e-4 for a word: write 5.0e-4." if isinstance(value, str) else ""
            require(_is_number(value), f"{name} must be a number", value, hint)
        elif isinstance(default, tuple):
            whole = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
            require(whole, f"{name} must be [lowest, highest], two numbers", value)
        elif isinstance(default, Mapping):
            require(isinstance(value, Mapping), f"{name} must be a mapping of names to values", value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
