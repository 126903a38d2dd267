"""Two event hooks of httpx that set limits on the calls of huggingface_hub's client.

Unusual here: the client is one for the whole process. A pair of hooks keeps to the calls of the thread that it was made
in, and of threads that no pair was made in, such as those that the client downloads by.
"""

import re
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import PurePosixPath

from huggingface_hub import constants
from huggingface_hub.utils import hf_raise_for_status, httpx, parse_ratelimit_headers

from .limits import CountedStream, Flow, GaveUpError, Patience, Watch, too_large

CONNECT_SECONDS = 5.0  # to make a connection
FIRST_ANSWER_SECONDS = 6.0  # for an answer to begin, as long as the Hub has not answered any call
ANSWER_SECONDS = 30.0  # afterwards, for an answer to begin; `limits.py` has the rest
TRIES = 3  # for one call
LONGEST_RETRY_AFTER = 10.0  # seconds that a Hub may ask for before the same call is tried again
LARGEST_ANSWER = 2**26  # bytes, of one that is no file
LARGEST_FILE = constants.MAX_HTTP_DOWNLOAD_SIZE

BROKEN_OFF = "Nothing is half written: do the same again, and what has arrived is not sent twice"
_READING = ("GET", "HEAD")
_COMPRESSED = ("gzip", "deflate", "br", "zstd")  # what the client would unpack, to any size
# What the client makes names of files from: a commit, and what a blob is called. Others could name files elsewhere.
_NAMES = {"x-repo-commit": "[0-9a-f]{40}", "x-linked-etag": r"[\w.+=-]*", "etag": r"[\w.+=-]*"}
_WATCH, _OWNER = "any2point_watch", "any2point_hooks"  # extensions of a request; its redirects take them over

current: ContextVar["Hooks | None"] = ContextVar("current", default=None)


class Hooks:
    """How long to wait for an answer, how often to try a call, and how many bytes to take.

    Args:
        largest: the most bytes of a file, by the ending of its name; of those that this thread asks for.

    Raises:
        HubError: the environment sets a limit that is no number.
    """

    def __init__(self, largest: Mapping[str, int]) -> None:
        self.answered, self.largest, self.patience = False, largest, Patience.of_environment()
        self.tries: Counter[tuple[str, ...]] = Counter()
        self.watches: dict[tuple[str, str], Watch] = {}  # of calls whose answer is not there yet, over their tries
        self.announced: dict[str, int] = {}  # a file's bytes by its address, as the answer to a HEAD said

    def before_call(self, request: httpx.Request) -> None:
        """The hook of a request; redirects come here as well.

        Raises:
            GaveUpError: the same call has failed too often.
        """
        owner = request.extensions.get(_OWNER)
        if owner is not self and (owner is not None or current.get() not in (None, self)):
            return
        call = (request.method, str(request.url), request.headers.get("range", ""))
        if self.tries[call] >= TRIES:
            raise GaveUpError(f"the connection broke off {TRIES} times. {BROKEN_OFF}")
        self.tries[call] += 1
        watch = request.extensions.get(_WATCH) or self.watches.get(call[:2]) or self._watch(request)
        watch.call_begins()
        asked = request.extensions.get("timeout", {})
        timeout = {"connect": min(CONNECT_SECONDS, asked.get("connect") or CONNECT_SECONDS), "pool": ANSWER_SECONDS}
        timeout |= {"read": watch, "write": watch.sent}
        request.extensions = {**request.extensions, "timeout": timeout, _WATCH: watch, _OWNER: self}
        request.headers["accept-encoding"] = "identity"  # so that the bytes counted are those that there will be
        if request.method not in _READING:
            request.stream = CountedStream(request.stream, watch.sent)

    def after_answer(self, response: httpx.Response) -> None:
        """The hook of an answer, whose body has not been read.

        Raises:
            GaveUpError: the answer is compressed, announces too large a file, or names one that could lie anywhere.
            HfHubHTTPError: the Hub refuses, and the client shall not try again.
        """
        request, status = response.request, response.status_code
        if request.extensions.get(_OWNER) is not self:
            return
        self.answered, watch = True, request.extensions[_WATCH]
        if response.headers.get("content-encoding", "").lower() in _COMPRESSED:
            raise GaveUpError("its answer is compressed though it was asked not to be. Check HF_ENDPOINT and the proxy")
        if request.method == "HEAD" and status < 400:
            _check_names(response)
            self._announce(response, watch)
        self._count(response, watch)
        if status != 429 and status < 500:
            return
        call = (request.method, str(request.url), request.headers.get("range", ""))
        if self.tries[call] >= TRIES or retry_after(response) > LONGEST_RETRY_AFTER:
            response.read()
            hf_raise_for_status(response)

    def _watch(self, request: httpx.Request) -> Watch:
        """The limits of a new call."""
        url, reads = str(request.url), request.method in _READING
        head_seconds = ANSWER_SECONDS if self.answered or self.patience.is_set else FIRST_ANSWER_SECONDS
        wants_file = request.method == "GET" and not url.startswith(f"{constants.ENDPOINT}/api/")
        name = PurePosixPath(request.url.path).name
        largest = LARGEST_FILE if wants_file or request.method == "HEAD" else LARGEST_ANSWER
        if current.get() is self:
            largest = next((size for ending, size in self.largest.items() if name.endswith(ending)), largest)
        watch = Watch(
            min(head_seconds, self.patience.seconds) if reads and not wants_file else head_seconds,
            self.patience,
            reads and not wants_file,
            wants_file,
            min(largest, self.announced.get(url, largest)),
            name if wants_file or request.method == "HEAD" else "an answer",
        )
        self.watches[request.method, url] = watch
        return watch

    def _announce(self, response: httpx.Response, watch: Watch) -> None:
        """Remembers the size of a file that a HEAD asked for, by all addresses that it may be loaded from.

        Raises:
            GaveUpError: it is too large.
        """
        headers, target = response.headers, response.headers.get("location")
        text: str = headers.get("x-linked-size") or ("" if target else headers.get("content-length", "")) or ""
        if not text.isdigit():
            return
        size, url = int(text), response.request.url
        if size > watch.largest:
            raise GaveUpError(too_large(watch.name, watch.largest, size))
        self.announced |= {str(address): size for address in (url, url.join(target or ""))}

    def _count(self, response: httpx.Response, watch: Watch) -> None:
        """Limits the bytes of an answer and the time for them, and forgets its watch when the last one is there."""
        request, status = response.request, response.status_code
        is_file = watch.wants_file and status in (200, 206)
        if is_file:
            start = re.match(r"bytes=(\d+)-", request.headers.get("range", ""))
            watch.file.go_on_at(int(start[1]) if start and status == 206 else 0)
        watch.answer_begins(is_file)

        def forget() -> None:
            for call in [call for call, other in self.watches.items() if other is watch]:
                del self.watches[call]

        if status >= 400:  # another try has all its time again
            forget()
        largest = watch.largest if is_file else LARGEST_ANSWER
        follows = response.has_redirect_location and request.method != "HEAD"
        flow = watch.file if is_file else Flow(0)
        at_end = int if follows else forget
        response.stream = CountedStream(response.stream, flow, largest, watch.name, at_end)


def _check_names(response: httpx.Response) -> None:
    """Refuses a commit or a blob's name that the client would not keep inside its cache.

    Raises:
        GaveUpError: there is one.
    """
    for header, form in _NAMES.items():
        name = response.headers.get(header, "0" * 40).removeprefix("W/").strip('"')
        if not re.fullmatch(form, name):
            raise GaveUpError(
                f"its answer is not that of a Hub ({header}: {name[:80]!r}). Check HF_ENDPOINT and the proxy"
            )


def retry_after(response: httpx.Response) -> float:
    """Seconds that a Hub asks to wait; 0 where it does not say."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isdigit() else 0.0
