"""The packages that draw, matplotlib and plotly: they come with the extra `pictures`, not with a plain install."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..modeling.errors import MissingPackageError


@contextmanager
def from_extra() -> Iterator[None]:
    """Around imports of these packages: where one is missing, the error names the extra.

    Raises:
        MissingPackageError: a package is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"pictures need {error.name or 'matplotlib and plotly'}, which is not installed. Run: "
            'pip install "any2point-hf[pictures]"'
        ) from error


def check_installed() -> None:
    """Checks that pictures can be drawn, before any work is done for them.

    Raises:
        MissingPackageError: a package is not installed.
    """
    with from_extra():
        import matplotlib  # noqa: F401
        import plotly  # noqa: F401
