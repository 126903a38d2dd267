"""One training with everything on the device: clouds, augmentation, forward, backward and optimiser.

Unusual here: on a GPU a whole step is one CUDA graph, from the clouds' numbers to the changed weights, so that the
Python of a step is one launch and several trainings share the GPU, each in a stream of its own. Dropout draws from a
generator for each layer, so that rows which share a layer drop the same entries in it.
"""

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pointnet import data_module
from torch import Tensor, nn

from any2point_hf.modeling.numerics.initialization import named_seed
from any2point_hf.modeling.numerics.named_dropout import NamedDropout

from .inputs import sampled

augmentation, mix = data_module("augmentation"), data_module("counter_random").mix  # also without `datasets`

_EVALUATED_AT_ONCE = 128
_WARM_UP_STEPS = 3  # before a graph is captured; they are undone
_LARGEST_GRADIENT = 10.0
_WEIGHT_DECAY = 0.05
_NOT_DECAYED = ("bias", "norm", "cls_token", "cls_position")  # as `any2point_hf.training.trainer` has them


@dataclass(frozen=True)
class Job:
    """All that decides a training's result.

    Args:
        group: of the table it stands in.
        row: name of the row.
        weights: of the backbone: "pretrained", "permuted" or "random"; "" without one.
        seed: of start values, order, augmentation and dropout.
        data: name of the packed data set.
        per_class: training clouds a class; 0 for all.
        backbone: name of the packed one; "pointnet" for the small PointNet.
        epochs: passes over the training clouds; 0 for as many as fit.
        num_points: points a cloud.
        fields: of Any2PointConfig.
        learning_rate: the highest.
        batch: clouds a step.
        smoothing: of the labels.
        num_test: test clouds that are answered; 0 for all.
        warm_up: share of the steps in which the rate rises.
    """

    group: str
    row: str
    weights: str
    seed: int
    data: str
    backbone: str
    epochs: int
    num_points: int
    fields: dict[str, Any] = field(default_factory=dict)
    per_class: int = 0
    learning_rate: float = 1e-3
    batch: int = 32
    smoothing: float = 0.1
    num_test: int = 0
    warm_up: float = 0.1

    def key(self) -> str:
        """Names the job among all."""
        return f"{self.group}|{self.row}|{self.weights}|{self.seed}"

    def settings(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class DrawnDropout(nn.Module):
    """Dropout from a generator of its own, which a CUDA graph can be told of."""

    def __init__(self, share: float, seed: int, device: str) -> None:
        super().__init__()
        self.share, self.generator = share, torch.Generator(device).manual_seed(seed)

    def forward(self, hidden: Tensor) -> Tensor:
        """[...] -> [...]."""
        if not self.training or self.share == 0:
            return hidden
        kept = torch.empty_like(hidden).bernoulli_(1 - self.share, generator=self.generator)
        return hidden * kept / (1 - self.share)


def give_generators(model: nn.Module, seed: int, device: str) -> list[torch.Generator]:
    """Puts a `DrawnDropout` in place of every dropout layer of the adapters and the head."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, NamedDropout)]
    generators = []
    for name, module in found:
        parent = model.get_submodule(name.rpartition(".")[0])
        drawn = DrawnDropout(module.p, named_seed(seed, name), device)
        setattr(parent, name.rpartition(".")[2], drawn)
        generators.append(drawn.generator)
    return generators


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Trained parameters; norms, biases and tokens are not decayed."""
    trained = [(name.lower(), each) for name, each in model.named_parameters() if each.requires_grad]
    spared = [any(part in name for part in _NOT_DECAYED) for name, _ in trained]
    return [
        {"params": [each for (_, each), is_spared in zip(trained, spared, strict=True) if is_spared == wanted]}
        | {"weight_decay": 0.0 if wanted else _WEIGHT_DECAY}
        for wanted in (False, True)
    ]


class Training:
    """A job that is run step by step.

    Args:
        job: what to do; its epochs are given.
        model: new, on the device; its forward takes points [B, N, 3] and labels [B] and gives a loss.
        clouds: `train` and `test`, points [n, S, 3] and labels [n] on the device.
        device: "cuda" or "cpu".
    """

    def __init__(self, job: Job, model: nn.Module, clouds: dict[str, tuple[Tensor, Tensor]], device: str) -> None:
        self.job, self.model, self.device, self.start = job, model, device, time.monotonic()
        self.began = self.start
        points, self.labels = clouds["train"]
        surplus = min(points.shape[1], math.ceil(job.num_points * 1200 / 1024))
        self.points = sampled(points, surplus)
        test_points, test_labels = (part[: job.num_test or None] for part in clouds["test"])
        self.test_points, self.test_labels = sampled(test_points, job.num_points), test_labels
        self.augmentation = augmentation.Augmentation(scale=(0.9, 1.1), shift=0.1)
        self.batch = min(job.batch, len(self.labels))
        self.steps_an_epoch = len(self.labels) // self.batch
        self.num_steps = job.epochs * self.steps_an_epoch
        self.generators = give_generators(model, job.seed, device)
        self.rate = torch.tensor(job.learning_rate, device=device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model), lr=self.rate, fused=device == "cuda", capturable=device == "cuda"
        )
        self.chosen = torch.zeros(self.batch, dtype=torch.long, device=device)  # numbers of the step's clouds
        self.epoch = torch.zeros((), dtype=torch.long, device=device)
        self.loss = torch.zeros((), device=device)
        self.step_number, self.order = 0, []
        self.stream = torch.cuda.Stream() if device == "cuda" else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.why_no_graph: str | None = None
        self.history: list[dict[str, float]] = []

    @property
    def is_done(self) -> bool:
        """Whether all steps are done."""
        return self.step_number >= self.num_steps

    def step(self) -> None:
        """The next step, started and not waited for."""
        if self.stream is None:
            self._prepare()
            self._compute()
            self.step_number += 1
            return
        if self.graph is None and self.why_no_graph is None:
            self._record_graph()
            self.began = time.monotonic()
        with torch.cuda.stream(self.stream):
            self._prepare()
            if self.graph is None:
                self._compute()
            else:
                self.graph.replay()
        self.step_number += 1

    def _record_graph(self) -> None:
        """Records a step as a graph; where that fails, steps stay as they are, and the record says why."""
        try:
            self._capture()
        except RuntimeError as error:
            self.graph, self.why_no_graph = None, f"{type(error).__name__}: {error}"
            torch.cuda.synchronize()

    def _prepare(self) -> None:
        """Writes the step's clouds, epoch and rate to where the graph reads them."""
        epoch, position = divmod(self.step_number, self.steps_an_epoch)
        if position == 0:
            generator = torch.Generator().manual_seed(named_seed(self.job.seed, f"order {epoch}"))
            order = torch.randperm(len(self.labels), generator=generator)
            self.order = order[: self.steps_an_epoch * self.batch].to(self.device).view(-1, self.batch)
            self.epoch.fill_(epoch)
        self.chosen.copy_(self.order[position])
        warm = self.job.warm_up * self.num_steps
        done = self.step_number / self.num_steps
        share = (self.step_number + 1) / warm if self.step_number < warm else 0.5 * (1 + math.cos(math.pi * done))
        self.rate.fill_(max(self.job.learning_rate * share, 1e-6))

    def _compute(self) -> None:
        """Forward, backward and optimiser of the chosen clouds."""
        self.optimizer.zero_grad(set_to_none=True)
        clouds, labels = self.points[self.chosen], self.labels[self.chosen]
        keys = mix(mix(mix(torch.full_like(self.chosen, self.job.seed), 0), self.epoch), self.chosen)
        clouds = self.augmentation(augmentation.random_subset(clouds, self.job.num_points, keys), keys)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda", cache_enabled=False):
            loss = self.model(clouds, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT, foreach=self.device == "cuda")
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def _capture(self) -> None:
        """Runs some steps so that everything lazy is there, records one as a graph, and takes them back."""
        self.model.train()
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items() if "backbone." not in name}
        states = [generator.get_state() for generator in self.generators]
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            for _ in range(_WARM_UP_STEPS):
                self._prepare()
                self._compute()
        torch.cuda.synchronize()
        try:
            graph = torch.cuda.CUDAGraph()
            for generator in self.generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=self.stream):
                self._compute()
            self.graph = graph
        finally:
            torch.cuda.synchronize()
            self._take_back(before, states)

    def _take_back(self, before: dict[str, Tensor], states: list[Tensor]) -> None:
        """Weights, statistics, optimiser and generators as they were before the first step."""
        own = self.model.state_dict()
        for name, tensor in before.items():
            own[name].copy_(tensor)
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        torch.cuda.synchronize()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Accuracy on the test clouds, and a line in the history."""
        self.model.eval()
        correct = 0
        for points, labels in zip(
            self.test_points.split(_EVALUATED_AT_ONCE), self.test_labels.split(_EVALUATED_AT_ONCE), strict=True
        ):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                correct += (self.model(points).logits.argmax(dim=-1) == labels).sum()
        accuracy = float(correct) / len(self.test_labels)
        self.history.append({"step": self.step_number, "loss": float(self.loss), "accuracy": accuracy})
        self.model.train()
        return accuracy

    def record(self) -> dict[str, Any]:
        """What is kept of a finished training."""
        trained = sum(each.numel() for each in self.model.parameters() if each.requires_grad)
        return {
            "settings": self.job.settings(),
            "accuracy": self.history[-1]["accuracy"],
            "history": self.history,
            "trained_parameters": trained,
            "why_no_graph": self.why_no_graph,
            "seconds": time.monotonic() - self.start,
            "seconds_of_steps": time.monotonic() - self.began,
        }
