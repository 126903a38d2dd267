"""The benchmarks: every case in a fresh process, results as JSON and as tables in markdown.

python benchmarks/bench.py [--only GROUP ...] [--quick] [--threads 2] [--output FOLDER]

Compare with the stored baseline: python benchmarks/bench_compare.py
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from suite import (
    cold_start,
    cuda,
    end_to_end,
    environment,
    growth,
    memory,
    more_end_to_end,
    parts,
    point_operations,
    tokenizer,
)

import any2point_hf.calm_threads  # noqa: F401 - the cases inherit what it sets

GROUPS: dict[str, ModuleType] = {
    "ratios": end_to_end,
    "more_ratios": more_end_to_end,
    "memory": memory,
    "parts": parts,
    "point_operations": point_operations,
    "tokenizer": tokenizer,
    "cold_start": cold_start,
    "growth": growth,
    "cuda": cuda,
}
LONG = ("more_ratios", "growth")  # only where they are asked for
DEFAULT_GROUPS = tuple(name for name in GROUPS if name not in LONG)


def run(groups: Sequence[str], quick: bool, threads: int) -> dict[str, Any]:
    """Runs all cases of the groups and says so as it goes.

    Returns:
        "environment", and under "results" the rows of each group; a case that failed has an "error".
    """
    machine = environment.describe(threads)
    print(environment.as_text(machine), file=sys.stderr)
    if warning := environment.warning(machine):
        print(f"WARNING: {warning}\n", file=sys.stderr)
    results: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        results[group] = []
        for arguments in GROUPS[group].cases(quick):
            start = time.perf_counter()
            row = {"arguments": arguments, **in_fresh_process(group, arguments, threads)}
            results[group].append(row)
            outcome = row.get("error") or f"{time.perf_counter() - start:.0f} s"
            words = ", ".join(f"{name} {value}" for name, value in arguments.items())
            print(f"{group}: {words}: {outcome}", file=sys.stderr, flush=True)
    return {"environment": machine, "quick": quick, "results": results}


def in_fresh_process(group: str, arguments: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What the group measures in a process of its own, or the "error" that ended it."""
    command = [sys.executable, __file__, "--threads", str(threads), "--case", json.dumps([group, arguments])]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONIOENCODING": "utf-8"}
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(threads), **offline}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=surroundings)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last_words = done.stderr.strip().splitlines()[-1:] or ["no message; did the memory suffice?"]
    return {"error": f"exit code {done.returncode}: {last_words[0]}"}


def measure_case(case: str, threads: int) -> None:
    """What a fresh process does: one case, its results as the last line."""
    import torch

    torch.set_num_threads(threads)
    group, arguments = json.loads(case)
    print(json.dumps(GROUPS[group].measure(**arguments)))


def as_markdown(run_results: Mapping[str, Any]) -> str:
    """The environment and a table of each group."""
    machine = run_results["environment"]
    warning = environment.warning(machine)
    texts = ["## Environment\n", environment.as_text(machine), *([f"**Warning: {warning}**\n"] if warning else [])]
    for group, rows in run_results["results"].items():
        texts += [f"## {group}\n", GROUPS[group].table([row for row in rows if "error" not in row])]
        for row in rows:
            if "error" in row:
                texts.append(f"Failed: {json.dumps(row['arguments'])}: {row['error']}\n")
    return "\n".join(texts)


def write(run_results: Mapping[str, Any], folder: Path) -> None:
    """Writes results.json, results.md and, of the growth group, growth.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(run_results, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(as_markdown(run_results), encoding="utf-8")
    curves = [row for row in run_results["results"].get("growth", ()) if "error" not in row]
    if curves:
        growth.draw(curves, folder / "growth.svg")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that bench_compare.py has too."""
    parser.add_argument("--quick", action="store_true", help="a tiny model: tries everything out in a minute or two")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2, what the targets are set for)")
    parser.add_argument("--output", type=Path, default=Path("bench_output"), help="folder (default: bench_output)")


def main() -> int:
    """Exit code 1 if a case failed."""
    lines = [f"  {name:18}{module.HELP}" for name, module in GROUPS.items()]
    parser = argparse.ArgumentParser(
        description="Measures speed and memory, every case in a fresh process; the machine should do nothing else.",
        epilog="groups, and how long they take on two cores:\n"
        + "\n".join(lines)
        + f"\n\nBy default all but {' and '.join(LONG)}: about 25 minutes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), metavar="GROUP", help="these groups alone")
    add_options(parser)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        measure_case(options.case, options.threads)
        return 0
    run_results = run(options.only or DEFAULT_GROUPS, options.quick, options.threads)
    write(run_results, options.output)
    print(as_markdown(run_results))
    print(f"written: {options.output / 'results.json'}, results.md", file=sys.stderr)
    return int(any("error" in row for rows in run_results["results"].values() for row in rows))


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # a Windows console's own has no ×
    sys.exit(main())
