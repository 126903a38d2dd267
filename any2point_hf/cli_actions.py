"""What each command does with its options: calls one function and prints what it returns."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from .cli_options import backbone, config_fields, recipe, settings
from .modeling.presets import find_preset


def train(options: argparse.Namespace) -> None:
    """`any2point train`."""
    from .data import load_point_cloud_dataset
    from .data.fingerprint import data_fingerprint
    from .modeling.errors import Any2PointError
    from .seeds import train_with_seeds
    from .training_run import train as train_adapter

    options.interrupted = (
        f"interrupted. The checkpoint of the last whole epoch, if there was one, is in {options.output}; go on from it "
        "with --resume."
    )
    chosen, fields, frozen = recipe(options), config_fields(options), backbone(options)

    def train_once(seed: int, output: Path) -> dict[str, float]:
        return train_adapter(
            options.data,
            frozen,
            output,
            fields,
            chosen,
            seed=seed,
            validation_share=options.validation_share,
            workers=options.workers,
            loggers=options.log,
            resume=options.resume and any(output.glob("checkpoint-*")) if options.seeds else options.resume,
        )

    if options.seeds:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise Any2PointError("--seeds trains in one process, got several. Launch one training with each --seed.")
        given = {"data_fingerprint": data_fingerprint(load_point_cloud_dataset(options.data)), "backbone": frozen}
        given |= {"validation_share": options.validation_share}
        given |= {"config": fields} | chosen.settings()
        summary = train_with_seeds(options.seeds, options.output, given, train_once)
        called = {"accuracy": "last epoch", "best_epoch_accuracy": "best epoch on the validation split"}
        values = "; ".join(
            f"{summary[name]['mean']:.4f} ± {summary[name]['deviation']:.4f} ({text})"
            for name, text in called.items()
            if name in summary
        )
        seeds = ", ".join(map(str, options.seeds))
        print(f"seeds {seeds}: accuracy on the test split {values}, written to {options.output}")
        return
    metrics = train_once(options.seed, options.output)
    if "adapter_megabytes" not in metrics:  # one process of many: the first one says it
        return
    best = (
        f"{metrics['best_epoch_accuracy']:.4f} (epoch {metrics['best_epoch']:g}, the best on the validation split), "
        if "best_epoch" in metrics
        else ""
    )
    print(
        f"accuracy {metrics['accuracy']:.4f} (last epoch, test split), {best}adapter "
        f"{metrics['adapter_megabytes']:.2f} MB written to {options.output}"
    )


def evaluate(options: argparse.Namespace) -> None:
    """`any2point evaluate`."""
    from . import commands

    result = commands.evaluate(options.model, options.data, options.backbone, options.split, options.batch_size)
    if options.json:
        print(json.dumps(result))
        return
    for name, accuracy in result["per_class"].items():
        print(f"{name:>16}  {'none' if accuracy is None else f'{accuracy:.4f}'}")
    print(f"accuracy {result['accuracy']:.4f}, mean class accuracy {result['mean_class_accuracy']:.4f}")


def predict(options: argparse.Namespace) -> None:
    """`any2point predict`: files at once, or with `--out` a collection shard by shard."""
    from . import commands
    from .modeling.errors import Any2PointError

    if options.out is not None:
        if len(options.files) > 1:
            raise Any2PointError(f"--out takes one folder or dataset, got {len(options.files)}. Give their folder.")
        _run_batch_job("predict", options.files[0], options, top=options.top)
        return
    folders = [file for file in options.files if Path(file).is_dir()]
    if folders:
        raise Any2PointError(f"{folders[0]} is a folder. Give --out FILE.parquet to predict all clouds in it.")
    given = {"--split": options.split, "--skip-bad": options.skip_bad, "--workers": options.workers}
    given |= {"--shard-size": options.shard_size, "--engine": options.engine}
    ignored = [name for name, value in given.items() if value]
    if ignored:
        raise Any2PointError(f"{', '.join(ignored)} needs --out FILE.parquet, got none.")
    results = commands.predict(options.model, options.files, options.backbone, options.top, options.batch_size)
    if options.json:
        print(json.dumps(results))
        return
    for result in results:
        classes = ", ".join(f"{entry['label']} {entry['probability']:.3f}" for entry in result["classes"])
        print(f"{result['file']}: {classes}")


def embed(options: argparse.Namespace) -> None:
    """`any2point embed`."""
    _run_batch_job("embed", options.source, options)


def _run_batch_job(what: str, source: str, options: argparse.Namespace, **settings: Any) -> None:
    from accelerate import PartialState

    from .large_collections.batch_inference import run_job
    from .large_collections.job import BatchJob

    options.interrupted = (
        f"interrupted. Finished shards are in {options.out}.shards; the same command goes on from there."
    )
    names = ("model", "out", "backbone", "split", "shard_size", "batch_size", "workers", "skip_bad")
    settings |= {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    job = BatchJob(what, source=source, **settings)
    counts = run_job(job, engine=options.engine or "accelerate")
    if PartialState().is_main_process:
        skipped = f", {counts['skipped']} skipped (listed in {job.out.with_suffix('.bad.jsonl')})"
        print(f"{counts['clouds']} clouds written to {job.out}{skipped if counts['skipped'] else ''}")


def info(options: argparse.Namespace) -> None:
    """`any2point info`."""
    from . import commands
    from .modeling.errors import Any2PointError

    if options.model and options.preset:
        raise Any2PointError("info takes --model or --preset, got both.")
    backbone_config, num_labels = None, 15
    if options.preset:
        preset = find_preset(options.preset)
        num_labels = len(preset.dataset.class_names)
        backbone_config = None if options.backbone else preset.backbone_config  # known: nothing to download
    fields = config_fields(options) | {"num_labels": options.num_labels or num_labels}
    result = commands.info(options.model, options.backbone, fields | {"backbone_config": backbone_config})
    if options.json:
        print(json.dumps(result))
        return
    for name, count in result["parts"].items():
        print(f"{name:>20} {count:>12,}")
    print(f"{'trainable':>20} {result['trainable']:>12,}  (without head {result['trainable_without_head']:,})")
    print(f"{'total':>20} {result['total']:>12,}")


def convert(options: argparse.Namespace) -> None:
    """`any2point convert`."""
    from .conversion_scripts import convert_any2point_checkpoint

    convert_any2point_checkpoint.convert(options.checkpoint, options.backbone, options.output, options.setting)


def reproduce(options: argparse.Namespace) -> None:
    """`any2point reproduce`."""
    from .paper_tables import reproduce, runs

    options.interrupted = f"interrupted. What is done is in {options.output}; the same command goes on with the rest."
    kinds = ("1d", "2d", "audio")
    budget = ("epochs", "num_points", "num_neighbors", "train_clouds", "batch_size", "learning_rate")
    file = reproduce.reproduce(
        options.table,
        options.data,
        {kind: getattr(options, f"backbone_{kind}") for kind in kinds},
        options.output,
        budget=runs.make_budget(options.quick, **{name: getattr(options, name) for name in budget}),
        seeds=options.seeds,
        settings={kind: settings(getattr(options, f"set_{kind}")) for kind in kinds},
        modalities=options.only,
        command=shlex.join(["any2point", *sys.argv[1:]]),
    )
    print(f"written to {file}")
