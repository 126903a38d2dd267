"""What the parts of the method bring to segmentation: rows of trainings, paired by seed.

    python benchmarks/part_rows.py --data DATA --backbone FOLDER --output FOLDER [--seeds 0,1,2] [-- OPTIONS OF TRAIN]

Each row and seed is one `any2point train` and one `any2point evaluate` on all points of the test split; what is done is
kept in the output folder and not done again. Random weights are the start values of the backbone's own family. Seconds
are the processor's, of the training with its evaluations.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import random_backbone

from any2point_hf.paper.paired import FEWEST_SEEDS, paired_difference

NO_BACKBONE, RANDOM = "no backbone", "random weights"
ROWS: dict[str, Sequence[str]] = {
    "full model": (),
    "without guided adapters": ("--set", "adapter_blocks=0"),
    RANDOM: (),
    NO_BACKBONE: ("--set", "backbone_blocks=0"),
}
"""Options of `any2point train` by the row's name; random weights are another backbone."""

FIGURES = ("instance_miou", "class_miou")


def run(command: str, *arguments: object) -> tuple[dict[str, Any], float]:
    """What a command prints as JSON, and its processor seconds."""
    before = os.times()
    line = [sys.executable, "-m", "any2point_hf", command, *map(str, arguments), "--json"]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout), used


def measure(data: str, backbone: str, folder: Path, options: Sequence[str], seed: int) -> dict[str, float]:
    """Trains and evaluates once, or reads what it gave before."""
    record = folder / "record.json"
    if not record.is_file():
        resume = ["--resume"] if any(folder.glob("checkpoint-*")) else []
        training = ["--task", "segmentation", "--data", data, "--backbone", backbone, "--output", folder]
        _, seconds = run("train", *training, "--seed", seed, *options, *resume)
        found, _ = run("evaluate", "--data", data, "--model", folder)
        record.write_text(json.dumps({name: found[name] for name in FIGURES} | {"seconds": seconds}), encoding="utf-8")
    return json.loads(record.read_text(encoding="utf-8"))


def table(found: dict[str, dict[int, dict[str, float]]]) -> str:
    """Rows in markdown: mean and single seeds of both figures in percent, and the difference from no backbone."""
    lines = ["| row | instance mIoU | class mIoU | less no backbone, instance | CPU s |", "|---|---|---|---|---|"]
    instance = {row: {seed: 100 * values[FIGURES[0]] for seed, values in runs.items()} for row, runs in found.items()}
    for row, runs in found.items():
        cells = [_seeds([100 * values[name] for values in runs.values()]) for name in FIGURES]
        difference = ""
        if row != NO_BACKBONE and len(runs) >= FEWEST_SEEDS:
            mean, half, _ = paired_difference(instance[row], instance[NO_BACKBONE])
            difference = f"{mean:+.1f} ± {half:.1f}"
        seconds = statistics.mean(values["seconds"] for values in runs.values())
        lines.append(f"| {row} | {' | '.join(cells)} | {difference} | {seconds:.0f} |")
    return "\n".join(lines)


def _seeds(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def main() -> None:
    """Runs what is missing, seed by seed, and prints the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("options", nargs="*", help="of any2point train, after --")
    options = parser.parse_args()
    found: dict[str, dict[int, dict[str, float]]] = {row: {} for row in ROWS}
    for seed in options.seeds:
        for row, of_row in ROWS.items():
            backbone = options.backbone
            if row == RANDOM:
                backbone = str(options.output / "random_backbone")
                if not Path(backbone).is_dir():
                    random_backbone.main(options.backbone, backbone)
            folder = options.output / f"{row.replace(' ', '_')}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            found[row][seed] = measure(options.data, backbone, folder, [*of_row, *options.options], seed)
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
