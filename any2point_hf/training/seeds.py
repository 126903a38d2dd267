"""The same training with several seeds: mean and deviation of their metrics."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..modeling.backbones.fingerprint import BACKBONE_FILES
from ..modeling.errors import Any2PointError
from ..modeling.files import check_output_folder, read_record, write_whole
from .checkpoints import holds_checkpoint
from .output_lock import output_lock

SEEDS_FILE = "seeds.json"


def train_with_seeds(
    seeds: Sequence[int], output: Path, settings: dict[str, Any], train: Callable[[int, Path], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Trains once with each seed, in a folder of its own, and sums up.

    Args:
        seeds: one after the other; those that `seeds.json` already has are not run again.
        output: folder for `seed-N` of each, and for `seeds.json`, which is written after every run.
        settings: of the training, JSON-able; runs that are already in the folder must have had the same.
        train: trains with a seed into a folder and returns its metrics.

    Returns:
        For each metric its `mean` and `deviation` (of the sample; 0 for one seed).

    Raises:
        Any2PointError: the folder's runs had other settings, or `output` is a file, holds a training of one seed or is
            in use by another training.
    """
    check_output_folder(output)
    if holds_checkpoint(output):
        raise Any2PointError(f"{output} holds a training of a single seed. Choose another folder for --seeds.")
    with output_lock(output):
        return _train_missing(seeds, output / SEEDS_FILE, json.loads(json.dumps(settings)), train)


def _train_missing(
    seeds: Sequence[int], file: Path, settings: dict[str, Any], train: Callable[[int, Path], dict[str, float]]
) -> dict[str, dict[str, float]]:
    runs: dict[str, dict[str, float]] = {}
    if file.is_file():
        earlier = read_record(file, "settings", "runs")
        before = {"sampling_start": "first"} | earlier["settings"]  # all that earlier versions knew
        before.setdefault(BACKBONE_FILES, settings.get(BACKBONE_FILES))  # which they did not record
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            raise Any2PointError(
                f"{file} holds runs with other settings, these differ: "
                + ", ".join(f"{name} was {before.get(name)!r}" for name in changed)
                + ". Give the same ones, or choose another folder."
            )
        runs = earlier["runs"]
        broken = [seed for seed, metrics in runs.items() if not _are_metrics(metrics)]
        if broken:
            raise Any2PointError(
                f"{file} must hold the metrics of each seed, and those of seed {broken[0]} are damaged. Delete the "
                "file to train all seeds again, or choose another folder."
            )
    for seed in seeds:
        if str(seed) not in runs:
            runs[str(seed)] = train(seed, file.with_name(f"seed-{seed}"))
            _write(file, settings, runs)
    return _summary({str(seed): runs[str(seed)] for seed in seeds})


def _are_metrics(metrics: Any) -> bool:
    return isinstance(metrics, dict) and all(isinstance(value, int | float) for value in metrics.values())


def _summary(runs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    summary = {}
    shared = set.intersection(*map(set, runs.values()))  # runs of an earlier version have fewer metrics
    for name in [name for name in next(iter(runs.values())) if name in shared]:
        values = [metrics[name] for metrics in runs.values()]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        summary[name] = {"mean": statistics.fmean(values), "deviation": deviation}
    return summary


def _write(file: Path, settings: dict[str, Any], runs: dict[str, dict[str, float]]) -> None:
    content = {"settings": settings, "runs": runs, "summary": _summary(runs)}
    write_whole(file, json.dumps(content, indent=2) + "\n")
