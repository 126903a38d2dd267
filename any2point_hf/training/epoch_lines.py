"""What a training says on a terminal or in a log: a line an epoch, and one progress bar.

    epoch 3/12  loss 0.61  accuracy 0.881  1.2 s/step  4 min left

`make_trainer` takes this in place of the Trainer's own bars and dictionaries where transformers' progress bars are
switched off, as the command line does without `--verbose`.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy


def report_in_lines(trainer: Trainer) -> None:
    """Replaces what the Trainer prints; its loggers and its `log_history` are left alone."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EpochLines())


class EpochLines(TrainerCallback):
    """Writes a line to standard error after each epoch and, on a terminal alone, keeps a bar below the lines.

    The line has the mean loss, the first metric of each split that is evaluated, the seconds of a training step, and
    how long the rest will take, evaluation and checkpoints included. Of several processes the first one alone writes.
    A training that is counted in steps (`max_steps`) has the bar alone.
    """

    def __init__(self) -> None:
        self.bar: Any = None
        self.loss: float | None = None  # of an epoch whose line is not written yet
        self.metrics: dict[str, float] = {}
        self.began = self.first_step = 0.0  # of the training in this process, which may go on from a checkpoint
        self.epoch_began = self.epoch_seconds = self.epoch_first_step = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Opens the bar."""
        self.began, self.first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            options: Any = {"initial": state.global_step, "total": state.max_steps, "leave": False}
            self.bar = tqdm(desc="training", unit="step", disable=None, dynamic_ncols=True, file=sys.stderr, **options)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Writes the line of the epoch before, which has been evaluated and saved by now."""
        self._write_line(args, state)
        self.epoch_began, self.epoch_first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Moves the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Stops the clock of the steps."""
        self.epoch_seconds = time.monotonic() - self.epoch_began

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: Any, **given: Any) -> None:
        """Keeps an epoch's loss."""
        logs: Mapping[str, Any] = given["logs"]
        if "loss" in logs and args.logging_strategy == IntervalStrategy.EPOCH:
            self.loss = float(logs["loss"])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, *_: Any, **given: Any) -> None:
        """Keeps the first metric of a split, by which the best epoch would be chosen."""
        metrics: Mapping[str, float] = given["metrics"]
        if self.loss is not None:
            for name in [name for name in metrics if not name.endswith("_loss")][:1]:
                self.metrics[shown_name(name)] = metrics[name]

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Writes the last line and takes the bar away."""
        self._write_line(args, state)
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _write_line(self, args: TrainingArguments, state: TrainerState) -> None:
        if self.loss is None:
            return
        seconds_a_step = self.epoch_seconds / max(state.global_step - self.epoch_first_step, 1)
        passed = time.monotonic() - self.began
        left = passed / max(state.global_step - self.first_step, 1) * (state.max_steps - state.global_step)
        parts = [
            f"epoch {round(state.epoch or 0, 2):g}/{args.num_train_epochs:g}",
            f"loss {self.loss:{'.2f' if self.loss >= 0.1 else '.2g'}}",
            *(f"{name} {value:.3f}" for name, value in self.metrics.items()),
            f"{seconds_a_step:{'#.2g' if seconds_a_step < 10 else '.0f'}} s/step",
            *([f"{shown_time(left)} left"] if state.global_step < state.max_steps else []),
        ]
        self.loss, self.metrics = None, {}
        if state.is_world_process_zero and args.max_steps <= 0:
            tqdm.write("  ".join(parts), file=sys.stderr)  # above the bar, if there is one
            sys.stderr.flush()


def shown_name(name: str) -> str:
    """How a metric of the Trainer is called, such as "accuracy", "validation accuracy" or "instance mIoU"."""
    return name.removeprefix("eval_").replace("_", " ").replace("miou", "mIoU")


def shown_time(seconds: float) -> str:
    """A time in one number: seconds below 100, minutes below 100, otherwise hours."""
    for size, unit in ((1, "s"), (60, "min")):
        if seconds < 99.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"
