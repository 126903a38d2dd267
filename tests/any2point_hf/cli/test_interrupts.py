"""Ctrl-C where Python drops it: it comes again while the command runs, and never after."""

import signal
import sys
import threading
import time

import pytest

from any2point_hf.cli.interrupts import noting
from any2point_hf.modeling.errors import Any2PointError


class Dropping:
    """Its end is interrupted, where no exception can be raised."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible(monkeypatch):
    """Ctrl-C as a terminal's Python has it; libraries of other tests may have their own way."""
    if sys.platform == "win32":
        pytest.skip("a process cannot send itself Ctrl-C there")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_is_dropped_comes_again(interruptible, run_command, monkeypatch):
    """Ctrl-C in a place that cannot raise, as a destructor or pyarrow's C code, ends the command all the same."""

    def info(*_):
        Dropping()
        for _ in range(2000):
            time.sleep(0.01)

    monkeypatch.setattr("any2point_hf.trained_adapter.info", info)
    start = time.monotonic()
    result = run_command("info", "--preset", "clip-text-scan")
    assert (result.code, result.err) == (2, "error: interrupted.\n")
    assert time.monotonic() - start < 15


def test_an_interrupt_does_not_come_again_after_the_command_s_end(interruptible, run_command, monkeypatch):
    def info(*_):
        Dropping()
        raise Any2PointError("too late.")

    monkeypatch.setattr("any2point_hf.trained_adapter.info", info)
    result = run_command("info", "--preset", "clip-text-scan")
    assert (result.code, result.err) == (2, "error: interrupted.\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for _ in range(30):
        time.sleep(0.01)


def test_everything_is_as_before_after_an_interrupt_while_timers_end(interruptible, monkeypatch):
    class Slow(threading.Timer):
        def join(self, *_):
            signal.raise_signal(signal.SIGINT)
            super().join()

    monkeypatch.setattr("any2point_hf.cli.interrupts.threading.Timer", Slow)
    before, interrupts = sys.unraisablehook, []
    with noting(interrupts):
        Dropping()
    assert interrupts == [signal.SIGINT] * 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is before


def test_other_exceptions_that_are_dropped_go_to_the_hook_before(interruptible, monkeypatch):
    class Failing:
        def __del__(self):
            raise ValueError("dropped")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with noting([]):
        Failing()
    assert [unraisable.exc_type for unraisable in seen] == [ValueError]
