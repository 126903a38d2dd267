"""Memory of `embed`, `predict` and a streamed pipeline over ever more clouds: it must not grow with their number.

python benchmarks/batch_memory.py [--command embed|predict|pipeline] [--counts 1000 10000 100000]

Clouds of 64 points, a random BERT of one block; the clouds lie in an Arrow data set on the disk. Each run is a process
of its own. Resident memory counts the mapped pages of files, which the system takes back at will; anonymous memory does
not. Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

NUM_POINTS = 64
BATCH_SIZE = 128
MIB = 2**20


def make_adapter(folder: Path) -> None:
    """Writes a tiny backbone with random weights, an adapter on it and its processor."""
    import torch
    from transformers import BertConfig, BertModel

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**sizes, vocab_size=50, max_position_embeddings=24)).save_pretrained(folder / "backbone")
    config = Any2PointConfig(backbone=str(folder / "backbone"), num_points=NUM_POINTS, num_neighbors=8, num_labels=2)
    Any2PointForPointCloudClassification(config).save_pretrained(folder / "adapter")
    Any2PointProcessor(NUM_POINTS).save_pretrained(folder / "adapter")


def make_clouds(folder: Path, count: int) -> None:
    """Writes random clouds with `save_to_disk`."""
    import numpy as np
    from datasets import Array2D, Dataset, Features, Value

    def clouds() -> Iterator[dict]:
        generator = np.random.default_rng(0)
        for index in range(count):
            yield {"points": generator.normal(size=(NUM_POINTS, 3)).astype("float32"), "id": f"cloud {index}"}

    features = Features(points=Array2D((None, 3), "float32"), id=Value("string"))
    Dataset.from_generator(clouds, features=features, cache_dir=str(folder / "cache")).save_to_disk(folder / "clouds")


def memory(kind: str) -> int:
    """Bytes of this process: "VmHWM", resident at its peak, or "RssAnon", anonymous now."""
    # not getrusage: its peak is inherited from the process that started this one
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[kind].split()[0]) * 1024


class AnonymousMemory(threading.Thread):
    """Notes the largest anonymous memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0, threading.Event()

    def run(self) -> None:
        """Looks twenty times a second."""
        while not self.done.wait(0.05):
            self.peak = max(self.peak, memory("RssAnon"))


def run_shards(task: str, folder: Path) -> dict[str, int]:
    """`any2point embed` or `predict --out`."""
    from any2point_hf.large_collections.batch_inference import run_job
    from any2point_hf.large_collections.job import BatchJob

    out = folder / "features.parquet"
    return run_job(BatchJob(task, str(folder / "adapter"), str(folder / "clouds"), out, batch_size=BATCH_SIZE))


def run_pipeline(folder: Path, count: int) -> dict[str, int]:
    """The classification pipeline over a generator, whose clouds nobody holds; each result is dropped."""
    import numpy as np
    from transformers import pipeline

    import any2point_hf  # noqa: F401 - registers the pipelines

    generator = np.random.default_rng(0)
    classify = pipeline("point-cloud-classification", model=str(folder / "adapter"))
    clouds = (generator.normal(size=(NUM_POINTS, 3)).astype("float32") for _ in range(count))
    return {"clouds": sum(1 for _ in classify(clouds, batch_size=BATCH_SIZE))}


def measure(command: str, folder: Path, count: int) -> None:
    """Runs in this process and prints what it took."""
    anonymous = AnonymousMemory()
    anonymous.start()
    counts = run_pipeline(folder, count) if command == "pipeline" else run_shards(command, folder)
    anonymous.done.set()
    print(json.dumps({**counts, "resident": memory("VmHWM"), "anonymous": anonymous.peak}))


def main() -> None:
    """Prints a table, and fails if the largest run took over a twentieth more than the smallest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--command", choices=("embed", "predict", "pipeline"), default="embed")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.command, options.measure, options.counts[0])
        return
    print("MiB, resident and anonymous at their peak")
    print(f"{'clouds':>8} {'source':>10} {'output':>10} {'resident':>10} {'anonymous':>10}")
    peaks = []
    for count in options.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_adapter(folder)
            (folder / "clouds").mkdir()
            if options.command != "pipeline":
                make_clouds(folder, count)
            command = [sys.executable, __file__, "--measure", name, "--command", options.command]
            command += ["--counts", str(count)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            result = json.loads(printed.splitlines()[-1])
            source = sum(file.stat().st_size for file in (folder / "clouds").iterdir())
            output = sum(file.stat().st_size for file in folder.glob("*.parquet"))
            sizes = (source, output, result["resident"], result["anonymous"])
            print(f"{result['clouds']:>8} " + " ".join(f"{size / MIB:>10.1f}" for size in sizes), flush=True)
            peaks.append(result["resident"])
    sys.exit(peaks[-1] > 1.05 * peaks[0])


if __name__ == "__main__":
    main()
