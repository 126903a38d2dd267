"""How seconds and peak memory grow with the batch, the points and the neighbours."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import markdown, models, timing
from .memory import GIB, peak

HELP = "seconds and peak memory as B, N and K grow, and their curves (about 12 minutes)"
BASE = {"batch": 8, "points": 1024, "neighbors": 81}
AXES = {"batch": "B", "points": "N", "neighbors": "K"}
SWEEPS = {
    ("eval", "batch"): (1, 2, 4, 8, 16, 32, 64),
    ("train", "batch"): (2, 4, 8, 16),  # one cloud has no batch statistics
    ("eval", "points"): (512, 1024, 2048, 4096, 8192, 16384),
    ("eval", "neighbors"): (8, 16, 32, 64, 128),
}
BATCH_OF_POINTS = 2  # clouds of 16384 points have 2048 tokens


def cases(quick: bool) -> list[dict[str, Any]]:
    """One process for each point of each curve."""
    base, sweeps = ({**BASE}, SWEEPS)
    if quick:
        base, sweeps = (
            {"batch": 2, "points": 128, "neighbors": 8},
            {("eval", "batch"): (1, 2), ("train", "batch"): (2, 4)},
        )
    setting = "tiny" if quick else "clip-text-scan"
    chosen = []
    for (mode, axis), values in sweeps.items():
        start = {**base, "batch": BATCH_OF_POINTS} if axis == "points" else base
        chosen += [{"setting": setting, "mode": mode, "axis": axis, **start, axis: value} for value in values]
    return chosen


def measure(setting: str, mode: str, axis: str, batch: int, points: int, neighbors: int) -> dict[str, Any]:
    """Seconds of one call, and the peak memory above the model itself."""
    pair = models.Pair(setting, num_neighbors=neighbors)
    built = peak("cpu")
    call = pair.contestants(mode, batch, points)["model"]
    call()
    times = timing.take_turns({"model": call}, fewest=2, time_box=5.0)
    return {
        "seconds": {"model": timing.spread(times["model"])},
        "peak_bytes": peak("cpu"),
        "above_built_bytes": peak("cpu") - built,
    }


def slope(before: Mapping[str, Any], after: Mapping[str, Any], axis: str, value: str) -> float:
    """The exponent between two neighbours: 1 where twice as much takes twice as long."""
    growth = [math.log(_value(after, value) / _value(before, value))]
    growth.append(math.log(after["arguments"][axis] / before["arguments"][axis]))
    return growth[0] / growth[1]


def _value(row: Mapping[str, Any], name: str) -> float:
    """Seconds, or bytes above the model (at least one page)."""
    return row["seconds"]["model"]["median"] if name == "seconds" else max(row[name], 4096)


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The rows of each (mode, axis), in order of the axis."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["arguments"]["mode"], row["arguments"]["axis"]), []).append(row)
    for (_, axis), curve in found.items():
        curve.sort(key=lambda row: row["arguments"][axis])
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each curve."""
    texts = []
    for (mode, axis), curve in curves(rows).items():
        lines = []
        for index, row in enumerate(curve):
            slopes = [
                f"{slope(curve[index - 1], row, axis, value):.2f}" if index else ""
                for value in ("seconds", "above_built_bytes")
            ]
            memory = f"{row['above_built_bytes'] / GIB:.2f}"
            seconds = markdown.with_spread(row["seconds"]["model"])
            lines.append([str(row["arguments"][axis]), seconds, slopes[0], memory, slopes[1]])
        header = [f"{mode}, {AXES[axis]}", "seconds", "slope", "GiB above the model", "slope"]
        texts.append(f"{_fixed(curve[0]['arguments'])}\n\n" + markdown.table(header, lines))
    return "\n".join(texts)


def _fixed(arguments: Mapping[str, Any]) -> str:
    """What a curve holds fixed."""
    fixed = ", ".join(f"{AXES[name]} = {arguments[name]}" for name in AXES if name != arguments["axis"])
    return f"{arguments['setting']} {arguments['mode']}, {fixed}:"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds above, memory below, all axes logarithmic, with a dotted line of slope 1."""
    from matplotlib.figure import Figure

    found = curves(rows)
    axes = [axis for axis in AXES if any(axis == other for _, other in found)]
    figure = Figure(figsize=(3.6 * len(axes), 5.4), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        for panel, name, title in zip(
            panels[:, column], ("seconds", "above_built_bytes"), ("s", "GiB above the model"), strict=True
        ):
            unit = 1 if name == "seconds" else GIB
            for (mode, other), curve in found.items():
                if other != axis:
                    continue
                places = [row["arguments"][axis] for row in curve]
                values = [_value(row, name) / unit for row in curve]
                (line,) = panel.loglog(places, values, marker="o", markersize=3, label=mode)
                proportional = [values[0] * place / places[0] for place in places]
                panel.loglog(places, proportional, ":", linewidth=0.8, color=line.get_color())
            panel.set_xlabel(AXES[axis])
            panel.set_ylabel(title)
            panel.grid(True, which="major", linewidth=0.3)
            panel.legend(frameon=False)
    figure.savefig(path)
