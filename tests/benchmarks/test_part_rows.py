"""The rows of segmentation: what is done is not done again, and differences are paired by seed."""

import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def part_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import part_rows

    return part_rows


def test_each_row_is_trained_once_with_its_own_options(part_rows, monkeypatch, tmp_path, capsys):
    calls = []

    def run(command, *arguments):
        calls.append((command, *map(str, arguments)))
        return {"instance_miou": 0.5, "class_miou": 0.25, "accuracy": 1.0}, 60.0

    monkeypatch.setattr(part_rows, "run", run)
    monkeypatch.setattr(part_rows.random_backbone, "main", lambda backbone, output: Path(output).mkdir(parents=True))
    arguments = ["--data", "d", "--backbone", "b", "--output", str(tmp_path), "--seeds", "0,4", "--", "--mirror", "y"]
    monkeypatch.setattr(sys, "argv", ["part_rows.py", *arguments])
    part_rows.main()
    trained = [call for call in calls if call[0] == "train"]
    assert len(trained) == 8
    assert all(call[-2:] == ("--mirror", "y") for call in trained)
    assert [call[call.index("--seed") + 1] for call in trained] == ["0"] * 4 + ["4"] * 4
    assert [call[call.index("--backbone") + 1] for call in trained[:4]] == [
        "b",
        "b",
        str(tmp_path / "random_backbone"),
        "b",
    ]
    assert ["adapter_blocks=0" in call for call in trained[:4]] == [False, True, False, False]
    assert ["backbone_blocks=0" in call for call in trained[:4]] == [False, False, False, True]
    assert "| full model | 50.0 (50.0, 50.0) | 25.0 (25.0, 25.0) |  | 60 |" in capsys.readouterr().out  # two seeds
    part_rows.main()
    assert len(calls) == 16  # nothing new


def test_differences_are_paired_by_seed(part_rows):
    def runs(*values):
        return {seed: {"instance_miou": value, "class_miou": 0.3, "seconds": 10} for seed, value in enumerate(values)}

    found = {"full model": runs(0.50, 0.60, 0.40), "no backbone": runs(0.45, 0.55, 0.35)}
    first, last = part_rows.table(found).splitlines()[2:]
    assert first == "| full model | 50.0 (50.0, 60.0, 40.0) | 30.0 (30.0, 30.0, 30.0) | +5.0 ± 0.0 | 10 |"
    assert last.endswith("|  | 10 |")


def test_an_interrupted_row_goes_on(part_rows, monkeypatch, tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    calls = []
    found = {"instance_miou": 0.5, "class_miou": 0.25}
    monkeypatch.setattr(part_rows, "run", lambda *arguments: (calls.append(arguments), (found, 1.0))[1])
    part_rows.measure("d", "b", tmp_path, [], 0)
    assert "--resume" in calls[0]
    assert json.loads((tmp_path / "record.json").read_text()) == found | {"seconds": 1.0}
