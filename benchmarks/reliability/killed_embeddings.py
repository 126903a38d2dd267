"""Jobs of `embed` killed at many moments and gone on with, also after the backbone changed: is the output of one model?

python benchmarks/reliability/killed_embeddings.py [kills]

Every second time the backbone's weights are exchanged between kill and resumption. The output must be byte for byte
that of an uninterrupted job of one of the backbones, or the resumption be refused. Linux.
"""

import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from damaged_training_state import make_inputs
from killed_trainings import in_a_process, kill_at_event, kill_at_time

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor
from any2point_hf.large_collections.batch_inference import run_job
from any2point_hf.large_collections.job import BatchJob


def prepare(folder: Path) -> None:
    """An adapter, its backbone in two versions, and 60 clouds."""
    _, backbone = make_inputs(folder)
    shutil.copytree(backbone, folder / "first")
    torch.manual_seed(1)
    config = Any2PointConfig(backbone=backbone, num_points=64, num_neighbors=8, num_labels=2)
    model = Any2PointForPointCloudClassification(config)
    model.save_pretrained(folder / "adapter")
    Any2PointProcessor(64).save_pretrained(folder / "adapter")
    module = model.base_model.backbone
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    module.save_pretrained(folder / "second")
    (folder / "scans").mkdir()
    for number in range(60):
        np.save(folder / "scans" / f"{number:02d}.npy", np.random.default_rng(number).normal(size=(80, 3)))


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
        assert in_a_process(lambda: prepare(folder)) == 0

        def use(name: str) -> None:
            shutil.copy2(folder / name / "model.safetensors", folder / "bert")

        def run(name: str) -> None:
            run_job(BatchJob("embed", str(folder / "adapter"), str(folder / "scans"), folder / name, shard_size=5))

        def killed(kill: object, moment: float, name: str) -> int:
            return in_a_process(lambda: (kill(moment), run(name))[1])  # type: ignore[operator]

        use("second")
        assert in_a_process(lambda: run("second.parquet")) == 0
        use("first")
        (events := folder / "events").touch()
        start = time.monotonic()
        whole = folder / "first.parquet"
        assert in_a_process(lambda: (kill_at_event(0, whole, events), run(whole.name))[1]) == 0
        seconds, num_events = time.monotonic() - start, events.stat().st_size
        contents = {name: (folder / f"{name}.parquet").read_bytes() for name in ("first", "second")}
        out, shards = folder / "killed.parquet", folder / "killed.parquet.shards"
        for number in range(count):
            use("first")
            if number % 4 < 2:
                ended = killed(lambda moment: kill_at_event(int(moment), out), draw.randint(1, num_events), out.name)
            else:
                ended = killed(kill_at_time, draw.random() * seconds, out.name)
            found = "output" if out.exists() else f"{len(list(shards.glob('*.parquet')))} shards"
            way = "backbone changed" if number % 2 else "same backbone"
            use("second" if number % 2 else "first")
            code = in_a_process(lambda: run(out.name))
            content = out.read_bytes() if code == 0 else b""
            result = {
                content == contents["first"]: "output of the first",
                content == contents["second"]: "of the second",
            }
            told = {1: "TRACEBACK", 2: "refused", -signal.SIGALRM: "HUNG"}.get(code, result.get(True, "MIXED"))
            if ended != -signal.SIGKILL:
                way += ", ended before the kill"
            print(f"{number}: {found}; {way}: {told}", flush=True)
            counts[f"{told} ({way})"] += 1
            shutil.rmtree(shards, ignore_errors=True)
            if out.exists():
                os.unlink(out)
    print(f"{num_events} changes of files; " + ", ".join(f"{times} {name}" for name, times in sorted(counts.items())))


if __name__ == "__main__":
    main()
