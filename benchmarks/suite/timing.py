"""Timing by the clock: warm-up, rounds in which all contestants take turns, medians with their spread."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

FEWEST_ROUNDS, MOST_ROUNDS = 3, 15
TIME_BOX = 20.0  # seconds of all rounds of a case, after which no further one is begun


def synchronize() -> None:
    """Waits until the GPU, where there is one in use, has done what it was told."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes, to the end of its work on a GPU."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    fewest: int = FEWEST_ROUNDS,
    time_box: float = TIME_BOX,
) -> dict[str, list[float]]:
    """Seconds of every contestant in every round: A B A B ..., so that all of them meet the same minute.

    Args:
        contestants: what to call, by name; each is expected to be warm.
        fewest: rounds that are done however long they take.
        time_box: seconds after which no further round is begun.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    start, rounds = time.perf_counter(), 0
    while rounds < fewest or (rounds < MOST_ROUNDS and time.perf_counter() - start < time_box):
        for name, function in contestants.items():
            times[name].append(seconds(function))
        rounds += 1
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles, extremes and number of the values."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": quartiles[1],
        "lower_quartile": quartiles[0],
        "upper_quartile": quartiles[2],
        "low": min(values),
        "high": max(values),
        "rounds": len(values),
    }


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Spread of the ratios of the rounds: numbers of one round are divided by each other alone."""
    return spread([above / below for above, below in zip(numerator, denominator, strict=True)])
