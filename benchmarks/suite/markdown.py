"""Tables in markdown."""

from collections.abc import Iterable, Mapping, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns after the first are numbers."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)) + "\n"


def with_spread(spread: Mapping[str, float], scale: float = 1.0, digits: int = 3) -> str:
    """Median and, in brackets, the lowest and the highest."""
    median, low, high = (f"{spread[name] * scale:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} … {high})"
