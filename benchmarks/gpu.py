"""One run on a machine with a CUDA GPU: tests, ratios, and trainings that tell whether pretraining and adapters pay.

    python benchmarks/gpu.py pack --to .gpu --data modelnet10_1024.npz --backbone minilm=FOLDER --backbone kwt1=FOLDER
    python benchmarks/gpu.py run --inputs .gpu --minutes 9 --out DIR
    python benchmarks/gpu.py run --inputs .gpu --minutes 9 --out DIR --resume DIR --parts training
    python benchmarks/gpu.py run --inputs .gpu --minutes 1 --out DIR --device cpu --plan dry-run --quick

`pack` is run where the data are; `run` needs the source tree and what it wrote, torch, transformers, numpy, psutil and
pytest, no network and no installed package. JSON and markdown in DIR grow as results come. With --resume what is there
is not trained again, and epochs stay what they were, so that runs in pieces are one table.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from source_tree import ROOT, make_importable

make_importable()

TEST_SECONDS, RATIO_SECONDS = 90, 80
_PROBE_SHARE = 0.85  # of the probed speed, that is counted on
_FEWEST_EPOCHS = 5


def run(options: argparse.Namespace) -> None:
    """The parts that are asked for, one after the other."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    deadline = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    from suite import environment

    write(options.out / "environment.json", environment.describe(torch.get_num_threads()))
    if "tests" in options.parts:
        run_tests(options)
    if "ratios" in options.parts:
        run_ratios(options, min(RATIO_SECONDS, deadline - time.monotonic()))
    if "training" in options.parts:
        run_training(options, deadline)


def run_tests(options: argparse.Namespace) -> None:
    """The tests marked `gpu`, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-rs", "-p", "no:cacheprovider", "--tb=short"]
    with (options.out / "tests.txt").open("w") as log:
        try:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=TEST_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            log.write(f"\nstopped after {TEST_SECONDS} s\n")
    text = (options.out / "tests.txt").read_text()
    print(text[-5000:], flush=True)


def run_ratios(options: argparse.Namespace, seconds: float) -> None:
    """Ratios, memory, launches and parts."""
    from gpu_run import ratios

    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        write(options.out / "ratios.json", rows)
        (options.out / "ratios.md").write_text(ratios.tables(rows))

    ratios.run(options.device, seconds, options.quick, keep)
    print((options.out / "ratios.md").read_text()[:6000], flush=True)


def run_training(options: argparse.Namespace, deadline: float) -> None:
    """The plans' trainings; those that `--resume` has are taken from there."""
    from gpu_run import paired
    from gpu_run.plans import PLANS
    from gpu_run.queue import run_jobs, steps_a_second
    from gpu_run.training import Job

    jobs = [job for plan in options.plan for job in PLANS[plan](options.seeds)]
    records: dict[str, dict[str, Any]] = {}
    if options.resume:
        earlier = json.loads((options.resume / "training.json").read_text())
        wanted = {job.key() for job in jobs}
        records = {
            key: record for key, record in earlier["records"].items() if record.get("finished") or key not in wanted
        }
        options.epochs = options.epochs or earlier["epochs"]
    left = [job for job in jobs if job.key() not in records]
    epochs = options.epochs
    open_ended = [job for job in left if not job.epochs]
    if open_ended and not epochs:
        sized = [job for job in open_ended if job.row.startswith("full")] or open_ended
        speed = steps_a_second(sized, options.inputs, options.device, options.streams) * options.processes
        seconds = deadline - time.monotonic() - 20 * options.minutes / 9
        clouds = 3991
        steps = sum(clouds // job.batch for job in open_ended)
        epochs = max(_FEWEST_EPOCHS, int(_PROBE_SHARE * speed * seconds / steps))
        print(f"{speed:.0f} steps a second, {epochs} epochs each", flush=True)
    left = [job if job.epochs else replace(job, epochs=epochs) for job in left]

    def write_all() -> None:
        write(options.out / "training.json", {"epochs": epochs, "records": records})
        (options.out / "training.md").write_text(paired.tables(list(records.values())))

    def keep(record: dict[str, Any]) -> None:
        job = Job(**record["settings"])
        records[job.key()] = record
        write_all()
        reached = record.get("accuracy", record.get("failed"))
        print(f"{job.key()}: {reached} {record.get('seconds', 0):.0f} s", flush=True)

    write_all()  # also where nothing is left, or nothing gets ready
    seconds = deadline - time.monotonic() - 5
    if left:
        run_jobs(left, options.inputs, options.device, seconds, options.processes, options.streams, keep)
    print((options.out / "training.md").read_text()[-7000:], flush=True)


def write(file: Path, content: Any) -> None:
    """JSON beside the old file and then in its place."""
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, file)


def main() -> None:
    """Packs or runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the folder that is carried to the GPU")
    packing.add_argument("--to", type=Path, required=True)
    packing.add_argument("--data", type=Path, action="append", required=True, help=".npz file")
    packing.add_argument("--backbone", action="append", required=True, help="NAME=ID_OR_FOLDER")
    packing.add_argument("--most-points", type=int, default=1024, help="of a cloud that are carried (default 1024)")
    running = commands.add_parser("run", help="run on the GPU")
    running.add_argument("--inputs", type=Path, required=True, help="folder that `pack` wrote")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--minutes", type=float, default=9.0)
    running.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    running.add_argument("--parts", type=lambda text: text.split(","), default=["tests", "ratios", "training"])
    running.add_argument("--plan", action="append", default=None, help="question (default), defaults, starts, short")
    running.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    running.add_argument("--epochs", type=int, help="of the question's trainings (default: as many as fit)")
    running.add_argument("--processes", type=int, default=2, help="that train beside each other")
    running.add_argument("--streams", type=int, default=4, help="trainings of a process at a time")
    running.add_argument("--resume", type=Path, help="folder of an earlier run")
    running.add_argument("--quick", action="store_true", help="ratios of a tiny model alone")
    options = parser.parse_args()
    if options.command == "pack":
        from gpu_run.inputs import pack

        backbones = dict(each.split("=", 1) for each in options.backbone)
        pack(options.to, options.data, backbones, options.most_points)
    else:
        options.plan = options.plan or ["question"]
        run(options)


if __name__ == "__main__":
    main()
