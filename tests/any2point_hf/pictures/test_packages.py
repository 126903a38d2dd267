"""A plain install has neither matplotlib nor plotly: what draws says so in one line, all else does its work."""

import json
import subprocess
import sys

import numpy as np
import pytest

ABSENT = """
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in ("matplotlib", "plotly", "PIL")
        return None if absent else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
COMMAND = ABSENT + "from any2point_hf.cli import main; sys.exit(main(sys.argv[1:]))"
IMPORTED = "from any2point_hf import {name}"
SAVED = "from any2point_hf.pictures.picture import Picture; Picture('', '', ()).save({name!r})"
REFUSED = """
import any2point_hf
try:
    {code}
except ImportError as error:
    print(isinstance(error, any2point_hf.MissingPackageError), error)
"""
ADVICE = 'which is not installed. Run: pip install "any2point-hf[pictures]"'


@pytest.fixture
def without(subprocess_environment, tmp_path):
    """Runs a program in which these packages are absent."""

    def run(program, *arguments):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=subprocess_environment, capture_output=True, text=True)

    return run


def test_a_training_is_saved_without_pictures_and_says_so(without, bert, two_classes, tmp_path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "training_curves.png").touch()  # of an earlier training
    arguments = ("--num-points", "64", "--num-neighbors", "8", "--epochs", "1", "--batch-size", "8")
    process = without(
        COMMAND, "train", "--data", two_classes.path, "--backbone", bert, "--output", "out", *arguments, "--json"
    )
    assert process.returncode == 0, process.stderr
    assert set(json.loads(process.stdout)) >= {"accuracy", "adapter_megabytes"}
    said = [line for line in process.stderr.splitlines() if "pictures" in line]
    assert said == [f"the training is saved without pictures of it: pictures need matplotlib, {ADVICE}"]
    assert list((tmp_path / "out" / "images").iterdir()) == []
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| ball |" in card
    assert "images/" not in card


def test_clouds_and_meshes_are_predicted(without, adapter, two_classes, tmp_path):
    np.save(tmp_path / "disc.npy", two_classes.cloud(1, np.random.default_rng(5)))
    (tmp_path / "box.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n")
    process = without(COMMAND, "predict", "disc.npy", "box.obj", "--model", adapter, "--json")
    assert process.returncode == 0, process.stderr
    assert [row["file"] for row in json.loads(process.stdout)] == ["disc.npy", "box.obj"]
    assert json.loads(process.stdout)[0]["classes"][0]["label"] == "disc"


@pytest.mark.parametrize(
    "command",
    [
        "visualize shapes:chair --model ./ --kind attention",
        "reproduce --figures --data shapes --model ./ --output figures",
    ],
)
def test_a_command_that_draws_ends_with_one_line(without, command, tmp_path):
    process = without(COMMAND, *command.split())
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"error: pictures need matplotlib, {ADVICE}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "package"),
    [
        (IMPORTED.format(name="draw_attention"), "matplotlib"),
        (IMPORTED.format(name="draw_point_clouds"), "matplotlib"),
        (SAVED.format(name="a.png"), "matplotlib"),
        (SAVED.format(name="a.html"), "plotly"),
    ],
)
def test_in_python_it_is_an_import_error_of_ours(without, code, package):
    process = without(ABSENT + REFUSED.format(code=code))
    assert process.stdout == f"True pictures need {package}, {ADVICE}\n", process.stderr
