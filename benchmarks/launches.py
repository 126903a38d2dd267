"""Counts what a training step would launch on a GPU, room by room, on a machine without one.

python benchmarks/launches.py [--setting clip-text-scan] [--batch-size 32] [--dtype bfloat16] [--operators ROOM]

The step runs on fake tensors, which have shapes and no values, so it takes seconds. The package is made to answer as on
a device wherever it asks (`DEVICE_ANSWERS`). Counted are operators below autograd that compute something: views and
allocations are left out, sampling counts as the one kernel that it is. An operator may be several kernels (a sort, the
gradient of an attention or a layer norm), so the numbers are a tenth below what a profiler on a GPU counts. Told as
well: the bytes that operators read and write, and the peak of the memory that tensors take.
"""

import argparse
import bisect
import contextlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import any2point_hf.calm_threads  # noqa: F401  # isort: skip
import torch
from suite import markdown, models
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.tokenizer import point_ops
from any2point_hf.modeling.tokenizer.fast import block_size
from any2point_hf.training.trainer import parameter_groups

REST = "the rest"
OPTIMIZER = "clipping and optimizer"
DEVICE_ANSWERS: dict[str, Callable[..., Any]] = {
    "host_may_read": lambda values: False,
    "values_in_block": lambda device: block_size.DEVICE_VALUES,
    "attention_dtype": lambda values: values.dtype,
    "head_multiple": lambda values: 8,
    "check_memory": lambda model, points: None,
    "_nearest_in_blocks": point_ops._nearest_in_blocks._init_fn,  # what is inside of it is counted
}
ALLOCATIONS = ("empty", "detach", "promote_types", "device", "_unsafe_view", "lift_fresh", "resolve")
GIB = 2**30


class Launches(TorchDispatchMode):
    """Counts operators by room and name, those of the backward pass too, and the bytes that tensors take.

    An operator of the backward pass belongs to the room in which its node was made: nodes are numbered in that order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.moved: dict[str, Counter[str]] = defaultdict(Counter)
        self.room = REST
        self._borders: list[tuple[int, str]] = [(0, REST)]
        self._storages: dict[int, tuple[Any, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator, and counts it."""
        result = operator(*args, **(kwargs or {}))
        if _is_launched(operator):
            room, name = self._current_room(), str(operator).removeprefix("aten.")
            self.counts[room][name] += 1
            self.moved[room][name] += sum(map(_num_bytes, pytree.tree_leaves((args, result))))
        self.note_memory(result)
        return result

    @contextlib.contextmanager
    def inside(self, room: str) -> Iterator[None]:
        """Counts for this room what is called in the context, and its gradients."""
        outer = self.room
        self._enter(room)
        try:
            yield
        finally:
            self._enter(outer)

    def count_inside(self, module: nn.Module, room: str) -> None:
        """Counts a module's calls for a room."""
        forward = module.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.inside(room):
                return forward(*args, **kwargs)

        module.forward = counted

    def total(self) -> int:
        """Returns the operators of all rooms."""
        return sum(counts.total() for counts in self.counts.values())

    def row(self, room: str) -> list[str]:
        """Returns a room's row of the table."""
        return [room, str(self.counts[room].total()), f"{self.moved[room].total() / GIB:.1f}"]

    def _enter(self, room: str) -> None:
        self.room = room
        self._borders.append((torch.autograd._get_sequence_nr(), room))

    def _current_room(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self.room
        place = bisect.bisect_right(self._borders, node._sequence_nr(), key=lambda border: border[0])
        return self._borders[place - 1][1]

    def note_memory(self, result: Any) -> None:
        """Notes what tensors take, until they are freed."""
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._storages = {key: kept for key, kept in self._storages.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))


def _num_bytes(value: Any) -> int:
    return value.numel() * value.itemsize if isinstance(value, Tensor) else 0


def _is_launched(operator: Any) -> bool:
    """Whether an operator computes something: it is neither a view nor an allocation."""
    is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in operator._schema.returns)
    return not is_view and not any(word in operator._schema.name for word in ALLOCATIONS)


@contextlib.contextmanager
def answers_as_on_a_device() -> Iterator[None]:
    """Makes the package's functions that ask for the device answer as on a GPU, in every module that has them."""
    with contextlib.ExitStack() as stack:
        for module in [module for name, module in sys.modules.items() if name.startswith("any2point_hf")]:
            for name, answer in DEVICE_ANSWERS.items():
                if name in vars(module):
                    stack.enter_context(mock.patch.object(module, name, answer))
        yield


def make_fake(mode: FakeTensorMode, *models_: nn.Module) -> None:
    """Replaces all tensors of modules by fake ones; what was one tensor stays one."""
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            of_same_kind = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
            made[id(tensor)] = made[id(of_same_kind)] = (of_same_kind, tensor)
        return made[id(tensor)][0]

    for module in [module for model in models_ for module in model.modules()]:
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})


def count(setting: str, batch: int, dtype: torch.dtype) -> tuple[Launches, Launches]:
    """Counts one training step of the bare backbone, and one of the model with clipping and the optimizer."""
    pair = models.Pair(setting)
    model: Any = pair.model
    mode = FakeTensorMode()
    make_fake(mode, model, pair.backbone)
    bare, ours = Launches(), Launches()
    bare.note_memory([*pair.backbone.parameters()])
    ours.note_memory([*pair.backbone.parameters(), *model.parameters()])
    _name_rooms(ours, model)
    with mode, answers_as_on_a_device():
        precision = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
        num_tokens, width = 1 + pair.config.num_points // 8, pair.config.backbone_config.hidden_size
        hidden = torch.empty(batch, num_tokens, width, requires_grad=True)
        with bare:
            with precision:
                total = pair.bare(hidden).float().sum()
            total.backward()
        points, labels = torch.empty(batch, pair.config.num_points, 3), torch.empty(batch, dtype=torch.long)
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3, fused=True)
        _make_state(optimizer, trained)
        with ours:
            with precision:
                loss = model(points, labels=labels).loss
            loss.backward()
            with ours.inside(OPTIMIZER):
                nn.utils.clip_grad_norm_(trained, 10.0, foreach=True)
                optimizer.step()
    return bare, ours


def _make_state(optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter]) -> None:
    """Takes the first step, in which the optimizer makes its state."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _name_rooms(launches: Launches, model: Any) -> None:
    """The rooms of a model's step; a bottleneck runs inside its block, and counts for itself."""
    base = model.any2point
    for block in find(base.backbone, base.spec.blocks):
        launches.count_inside(block, "backbone")
    for part in base.bottlenecks.values():
        launches.count_inside(part, "bottlenecks")
    for part in base.aggregations.values():
        launches.count_inside(part, "aggregations")
    launches.count_inside(base.tokenizer, "tokenizer")
    launches.count_inside(model.classifier, "head")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="clip-text-scan", help="a preset, or tiny (default clip-text-scan)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the autocast")
    parser.add_argument("--operators", metavar="ROOM", help="lists the operators of a room as well")
    options = parser.parse_args(arguments)
    bare, ours = count(options.setting, options.batch_size, getattr(torch, options.dtype))
    rows = [*(ours.row(room) for room in sorted(ours.counts, key=lambda room: -ours.counts[room].total()))]
    print(markdown.table(["room", "operators", "GiB read and written"], rows))
    for name, launches in (("bare backbone", bare), ("model", ours)):
        print(f"{name}: {launches.total()} operators, peak {launches.peak / GIB:.2f} GiB")
    for name, number in ours.counts[options.operators].most_common() if options.operators else ():
        print(f"{number:6} {ours.moved[options.operators][name] / GIB:8.2f} GiB  {name}")


if __name__ == "__main__":
    main()
