"""Runs jobs in several processes, each with several trainings at a time, until all are done or the time is up."""

import multiprocessing
import queue
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pointnet import PointNet
from torch import Tensor, nn
from transformers import set_seed
from transformers.modeling_outputs import ImageClassifierOutput

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.paper.control_backbones import permuted_weights, random_weights

from .inputs import balanced, load_clouds, load_packed_backbone
from .training import Job, Training

_STEPS_AT_ONCE = 20  # of a training before the next one's turn
_LAST_SECONDS = 8.0  # kept for the evaluation of what is not finished
_PROBE_STEPS = 60
_CONTROLS = {"permuted": permuted_weights, "random": random_weights}


class PointNetClassifier(nn.Module):
    """The small PointNet with a loss, as the adapters have it: points [B, N, 3], labels [B] -> loss [], logits."""

    def __init__(self, num_classes: int, smoothing: float) -> None:
        super().__init__()
        self.network, self.smoothing = PointNet(num_classes), smoothing

    def forward(self, points: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Logits, and with labels the loss."""
        logits = self.network(points)
        if labels is None:
            return ImageClassifierOutput(logits=logits)
        loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        return ImageClassifierOutput(loss=loss, logits=logits)


class Workshop:
    """What a process keeps between jobs: clouds and backbones on the device.

    Args:
        folder: packed inputs.
        device: "cuda" or "cpu".
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.clouds: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        self.backbones: dict[tuple[str, str], nn.Module] = {}

    def training(self, job: Job) -> Training:
        """A job, ready for its first step."""
        if job.data not in self.clouds:
            self.clouds[job.data] = load_clouds(self.folder / f"{job.data}.npz", self.device)
        clouds = dict(self.clouds[job.data])
        points, labels = clouds["train"]
        if job.per_class:
            rows = balanced(labels, job.per_class)
            clouds["train"] = points[rows], labels[rows]
        return Training(job, self._model(job, int(labels.max()) + 1), clouds, self.device)

    def _model(self, job: Job, num_classes: int) -> nn.Module:
        if job.backbone == "pointnet":
            set_seed(job.seed)
            return PointNetClassifier(num_classes, job.smoothing).to(self.device)
        backbone = self._backbone(job.backbone, job.weights)
        config = Any2PointConfig(num_labels=num_classes, label_smoothing=job.smoothing, **job.fields)
        set_seed(job.seed)  # now: what loading a backbone draws changes no start value
        return Any2PointForPointCloudClassification(config, backbone=backbone).to(self.device)

    def _backbone(self, name: str, weights: str) -> nn.Module:
        key = (name, weights or "pretrained")
        if key not in self.backbones:
            backbone = load_packed_backbone(self.folder, name)
            self.backbones[key] = _CONTROLS[weights](backbone, 0) if weights in _CONTROLS else backbone
        return self.backbones[key]


def work(folder: Path, device: str, streams: int, deadline: float, jobs: Any, results: Any) -> None:
    """A process: takes jobs until it is given None, and hands back a record of each."""
    torch.set_num_threads(1)
    workshop, active, are_left = Workshop(folder, device), [], True
    while time.time() < deadline - _LAST_SECONDS:
        while are_left and len(active) < streams:
            settings = jobs.get()
            if settings is None:
                are_left = False
                break
            job = Job(**settings)
            _guarded(results, job, lambda job=job: active.append(workshop.training(job)))
        if not active:
            break
        for training in list(active):
            if not _guarded(results, training.job, lambda one=training: _some_steps(one, results)) or training.is_done:
                active.remove(training)
    for training in active:
        if training.step_number:
            _guarded(results, training.job, lambda one=training: _hand_over(one, results))
    results.put(None)


def _some_steps(training: Training, results: Any) -> None:
    for _ in range(_STEPS_AT_ONCE):
        if training.is_done:
            break
        training.step()
    if training.stream is not None and training.step_number % (5 * _STEPS_AT_ONCE) == 0:
        training.stream.synchronize()  # the deadline is one of work done, not of work asked for
    if training.is_done:
        _hand_over(training, results)


def _hand_over(training: Training, results: Any) -> None:
    if training.stream is not None:
        training.stream.synchronize()
    training.evaluate()
    results.put(training.record() | {"finished": training.is_done})


def _guarded(results: Any, job: Job, action: Callable[[], None]) -> bool:
    """Does it; hands back the traceback and says False where it fails, so that one job's fault ends that job alone."""
    try:
        action()
    except Exception:
        results.put({"settings": job.settings(), "failed": traceback.format_exc()})
        return False
    return True


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    device: str,
    seconds: float,
    processes: int,
    streams: int,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Runs jobs in their order until they are done or the time is up.

    Args:
        jobs: with their epochs.
        folder: packed inputs.
        device: "cuda" or "cpu".
        seconds: after which nothing is begun.
        processes: that work beside each other.
        streams: trainings of each at a time.
        keep: is given every record as it comes.
    """
    deadline = time.time() + seconds
    context = multiprocessing.get_context("spawn")
    waiting, results = context.Queue(), context.Queue()
    waiting.cancel_join_thread()  # what nobody has taken when the time is up must not be waited for
    for settings in [*(job.settings() for job in jobs), *[None] * processes]:
        waiting.put(settings)
    arguments = (folder, device, streams, deadline, waiting, results)
    workers = [context.Process(target=work, args=arguments, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    num_finished = 0
    while num_finished < processes and time.time() < deadline + _LAST_SECONDS:
        try:
            record = results.get(timeout=1.0)
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                break
            continue
        if record is None:
            num_finished += 1
        else:
            keep(record)
    for worker in workers:
        worker.terminate()


def steps_a_second(jobs: Sequence[Job], folder: Path, device: str, streams: int) -> float:
    """How many steps of these jobs this process does a second, `streams` of them at a time."""
    workshop = Workshop(folder, device)
    trainings = [workshop.training(replace(job, epochs=10**6)) for job in jobs[:streams]]
    for training in trainings:
        training.step()
    _wait(device)
    start = time.perf_counter()
    for _ in range(_PROBE_STEPS):
        for training in trainings:
            training.step()
    _wait(device)
    return _PROBE_STEPS * len(trainings) / (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
