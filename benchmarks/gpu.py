"""One run on a machine with a CUDA GPU: tests, ratios, and trainings that tell whether pretraining and adapters pay.

    python benchmarks/gpu.py pack --data modelnet10_1024.npz --backbone minilm=FOLDER
    python benchmarks/gpu.py --minutes 9 --out DIR
    python benchmarks/gpu.py --minutes 9 --out DIR --resume DIR --parts training
    python benchmarks/gpu.py --minutes 1 --out DIR --device cpu --plan dry-run --quick

`pack` is run where the data are; the run needs the source tree, the folder that it wrote, torch, transformers, numpy,
psutil and pytest, no network and no installed package. JSON and markdown in DIR grow as results come. With --resume,
what is there is not trained again, and epochs stay what they were, so that runs in pieces are one table.
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
INPUTS = ROOT / "gpu_inputs"  # git ignores it: data and weights are not ours to pass on
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
        if options.epochs not in (None, earlier["epochs"]) and earlier["epochs"]:
            sys.exit(f"--resume goes on with the {earlier['epochs']} epochs of {options.resume}, got {options.epochs}.")
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


def run_parser() -> argparse.ArgumentParser:
    """Options of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and markdown")
    parser.add_argument("--minutes", type=float, default=9.0, help="of everything together (default 9)")
    parser.add_argument(
        "--inputs", type=Path, default=INPUTS, help=f"folder that `pack` wrote (default {INPUTS.name}/)"
    )
    parser.add_argument("--resume", type=Path, help="folder of an earlier run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["tests", "ratios", "training"])
    parser.add_argument("--plan", action="append", help="question (default), or another of gpu_run/plans.py")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of the question's trainings (default: as many as fit)")
    parser.add_argument("--processes", type=int, default=3, help="that train beside each other")
    parser.add_argument("--streams", type=int, default=4, help="trainings of a process at a time")
    parser.add_argument("--quick", action="store_true", help="ratios of a tiny model alone")
    return parser


def pack_parser() -> argparse.ArgumentParser:
    """Options of `pack`."""
    parser = argparse.ArgumentParser(prog="gpu.py pack", description="Writes the folder that is carried to the GPU.")
    parser.add_argument("--to", type=Path, default=INPUTS, help=f"folder to write (default {INPUTS.name}/)")
    parser.add_argument("--data", type=Path, action="append", required=True, help=".npz file")
    parser.add_argument("--backbone", action="append", required=True, help="NAME=ID_OR_FOLDER")
    parser.add_argument("--most-points", type=int, default=1024, help="of a cloud that are carried (default 1024)")
    return parser


def main() -> None:
    """Packs or runs."""
    if sys.argv[1:2] == ["pack"]:
        from gpu_run.inputs import pack

        options = pack_parser().parse_args(sys.argv[2:])
        backbones = dict(each.split("=", 1) for each in options.backbone)
        pack(options.to, options.data, backbones, options.most_points)
        return
    options = run_parser().parse_args()
    options.plan = options.plan or ["question"]
    run(options)


if __name__ == "__main__":
    main()
