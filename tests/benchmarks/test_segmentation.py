"""The comparison of evaluation times counts what is trained, and fails beyond its limit."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def segmentation(monkeypatch, one_thread):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import segmentation

    arguments = ["segmentation.py", "--setting", "tiny", "--num-points", "128", "--rounds", "2", "--parts", "5"]
    monkeypatch.setattr(sys, "argv", arguments)
    return segmentation


def test_it_counts_what_is_trained(segmentation, monkeypatch, capsys):
    monkeypatch.setattr(segmentation, "LARGEST_RATIO", 100.0)
    segmentation.main()
    first, second, times = capsys.readouterr().out.splitlines()
    models = segmentation.make_models("tiny", 5)
    for line, model, head in zip((first, second), models, ("classifier", "segmenter"), strict=True):
        trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
        of_head = sum(value.numel() for value in getattr(model, head).parameters())
        assert f": {trained:,} trained parameters, {of_head:,} of them in the head" in line
    assert times.startswith("4 clouds of 128 points: classification 0.")
    first, second = (next(model.backbone.parameters()) for model in models)
    assert first is second


def test_it_fails_beyond_its_limit(segmentation, monkeypatch):
    monkeypatch.setattr(segmentation, "LARGEST_RATIO", 0.0)
    with pytest.raises(SystemExit) as exit_info:
        segmentation.main()
    assert exit_info.value.code == 1


def test_contestants_take_turns_and_the_first_round_does_not_count(segmentation):
    calls = []
    times = segmentation.cpu_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in times.values()] == [2, 2]
