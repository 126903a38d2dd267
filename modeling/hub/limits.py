"""What one call to the Hub may take, however an answer is dragged out.

Unusual here: a `Watch` stands where the client expects the seconds that it may wait. Its socket asks for their whole
number (`__index__`) before every part that it waits for, which is how a Watch ends a call whose bytes drip in one by
one; with a number, each of them would start the time anew.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub.utils import httpx

from ..errors import HubError

SECONDS_VARIABLE = "ANY2POINT_HUB_SECONDS"
RATE_VARIABLE = "ANY2POINT_HUB_BYTES_PER_SECOND"
WHOLE_ANSWER_SECONDS = 15.0  # for one that is no file
LOWEST_RATE = 1000.0  # bytes per second of a file, in each `WINDOW_SECONDS`
WINDOW_SECONDS = 30.0
PIECE = 2**16  # bytes after which the rate is looked at again

_TOO_SLOW = (
    f"Check the network and the proxy; where they are that slow, set {SECONDS_VARIABLE} to more seconds or "
    f"{RATE_VARIABLE} to fewer bytes"
)


class GaveUpError(Exception):
    """A call took too long, or failed too often; the client does not try again after this error."""


@dataclass(frozen=True)
class Patience:
    """What the user's environment allows: seconds for an answer that is no file, bytes per second for one that is."""

    seconds: float
    rate: float
    is_set: bool  # whether the user has chosen the seconds

    @classmethod
    def of_environment(cls) -> "Patience":
        """Reads `SECONDS_VARIABLE` and `RATE_VARIABLE`.

        Raises:
            HubError: one of them is no such number.
        """
        seconds = _number(SECONDS_VARIABLE, WHOLE_ANSWER_SECONDS, least=1)
        return cls(seconds, _number(RATE_VARIABLE, LOWEST_RATE, least=0), SECONDS_VARIABLE in os.environ)


def _number(variable: str, default: float, least: float) -> float:
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number < 1e9:
        raise HubError(f"{variable} must be a number, at least {least}, got {text!r}. Correct or unset it.")
    return number


def too_large(name: str, largest: float, size: int | None = None) -> str:
    """What is said of a file that has more bytes than it may have."""
    got = "more arrive" if size is None else f"it announces {size:,}"
    return f"{name} has at most {largest:,.0f} bytes, and {got}. Check the name, or tell the repository's owner"


class Flow:
    """Bytes in one direction, of which every window must bring enough, over all tries of a call."""

    def __init__(self, rate: float) -> None:
        self.rate, self.count = rate, 0
        self._end, self._before = 0.0, 0

    def __index__(self) -> int:
        """Seconds until the window ends (see the top of this file)."""
        now, needed = time.monotonic(), self.rate * WINDOW_SECONDS
        if not self._end or (now >= self._end and self.count - self._before >= needed):
            self._end, self._before = now + WINDOW_SECONDS, self.count
        if now >= self._end:
            arrived = self.count - self._before
            raise GaveUpError(
                f"{arrived:,} bytes passed in {WINDOW_SECONDS:g} s, fewer than {needed:,.0f}. {_TOO_SLOW}"
            )
        return math.ceil(self._end - now)

    def go_on_at(self, count: int) -> None:
        """Sets the count, as another try begins there; what the window has brought stays."""
        self._before += count - self.count
        self.count = count


@dataclass
class Watch:
    """The limits of one call, over its redirects and its tries.

    Args:
        head_seconds: for the answer to begin.
        patience: for the rest.
        is_short: whether beginning and rest share their time.
        wants_file: whether it asks for a file's content.
        largest: the most bytes of the answer.
        name: of the file or the answer, for errors.
    """

    head_seconds: float
    patience: Patience
    is_short: bool
    wants_file: bool
    largest: float
    name: str

    def __post_init__(self) -> None:
        self.sent, self.file = Flow(self.patience.rate), Flow(self.patience.rate)
        self._began, self._seconds, self._in_file = 0.0, self.head_seconds, False

    def __index__(self) -> int:
        """Seconds that the next part of the answer may take (see the top of this file)."""
        if self._in_file:
            return self.file.__index__()
        now = time.monotonic()
        self._began = self._began or now
        left = self._began + self._seconds - now
        if left <= 0:
            raise GaveUpError(f"it does not answer within {self._seconds:g} s. {_TOO_SLOW}")
        return math.ceil(left)

    def call_begins(self) -> None:
        """A try or a redirect begins. The time goes on, unless a file had begun, whose rate is looked at instead."""
        if self._in_file:
            self._began, self._seconds, self._in_file = 0.0, self.head_seconds, False

    def answer_begins(self, is_file: bool) -> None:
        """The answer's head is there; a file follows, or something else."""
        self._in_file = is_file
        if not is_file:
            self._began = self._began if self.is_short else time.monotonic()
            self._seconds = self.patience.seconds


class CountedStream(httpx.SyncByteStream):
    """The body of a request or an answer, whose bytes a flow counts.

    Args:
        body: what it reads, a stream of httpx.
        flow: that counts.
        largest: bytes of the whole.
        name: of the file or the answer, for the error.
        at_end: called when all has been read.
    """

    def __init__(
        self,
        body: Any,
        flow: Flow,
        largest: float = math.inf,
        name: str = "",
        at_end: Callable[[], object] = int,
    ) -> None:
        self.body, self.flow, self.largest, self.name, self.at_end = body, flow, largest, name, at_end

    def __iter__(self) -> Iterator[bytes]:
        """Yields its parts.

        Raises:
            GaveUpError: it is longer than `largest`.
        """
        for part in self.body:
            for start in range(0, len(part), PIECE):
                piece = part[start : start + PIECE]
                self.flow.count += len(piece)
                if self.flow.count > self.largest:
                    raise GaveUpError(too_large(self.name, self.largest))
                yield piece
        self.at_end()

    def close(self) -> None:
        """Closes the connection."""
        self.body.close()
