"""Trainings killed at many moments, and gone on with: are the weights those of one that was left alone?

python benchmarks/reliability/killed_trainings.py [kills]

A third of the kills comes at a random time, a third just before a file of the output is made, moved or removed, a third
in the middle of a `torch.save`. Then the user's way: `resume`, and where that is refused, a training anew. Linux.
"""

import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from damaged_training_state import make_inputs

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.training.run import train

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
LIMIT = 120  # seconds, after which a process counts as hung
SAVES = 12  # calls of torch.save in three epochs


def in_a_process(work: Callable[[], object]) -> int:
    """Runs in a fork; 0, 2 for an error of the user, 1 for another one, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        errors = os.dup(2)
        os.dup2(null, 2)
        signal.alarm(LIMIT)
        try:
            work()
            os._exit(0)
        except Any2PointError:
            os._exit(2)
        except BaseException:
            os.write(errors, traceback.format_exc().encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_me(*_: Any) -> None:
    """As a crash or the system would."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_time(seconds: float) -> None:
    """Ends this process by and by."""
    threading.Timer(seconds, kill_me).start()


def kill_at_event(number: int, output: Path, counter: Path | None = None) -> None:
    """Ends this process before the so-manyth change of the output's files; or counts them into a file."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in EVENTS or not str(arguments[0]).startswith(str(output)):
            return
        if event == "open" and not set("wxa+") & set(str(arguments[1])):
            return
        seen += 1
        if seen == number:
            kill_me()
        if counter:
            os.truncate(counter, seen)

    sys.addaudithook(hook)


def kill_in_save(number: int) -> None:
    """Ends this process when the so-manyth torch.save has written half of its file."""
    save, seen = torch.save, 0

    def half(content: Any, file: Any, **options: Any) -> None:
        nonlocal seen
        save(content, file, **options)
        seen += 1
        if seen == number:
            os.truncate(file, os.path.getsize(file) // 2)
            kill_me()

    torch.save = half


def main() -> None:
    """Prints the counts."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    draw = random.Random(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # in a process of its own: a fork of one that has threads may hang
        assert in_a_process(lambda: make_inputs(folder)) == 0
        data, backbone = str(folder / "clouds.npz"), str(folder / "bert")

        def run(output: Path, resume: bool = False) -> None:
            fields = {"num_points": 64, "num_neighbors": 8}
            train(data, backbone, output, fields, epochs=3, batch_size=8, resume=resume)

        def killed(prepare: Callable[[], None], output: Path) -> int:
            return in_a_process(lambda: (prepare(), run(output))[1])

        (events := folder / "events").touch()
        start = time.monotonic()
        assert killed(lambda: kill_at_event(0, folder / "whole", events), folder / "whole") == 0
        seconds, num_events = time.monotonic() - start, events.stat().st_size
        expected = (folder / "whole" / "model.safetensors").read_bytes()
        output = folder / "killed"
        for number in range(count):
            moment = [
                lambda: kill_at_time(draw.random() * seconds),
                lambda: kill_at_event(draw.randint(1, num_events), output),
                lambda: kill_in_save(draw.randint(1, SAVES)),
            ][number % 3]
            draw.seed(number)
            ended = killed(moment, output)
            found = sorted(path.name for path in output.glob("checkpoint-*"))
            code, way = in_a_process(lambda: run(output, resume=True)), "resumed"
            if code == 2:
                code, way = in_a_process(lambda: run(output)), "trained anew"
            same = code == 0 and (output / "model.safetensors").read_bytes() == expected
            result = (
                "same weights"
                if same
                else {0: "OTHER WEIGHTS", 2: "NEITHER TRAINS NOR RESUMES", -signal.SIGALRM: "HUNG"}.get(
                    code, "TRACEBACK"
                )
            )
            if ended != -signal.SIGKILL:
                result += " (ended before the kill)"
            print(f"{number}: {', '.join(found) or 'no checkpoint'}; {way}: {result}", flush=True)
            counts[f"{way}, {result}"] += 1
            shutil.rmtree(output, ignore_errors=True)
    print(f"{num_events} changes of files; " + ", ".join(f"{times} {name}" for name, times in sorted(counts.items())))


if __name__ == "__main__":
    main()
