"""The command or the code that repeats a training, without directories of the machine it ran on."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from ..data.names import BUILT_IN
from ..data.sources import IN_MEMORY
from ..modeling.configuration_any2point import Any2PointConfig
from ..modeling.head_fields import REGRESSION, SINGLE_LABEL, problem_of
from ..modeling.publishing.model_description import hub_repository, last_name
from .recipe import Recipe


def shown_command(arguments: Sequence[str]) -> str:
    """`any2point` with its arguments as they were typed, paths shortened to their names.

    Args:
        arguments: of the command line, such as `["train", "--data", "/home/me/scans"]`.
    """
    return shlex.join(["any2point", *map(_shown_argument, arguments)])


def pinned_command(arguments: Sequence[str], source: Any, data: Any) -> list[str]:
    """The arguments with the data set's commit: `data` in place of `source`, which the user typed after --data."""
    typed, found = [*arguments], {str(source): str(data), f"--data={source}": f"--data={data}"}
    for index, argument in enumerate(typed):
        if argument.startswith("--data=") or (index and typed[index - 1] == "--data"):
            typed[index] = found.get(argument, argument)
    return typed


def _shown_argument(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (shown_path(value) if value else "")


def shown_path(value: str) -> str:
    """Shortens a path to its name (and the data set's variant after it), a folder of the Hub's cache to its Hub id.

    Anything that is not a path on this machine, such as a Hub id or a number, stays as it is.
    """
    repository, _ = hub_repository(value)
    if repository is not None and repository != value:
        return repository
    path, mark, variant = value.rpartition("#") if "#" in value and not os.path.exists(value) else (value, "", "")
    if value in BUILT_IN or not (os.path.isabs(path) or os.path.exists(path)):
        return value
    name = last_name(os.path.abspath(path))
    is_built_in = name in BUILT_IN  # if alone
    return (f"./{name}" if is_built_in else name) + mark + variant


def training_code(
    data: str,
    config: Any2PointConfig,
    output: str,
    recipe: Recipe,
    seed: int,
    validation_share: float | None,
    drop_invalid: bool = False,
    is_for_parts: bool = False,
    of_loading: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Python that repeats a training by `make_trainer`.

    Args:
        data: what `load_point_cloud_dataset` takes, or `IN_MEMORY`.
        config: of the model.
        output: folder of the adapter.
        recipe: how it was trained; its `config` is left out, because the model's config has those fields.
        seed: of everything.
        validation_share: share of the training split that is held out, or None.
        drop_invalid: whether invalid points were dropped.
        is_for_parts: whether every point has a label, not every cloud.
        of_loading: further arguments of `load_point_cloud_dataset`, such as `task`.
    """
    changes = _changed_fields(recipe, "config")
    if "augmentation" in changes:
        values = _changed_fields(recipe.augmentation)
        changes["augmentation"] = _Code(f"Augmentation({_arguments(values)})")
    backbone: Any = config.backbone
    named = {"backbone": shown_path(backbone) if backbone else None, "backbone_revision": config.backbone_revision}
    of_backbone = _arguments({name: value for name, value in named.items() if value})
    settings = config.unlike_defaults()
    is_regression = problem_of(config) == REGRESSION and not is_for_parts
    of_training = {"seed": seed} if is_regression else {"seed": seed, **changes}
    is_class = problem_of(config) == SINGLE_LABEL and not is_for_parts
    model, parts = "Any2PointForPointCloudClassification", "id2label=dict(enumerate(names))"
    imported = []
    if not is_class and not is_for_parts:
        parts, imported = "**head_config_fields(dataset)", ["head_tasks import head_config_fields"]
        for name in ("problem_type", "target_mean", "target_std"):
            settings.pop(name, None)
    if is_for_parts:
        model, parts = "Any2PointForPointCloudSegmentation", "**part_config_fields(dataset)"
        settings.pop("category_parts", None)
        imported = ["parts import part_config_fields"]
    drop: dict[str, Any] = {"drop_invalid": True} if drop_invalid else {}
    of_processor: dict[str, Any] = {"scale_to_unit_sphere": recipe.scale_to_unit_sphere, "seed": seed, **drop}
    features = {"features": config.point_feature_names} if config.point_feature_names else {}
    if "sampling_start" in settings:
        of_processor["sampling_start"] = _Code("config.sampling_start")
    if features:
        of_processor["point_feature_names"] = _Code("config.point_feature_names")
    shown_data = _Code("dataset") if data == IN_MEMORY else shown_path(data)
    of_data = ", ".join(filter(None, (repr(shown_data), _arguments({**drop, **features, **of_loading}))))
    remark = "  # your own, which was in memory" if data == IN_MEMORY else ""
    lines = [
        f"from any2point_hf import Any2PointConfig, {model}, Any2PointProcessor",
        "from any2point_hf import load_point_cloud_dataset, make_trainer",
        *(["from any2point_hf.data.augmentation import Augmentation"] if "augmentation" in changes else []),
        *(["from any2point_hf.data.validation import hold_out_validation"] if validation_share else []),
        *(f"from any2point_hf.training.{name}" for name in imported),
        *(["from any2point_hf.training.recipe import Recipe"] if is_regression else []),
        "from transformers import set_seed",
        "",
        f"dataset = load_point_cloud_dataset({of_data}){remark}",
        *([f"dataset = hold_out_validation(dataset, {validation_share})"] if validation_share else []),
        *(['names = dataset["train"].features["label"].names'] if is_class else []),
        f"set_seed({seed})",
        f"config = Any2PointConfig({', '.join(filter(None, (of_backbone, parts, _arguments(settings))))})",
        f"model = {model}(config)",
        f"processor = Any2PointProcessor(config.num_points, {_arguments(of_processor)})",
        f"output = {shown_path(output)!r}",
        *([f"recipe = Recipe({_arguments(changes)})"] if is_regression else []),  # make_trainer's own is another
        f"trainer = make_trainer(model, processor, dataset, output, {'recipe, ' if is_regression else ''}"
        f"{_arguments(of_training)})",
        "trainer.train()",
        "model.save_pretrained(output)",
        "processor.save_pretrained(output)",
    ]
    return "\n".join(lines)


class _Code(str):
    """Python as it is to be written; other strings are written in quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _changed_fields(settings: Any, *besides: str) -> dict[str, Any]:
    plain = type(settings)()
    names = [field.name for field in fields(settings) if field.name not in besides]
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(plain, name)}


def _arguments(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
