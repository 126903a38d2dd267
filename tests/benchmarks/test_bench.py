"""The benchmark suite at tiny sizes: what it counts is there, adds up, and comes out of a fresh process."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def suite(monkeypatch):
    """Loads a module of the suite by its name; few rounds."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(importlib.import_module("suite.timing"), "MOST_ROUNDS", 3)
    return lambda name: importlib.import_module(f"suite.{name}")


def measured(group):
    return [{"arguments": arguments, **group.measure(**arguments)} for arguments in group.cases(quick=True)]


def test_contestants_take_turns_and_spreads_are_those_of_the_rounds(suite):
    timing, order = suite("timing"), []
    times = timing.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, fewest=3, time_box=0.0)
    assert order == list("ababab")
    assert len(times["a"]) == 3
    found = timing.ratio([2.0, 6.0, 4.0, 8.0], [1.0, 2.0, 2.0, 2.0])
    assert (found["low"], found["lower_quartile"], found["median"], found["high"]) == (2.0, 2.0, 2.5, 4.0)
    assert timing.spread([3.0])["upper_quartile"] == 3.0


def test_clouds_are_seeded_surfaces_in_the_unit_sphere(suite):
    random_clouds = suite("clouds").random_clouds
    clouds = random_clouds(6, 200)
    assert clouds.shape == (6, 200, 3)
    assert torch.equal(clouds, random_clouds(6, 200))
    assert torch.equal(clouds[:2], random_clouds(2, 200))
    assert not torch.equal(clouds[0], clouds[1])
    torch.testing.assert_close(clouds.norm(dim=-1).amax(dim=1), torch.ones(6))
    torch.testing.assert_close(suite("clouds").random_clouds(2, 200, seed=4), clouds[4:])


def test_the_bare_backbone_is_the_model_s_own_without_adapters(suite):
    """What the model is divided by."""
    pair = suite("models").Pair("tiny")
    hidden = torch.randn(2, 17, 48)
    base, expected = pair.model.any2point, hidden
    assert len(pair.blocks) == 2
    for block in pair.blocks:
        expected = block(expected, attention_mask=None)
    torch.testing.assert_close(pair.bare(hidden), expected)
    assert pair.bare(hidden[:, :5])[0, 0].sub(expected[0, 0]).abs().max() > 1e-4  # no causal mask: the first sees all
    for block in pair.blocks:
        assert not any(module._forward_hooks for module in block.modules())
    assert not any(parameter.requires_grad for parameter in pair.backbone.parameters())
    shared = {parameter.data_ptr() for parameter in base.backbone.parameters()}
    assert {parameter.data_ptr() for parameter in pair.backbone.parameters()} == shared


def test_ratios(suite):
    group = suite("end_to_end")
    rows = measured(group)
    for row in rows:
        low, high = (row["seconds"]["bare"][name] for name in ("low", "high"))
        ratio, seconds = row["ratios"]["model / bare"], row["seconds"]["model"]
        assert seconds["low"] / high <= ratio["median"] <= seconds["high"] / low
        assert ratio["rounds"] == 3
        assert row["clouds_per_second"] == pytest.approx(2 / row["seconds"]["model"]["median"])
    assert "tiny train B = 2" in group.table(rows)


def test_a_training_step_reaches_all_trained_weights_and_none_of_the_backbone_s(suite, monkeypatch):
    pair = suite("models").Pair("tiny")
    monkeypatch.setattr(pair.model, "zero_grad", lambda: None)
    pair.contestants("train", 4)["model"]()
    without = [name for name, weight in pair.model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []
    assert all(weight.grad is None for weight in pair.backbone.parameters())


def test_bfloat16_is_loaded_for_eval_and_autocast_for_training(suite):
    models = suite("models")
    pair = models.Pair("tiny", "bfloat16")
    pair.contestants("train", 2)["model"]()
    assert {weight.dtype for weight in pair.model.parameters()} == {torch.float32}
    pair.contestants("eval", 2)["model"]()
    assert {weight.dtype for weight in pair.model.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in pair.model.backbone.parameters()} == {torch.bfloat16}


def test_parts_add_up_to_the_whole(suite, monkeypatch):
    group = suite("parts")
    for name in ("farthest_point_sampling", "nearest_neighbors"):
        for module in group.users_of(name):
            monkeypatch.setattr(module, name, getattr(module, name))  # puts it back afterwards
    (evaluation, training) = measured(group)
    expected = {
        *("tokenizer: stem, stages", "tokenizer: sampling", "tokenizer: neighbours", "projection and positions"),
        *("backbone blocks", "bottlenecks", "guided aggregation", "final norm and head", "the rest"),
    }
    for row in (evaluation, training):
        assert set(row["shares"]) == expected
        assert all(share > 0 for share in row["shares"].values())
        assert sum(row["shares"].values()) == pytest.approx(1)


def test_the_clock_counts_a_backward_for_the_part_it_belongs_to(suite, monkeypatch):
    """Two parts, one inside the other, whose forward takes a second and whose backward takes known ones."""
    now = [0.0]
    parts = suite("parts")
    monkeypatch.setattr(parts.time, "perf_counter", lambda: now[0])

    class Work(torch.autograd.Function):
        @staticmethod
        def forward(context, tensor, seconds):
            context.seconds = seconds
            now[0] += 1
            return tensor.clone()

        @staticmethod
        def backward(context, gradient):
            now[0] += context.seconds
            return gradient, None

    clock = parts.PartClock()
    inner = clock.wrap(lambda tensor: Work.apply(tensor, 80), "inner")
    outer = clock.wrap(lambda tensor: Work.apply(inner(Work.apply(tensor, 20)), 300), "outer")
    clock.start()
    hidden = Work.apply(torch.ones(3, requires_grad=True), 4000)
    Work.apply(outer(hidden), 1000).sum().backward()
    clock.switch("the rest")
    assert clock.seconds == {"inner": 81, "outer": 322, "the rest": 5002}


def test_naive_point_operations_find_what_ours_find(suite):
    """What ours is compared with computes the same."""
    group, ops = suite("point_operations"), importlib.import_module("any2point_hf.modeling.tokenizer.point_ops")
    points = suite("clouds").random_clouds(3, 100)
    order = ops.farthest_point_sampling(points, 40)
    assert torch.equal(group.naive_sampling(points, 40), order)
    centers = ops.gather_points(points, order)
    ours = ops.nearest_neighbors(points, centers, 5).sort().values
    assert (group.naive_neighbours(points, centers, 5).sort().values == ours).float().mean() > 0.99
    pooled = [call() for call in group.cell_means(2, "eval", "cpu").values()]
    torch.testing.assert_close(*pooled)


def test_point_operations_say_what_is_not_installed(suite, monkeypatch):
    group = suite("point_operations")
    monkeypatch.setattr(group, "HAS", {"torch-cluster": False, "fpsample": False})
    rows = measured(group)
    assert all(row["ratios"]["ours / naive torch"]["median"] > 0 for row in rows)
    sampling, neighbours, *_ = group.table(rows).splitlines()[2:]
    assert sampling.endswith("| not installed | not installed |")
    assert neighbours.endswith("| not installed | none |")


ALLOCATION = """
import torch
from suite import memory
before = memory.peak_resident()
block = torch.ones(2**28, dtype=torch.uint8)
print(memory.peak_resident() - before)
"""


def test_memory_counts_what_was_allocated(subprocess_environment):
    environment = {**subprocess_environment, "PYTHONPATH": str(BENCHMARKS)}
    command = [sys.executable, "-c", ALLOCATION]  # a fresh process: this one's malloc may have kept what was freed
    grown = int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert 0.8 * 2**28 < grown < 1.5 * 2**28


def test_slopes_and_curves(suite, tmp_path):
    growth = suite("growth")

    def row(batch, seconds, memory):
        arguments = {"setting": "tiny", "mode": "eval", "axis": "batch", "batch": batch, "points": 128, "neighbors": 8}
        spread = suite("timing").spread([seconds])
        return {"arguments": arguments, "seconds": {"model": spread}, "above_built_bytes": memory}

    rows = [row(4, 8.0, 2**30), row(1, 1.0, 2**28), row(2, 2.0, 2**28)]
    lines = [line.split(" | ") for line in growth.table(rows).splitlines()[4:]]
    assert [(line[2], line[4].rstrip(" |")) for line in lines] == [("", ""), ("1.00", "0.00"), ("2.00", "2.00")]
    assert all(math.isfinite(growth.slope(*rows[:2], "batch", name)) for name in ("seconds", "above_built_bytes"))
    growth.draw(rows, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


def test_the_plan_for_a_gpu_can_be_measured(suite, monkeypatch):
    """On the CPU here: all but the look for waiting, which torch has for GPUs alone."""
    group = suite("cuda")
    assert group.cases(quick=True) == [] or torch.cuda.is_available()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        cases = [{**case, "device": "cpu"} for case in group.cases(quick=True)]
        assert cases[-1]["kind"] == "synchronization"
        assert {case["batch"] for case in group.cases(quick=False) if case["kind"] == "ratio"} == {32, 128}
    table = group.table([{"arguments": case, **group.measure(**case)} for case in cases[:-1]])
    assert "tiny train B = 2 bfloat16" in table
    assert "sampling 2 × 128 → 64" in table


@pytest.mark.slow
def test_the_command_measures_in_fresh_processes_and_reports_failures(suite, monkeypatch, tmp_path, capsys):
    bench = importlib.import_module("bench")
    run = bench.subprocess.run
    bare, model = suite("memory").cases(quick=True)

    def run_without_memory(command, **options):
        if "bare" in command[-1]:
            return subprocess.CompletedProcess(command, -9, stdout="", stderr="")
        return run(command, **options)

    monkeypatch.setattr(bench.subprocess, "run", run_without_memory)
    monkeypatch.setattr(
        "sys.argv", ["bench.py", "--only", "memory", "--quick", "--threads", "1", "--output", str(tmp_path)]
    )
    assert bench.main() == 1
    found = json.loads((tmp_path / "results.json").read_text())
    failed, measured = found["results"]["memory"]
    assert (failed["arguments"], measured["arguments"]) == (bare, model)
    assert 0 < measured["above_built_bytes"] < measured["built_bytes"]
    assert "-9: no message" in failed["error"]
    assert "failed | failed |" in (tmp_path / "results.md").read_text()
    assert "Failed: " in capsys.readouterr().out
    assert found["environment"]["threads"] == 1
