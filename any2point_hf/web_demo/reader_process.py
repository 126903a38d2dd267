"""Processes that read uploads: a file that takes too long or too much memory ends one of them, not the server."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.errors import PointCloudError
from ..point_clouds.files import PointCloud
from .upload_reader import NO_MEMORY, READY

SECONDS = 10.0  # to read a file
MEMORY = 2**30  # bytes, to read it
START_SECONDS = 60.0
NUMBER = 2  # of processes

_PROGRAM = "import sys; memory, seconds, *sys.path = sys.argv[1:]; from any2point_hf.web_demo import upload_reader; "
_PROGRAM += "upload_reader.main(int(memory), float(seconds))"


class Readers:
    """A few processes; each reads one file at a time, and one that is ended is replaced by a new one."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY, number: int = NUMBER) -> None:
        self.seconds, self.memory = seconds, memory
        self._idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
        self._all = {_Reader(seconds, memory) for _ in range(number)}
        for reader in self._all:
            self._idle.put(reader)

    def read(
        self, path: str | Path, names: Sequence[str] = (), seed: int = 0, drop_invalid: bool = False
    ) -> tuple[PointCloud, int]:
        """Reads an upload as `read_upload` does; also returns how many invalid points were dropped.

        Raises:
            PointCloudError: it cannot be read, or not within the limits.
        """
        reader = self._idle.get()
        try:
            return reader.read(path, names, seed, drop_invalid)
        finally:
            if reader.process.poll() is not None:
                self._all.discard(reader)
                self._all.add(reader := _Reader(self.seconds, self.memory))
            self._idle.put(reader)

    def close(self) -> None:
        """Ends the processes."""
        for reader in self._all:
            reader.end()


class _Reader:
    """One process, which runs `upload_reader.main`."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.seconds, self.memory, self.is_ready = seconds, memory, False
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(memory), str(2 * seconds), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **one_thread},
        )

    def read(self, path: str | Path, names: Sequence[str], seed: int, drop_invalid: bool) -> tuple[PointCloud, int]:
        """See `Readers.read`."""
        request = {"path": str(path), "names": list(names), "seed": seed, "drop_invalid": drop_invalid}
        if not self.is_ready:
            with self._ended_after(START_SECONDS):
                self._bytes(len(READY))
            self.is_ready = True
        try:
            with self._ended_after(self.seconds) as ended:
                return self._ask(request)
        except _Stopped as stopped:
            self.end()
            much = f"{self.seconds:g} seconds" if ended.is_set() else f"{self.memory / 2**20:,.0f} MiB of memory"
            raise PointCloudError(
                f"a file on this page takes at most {much} to read, and {Path(path).name} takes more. Save the cloud "
                "in a simpler form, such as .npy or binary .ply, or with fewer points."
            ) from stopped

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()  # which closes the pipes

    @contextmanager
    def _ended_after(self, seconds: float) -> Iterator[threading.Event]:
        """Ends the process if the block takes longer; yields what tells so."""
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self.process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield ended
        finally:
            timer.cancel()

    def _ask(self, request: dict[str, Any]) -> tuple[PointCloud, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise _Stopped from error
        described = json.loads(self.process.stdout.readline() or b'{"error": "memory"}')
        if "error" in described:
            raise _Stopped if described["error"] == NO_MEMORY else PointCloudError(described["error"])
        number = described["points"]
        points = self._numbers(number * 3).reshape(number, 3)
        features = {name: self._numbers(number) for name in described["features"]}
        return PointCloud(points, features), described["dropped"]

    def _numbers(self, number: int) -> np.ndarray:
        return np.frombuffer(self._bytes(4 * number), np.float32).copy()

    def _bytes(self, number: int) -> bytes:
        assert self.process.stdout is not None
        received = self.process.stdout.read(number)
        if len(received) < number:
            raise _Stopped
        return received


class _Stopped(Exception):  # noqa: N818 - told to the visitor as a PointCloudError
    """The process has ended, or has no memory left."""
