"""Memory that predictions have freed goes back to the system (glibc; elsewhere nothing is done).

Unusual here: glibc keeps a place to allocate from for each thread, and what lies free in it below something in use. A
server whose predictions run in forty threads, with clouds of all sizes, would grow for hours.
"""

import contextlib
import ctypes

_ARENA_MAX = -8  # of mallopt


def share_arenas() -> None:
    """Lets all threads allocate from two places."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


def give_back() -> None:
    """Gives the system what is free in them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
