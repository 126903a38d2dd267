"""The PointNet for parts has the size that it should have, and learns; the majority row is what its name says."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from any2point_hf.data.parts.shapes import make_part_shapes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def part_baseline(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import part_baseline

    torch.manual_seed(0)
    return part_baseline


def parts(part_baseline, categories=2):
    """Shapes whose part is the side of the plane x = 0, with other ids in each category."""
    points = torch.randn(24, 80, 3)
    category = torch.arange(24) % categories
    labels = (points[..., 0] > 0).long() + 2 * category.unsqueeze(1)
    shapes = part_baseline.Shapes(points, labels, category)
    names = [str(part) for part in range(2 * categories)]
    return part_baseline.Parts(
        shapes, shapes, names, {str(c): [2 * c, 2 * c + 1] for c in range(categories)}, [1.0] * len(names)
    )


def test_it_has_four_hundred_thousand_parameters(part_baseline):
    model = part_baseline.PointNetParts(19, 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 392467
    assert model(torch.randn(4, 100, 3), torch.zeros(4, dtype=torch.int64)).shape == (4, 100, 19)


def test_permuting_points_permutes_the_answers(part_baseline):
    model, points, order = part_baseline.PointNetParts(5, 2).eval(), torch.randn(2, 100, 3), torch.randperm(100)
    category = torch.tensor([0, 1])
    torch.testing.assert_close(model(points, category)[:, order], model(points[:, order], category))


def test_it_learns(part_baseline, capsys):
    data = parts(part_baseline)
    model = part_baseline.PointNetParts(4, 2)
    assert part_baseline.train(model, data.train, num_points=64, epochs=20) == 40
    lines = capsys.readouterr().out.splitlines()
    numbers = [re.fullmatch(r"epoch (\d+): loss (\d\.\d{4}), (\d+) CPU s", line).groups() for line in lines]
    assert [int(epoch) for epoch, _, _ in numbers] == list(range(1, 21))
    assert float(numbers[-1][1]) < 0.5 < float(numbers[0][1])
    assert sorted(numbers, key=lambda values: int(values[2])) == numbers
    assert part_baseline.evaluate(part_baseline.by_model(model, data), data)["instance_miou"] > 0.85


def test_augmentation_and_weights_are_the_ones_asked_for(part_baseline):
    data = parts(part_baseline)
    seen = []

    def augment(rows, keys):
        seen.append(rows.shape)
        return rows

    def share_of_odd_parts(class_weight):
        model = part_baseline.PointNetParts(4, 2)
        part_baseline.train(model, data.train, 64, epochs=3, augment=augment, class_weight=class_weight)
        predicted = part_baseline.by_model(model, data)(data.test)
        return (predicted % 2 == 1).double().mean().item()

    assert share_of_odd_parts([1.0, 0.0, 1.0, 0.0]) < 0.25
    assert seen[0] == (16, 64, 4)
    assert share_of_odd_parts([0.0, 1.0, 0.0, 1.0]) > 0.75


def test_the_majority_row(part_baseline):
    data = parts(part_baseline)
    labels = data.train.labels.numpy()
    most = [np.bincount(labels[c::2].ravel(), minlength=4).argmax() for c in range(2)]
    ious = [(labels[index] == most[index % 2]).mean() / 2 for index in range(24)]  # the other part has 0
    result = part_baseline.evaluate(part_baseline.by_majority(data), data)
    assert result["instance_miou"] == pytest.approx(np.mean(ious))


def test_the_command_prints_a_line_for_each_seed(part_baseline, tmp_path, monkeypatch, capsys):
    make_part_shapes(10, 5, 100).save_to_disk(tmp_path / "shapes")
    arguments = ["part_baseline.py", "--data", str(tmp_path / "shapes"), "--num-points", "64", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "0,1", "--mirror", "x", "--balanced"])
    part_baseline.main()
    first, *seeds, instance, classes = capsys.readouterr().out.splitlines()
    assert first == "10 clouds to train on, 5 to test on"
    assert [line.split(":")[0] for line in seeds] == ["epoch 1", "seed 0", "epoch 1", "seed 1"]
    assert re.match(r"instance_miou [01]\.\d{4} ± 0\.\d{4} \(last epoch, \d+ parameters, 2 seeds\)", instance)
    assert classes.startswith("class_miou ")
    monkeypatch.setattr(sys, "argv", [*arguments, "--majority"])
    part_baseline.main()
    assert "most frequent part of the category: instance_miou 0." in capsys.readouterr().out
