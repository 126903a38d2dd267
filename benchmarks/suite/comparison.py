"""Whether a run is worse than a stored one, beyond what their spreads and a tenth explain."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import markdown
from .environment import SAME

ALLOWANCE = 0.10  # of the old median, on top of both spreads

Spread = Mapping[str, float]


@dataclass(frozen=True)
class Change:
    """One number of a case, then and now.

    Args:
        case: the group and the case in words.
        name: of the number.
        old: its spread in the baseline.
        new: its spread now; None if the case failed or was not run.
        judged: whether getting worse is a failure.
    """

    case: str
    name: str
    old: Spread
    new: Spread | None
    judged: bool

    @property
    def is_worse(self) -> bool:
        """Whether the new median lies above the old one by more than both spreads and the allowance."""
        if self.new is None:
            return False
        explained = (self.old["upper_quartile"] - self.old["median"]) + (
            self.new["median"] - self.new["lower_quartile"]
        )
        return self.new["median"] - self.old["median"] > explained + ALLOWANCE * self.old["median"]


def changes(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> Iterator[Change]:
    """All "ratios" or all "seconds" of the baseline's cases, with those of the new run.

    Ratios are judged always, seconds where both runs had the same processor, threads, GPU and torch.
    """
    judged = name == "ratios" or same_environment(old, new)
    for group, rows in old["results"].items():
        now = {key(row): row for row in new["results"].get(group, ())}
        for row in rows:
            found = now.get(key(row), {})
            for part, spread in row.get(name, {}).items():
                yield Change(f"{group}: {in_words(row)}", part, spread, found.get(name, {}).get(part), judged)


def key(row: Mapping[str, Any]) -> str:
    """What makes two rows the same case."""
    return json.dumps(row["arguments"], sort_keys=True)


def in_words(row: Mapping[str, Any]) -> str:
    """A case's arguments in one line."""
    return ", ".join(f"{name} {value}" for name, value in row["arguments"].items())


def same_environment(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether seconds of the two runs can be compared."""
    return all(old["environment"].get(name) == new["environment"].get(name) for name in SAME)


def failures(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why the new run does not pass: ratios that got worse, cases that failed, or nothing in common."""
    ratios = list(changes(old, new, "ratios"))
    found = [f"{change.case}: {change.name} got worse" for change in ratios if change.is_worse]
    for group, rows in new["results"].items():
        found += [f"{group}: {in_words(row)}: failed: {row['error']}" for row in rows if "error" in row]
    if all(change.new is None for change in ratios):
        found.append("no ratio of the baseline was measured in this run: nothing could be compared")
    return found


def table(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> str:
    """Old, new and change of all ratios or seconds, with the lowest and the highest of each."""
    lines = []
    for change in changes(old, new, name):
        if change.new is None:
            lines.append([f"{change.case}: {change.name}", markdown.with_spread(change.old), "not measured", "", ""])
            continue
        percent = 100 * (change.new["median"] / change.old["median"] - 1)
        verdict = ("WORSE" if change.is_worse else "") if change.judged else "not judged"
        spreads = [markdown.with_spread(spread) for spread in (change.old, change.new)]
        lines.append([f"{change.case}: {change.name}", *spreads, f"{percent:+.1f} %", verdict])
    return markdown.table([name, "old", "new", "change", ""], lines)
