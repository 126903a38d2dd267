"""What a card shows as the way to repeat a training."""

import shlex

import pytest

from any2point_hf.modeling import Any2PointConfig
from any2point_hf.training.recipe import Recipe
from any2point_hf.training.repeating import pinned_command, shown_command, shown_path, training_code


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with some folders and files, and the working directory among them."""
    for folder in ("home/scans", "home/shapes", "home/my adapter", "work/runs/out"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "work" / "own.yaml").touch()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_directories_are_kept_out_of_a_command(machine):
    home = machine / "home"
    typed = [
        "train",
        "--data",
        f"{home}/scans#PB_T50_RS/split1",
        f"--backbone={home}/my adapter",
        "--output",
        "runs/out",
    ]
    typed += ["--recipe", "./own.yaml", "--epochs", "3", "--set", "line_direction=[1,0,0]", "--learning-rate", "1e-3"]
    shown = shown_command(typed)
    assert shlex.split(shown) == [
        *("any2point", "train", "--data", "scans#PB_T50_RS/split1", "--backbone=my adapter", "--output", "out"),
        *("--recipe", "own.yaml", "--epochs", "3", "--set", "line_direction=[1,0,0]", "--learning-rate", "1e-3"),
    ]
    assert str(machine) not in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14"),
        ("shapes", "shapes"),
        ("../home/shapes", "./shapes"),  # a folder, not the built-in ones
        ("../home/my adapter/", "my adapter"),
        (".", "work"),
        ("/nowhere/at/all", "all"),
        ("/c/models--org--some-name/snapshots/86b5e0934494bd15c9632b12f734a8a67f723594", "org/some-name"),
    ],
)
def test_what_is_shown_of_a_path(machine, value, shown):
    assert shown_path(value) == shown


def test_code_starts_sampling_where_the_training_did():
    for start, shown in (("first", 1), ("farthest", 0)):
        code = training_code("scans", Any2PointConfig(sampling_start=start), "out", Recipe(), 0, None)
        assert code.count("sampling_start='first'") == code.count("sampling_start=config.sampling_start") == shown


def test_code_drops_invalid_points_where_the_training_did():
    config = Any2PointConfig(backbone="org/name")
    plain = training_code("scans", config, "out", Recipe(), 0, None)
    assert "drop_invalid" not in plain
    dropping = training_code("scans", config, "out", Recipe(), 0, None, drop_invalid=True)
    assert "dataset = load_point_cloud_dataset('scans', drop_invalid=True)" in dropping.splitlines()
    assert ", seed=0, drop_invalid=True)" in dropping
    assert dropping.replace(", drop_invalid=True", "") == plain


def test_the_commit_takes_the_place_of_the_name_after_data_alone():
    typed = ["train", "--data", "me/clouds", "--output", "me/clouds", "--data=me/clouds"]
    shown = ["train", "--data", "me/clouds@abc", "--output", "me/clouds", "--data=me/clouds@abc"]
    assert pinned_command(typed, "me/clouds", "me/clouds@abc") == shown
    assert pinned_command(typed, "me/clouds", "me/clouds") == typed
