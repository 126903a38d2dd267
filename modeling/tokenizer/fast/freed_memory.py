"""Keeping freed memory in the process while training on a CPU."""

import ctypes
import platform
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_LIMIT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to reuse large blocks instead of giving them back to the system; elsewhere does nothing.

    A training step makes and frees gigabytes of tensors of the same sizes; having the system clear their pages anew
    at every step may take as long as the arithmetic. `make_trainer` and the commands that train call this; in a
    training loop of your own, call it before the first step. It holds for the whole process.

    Returns:
        Whether malloc took it.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LIMIT)) and bool(mallopt(_TRIM_THRESHOLD, _LIMIT))
