"""Processes that want to train in one folder at the same moment: do two ever get it, or none?

python benchmarks/reliability/two_trainings.py [rounds]

In each round four processes take the lock of a folder, which in every second round holds a stale one of a process that
is gone. Whoever gets it holds it for 30 ms and looks whether another does too. POSIX.
"""

import collections
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.training.output_lock import LOCK_FILE, output_lock

PROCESSES = 4
STALE = {"pid": 2**30, "host": platform.node(), "name": "python", "id": "stale"}


def contend(output: Path, start: float) -> int:
    """0 for the one that gets the folder, 2 for one that is refused, 3 if another had it at the same time."""
    time.sleep(max(0.0, start - time.monotonic()))
    at_work = output / "at work"
    try:
        with output_lock(output):
            try:
                os.close(os.open(at_work, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return 3
            time.sleep(0.03)
            at_work.unlink()
            return 0
    except Any2PointError:
        return 2


def main() -> None:
    """Prints the counts."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    counts: collections.Counter[str] = collections.Counter()
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder)
            if number % 2:
                (output / LOCK_FILE).write_text(json.dumps(STALE))
            start, children = time.monotonic() + 0.01, []
            for _ in range(PROCESSES):
                child = os.fork()
                if child == 0:
                    try:
                        os._exit(contend(output, start))
                    except BaseException as error:
                        os.write(2, f"{error!r}\n".encode())
                        os._exit(1)
                children.append(child)
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            counts["refused"] += codes.count(2)
            counts["got it"] += codes.count(0)
            counts["AT THE SAME TIME"] += codes.count(3)
            counts["FAILED"] += codes.count(1)
            counts["ROUNDS WITHOUT A WINNER"] += 0 not in codes
            counts["FILES LEFT"] += len(list(output.iterdir()))
    print(f"{rounds} rounds of {PROCESSES} processes: " + ", ".join(f"{n} {name}" for name, n in counts.items()))


if __name__ == "__main__":
    main()
