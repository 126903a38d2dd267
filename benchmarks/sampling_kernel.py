"""The GPU kernel of farthest point sampling: what it compiles to, and its time where there is a GPU.

python benchmarks/sampling_kernel.py [--capability 90]

Compiles for a GPU of that capability with Triton alone, no GPU needed, and reads the compiled code: registers a thread,
bytes spilled from them (a spill makes every step wait for memory), shared memory, and fused multiply-adds, of which
there must be none. On a GPU it then times the kernel beside torch's own loop and torch-cluster's kernel, where
installed: medians of 20 runs in milliseconds, with the fastest and slowest.
"""

import argparse
import importlib.util
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from any2point_hf.modeling.tokenizer import point_ops
from any2point_hf.modeling.tokenizer.fast.sampling_kernel import farthest_points_kernel, launch_options

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
COMPILED = (64, 512, 1000, 1024, 2048, 4096, 8192, 16384)  # points of a cloud
TIMED = ((32, 1024, 512), (32, 2048, 1024), (4, 16384, 1024), (32, 16384, 1024))  # clouds, points, samples
RUNS = 20


def compiled_code(num_points: int, capability: int) -> dict[str, int]:
    """What the kernel for clouds of N points became: read from the machine code."""
    options = launch_options(num_points)
    constants = {name: options.pop(name) for name in ("SIZE", "IN_REGISTERS")}
    signature = {"planes": "*fp32", "indices": "*i64", "num_samples": "i32"} | dict.fromkeys(constants, "constexpr")
    aligned = {(0,): [["tt.divisibility", 16]], (1,): [["tt.divisibility", 16]]}  # as torch's memory is
    source = ASTSource(farthest_points_kernel, signature, constants, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        read = [str(TOOLS / "cuobjdump"), "-res-usage", "-sass", str(file)]
        text = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    registers, stack, shared = map(int, re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", text).groups())
    threads = 32 * options["num_warps"]
    return {"points": num_points, **constants, "threads": threads, "registers a thread": registers} | {
        "spilled bytes a thread": stack,
        "shared bytes": shared,
        "fused multiply-adds": len(re.findall(r"\bFFMA\b", text)),
    }


def milliseconds(work: Callable[[], object]) -> str:
    """Median of a GPU's times, with the fastest and slowest."""
    times = []
    for _ in range(RUNS + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    times = times[3:]  # the first ones compile
    return f"{statistics.median(times):.3f} ({min(times):.3f}–{max(times):.3f})"  # noqa: RUF001


def timed(num_clouds: int, num_points: int, num_samples: int) -> dict[str, object]:
    """The kernel beside what else samples on this GPU."""
    points = torch.randn(num_clouds, num_points, 3, device="cuda")
    order = point_ops.farthest_point_sampling(points, num_samples)
    row: dict[str, object] = {"clouds": num_clouds, "points": num_points, "samples": num_samples}
    row["kernel"] = milliseconds(lambda: point_ops.farthest_point_sampling(points, num_samples))
    with mock.patch.object(point_ops, "_HAS_TRITON", False):
        row["same as torch"] = torch.equal(order, point_ops.farthest_point_sampling(points, num_samples))
        row["torch"] = milliseconds(lambda: point_ops.farthest_point_sampling(points, num_samples))
    if importlib.util.find_spec("torch_cluster"):
        from torch_cluster import fps

        flat, cloud = points.flatten(0, 1), torch.arange(num_clouds, device="cuda").repeat_interleave(num_points)
        ratio = num_samples / num_points
        row["torch-cluster"] = milliseconds(lambda: fps(flat, cloud, ratio, random_start=False))
    return row


def print_table(rows: list[dict[str, object]]) -> None:
    """As markdown."""
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


def main() -> None:
    """Prints both tables, as far as there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="of the GPU compiled for (90 is a H100)")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, Triton {triton.__version__}, compiled for sm_{options.capability}\n")
    print_table([compiled_code(num_points, options.capability) for num_points in COMPILED])
    if not torch.cuda.is_available():
        print("\nno GPU here: nothing timed")
        return
    print(f"\n{torch.cuda.get_device_name()}, milliseconds\n")
    print_table([timed(*case) for case in TIMED])


if __name__ == "__main__":
    main()
