"""Calls to the Hub with bounded waits, in which every failure is a `HubError` that says what to do.

Unusual here: the client of huggingface_hub waits for an answer without end and repeats failed calls for minutes. Inside
`hub_calls` two event hooks of httpx on its session set limits; they are removed afterwards.
"""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session, hf_raise_for_status, httpx, parse_ratelimit_headers

from ..errors import Any2PointError, HubError

CONNECT_SECONDS = 5.0  # to make a connection
FIRST_ANSWER_SECONDS = 6.0  # for an answer, as long as the Hub has not answered any call
ANSWER_SECONDS = 30.0  # afterwards, for an answer or its next part
TRIES = 3  # for one call
LONGEST_RETRY_AFTER = 10.0  # seconds that a Hub may ask for before the same call is tried again

# hf_xet makes its own calls and reads these variables when it sends its first file; without them it tries for minutes.
_XET_LIMITS = {
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "5s",
    "HF_XET_CLIENT_READ_TIMEOUT": "60s",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "1s",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "10s",
}

_ADVICE = {
    400: "Check the name, the revision and the card's metadata",
    401: "Log in by `hf auth login` or set HF_TOKEN; a token that is set may be mistyped or expired",
    403: "Use a token with the right to do this (write, for a push), ask the repository's owner for access, or accept "
    "its conditions on its page",
    404: "Check the spelling of repository and revision; a private one needs a login by `hf auth login` or HF_TOKEN",
    409: "The repository was changed at the same time: do the same again",
    429: "Too many calls: do the same again later, or log in by `hf auth login`, which raises the limit",
}
_SERVER_TROUBLE = "The Hub has a fault of its own: do the same again later; https://status.huggingface.co tells more"
_UNREACHABLE = (
    "Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT; what is in the cache can be used with HF_HUB_OFFLINE=1"
)
_BROKEN_OFF = "Nothing is half written: do the same again, and what has arrived is not sent twice"
_OFFLINE = "Unset HF_HUB_OFFLINE, or leave out local_files_only"


class _XetLimits:
    """Sets `_XET_LIMITS` in the environment while any thread is inside, but for those that the user has set."""

    def __init__(self) -> None:
        self.lock, self.num_inside = threading.Lock(), 0
        self.ours: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.num_inside == 0:
                self.ours = [name for name in _XET_LIMITS if name not in os.environ]
                os.environ.update({name: _XET_LIMITS[name] for name in self.ours})
            self.num_inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.num_inside -= 1
                for name in () if self.num_inside else self.ours:
                    os.environ.pop(name, None)


_xet_limits = _XetLimits()


@contextmanager
def hub_calls(doing: str) -> Iterator[None]:
    """Bounds the Hub calls made inside, and turns their failures into `HubError`.

    Args:
        doing: what the calls are for, as in "to push to user/name".

    Raises:
        HubError: the Hub does not answer, refuses, or breaks off.
    """
    limits = _Limits()
    hooks = get_session().event_hooks
    hooks["request"].append(limits.before_call)
    hooks["response"].append(limits.after_answer)
    try:
        with _xet_limits():
            yield
    except Any2PointError:
        raise
    except Exception as error:
        translated = hub_error(doing, error)
        if translated is None:
            raise
        raise translated from error
    finally:
        hooks["request"].remove(limits.before_call)
        hooks["response"].remove(limits.after_answer)


def hub_trouble(repo_id: str, options: Mapping[str, Any]) -> HubError | None:
    """Returns why the Hub cannot be asked for a repository, by a single call; None if it answers or need not be asked.

    transformers would ask a dead Hub for every file again and again; with `local_files_only` it only reads its cache.

    Args:
        repo_id: of the repository, or a folder.
        options: of a `from_pretrained`: `revision`, `token`, `cache_dir`, `local_files_only`.
    """
    if os.path.isdir(repo_id) or options.get("local_files_only") or constants.is_offline_mode():
        return None
    asked = {name: options[name] for name in ("revision", "token", "cache_dir") if options.get(name) is not None}
    try:
        with hub_calls(f"to load {repo_id!r}"):
            HfApi().resolve_revision(repo_id, **asked)
    except HubError as error:
        return None if isinstance(error.__cause__, HfHubHTTPError) else error  # an answer, which the caller gets too
    except HFValidationError:
        return None  # no repository can have this name, as the caller will be told
    return None


class _Limits:
    """Hooks of the client's session: how long to wait for an answer, and how often to try the same call."""

    def __init__(self) -> None:
        self.answered = False
        self.tries: Counter[tuple[str, ...]] = Counter()
        self.began: dict[tuple[str, ...], float] = {}

    def before_call(self, request: httpx.Request) -> None:
        call, now = _call(request), time.monotonic()
        patience = ANSWER_SECONDS if self.answered else FIRST_ANSWER_SECONDS
        waited = now - self.began.get(call, now)
        self.began[call] = now
        if waited >= patience:
            raise _GaveUpError(f"it does not answer. {_UNREACHABLE}")
        if self.tries[call] >= TRIES:
            raise _GaveUpError(f"the connection broke off {TRIES} times. {_BROKEN_OFF}")
        self.tries[call] += 1
        longest = {"connect": CONNECT_SECONDS, "read": patience, "write": patience, "pool": patience}
        asked = request.extensions.get("timeout", {})
        timeout = {name: min(seconds, asked.get(name) or seconds) for name, seconds in longest.items()}
        request.extensions = {**request.extensions, "timeout": timeout}

    def after_answer(self, response: httpx.Response) -> None:
        self.answered = True
        if response.status_code != 429 and response.status_code < 500:
            return
        if self.tries[_call(response.request)] >= TRIES or retry_after(response) > LONGEST_RETRY_AFTER:
            response.read()
            hf_raise_for_status(response)


class _GaveUpError(Exception):
    """A call failed too often without an answer; the client does not try again after this error."""


def _call(request: httpx.Request) -> tuple[str, ...]:
    return request.method, str(request.url), request.headers.get("range", "")


def retry_after(response: httpx.Response) -> float:
    """Seconds that a Hub asks to wait; 0 where it does not say."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isdigit() else 0.0


def hub_error(doing: str, error: BaseException) -> HubError | None:
    """Returns the `HubError` for a failure of the client, or None if the Hub has no part in it."""
    causes = list(_causes(error))
    rule = f"the Hub ({constants.ENDPOINT}) must allow us {doing}"
    for cause in causes:
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            said = cause.server_message or cause.response.reason_phrase
            return _refusal(rule, cause.response.status_code, said, retry_after(cause.response))
    for cause in causes:
        if isinstance(cause, OfflineModeIsEnabled):
            return HubError(f"{rule}, and Hub calls are switched off (offline mode). {_OFFLINE}.")
        if isinstance(cause, (httpx.ConnectError, httpx.ConnectTimeout)):
            return HubError(f"{rule}, and it cannot be reached ({cause or type(cause).__name__}). {_UNREACHABLE}.")
        if isinstance(cause, httpx.TimeoutException):
            return HubError(f"{rule}, and it does not answer. {_UNREACHABLE}.")
        if isinstance(cause, ConnectionError):  # of hf_xet
            status = re.search(r"HTTP status \w+ error \((\d{3}) ([^)]*)", str(cause))
            if status:
                return _refusal(rule, int(status[1]), status[2])
        if isinstance(cause, (httpx.TransportError, ConnectionError)):
            return HubError(f"{rule}, and the connection broke off ({cause}). {_BROKEN_OFF}.")
    for cause in causes:
        if isinstance(cause, _GaveUpError):
            return HubError(f"{rule}, and {cause}.")
        if isinstance(cause, (KeyError, JSONDecodeError)):
            return HubError(
                f"{rule}, and its answer is not that of a Hub ({cause!r}). Check HF_ENDPOINT and the proxy."
            )
        if "Consistency check failed" in str(cause):
            return HubError(f"{rule}, and a file arrived in part. {_BROKEN_OFF}.")
    return None


def _refusal(rule: str, status: int, said: str, wait: float = 0) -> HubError:
    advice = _ADVICE.get(status, _SERVER_TROUBLE if status >= 500 else "Check the name and the options")
    asked = f" Wait {wait:g} s." if wait else ""
    return HubError(f"{rule}, and it answered {status} ({' '.join(said.split())[:200]}). {advice}.{asked}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, then those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
