import pytest

from any2point_hf.few_shot.table import mean_and_deviation, paired_difference, write_few_shot_table


def test_differences_are_paired_by_fold():
    mean, half = paired_difference({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.1}, {2: 0.5, 1: 0.7, 0: 0.6})
    assert mean == pytest.approx(0.2)
    assert half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert paired_difference({0: 0.9}, {0: 0.5}) == (pytest.approx(0.4), None)
    assert paired_difference({0: 0.9}, {1: 0.5}) is None
    assert mean_and_deviation([0.5]) == (0.5, 0.0)


def test_the_markdown(tmp_path):
    accuracies = {
        ("pretrained", 5, 10): {0: 0.9, 1: 0.8},
        ("permuted", 5, 10): {0: 0.85, 1: 0.71},
        ("random", 5, 10): {1: 0.6},
    }
    write_few_shot_table(tmp_path / "t.md", accuracies, [(5, 10), (10, 10)], ["a fact"], "any2point few-shot")
    lines = (tmp_path / "t.md").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["# Few-shot classification", "", "`any2point few-shot`"]
    assert "| row | 5-way 10-shot | 10-way 10-shot |" in lines
    assert "| pretrained: adapters on the frozen backbone | 85.0 ± 7.1 (2 folds) | – |" in lines
    assert "| random: the same on the backbone with random weights | 60.0 | – |" in lines
    assert "| pretrained \N{MINUS SIGN} permuted | +7.0 [-18.4, +32.4] | – |" in lines
    assert "| pretrained \N{MINUS SIGN} random | +20.0 | – |" in lines
    assert "| pretrained \N{MINUS SIGN} Point-NN | – | – |" in lines
    assert lines[-1] == "- a fact"
