"""`any2point train`: one adapter, or one with each of several seeds."""

import argparse
import os
from pathlib import Path
from typing import Any

import shtab

from .options import (
    add_data,
    add_json,
    add_recipe,
    add_setting,
    add_task,
    backbone,
    complete_with,
    config_fields,
    count,
    positive,
    recipe,
    recipe_changes,
    seed,
    seeds,
)

HELP = "fine-tune a frozen backbone on point clouds"
DESCRIPTION = """
Trains adapters of a few megabytes on a frozen transformer and writes them with their processor and a model card to a
folder. What they say, a class for each cloud, several classes, numbers, or a part for each point, is what the data
have, or --task. Without --recipe and --preset the task and the data's size choose how, which is said in a line; so is
what a linear probe reaches before the training. A checkpoint of the last whole epoch is kept beside them; after an
interrupt, --resume goes on from it. Options stand above the recipe, and the recipe above the preset.
"""
EXAMPLES = """
  any2point train --data shapes --backbone google-bert/bert-base-uncased --output my-adapter
  any2point train --preset clip-text-scan --data scanobjectnn/ --output my-adapter
  any2point train --data scans.npz --backbone facebook/dinov2-base --output runs --seeds 0,1,2
  any2point train --data parts/ --task regression --label-column volume,area --backbone facebook/dinov2-base --output m
  any2point train --data scans.npz --backbone facebook/dinov2-base --set class_weight=balanced --output my-adapter
  any2point train --data rooms/ --label-column label --backbone google-bert/bert-base-uncased --output my-segmenter
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_data(parser)
    add_task(parser)
    complete_with(
        parser.add_argument(
            "--output", type=Path, required=True, metavar="FOLDER", help="folder for the adapter and its checkpoints"
        ),
        shtab.DIRECTORY,
    )
    add_setting(parser)
    add_recipe(parser)
    which_seeds = parser.add_mutually_exclusive_group()
    which_seeds.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of start values, order and augmentation (default 0)"
    )
    which_seeds.add_argument(
        "--seeds",
        type=seeds,
        metavar="N,N,...",
        help="train once with each into --output/seed-N, and report mean and deviation; what is done is not repeated",
    )
    parser.add_argument(
        "--validation-share",
        type=positive(float),
        metavar="SHARE",
        help="hold this share of the training clouds out and keep the epoch that is best on them (default: no choice)",
    )
    parser.add_argument(
        "--workers", type=count, default=0, metavar="N", help="processes that load batches (default 0: none)"
    )
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        choices=("tensorboard", "trackio", "wandb"),
        help="log to this tool of yours (may be repeated; nothing is sent anywhere otherwise)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..modeling.files import check_output_folder

    check_output_folder(options.output)
    frozen, fields = backbone(options), config_fields(options)

    from ..data import load_point_cloud_dataset
    from ..data.fingerprint import data_fingerprint
    from ..data.hub_dataset import pinned
    from ..data.loading import task_of_dataset
    from ..data.splits import check_trains
    from ..modeling.backbones.fingerprint import BACKBONE_FILES, backbone_fingerprint
    from ..modeling.configuration_any2point import Any2PointConfig
    from ..modeling.errors import Any2PointError
    from ..training.checkpoints import holds_checkpoint
    from ..training.recipe import changed, read_recipe
    from ..training.recipe_choice import choose_recipe
    from ..training.repeating import pinned_command
    from ..training.run import train as train_adapter
    from ..training.seeds import train_with_seeds

    options.interrupted = (
        f"interrupted. The checkpoint of the last whole epoch, if there was one, is in {options.output}; go on from it "
        "with --resume."
    )
    base = recipe(options)
    changes = recipe_changes(options, base)
    data = pinned(options.data)  # the same for all seeds
    command = pinned_command(options.arguments, options.data, data)

    def train_once(seed: int, output: Path) -> dict[str, float]:
        return train_adapter(
            data,
            frozen,
            output,
            fields,
            base,
            seed=seed,
            validation_share=options.validation_share,
            workers=options.workers,
            loggers=options.log,
            drop_invalid=options.drop_invalid,
            resume=options.resume and holds_checkpoint(output) if options.seeds else options.resume,
            command=command,
            task=options.task,
            label_column=options.label_column,
            **changes,
        )

    if options.seeds:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise Any2PointError("--seeds trains in one process, got several. Launch one training with each --seed.")
        features = fields.get("point_feature_names", [])
        loading: Any = {"task": options.task, "label_column": options.label_column, "features": features}
        dataset = load_point_cloud_dataset(data, drop_invalid=options.drop_invalid, **loading)
        check_trains(dataset)
        given: dict[str, Any] = {"data_fingerprint": data_fingerprint(dataset, features), "backbone": frozen}
        given |= {"validation_share": options.validation_share, "start": "by name"}  # runs without it do not pair
        given |= {BACKBONE_FILES: backbone_fingerprint(frozen)}
        used = base or read_recipe(choose_recipe(len(dataset["train"]), task_of_dataset(dataset)))
        config = {**used.config, **fields}
        of_start = {name: config[name] for name in ("sampling_start", "released_compatibility") if name in config}
        given |= {"sampling_start": Any2PointConfig(**of_start).sampling_start}
        config.pop("sampling_start", None)
        given |= {"config": config} | changed(used, **changes).settings()
        summary = train_with_seeds(options.seeds, options.output, given, train_once)
        if options.json:
            return {"output": str(options.output), "seeds": options.seeds, **summary}
        main, called_main = _main_metric(summary)
        called = {main: "last epoch", f"best_epoch_{main}": "best epoch on the validation split"}
        values = "; ".join(
            f"{summary[name]['mean']:.4f} ± {summary[name]['deviation']:.4f} ({text})"
            for name, text in called.items()
            if name in summary
        )
        seeds = ", ".join(map(str, options.seeds))
        print(f"seeds {seeds}: {called_main} on the test split {values}, written to {options.output}")
        return None
    metrics = train_once(options.seed, options.output)
    if "adapter_megabytes" not in metrics:  # of several processes, only the first one reports
        return None
    if options.json:
        return {"output": str(options.output), **metrics}
    main, called_main = _main_metric(metrics)
    best = (
        f"{metrics[f'best_epoch_{main}']:.4f} (epoch {metrics['best_epoch']:g}, the best on the validation split), "
        if "best_epoch" in metrics
        else ""
    )
    print(
        f"{called_main} {metrics[main]:.4f} (last epoch, test split), {best}adapter "
        f"{metrics['adapter_megabytes']:.2f} MB written to {options.output}"
    )
    return None


def _main_metric(metrics: dict[str, Any]) -> tuple[str, str]:
    """The name of what is reported first, and how it is called."""
    names = {"instance_miou": "instance mIoU", "mean_average_precision": "mAP", "r2": "R²", "accuracy": "accuracy"}
    return next((name, called) for name, called in names.items() if name in metrics)
