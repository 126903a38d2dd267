"""On what it was measured: processor, memory, GPU, versions, revision, and whether the machine was quiet."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil  # comes with accelerate
import torch

PACKAGES = ("torch", "transformers", "numpy", "triton", "torch-cluster", "fpsample")
FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "amx_bf16", "bf16", "sve")
QUIET = 0.5  # load average of the last minute, above which something else is at work
SAME = ("processor", "cores", "threads", "gpu", "torch")  # what must agree for seconds to be comparable


def describe(threads: int) -> dict[str, Any]:
    """All of it, as JSON can hold it."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "threads": threads,
        "caches": _caches(),
        "features": [name for name, has in _capabilities().items() if name in FEATURES and has],
        "bfloat16_hardware": has_bfloat16(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "revision": _revision(),
        "load_average_before": load,
        "quiet": None if load is None else load <= QUIET,
    }


def kind(environment: dict[str, Any]) -> str:
    """The machine's kind, whose ratios are alike: its architecture and the widest of its units, or its GPU."""
    if environment["gpu"]:
        return environment["gpu"].lower().replace(" ", "-")
    architecture = environment["processor"].rpartition("(")[2].rstrip(")")
    units = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512_f": "avx512", "avx2": "avx2", "sve": "sve"}
    widest = next((name for feature, name in units.items() if feature in environment["features"]), "plain")
    return f"{architecture}-{widest}"


def warning(environment: dict[str, Any]) -> str | None:
    """What to say of a machine that is doing something else, None of a quiet one."""
    if environment["quiet"] is not False:
        return None
    return (
        f"the machine is not quiet: its load average was {environment['load_average_before']:.2f} before the run "
        f"(above {QUIET}). Seconds are too long, and ratios less certain."
    )


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself."""
    has = _capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))


def as_text(environment: dict[str, Any]) -> str:
    """A list in markdown."""
    values = {**environment, "memory_bytes": f"{environment['memory_bytes'] / 2**30:.1f} GiB"}
    values["memory"] = values.pop("memory_bytes")
    for name in ("features", "caches"):
        values[name] = ", ".join(values[name]) or "unknown"
    lines = [f"- {name.replace('_', ' ')}: {'none' if value is None else value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


@cache
def _capabilities() -> dict[str, Any]:
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    level = torch.backends.cpu.get_cpu_capability()  # of a torch that does not say more
    return {"avx2": "AVX" in level, "avx512_f": "AVX512" in level}


def _processor() -> str:
    name = _capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return f"{name} ({platform.machine()})"


def _caches() -> list[str]:
    if sys.platform == "linux":
        caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
        parts = [[(cache / name).read_text().strip() for name in ("level", "type", "size")] for cache in caches]
        return [f"L{level} {kind.lower()} {size}" for level, kind, size in parts]
    sizes = ((name, _capabilities().get(f"{name.lower()}_cache_size")) for name in ("L1d", "L2"))
    return [f"{name} {size // 1024}K" for name, size in sizes if size]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _revision() -> str | None:
    """The commit, with a plus where tracked files differ from it."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "-s", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
