"""`any2point few-shot`: what it hands to the protocol, what it prints, and what it refuses."""

import json

import numpy as np
import pytest

from any2point_hf.few_shot import protocol


@pytest.fixture
def data(two_classes, tmp_path):
    np.savez(tmp_path / "data.npz", **two_classes.arrays(60, 8))
    return tmp_path / "data.npz"


@pytest.fixture
def asked(monkeypatch):
    """What was measured; nothing is trained."""
    rows = []

    def accuracy(row, fold, *_):
        rows.append((row, len(fold["train"])))
        return 0.5

    monkeypatch.setattr(protocol, "row_accuracy", accuracy)
    return rows


def test_the_table_is_written(run_command, data, bert, asked, tmp_path):
    arguments = ("few-shot", "--data", data, "--backbone", bert, "--output", tmp_path / "out", "--ways", "2")
    result = run_command(*arguments, "--shots", "2,4", "--folds", "1")
    table = tmp_path / "out" / "few_shot.md"
    assert result.code == 0
    assert result.out.splitlines()[-1] == f"written to {table}"
    assert result.out.splitlines()[0].startswith("2-way 2-shot, fold 0, pretrained: accuracy 0.5000 in ")
    assert [clouds for _, clouds in asked] == [4] * 6 + [8] * 6
    assert "| row | 2-way 2-shot | 2-way 4-shot |" in table.read_text(encoding="utf-8")
    result = run_command(*arguments, "--shots", "2,4", "--folds", "1", "--json")
    assert json.loads(result.out) == {"file": str(table)}
    assert len(asked) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ways", "5,5"), "must name each number once, got 5,5"),
        (("--shots", "0"), "must be positive and finite, got 0"),
        (("--folds", "-1"), "must be positive and finite, got -1"),
        (("--ways", "1"), "at least 2 ways"),
        (("--ways", "3", "--shots", "2"), "3 ways of 2 shots and 20 queries need 3 classes of at least 22"),
    ],
)
def test_bad_options(run_command, data, bert, asked, tmp_path, arguments, said):
    result = run_command("few-shot", "--data", data, "--backbone", bert, "--output", tmp_path / "out", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert not asked


def test_a_pickle_that_would_run_code(run_command, bert, asked, tmp_path):
    (tmp_path / "folds" / "2way_1shot").mkdir(parents=True)
    (tmp_path / "folds" / "2way_1shot" / "0.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    arguments = ("--ways", "2", "--shots", "1", "--folds", "1")
    result = run_command("few-shot", "--data", tmp_path / "folds", "--backbone", bert, "--output", tmp_path, *arguments)
    assert (result.code, result.out) == (2, "")
    assert "names 'os.system', which was not run" in result.err
