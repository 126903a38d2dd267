"""Calls to the Hub with bounded waits, in which every failure is a `HubError` that says what to do.

Unusual here: the client of huggingface_hub waits for an answer without end and repeats failed calls for minutes. Inside
`hub_calls` two event hooks of httpx on its session (`hooks.py`) set limits; they are removed afterwards.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from types import TracebackType
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session, httpx

from ..errors import Any2PointError, HubError
from .hooks import BROKEN_OFF, Hooks, current, retry_after
from .limits import GaveUpError

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
_OFFLINE = "Unset HF_HUB_OFFLINE, or leave out local_files_only"


# What a Hub never sends: pages instead of data, data without what the client needs, redirects to nowhere.
_NO_HUB: tuple[type[Exception], ...] = (
    KeyError,
    JSONDecodeError,
    UnicodeDecodeError,
    FileMetadataError,
    httpx.InvalidURL,
)
_NO_HUB += (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.DecodingError)
_STUMBLED = (TypeError, AssertionError, AttributeError, IndexError, RecursionError)


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
def hub_calls(doing: str, largest: Mapping[str, int] | None = None) -> Iterator[None]:
    """Bounds the Hub calls made inside, and turns their failures into `HubError`.

    Args:
        doing: what the calls are for, as in "to push to user/name".
        largest: the most bytes of a file, by the ending of its name; of those that this thread asks for.

    Raises:
        HubError: the Hub does not answer, refuses, breaks off, or sends what no Hub sends.
    """
    ours, hooks = Hooks(largest or {}), get_session().event_hooks
    hooks["request"].append(ours.before_call)
    hooks["response"].append(ours.after_answer)
    before = current.set(ours)
    try:
        with _xet_limits():
            yield
    except Any2PointError:
        raise
    except Exception as error:
        translated = hub_error(doing, error)
        if translated is None and ours.answered and _is_of_client(error):
            translated = _no_hub(_rule(doing), error)
        if translated is None:
            raise
        raise translated from error
    finally:
        current.reset(before)
        hooks["request"].remove(ours.before_call)
        hooks["response"].remove(ours.after_answer)


def resolved_commit(repo_id: str, **options: Any) -> str:
    """The commit that a revision stands for now; to be called inside `hub_calls`.

    Args:
        repo_id: of the repository.
        options: of `HfApi.resolve_revision`.

    Raises:
        HubError: the answer is no commit, and could be anything that moves.
    """
    commit = HfApi().resolve_revision(repo_id, **options).resolved
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise _no_hub(_rule(f"to load {repo_id!r}"), ValueError(f"{commit[:80]!r} is no commit"))
    return commit


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
            resolved_commit(repo_id, **asked)
    except HubError as error:
        return None if isinstance(error.__cause__, HfHubHTTPError) else error  # an answer, which the caller gets too
    except HFValidationError:
        return None  # no repository can have this name, as the caller will be told
    return None


def hub_error(doing: str, error: BaseException) -> HubError | None:
    """Returns the `HubError` for a failure of the client, or None if the Hub has no part in it."""
    causes = list(_causes(error))
    rule = _rule(doing)
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
        if isinstance(cause, _NO_HUB):
            return _no_hub(rule, cause)
        if isinstance(cause, (httpx.TransportError, ConnectionError)):
            return HubError(f"{rule}, and the connection broke off ({cause}). {BROKEN_OFF}.")
    for cause in causes:
        if isinstance(cause, GaveUpError):
            return HubError(f"{rule}, and {cause}.")
        if "Consistency check failed" in str(cause):
            return HubError(f"{rule}, and a file arrived in part. {BROKEN_OFF}.")
    return None


def _rule(doing: str) -> str:
    return f"the Hub ({constants.ENDPOINT}) must allow us {doing}"


def _no_hub(rule: str, error: BaseException) -> HubError:
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return HubError(f"{rule}, and its answer is not that of a Hub ({said}). Check HF_ENDPOINT and the proxy.")


def _is_of_client(error: Exception) -> bool:
    """Whether the client stumbled over an answer of another form than it expects."""
    frames: list[TracebackType] = []
    step = error.__traceback__
    while step is not None:
        frames.append(step)
        step = step.tb_next
    package = frames[-1].tb_frame.f_globals.get("__name__", "").split(".")[0]
    if isinstance(error, ValueError):
        return package == "urllib"  # an address; otherwise it is about what the client was asked
    return isinstance(error, _STUMBLED) and package in ("huggingface_hub", "json", httpx.__name__)


def _refusal(rule: str, status: int, said: str, wait: float = 0) -> HubError:
    advice = _ADVICE.get(status, _SERVER_TROUBLE if status >= 500 else "Check the name and the options")
    asked = f" Wait {wait:g} s." if wait else ""
    return HubError(f"{rule}, and it answered {status} ({' '.join(said.split())[:200]}). {advice}.{asked}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, then those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
