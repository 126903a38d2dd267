import platform
import subprocess
import sys

import pytest

from any2point_hf.modeling.tokenizer.fast.freed_memory import keep_freed_memory

on_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt"
)

BLOCKS = """
import ctypes, resource, sys
from any2point_hf.modeling.tokenizer.fast.freed_memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use(size):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
use(100 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use(100 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
assert "torch" not in sys.modules
"""


def page_faults(keep):
    command = [sys.executable, "-c", BLOCKS, "keep" if keep else "leave"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@on_glibc
def test_a_large_block_is_used_again_without_a_page_fault():
    plain = page_faults(keep=False)
    if plain < 1000:
        pytest.skip(f"this system clears whole huge pages at once ({plain} faults)")
    assert page_faults(keep=True) < 100


@on_glibc
def test_malloc_takes_it_again_and_again():
    assert keep_freed_memory() is True
    assert keep_freed_memory() is True


@pytest.mark.parametrize(("system", "library"), [("win32", ""), ("darwin", ""), ("linux", "musl")])
def test_elsewhere_nothing_is_touched(monkeypatch, system, library):
    def refuse(*_):
        raise AssertionError("no C library may be opened")

    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.libc_ver", lambda: (library, ""))
    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert keep_freed_memory() is False
