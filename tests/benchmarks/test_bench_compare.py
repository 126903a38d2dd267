"""The comparison fails where a ratio got worse by more than both spreads and a tenth, and nowhere else."""

import copy
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ARGUMENTS = {"setting": "clip-text-scan", "mode": "train", "batch": 8}


@pytest.fixture
def bench_compare(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_compare

    return bench_compare


@pytest.fixture
def comparison(bench_compare):
    return bench_compare.comparison


def spread(median, quartiles=0.0):
    lower, upper = median - quartiles, median + quartiles
    return {
        "median": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "low": lower,
        "high": upper,
        "rounds": 5,
    }


def made_up(ratio, seconds=1.0, **environment):
    row = {
        "arguments": ARGUMENTS,
        "ratios": {"model / bare": ratio},
        "seconds": {"model": spread(seconds)},
    }
    machine = {"processor": "a", "cores": 2, "threads": 2, "gpu": None, "torch": "2", "features": [], **environment}
    return {"environment": machine, "results": {"ratios": [row]}}


@pytest.mark.parametrize(
    ("old", "new", "is_worse"),
    [
        (spread(2.0), spread(2.19), False),  # within a tenth
        (spread(2.0), spread(2.21), True),
        (spread(2.0), spread(1.0), False),  # better
        (spread(2.0, 0.1), spread(2.39, 0.1), False),  # within a tenth and both spreads
        (spread(2.0, 0.1), spread(2.41, 0.1), True),
        (spread(2.0, 0.2), spread(2.30), False),  # the old one's spread alone
        (spread(2.0), spread(2.30, 0.2), False),  # the new one's
    ],
)
def test_a_ratio_is_worse_beyond_the_spreads_and_a_tenth(comparison, old, new, is_worse):
    failures = comparison.failures(made_up(old), made_up(new))
    assert len(failures) == is_worse
    if is_worse:
        assert failures[0].startswith("ratios: setting clip-text-scan")
        assert "model / bare got worse" in failures[0]


def test_seconds_are_judged_in_the_same_environment_alone_and_never_fail(comparison):
    old, slow = made_up(spread(2.0), seconds=1.0), made_up(spread(2.0), seconds=3.0)
    assert comparison.failures(old, slow) == []
    assert "| +200.0 % | WORSE |" in comparison.table(old, slow, "seconds")
    for changed in ({"processor": "b"}, {"threads": 4}, {"torch": "3"}):
        elsewhere = made_up(spread(2.0), seconds=3.0, **changed)
        assert "| +200.0 % | not judged |" in comparison.table(old, elsewhere, "seconds")


def test_a_ratio_is_judged_between_machines_too(comparison):
    assert comparison.failures(made_up(spread(2.0)), made_up(spread(3.0), processor="b"))


def test_the_table_has_old_new_and_change_with_spreads(comparison):
    table = comparison.table(made_up(spread(2.0, 0.1)), made_up(spread(3.0, 0.5)), "ratios")
    assert "| 2.000 (1.900 … 2.100) | 3.000 (2.500 … 3.500) | +50.0 % | WORSE |" in table


def test_a_failed_case_fails_the_comparison(comparison):
    old, new = made_up(spread(2.0)), made_up(spread(2.0))
    new["results"]["ratios"].append({"arguments": {"batch": 32}, "error": "exit code -9: without a word"})
    (failure,) = comparison.failures(old, new)
    assert "batch 32: failed: exit code -9" in failure


def test_a_run_of_other_cases_fails_instead_of_comparing_nothing(comparison):
    old, new = made_up(spread(2.0)), made_up(spread(2.0))
    new["results"]["ratios"][0]["arguments"] = {**ARGUMENTS, "batch": 16}
    (failure,) = comparison.failures(old, new)
    assert "nothing could be compared" in failure
    assert "not measured" in comparison.table(old, new, "ratios")


def test_one_missing_ratio_is_told_but_is_no_failure(comparison):
    """A package that is not installed here has no ratio."""
    old, new = made_up(spread(2.0)), made_up(spread(2.0))
    old["results"]["ratios"][0]["ratios"]["ours / torch-cluster"] = spread(0.5)
    assert comparison.failures(old, new) == []
    assert comparison.table(old, new, "ratios").count("not measured") == 1


def test_the_command_ends_by_what_it_found(bench_compare, tmp_path, monkeypatch, capsys):
    baseline, new = tmp_path / "baseline.json", tmp_path / "new.json"
    arguments = ["bench_compare.py", "--baseline", str(baseline), "--new", str(new)]
    monkeypatch.setattr(sys, "argv", arguments)
    run = made_up(spread(2.0))
    run["results"]["growth"] = copy.deepcopy(run["results"]["ratios"])
    new.write_text(json.dumps(run))
    assert bench_compare.main() == 2  # no baseline yet
    assert "--store" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*arguments, "--store"])
    assert bench_compare.main() == 0
    assert list(json.loads(baseline.read_text())["results"]) == ["ratios"]  # what is compared, and no more
    monkeypatch.setattr(sys, "argv", arguments)
    assert bench_compare.main() == 0
    new.write_text(json.dumps(made_up(spread(2.5))))
    assert bench_compare.main() == 1
    assert "got worse" in capsys.readouterr().err


def test_each_kind_of_machine_has_a_baseline_of_its_own(bench_compare, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_compare, "BASELINES", tmp_path)
    new = tmp_path / "new.json"
    monkeypatch.setattr(sys, "argv", ["bench_compare.py", "--new", str(new), "--store"])
    for features, ratio in ((["avx2"], 1.5), (["avx2", "avx512_f", "avx512_bf16"], 3.0)):
        machine = {"processor": "AMD EPYC (x86_64)", "features": features}
        new.write_text(json.dumps(made_up(spread(ratio), **machine)))
        assert bench_compare.main() == 0
    assert {path.name for path in tmp_path.glob("x86*")} == {"x86_64-avx2.json", "x86_64-avx512-bf16.json"}
    monkeypatch.setattr(sys, "argv", ["bench_compare.py", "--new", str(new)])
    assert bench_compare.main() == 0  # 3.0 beside 3.0, not beside 1.5
    new.write_text(json.dumps(made_up(spread(3.0), processor="Apple M2 (arm64)", features=[])))
    assert bench_compare.main() == 2
    assert "arm64-plain.json" in capsys.readouterr().err


def test_the_stored_baselines_are_of_the_kinds_that_their_names_say(bench_compare):
    for path in bench_compare.BASELINES.glob("*.json"):
        assert path.stem == bench_compare.environment.kind(json.loads(path.read_text())["environment"])
