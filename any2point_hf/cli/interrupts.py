"""Ctrl-C while a command runs: noted, also where Python drops the exception."""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_SOON = 0.05  # seconds until a dropped interrupt comes again


@contextlib.contextmanager
def noting(interrupts: list[int]) -> Iterator[None]:
    """While the block runs, Ctrl-C is noted in the list and raises KeyboardInterrupt.

    The list tells of an interrupt even where a library turns the exception into another one. Where an exception cannot
    be raised, such as inside pyarrow, Python drops it; the interrupt then comes again, but never after the command's
    end. Nothing is done where something else handles or ignores Ctrl-C.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    timers: list[threading.Timer] = []
    hook_before = sys.unraisablehook
    may_raise = True

    def note(number: int, _: Any) -> None:
        interrupts.append(number)
        if may_raise:
            raise KeyboardInterrupt

    def interrupt_again(unraisable: Any) -> None:
        nonlocal may_raise
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook_before(unraisable)
            return
        may_raise = False  # a second one would be dropped here as well, and with a traceback
        timers.append(threading.Timer(_SOON, _thread.interrupt_main))
        timers[-1].start()
        may_raise = True

    try:
        signal.signal(signal.SIGINT, note)
        sys.unraisablehook = interrupt_again
        yield
    finally:
        may_raise = False
        for timer in timers:
            timer.cancel()
            timer.join()
        sys.unraisablehook = hook_before
        signal.signal(signal.SIGINT, signal.default_int_handler)
