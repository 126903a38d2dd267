"""The folder that uploads lie in until they are read, and what of it is deleted."""

import contextlib
import os
import threading
import time
from pathlib import Path

LIVE_SECONDS = 900.0  # of an upload that its visitor may want classified again
READ_SECONDS = 60.0  # of one that has been read
UNFINISHED_SECONDS = 60.0  # of one that has stopped to arrive, since its last byte
EVERY_SECONDS = 20.0


def delete_soon(path: str | Path) -> None:
    """Lets an upload that has been read be deleted in `READ_SECONDS`.

    Not at once, because two visitors who upload the same bytes under the same name share the file.
    """
    then = time.time() - LIVE_SECONDS + READ_SECONDS
    with contextlib.suppress(OSError):
        os.utime(path, (then, then))


def delete_old(folder: Path, now: float | None = None) -> None:
    """Deletes uploads that are too old, and those that were broken off.

    Args:
        folder: gradio writes an upload to a file in it, and moves it to a folder of its own when all has arrived.
        now: the time, in seconds since 1970.
    """
    now = time.time() if now is None else now
    for file in [Path(place, name) for place, _, names in os.walk(folder) for name in names]:
        with contextlib.suppress(OSError):
            lives = UNFINISHED_SECONDS if file.parent == folder else LIVE_SECONDS
            if now - file.stat().st_mtime > lives:
                file.unlink()
                if file.parent != folder:
                    file.parent.rmdir()


class Sweeper(threading.Thread):
    """Calls `delete_old` again and again, until it is stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.stopped = folder, threading.Event()

    def run(self) -> None:
        """Runs in the thread."""
        while not self.stopped.wait(EVERY_SECONDS):
            delete_old(self.folder)

    def stop(self) -> None:
        """Ends the thread."""
        self.stopped.set()
        if self.ident is not None and self.ident != threading.get_ident():
            self.join()
