"""Ratios to the bare backbone, memory, launches, longest kernels and time by part of two published settings."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from suite import markdown, models, parts, timing
from torch.profiler import ProfilerActivity, profile

SETTINGS = ("clip-text-scan", "dinov2-scan")
_TIME_BOX, _FEWEST_ROUNDS = 2.0, 5
_KERNELS_SHOWN = 10
GIB = 2**30


def cases(quick: bool) -> Iterator[dict[str, Any]]:
    """Both settings in both precisions; the batches 32 and 128. Training first: evaluation takes the pair's dtype."""
    if quick:
        yield from ({"setting": "tiny", "dtype": "float32", "mode": mode, "batch": 2} for mode in ("train", "eval"))
        return
    for dtype in ("bfloat16", "float32"):
        for setting in SETTINGS:
            for mode in ("train", "eval"):
                for batch in (32, 128):
                    yield {"setting": setting, "dtype": dtype, "mode": mode, "batch": batch}


@functools.lru_cache(maxsize=1)
def _pair(setting: str, dtype: str, device: str) -> models.Pair:
    return models.Pair(setting, dtype, device)


def measure(device: str, setting: str, dtype: str, mode: str, batch: int, with_profile: bool) -> dict[str, Any]:
    """Seconds in turns, their ratio, memory at the peak, and what the profiler counts in one call of the model."""
    calls = _pair(setting, dtype, device).contestants(mode, batch)
    peaks = {}
    for name, call in calls.items():
        call()  # compiles and caches
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        call()
        peaks[name] = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    times = timing.take_turns(calls, fewest=_FEWEST_ROUNDS, time_box=_TIME_BOX)
    result: dict[str, Any] = {
        "seconds": {name: timing.spread(values) for name, values in times.items()},
        "ratio": timing.ratio(times["model"], times["bare"]),
        "peak_bytes": peaks,
    }
    if with_profile:
        result["profile"] = {name: profiled(call, device) for name, call in calls.items()}
    return result


def profiled(call: Callable[[], object], device: str) -> dict[str, Any]:
    """Launches of one call and the ten kernels that take longest (on a CPU: operators)."""
    timing.synchronize()
    activities = [ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        call()
        timing.synchronize()
    wanted = torch.autograd.DeviceType.CUDA if device == "cuda" else torch.autograd.DeviceType.CPU
    counts: dict[str, int] = defaultdict(int)
    microseconds: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        if event.device_type == wanted:
            counts[event.name] += 1
            microseconds[event.name] += event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    longest = sorted(microseconds, key=lambda name: -microseconds[name])[:_KERNELS_SHOWN]
    return {
        "launches": sum(counts.values()),
        "busy_ms": sum(microseconds.values()) / 1e3,
        "longest": [{"name": name, "calls": counts[name], "ms": microseconds[name] / 1e3} for name in longest],
    }


def run(device: str, seconds: float, quick: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measures case after case, as far as the time goes.

    Args:
        device: "cuda" or "cpu".
        seconds: after which no case is begun.
        quick: the tiny setting alone.
        keep: is given every result as it comes.
    """
    end = time.monotonic() + seconds
    for number, case in enumerate(cases(quick)):
        if time.monotonic() > end:
            keep({**case, "failed": "not begun: the time was up"})
            continue
        try:
            keep(case | measure(device, **case, with_profile=case["batch"] != 128))
        except Exception as error:
            keep({**case, "failed": f"{type(error).__name__}: {error}"})
        if number == (1 if quick else 3):  # the first setting is done
            for mode in ("eval", "train"):
                arguments = {"setting": case["setting"], "mode": mode, "batch": 2 if quick else 32}
                try:
                    keep({"parts": arguments} | parts.measure(**arguments, device=device))
                except Exception as error:
                    keep({"parts": arguments, "failed": f"{type(error).__name__}: {error}"})


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown of everything measured."""
    lines, texts = [], []
    for row in rows:
        if "ratio" in row:
            profile = row.get("profile", {}).get("model", {})
            lines.append(
                [
                    f"{row['setting']}, {row['mode']}, B = {row['batch']}, {row['dtype']}",
                    markdown.with_spread(row["ratio"], digits=2),
                    markdown.with_spread(row["seconds"]["model"], 1e3, 1),
                    markdown.with_spread(row["seconds"]["bare"], 1e3, 1),
                    *(f"{row['peak_bytes'][name] / GIB:.2f}" for name in ("model", "bare")),
                    str(profile.get("launches", "")),
                    f"{profile['busy_ms']:.1f}" if profile else "",
                ]
            )
    headings = ["", "ratio", "model, ms", "bare, ms", "model, GiB", "bare, GiB", "launches", "GPU busy, ms"]
    texts.append(markdown.table(headings, lines))
    for row in rows:
        if "profile" in row:
            kernels = [
                [one["name"][:90], one["calls"], f"{one['ms']:.2f}"] for one in row["profile"]["model"]["longest"]
            ]
            texts.append(
                f"Longest kernels, {row['setting']}, {row['mode']}, B = {row['batch']}, {row['dtype']}:\n\n"
                + markdown.table(["kernel", "calls", "ms"], [list(map(str, line)) for line in kernels])
            )
        elif "shares" in row:
            shares = sorted(row["shares"].items(), key=lambda item: -item[1])
            of = row["parts"]
            texts.append(
                f"Parts, {of['setting']}, {of['mode']}, B = {of['batch']}, float32, waiting after each:\n\n"
                + markdown.table(["part", "share"], [[part, f"{100 * share:.1f} %"] for part, share in shares])
            )
        elif "failed" in row:
            texts.append(f"Failed: {row}\n")
    return "\n".join(texts)
