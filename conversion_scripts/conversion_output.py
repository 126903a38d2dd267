"""What conversion scripts share around their work: a folder written whole or not at all, its check, exit codes."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from any2point_hf.modeling.errors import Any2PointError, CheckpointError
from any2point_hf.modeling.files import folder_written_whole

LARGEST_DIFFERENCE = 1e-4


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A folder to write and check in, whose files move to `output` when nothing went wrong.

    Raises:
        CheckpointError: `output` is a file, or holds another model or folders in the way.
    """
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"--output must be a folder, and {output} is a file.")
    with folder_written_whole(output) as beside:
        yield beside
        _check_replaceable(output, beside)


def _check_replaceable(output: Path, written: Path) -> None:
    kinds = []
    for folder in (output, written):
        try:
            kinds.append(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
        except (OSError, ValueError, KeyError, TypeError):
            kinds.append(None)
    if kinds[0] is not None and kinds[0] != kinds[1]:
        raise CheckpointError(
            f"--output {output} holds another model, of type {kinds[0]}, which would be overwritten. Choose a new "
            "folder."
        )
    in_the_way = [file.name for file in written.iterdir() if (output / file.name).is_dir()]
    if in_the_way:
        raise CheckpointError(f"--output {output} has a folder where the file {in_the_way[0]} belongs. Choose another.")


def save_checked(model: PreTrainedModel, output: Path, inputs: dict[str, Tensor], expected: Tensor) -> float:
    """Writes a model's folder if the model loaded from it gives the expected last hidden states, [B, T, D].

    Returns:
        The largest difference from the expected values, relative to the largest of these.

    Raises:
        CheckpointError: the difference is more than 1e-4.
    """
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        loaded = AutoModel.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            actual = loaded(**inputs).last_hidden_state
        difference = ((actual - expected).abs().max() / expected.abs().max()).item()
        if not difference <= LARGEST_DIFFERENCE:
            raise CheckpointError(
                f"the converted model must compute what the original weights compute to {LARGEST_DIFFERENCE}, and "
                f"differs by {difference:.3g}. The file is of another model."
            )
    return difference


def exit_code(convert: Callable[[], None]) -> int:
    """Runs a conversion. Returns 0, or 2 with one line on standard error where the user's input is at fault."""
    try:
        convert()
    except (Any2PointError, StrictDataclassError, OSError) as error:
        message = error.__cause__ if isinstance(error, StrictDataclassError) else error  # the rule is in its cause
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0
