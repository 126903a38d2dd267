import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def launches(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import launches

    yield launches
    sys.modules.pop("launches")


def test_forward_and_backward_are_counted_by_room_without_views(launches):
    layer, counter = torch.nn.Linear(3, 4), launches.Launches()
    counter.count_inside(layer, "layer")
    with counter:
        layer(torch.ones(2, 3)).t().square().sum().backward()
    assert counter.counts["layer"] == {"addmm.default": 1, "mm.default": 1, "sum.dim_IntList": 1}  # weight's and bias'
    assert counter.counts[launches.REST]["ones.default"] == 1
    assert not any("view" in name or name.startswith("t.") for counts in counter.counts.values() for name in counts)
    assert counter.moved["layer"]["mm.default"] == 4 * (4 * 2 + 2 * 3 + 4 * 3)


def test_a_step_of_a_tiny_model_is_counted_as_on_a_device(launches):
    bare, ours = launches.count("tiny", 2, torch.bfloat16)
    assert {"tokenizer", "aggregations", "bottlenecks", "backbone", "head", launches.OPTIMIZER} <= ours.counts.keys()
    assert ours.counts["tokenizer"]["any2point.farthest_points.default"] == 1
    assert ours.counts["tokenizer"]["topk.default"] == 3  # no tree is searched
    assert ours.counts["tokenizer"]["sin.out"] > 0  # no table is read
    assert ours.counts[launches.OPTIMIZER]["_fused_adamw_.default"] == 2  # two groups of parameters
    assert ours.counts["aggregations"].total() > ours.counts["backbone"].total() > 50
    assert ours.peak > bare.peak > 0
