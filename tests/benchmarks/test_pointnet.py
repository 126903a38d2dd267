"""The PointNet of the comparison has the size that it should have, and learns."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pointnet(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pointnet

    torch.manual_seed(0)
    return pointnet


@pytest.fixture
def classes(two_classes):
    arrays = two_classes.arrays(num_train=64, num_test=32)
    points, labels, split = (torch.from_numpy(arrays[name]) for name in ("points", "labels", "split"))
    return [(points[split == part], labels[split == part]) for part in (0, 1)]


def test_it_has_77_thousand_parameters(pointnet):
    model = pointnet.PointNet(10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 76938
    assert model(torch.randn(4, 100, 3)).shape == (4, 10)


def test_the_order_of_points_changes_nothing(pointnet):
    model, points = pointnet.PointNet(10).eval(), torch.randn(2, 100, 3)
    torch.testing.assert_close(model(points), model(points[:, torch.randperm(100)]))


def test_it_learns_two_classes(pointnet, classes):
    (points, labels), (test_points, test_labels) = classes
    model = pointnet.PointNet(2)
    assert pointnet.train(model, points, labels, num_points=64, epochs=30) == 60
    assert pointnet.accuracy(model, test_points, test_labels) > 0.95


def test_the_same_seed_gives_the_same_model(pointnet, classes):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        models.append(pointnet.PointNet(2))
        pointnet.train(models[-1], *classes[0], num_points=64, seed=seed, epochs=1)
    one, again, other = (model.layers[0].weight for model in models)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_minutes_are_kept(pointnet, classes):
    start = time.perf_counter()
    steps = pointnet.train(pointnet.PointNet(2), *classes[0], num_points=64, minutes=0.01)
    assert 0.6 <= time.perf_counter() - start < 3
    assert steps > 2


def test_the_last_cloud_of_an_epoch_alone_is_left_out(pointnet, classes):
    points, labels = classes[0]
    model = pointnet.PointNet(2)
    assert pointnet.train(model, points[:33], labels[:33], num_points=64, epochs=2) == 4


def test_it_trains_where_there_is_no_datasets(subprocess_environment):
    program = (
        "import sys, torch; sys.modules['datasets'] = None; sys.path.insert(0, sys.argv[1])\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'datasets' else find(name, *rest)\n"
        "import pointnet; model = pointnet.PointNet(2)\n"
        "print(pointnet.train(model, torch.randn(8, 80, 3), torch.arange(8) % 2, 64, epochs=3))"
    )
    command = [sys.executable, "-c", program, str(BENCHMARKS)]
    process = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "3\n"), process.stderr


def test_the_command_prints_a_line_for_each_seed(pointnet, two_classes, monkeypatch, capsys):
    arguments = ["--data", str(two_classes.path), "--num-points", "64", "--epochs", "2", "--seeds", "0,1"]
    monkeypatch.setattr(sys, "argv", ["pointnet.py", *arguments, "--clouds-per-class", "6"])
    pointnet.main()
    first, *seeds, last = capsys.readouterr().out.splitlines()
    assert first.startswith("12 clouds to train on, 8 to test on; ")
    assert [line.split(":")[0] for line in seeds] == ["seed 0", "seed 1"]
    assert re.match(r"accuracy [01]\.\d{4} ± 0\.\d{4} ", last)
    assert last.endswith("(last epoch, test split, seeds: 2)")
