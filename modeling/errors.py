"""The errors a user can cause. Each message says the rule, what was received and the likely fix."""

import difflib
from collections.abc import Iterable


class Any2PointError(ValueError):
    """Base of all errors that a user's input can cause; the command line prints them without a traceback."""


class ConfigurationError(Any2PointError):
    """A setting out of range, or one that does not fit the backbone."""


class MissingPackageError(Any2PointError, ImportError):
    """A package that an optional part needs and that is not installed; the message names the extra it comes with."""


class PointCloudError(Any2PointError):
    """A point cloud (file or array) that cannot be used: wrong shape, not finite, too few points, unreadable."""


class BatchTooLargeError(Any2PointError, RuntimeError):
    """A batch that memory cannot hold; the message names a size that it can.

    A RuntimeError that says "out of memory.", so that the Trainer's `auto_find_batch_size` recognises it.
    """


class UnsupportedBackboneError(Any2PointError):
    """A backbone whose blocks, feed-forward branch or positions are not known."""


class BackboneLoadError(Any2PointError):
    """A backbone that is not where it was said to be, or has no weights there."""


class CheckpointError(Any2PointError):
    """An adapter checkpoint that is missing, truncated, foreign or does not fit the backbone."""


class DatasetError(Any2PointError):
    """A dataset with a wrong layout, unknown classes or labels out of range."""


class HubError(Any2PointError):
    """A Hub that did not answer, refused, or broke off; files that were there before, here or on the Hub, are whole."""


def require(condition: bool, rule: str, received: object, fix: str = "") -> None:
    """Raises a `ConfigurationError` that says rule, received value and fix, unless the condition holds."""
    if not condition:
        raise ConfigurationError(f"{rule}, got {received!r}.{fix}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the known word that was probably meant, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names for a message: no more than `most` of them, each on one line and not longer than 30 characters."""
    shown = [" ".join(str(name).split()) for name in names]
    short = [name if len(name) <= 30 else name[:29] + "…" for name in shown[:most]]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return (", ".join(short) or "none") + more
