"""Tables of trainings: means over seeds, and paired differences with their 95 % intervals."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from suite import markdown

from any2point_hf.paper.paired import FEWEST_SEEDS, common_seeds, paired_difference


def difference_text(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    """First less second in points over the seeds of both, with its 95 % interval from three seeds on."""
    count = len(common_seeds(first, second))
    if count < FEWEST_SEEDS:
        return f"{count} of {FEWEST_SEEDS} seeds"
    mean, half, _ = paired_difference(first, second)
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"


def tables(records: Sequence[Mapping[str, Any]], baseline: str = "no backbone") -> str:
    """A table for each group: every row's accuracies by seed, their mean, and its difference to two other rows."""
    groups: dict[str, dict[tuple[str, str], dict[int, Mapping[str, Any]]]] = {}
    failed = []
    for record in records:
        settings = record["settings"]
        if not record.get("finished"):
            reached = record["history"][-1] if record.get("history") else {"failed": record.get("failed", "")[-600:]}
            failed.append(f"- not finished: {settings['group']}, {settings['row']}, seed {settings['seed']}: {reached}")
            continue
        rows = groups.setdefault(settings["group"], {})
        rows.setdefault((settings["row"], settings["weights"]), {})[settings["seed"]] = record
    texts = []
    for group, rows in groups.items():
        values = {row: {seed: one["accuracy"] for seed, one in runs.items()} for row, runs in rows.items()}
        without = next((runs for (row, _), runs in values.items() if row.startswith(baseline)), {})
        lines = []
        for (row, weights), runs in values.items():
            one = next(iter(rows[row, weights].values()))
            lines.append(
                [
                    f"{row}{f', {weights}' if weights else ''}",
                    " ".join(f"{100 * runs[seed]:.1f}" for seed in sorted(runs)),
                    f"{100 * statistics.fmean(runs.values()):.1f}",
                    "" if row.startswith(baseline) else difference_text(runs, without),
                    difference_text(runs, values.get((row, "permuted"), {})) if weights == "pretrained" else "",
                    f"{one['trained_parameters']:,}",
                    f"{statistics.fmean(each['seconds'] for each in rows[row, weights].values()):.0f}",
                ]
            )
        settings = next(iter(rows.values()))[next(iter(next(iter(rows.values()))))]["settings"]
        fixed = {
            name: settings[name] for name in ("data", "per_class", "epochs", "num_points", "learning_rate", "batch")
        }
        headings = ["row", "accuracy by seed, %", "mean", f"above {baseline}", "above its permuted", "trained", "s"]
        texts.append(f"### {group}\n\n{fixed}\n\n" + markdown.table(headings, lines))
    return "\n".join([*texts, *failed]) + "\n"
