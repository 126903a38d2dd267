"""Cold start, each in fresh processes: importing the package beside transformers alone, and loading an adapter.

python benchmarks/cold_start.py [--model FOLDER] [--repeat 5]
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys

IMPORTS = {
    "import transformers": "import transformers",
    "import transformers, any2point_hf": "import transformers, any2point_hf",
}
LOAD = """
import time
from any2point_hf import Any2PointForPointCloudClassification
Any2PointForPointCloudClassification.from_pretrained({model!r})
start = time.perf_counter()
Any2PointForPointCloudClassification.from_pretrained({model!r})
print(time.perf_counter() - start)
"""
TIMED = "import time; start = time.perf_counter(); exec({code!r}); print(time.perf_counter() - start)"


def seconds(code: str, repeat: int) -> list[float]:
    """Seconds that fresh interpreters print as their last line."""
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(repeat)
    ]
    return [float(run.stdout.split()[-1]) for run in runs]


def main() -> None:
    """Prints medians and spreads, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of an adapter, to time from_pretrained as well")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    cases = {name: TIMED.format(code=code) for name, code in IMPORTS.items()}
    if options.model:
        cases["from_pretrained (warm files)"] = LOAD.format(model=options.model)
    results = {}
    for name, code in cases.items():
        times = seconds(code, options.repeat)
        results[name] = {"median": statistics.median(times), "low": min(times), "high": max(times)}
        print(f"{name:36} {results[name]['median']:.3f} s  ({min(times):.3f} … {max(times):.3f})")
    print(json.dumps({"python": platform.python_version(), "machine": platform.processor(), "results": results}))


if __name__ == "__main__":
    main()
