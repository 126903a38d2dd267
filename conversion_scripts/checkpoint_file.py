"""The file that a conversion reads."""

from pathlib import Path

from any2point_hf.modeling.errors import CheckpointError


def check_checkpoint_file(path: Path) -> None:
    """Checks that a checkpoint is there, without opening it.

    Raises:
        CheckpointError: it is not, or it is a folder.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not there"
        raise CheckpointError(f"--checkpoint must be a file, and {path} {found}. Check the path.")
