"""The options that commands share: how their values are read, and what they mean together."""

import argparse
import json
import math
from typing import Any

import shtab

from ..modeling.presets import PRESETS, find_preset
from ..training.recipe_files import recipe_names


def complete_with(action: argparse.Action, kind: dict[str, Any]) -> None:
    """Sets how a shell completes an option's value: `kind` is one of shtab's."""
    action.complete = kind  # type: ignore[attr-defined]  # shtab looks for it there


def add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--model`."""
    action = parser.add_argument("--model", required=required, metavar="ADAPTER", help="folder or Hub id of an adapter")
    complete_with(action, shtab.DIRECTORY)


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Adds `--backbone`, for commands that take an adapter."""
    action = parser.add_argument(
        "--backbone", metavar="BACKBONE", help="folder or Hub id to put it on (default: the one it was trained on)"
    )
    complete_with(action, shtab.DIRECTORY)


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Adds `--batch-size` for inference."""
    parser.add_argument("--batch-size", type=positive(int), default=32, metavar="N", help="clouds at once (default 32)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON value and nothing else")


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Adds `--verbose`."""
    parser.add_argument(
        "--verbose", action="store_true", help="show all that the libraries below say: their bars, and each log entry"
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds `--data`."""
    complete_with(
        parser.add_argument(
            "--data",
            required=True,
            metavar="DATA",
            help="'shapes', with a part for each point 'shapes-parts', or with numbers 'shapes-measures' (built in); "
            "user/name[@revision][#config] on the Hub; the folder of ScanObjectNN, ModelNet or ShapeNetPart as "
            "published (FOLDER#OBJ_BG for a variant); a folder root/<class>/<split>/*, root/<split>/<class>/* or "
            "root/<class>/*, or one with a metadata.csv; a .parquet file or a folder of save_to_disk; or an .npz",
        ),
        shtab.FILE,
    )
    add_drop_invalid(parser)


def add_task(parser: argparse.ArgumentParser) -> None:
    """Adds `--task` and `--label-column`."""
    parser.add_argument(
        "--task",
        choices=("classification", "multi-label", "regression", "segmentation"),
        help="a class for each cloud, several, or numbers; or a part for each point (default: what the data have)",
    )
    add_label_column(parser)


def add_label_column(parser: argparse.ArgumentParser) -> None:
    """Adds `--label-column`."""
    parser.add_argument(
        "--label-column",
        metavar="NAME,NAME,...",
        help="for segmentation, the column with the label of each point, in tables and in the files of a folder (there "
        "by its number from 0, if columns have no names); for several classes or numbers, the columns with them in "
        "tables and in a folder's metadata.csv",
    )


def add_drop_invalid(parser: argparse.ArgumentParser) -> None:
    """Adds `--drop-invalid`."""
    parser.add_argument(
        "--drop-invalid",
        action="store_true",
        help="drop points that are NaN or infinite, or more than a quarter of a cloud's at one place, and say how many "
        "(default: such a cloud is an error)",
    )


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide the model: `--preset`, `--backbone` and the fields of its config."""
    group = parser.add_argument_group("the model")
    group.add_argument("--preset", metavar="NAME", help=f"a published setting: {', '.join(PRESETS)}")
    complete_with(
        group.add_argument(
            "--backbone", metavar="BACKBONE", help="folder or Hub id of the frozen transformer (default: the preset's)"
        ),
        shtab.DIRECTORY,
    )
    group.add_argument(
        "--num-points", type=positive(int), metavar="N", help="points a cloud (default: the recipe's or the preset's)"
    )
    group.add_argument(
        "--num-neighbors",
        type=positive(int),
        metavar="N",
        help="K of the tokenizer (default: the recipe's or the preset's)",
    )
    group.add_argument(
        "--features",
        metavar="NAME,NAME,...",
        help="what each point has besides its place: rgb, normal, intensity, reflectance, or other columns of the data "
        "(default: none)",
    )
    group.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of Any2PointConfig, its value as JSON or a word, such as --set adapter_dim=8 or --set "
        "line_direction=[1,0,0] (may be repeated)",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide how the model is trained; `None` stands for the recipe's own value."""
    names = ", ".join(recipe_names())
    group = parser.add_argument_group("the training")
    complete_with(
        group.add_argument(
            "--recipe",
            metavar="NAME",
            help=f"how to train: {names}, or a .yaml of your own (default: the preset's; without one segmentation for "
            "parts, regression for numbers, small-data up to 5000 training clouds, above modelnet, or modelnet-cpu "
            "without a GPU)",
        ),
        shtab.FILE,
    )
    group.add_argument(
        "--epochs", type=positive(float), metavar="N", help="passes over the data (default: the recipe's)"
    )
    group.add_argument(
        "--batch-size", type=positive(int), metavar="N", help="clouds a step and device (default: the recipe's, 32)"
    )
    group.add_argument(
        "--gradient-accumulation",
        type=positive(int),
        metavar="N",
        help="steps whose gradients are added up before the weights change (default: the recipe's, 1)",
    )
    group.add_argument(
        "--learning-rate", type=positive(float), metavar="RATE", help="highest rate (default: the recipe's)"
    )
    group.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="of the forward pass (default: the recipe's, float32)",
    )
    _add_augmentation(parser.add_argument_group("augmentation of the training clouds"))


def _add_augmentation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scale",
        type=positive(float),
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="a factor of each axis (default: the recipe's)",
    )
    group.add_argument("--shift", type=float, metavar="LENGTH", help="of each axis (default: the recipe's)")
    group.add_argument(
        "--rotate",
        choices=("x", "y", "z", "none"),
        help="turn about this axis (default: the recipe's, none; z for the built-in shapes)",
    )
    group.add_argument(
        "--mirror",
        choices=("x", "y", "z", "none"),
        help="mirror half of them along this axis (default: the recipe's, none)",
    )
    group.add_argument(
        "--jitter", type=float, metavar="LENGTH", help="noise of this deviation (default: the recipe's, 0)"
    )
    group.add_argument(
        "--drop", type=float, metavar="SHARE", help="lose up to this share of the points (default: the recipe's, 0)"
    )
    group.add_argument(
        "--keep-scale",
        action=argparse.BooleanOptionalAction,
        help="do not scale clouds to the unit sphere, neither in training nor later (default: the recipe's, or scale "
        "them)",
    )


def positive(kind: type) -> Any:
    """Makes a function that reads a finite number above 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be positive and finite, got {text}")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def count(text: str) -> int:
    """Reads a number that may be 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def share(text: str) -> float:
    """Reads a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0…1, got {text}")
    return value


def seed(text: str) -> int:
    """Reads one seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie in 0…4294967295, got {text}")
    return value


def seeds(text: str) -> list[int]:
    """Reads seeds with commas between them."""
    several = [seed(part) for part in text.split(",")]
    if len(set(several)) < len(several):
        raise argparse.ArgumentTypeError(f"must name each seed once, got {text}")
    return several


def counts(text: str) -> list[int]:
    """Reads numbers above 0 with commas between them."""
    several = [positive(int)(part) for part in text.split(",")]
    if len(set(several)) < len(several):
        raise argparse.ArgumentTypeError(f"must name each number once, got {text}")
    return several


def config_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Any2PointConfig that the command line sets, on top of those of its preset and its recipe."""
    fields = dict(find_preset(options.preset).config) if options.preset else {}
    if getattr(options, "recipe", None):
        from ..training.recipe import read_recipe

        fields |= read_recipe(options.recipe).config
    given = {"num_points": options.num_points, "num_neighbors": options.num_neighbors}
    fields |= {name: value for name, value in given.items() if value is not None} | settings(options.settings)
    if options.features is not None or "point_feature_names" in fields:
        from ..point_clouds.features import feature_names

        given_names = fields.get("point_feature_names", []) if options.features is None else options.features.split(",")
        fields["point_feature_names"] = feature_names(given_names)
    return fields


def settings(texts: list[str]) -> dict[str, Any]:
    """Fields of Any2PointConfig given as FIELD=VALUE.

    Raises:
        Any2PointError: one is not of that form, or no field has its name.
    """
    from ..modeling.errors import Any2PointError
    from ..modeling.field_names import meant_name, method_fields

    fields, known = {}, method_fields()
    for setting in texts:
        name, separator, text = setting.partition("=")
        if not separator or name not in known:
            raise Any2PointError(
                f"--set takes FIELD=VALUE with a field of Any2PointConfig, got {setting!r}.{meant_name(name, known)}"
            )
        try:
            fields[name] = json.loads(text)
        except ValueError:
            fields[name] = text
    return fields


def recipe(options: argparse.Namespace) -> Any:
    """The recipe that the command line names, or its preset's; None where the data's size is to choose."""
    from ..training.recipe import read_recipe

    named = options.recipe or (find_preset(options.preset).dataset.recipe if options.preset else None)
    return read_recipe(named) if named else None


def recipe_changes(options: argparse.Namespace, base: Any) -> dict[str, Any]:
    """What the options change in the recipe `base`, as `changed` takes it; None is one that the data's size chooses."""
    names = ("epochs", "batch_size", "gradient_accumulation", "learning_rate", "precision")
    changes = {name: getattr(options, name) for name in names}
    changes["scale_to_unit_sphere"] = None if options.keep_scale is None else not options.keep_scale
    augmentation = {name: getattr(options, name) for name in ("shift", "jitter", "drop")}
    augmentation = {name: value for name, value in augmentation.items() if value is not None}
    if options.scale is not None:
        augmentation["scale"] = tuple(options.scale)
    if options.mirror is not None:
        augmentation["mirror_axis"] = None if options.mirror == "none" else options.mirror
    if options.rotate is not None:
        augmentation["rotation_axis"] = None if options.rotate == "none" else options.rotate
    elif options.data in ("shapes", "shapes-parts") and (base is None or base.augmentation.rotation_axis is None):
        augmentation["rotation_axis"] = "z"  # their heading means nothing
    return changes | {"augmentation": augmentation}


def backbone(options: argparse.Namespace) -> str:
    """The backbone that the command line names, or its preset's."""
    from ..modeling.errors import Any2PointError

    preset = find_preset(options.preset) if options.preset else None
    named = options.backbone or (preset and preset.backbone)
    if not named:
        made_by = f" (the folder that conversion_scripts/{preset.backbone_script}.py wrote)" if preset else ""
        raise Any2PointError(f"--backbone is needed{made_by}, got neither it nor a --preset that has one.")
    return named
