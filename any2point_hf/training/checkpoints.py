"""Which of a training's checkpoints are whole: each has a record of its files, which is written after all of them."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..modeling.errors import CheckpointError
from ..modeling.files import read_record, write_whole
from ..modeling.zip_damage import zip_damage

FILES_RECORD = "checkpoint_files.json"
STATE_FILE = "trainer_state.json"
_CUT_OFF = "it was cut off while it was written"
# The Trainer goes on without these; a LoRA's tensors are also in model.safetensors.
_NOT_NEEDED = ("training_args.bin", "preprocessor_config.json", ".gitignore", "lora")
# What a checkpoint of an earlier version, which has no record, must hold; one file of each row (the others under FSDP).
_NEEDED = (
    ("config.json",),
    ("model.safetensors", "pytorch_model_fsdp.bin", "pytorch_model_fsdp_0"),
    ("optimizer.pt", "optimizer.bin", "optimizer_0"),
    ("scheduler.pt",),
    ("rng_state.pth", "rng_state_0.pth"),
    (STATE_FILE,),
)


class CheckpointRecords(TrainerCallback):
    """Records size and hash of each file of a checkpoint as soon as all processes have written theirs."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called by the Trainer after a checkpoint."""
        PartialState().wait_for_everyone()
        if args.should_save:
            record_files(Path(str(args.output_dir), f"checkpoint-{state.global_step}"))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer when a checkpoint's state is loaded; the folder may have another name by now."""
        if state.best_model_checkpoint:
            state.best_model_checkpoint = str(Path(str(args.output_dir), Path(state.best_model_checkpoint).name))


def record_files(checkpoint: Path) -> None:
    """Writes the record of a checkpoint that is complete."""
    files = {name: _description(file) for name, file in _needed_files(checkpoint).items()}
    write_whole(checkpoint / FILES_RECORD, json.dumps({"files": files}, indent=2) + "\n")


def was_cut_off(checkpoint: Path) -> bool:
    """Whether the training was killed while it wrote a checkpoint: the Trainer writes its state last."""
    return not (checkpoint / STATE_FILE).exists() and not (checkpoint / FILES_RECORD).exists()


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if it is whole."""
    if not checkpoint.is_dir():
        return "it is missing"
    if was_cut_off(checkpoint):
        return _CUT_OFF
    if not (checkpoint / FILES_RECORD).exists():
        return _damage_without_record(checkpoint)
    try:
        recorded = json.loads((checkpoint / FILES_RECORD).read_text(encoding="utf-8"))["files"]
        missing = next((name for name in recorded if not (checkpoint / name).is_file()), None)
        if missing:
            return f"{missing} is missing"
        changed = next((name for name in recorded if _description(checkpoint / name) != recorded[name]), None)
    except (OSError, ValueError, KeyError, TypeError):
        return f"{FILES_RECORD} cannot be read"
    return f"{changed} is not as it was written" if changed else None


def checkpoint_to_resume(output: Path) -> tuple[Path, dict[str, Any], dict[Path, str]]:
    """The newest whole checkpoint, its Trainer's state, and what is wrong with each of the others that is not whole.

    Args:
        output: folder of the training.

    Raises:
        CheckpointError: there is no whole one, or the best epoch's, which is needed at the end, is damaged.
    """
    damages = {checkpoint: damage_of(checkpoint) for checkpoint in _newest_first(output)}
    if not damages:
        raise CheckpointError(f"--resume needs a checkpoint in {output}, and there is none. Train without --resume.")
    damaged = {checkpoint: damage for checkpoint, damage in damages.items() if damage}
    newest = next((checkpoint for checkpoint in damages if checkpoint not in damaged), None)
    if newest is None:
        found = "; ".join(f"{checkpoint.name}: {damage}" for checkpoint, damage in [*damaged.items()][:3])
        advice = "Train" if all(map(was_cut_off, damaged)) else "Delete it, and train"
        raise CheckpointError(
            f"--resume needs a whole checkpoint in {output}, and there is none. {found}. {advice} without --resume."
        )
    state = read_record(newest / STATE_FILE)
    best = output / Path(state["best_model_checkpoint"]).name if state.get("best_model_checkpoint") else newest
    if damage := damage_of(best):
        raise CheckpointError(
            f"--resume needs the checkpoint of the best epoch so far, {best}, and it is not whole: {damage}. Train in "
            "another folder."
        )
    return newest, state, damaged


def holds_checkpoint(output: Path) -> bool:
    """Whether a folder holds a checkpoint that was written to its end, damaged or not."""
    return not all(map(was_cut_off, _newest_first(output)))


def cut_off_checkpoints(output: Path) -> dict[Path, str]:
    """The checkpoints in which a training was killed while it wrote them, each with what is wrong with it."""
    return {checkpoint: _CUT_OFF for checkpoint in _newest_first(output) if was_cut_off(checkpoint)}


def remove_damaged(checkpoints: Mapping[Path, str]) -> None:
    """Removes checkpoints, with a warning; the Trainer would count them among those that it keeps.

    Args:
        checkpoints: each with what is wrong with it.
    """
    for checkpoint, damage in checkpoints.items():
        warnings.warn(f"{checkpoint} is not whole, and is removed: {damage}.", stacklevel=3)
        shutil.rmtree(checkpoint, ignore_errors=True)


def _newest_first(output: Path) -> list[Path]:
    numbers = {path: path.name.rpartition("-")[2] for path in output.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path in numbers if numbers[path].isdecimal()), key=lambda path: -int(numbers[path]))


def _needed_files(checkpoint: Path) -> dict[str, Path]:
    files = {file.relative_to(checkpoint): file for file in sorted(checkpoint.rglob("*")) if file.is_file()}
    return {
        name.as_posix(): file
        for name, file in files.items()
        if name.parts[0] not in (*_NOT_NEEDED, FILES_RECORD) and name.suffix != ".tmp"
    }


def _description(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _damage_without_record(checkpoint: Path) -> str | None:
    missing = next((names[0] for names in _NEEDED if not any((checkpoint / name).exists() for name in names)), None)
    if missing:
        return f"{missing} is missing"
    for name, file in _needed_files(checkpoint).items():
        damage = None
        try:
            if file.suffix in (".pt", ".pth", ".bin"):
                damage = zip_damage(file)
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass  # the header is read, and compared with the file's size
        except (OSError, ValueError, SafetensorError) as error:
            damage = str(error)
        if damage:
            return f"{name} is damaged ({damage})"
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    has_epoch = isinstance(state, dict) and isinstance(state.get("epoch"), int | float)
    return None if has_epoch else f"{STATE_FILE} has no epoch"
