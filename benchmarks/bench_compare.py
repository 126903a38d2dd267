"""Compares the ratios and the point operations with a stored run, and fails if a ratio got worse.

python benchmarks/bench_compare.py [--new RESULTS.json] [--baseline FILE] [--store] [--threads 2] [--output FOLDER]

The run is compared with that of the same kind of machine (`environment.kind`), benchmarks/baselines/KIND.json. A ratio
is worse if its median rose by more than a tenth and the quartiles of both runs. Seconds are shown, judged where
processor, threads, GPU and torch are the same, and never a reason to fail.
"""

import argparse
import json
import sys
from pathlib import Path

import bench
from suite import comparison, environment

BASELINES = Path(__file__).with_name("baselines")
COMPARED = ("ratios", "point_operations")


def report(old: dict, new: dict) -> int:
    """Prints both tables and what is wrong. Returns the exit code."""
    for name in ("ratios", "seconds"):
        print(comparison.table(old, new, name))
    if not comparison.same_environment(old, new):
        print("The baseline was made on another machine or torch: seconds are not judged.")
    failures = comparison.failures(old, new)
    for failure in failures:
        print(failure, file=sys.stderr)
    return int(bool(failures))


def main() -> int:
    """Exit code 1 if a ratio got worse, a case failed or nothing could be compared; 2 without a baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="About 12 minutes on two cores.")
    parser.add_argument("--new", type=Path, help="results.json of a finished run of bench.py, instead of running now")
    parser.add_argument(
        "--baseline", type=Path, help="what to compare with (default: the file of this kind of machine)"
    )
    parser.add_argument("--store", action="store_true", help="keep this run as the baseline instead of comparing")
    bench.add_options(parser)
    options = parser.parse_args()
    new = json.loads(options.new.read_text(encoding="utf-8")) if options.new else None
    machine = new["environment"] if new else environment.describe(options.threads)
    baseline = options.baseline or BASELINES / f"{environment.kind(machine)}.json"
    if not options.store and not baseline.is_file():
        print(f"there is no baseline at {baseline}: make one with --store, on a quiet machine", file=sys.stderr)
        return 2
    if new is None:
        new = bench.run(COMPARED, options.quick, options.threads)
        bench.write(new, options.output)
    if options.store:
        kept = {**new, "results": {group: new["results"][group] for group in COMPARED if group in new["results"]}}
        baseline.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return 0
    return report(json.loads(baseline.read_text(encoding="utf-8")), new)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # a Windows console's own has no ×
    sys.exit(main())
