"""What a process that is ours says by default: results, warnings in a line each, and one progress bar at a time.

The command line and the demo call `keep_libraries_quiet` before they import transformers, unless `--verbose` is given.
A script of a user's keeps what its libraries say; transformers' own switch, `disable_progress_bar`, is then theirs.
"""

import logging
import os
import sys
import warnings

from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

DOWNLOADS = ("huggingface_hub.http_get", "huggingface_hub.xet_get")
"""The bars of the Hub's client that stay: a large download, which is the only bar of its time. A pipe gets none."""


def keep_libraries_quiet() -> None:
    """Switches off what the libraries below say of loading, writing and mapping; what they warn of stays.

    What the user has set by HF_HUB_DISABLE_PROGRESS_BARS or HF_DATASETS_DISABLE_PROGRESS_BARS stays as it is.
    """
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        if "transformers" in sys.modules:
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
        disable_progress_bars()  # transformers asks for this when it is imported
        for name in DOWNLOADS:
            enable_progress_bars(name)
    if "HF_DATASETS_DISABLE_PROGRESS_BARS" not in os.environ:
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when datasets is imported
        if "datasets" in sys.modules:
            from datasets import disable_progress_bars as disable_bars_of_datasets

            disable_bars_of_datasets()
    logging.getLogger("transformers.trainer_utils").addFilter(_matters)
    warnings.formatwarning = _one_line  # type: ignore[assignment]  # Python's way to set it


def _matters(record: logging.LogRecord) -> bool:
    """False for what the Trainer says of two checkpoints of one second; it then goes by their numbers, as it should."""
    return "mtime may not be reliable" not in str(record.msg)


def _one_line(message: Warning | str, *_: object) -> str:
    """A warning without the place in our code that gives it."""
    return f"warning: {message}\n"
