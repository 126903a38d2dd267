"""The table of ShapeNetPart: published figures, ours by the metrics of its shapes, and what cannot be compared."""

import numpy as np
import pytest

from any2point_hf import label_points
from any2point_hf.paper import parts as table
from any2point_hf.segmentation.part_metrics import part_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(segmenter_with_categories, tmp_path):
    generator = np.random.default_rng(0)
    names = segmenter_with_categories.part_names
    arrays = {
        "points": generator.normal(size=(6, 80, 3)).astype(np.float32),
        "part": np.stack([generator.integers(0, 2, 80) + 2 * (row % 2) for row in range(6)]),
        "part_names": np.array(names),
        "category": np.arange(6) % 2,
        "category_names": np.array(["ant", "zebra"]),
        "split": np.array([0, 0, 1, 1, 1, 1]),
    }
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz", arrays


def test_ours_stand_below_the_published(run_command, segmenter_with_categories, data, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "CATEGORIES", 2)
    monkeypatch.setattr(table, "PARTS", 5)
    model, processor = segmenter_with_categories.model, segmenter_with_categories.processor
    path, arrays = data
    options = ("--model", segmenter_with_categories.folder, "--output", tmp_path / "out")
    result = run_command("reproduce", "--parts", "--data", path, *options)
    assert result.code == 0, result.err
    lines = (tmp_path / "out" / "parts.md").read_text(encoding="utf-8").splitlines()
    assert "| Point-MAE, re-measured | 86.05 | 84.12 | – |" in lines
    assert "| Point-MAE, as published | 86.1 | – | – |" in lines
    assert "| Point-NN, without training | 71.5 | – | – |" in lines
    of_test = range(2, 6)
    predicted = [
        label_points(model, processor, arrays["points"][row], ("ant", "zebra")[row % 2]).parts for row in of_test
    ]
    expected = part_metrics(
        predicted,
        [arrays["part"][row] for row in of_test],
        segmenter_with_categories.part_names,
        [("zebra", "ant").index(("ant", "zebra")[row % 2]) for row in of_test],
        model.config.category_parts,
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    figures = f"{100 * expected['instance_miou']:.2f} | {100 * expected['class_miou']:.2f} | {trained:.2f}"
    assert f"| ours: {segmenter_with_categories.folder} | {figures} |" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--data", "shapes-parts"), "the published numbers are of ShapeNetPart, 16 categories with 50 parts"),
        (("--data", "shapes-parts", "--quick"), "--quick belongs to --table, got --parts"),
    ],
)
def test_what_cannot_be_compared(run_command, segmenter_with_categories, tmp_path, arguments, said):
    options = ("--model", segmenter_with_categories.folder, "--output", tmp_path / "out")
    result = run_command("reproduce", "--parts", *arguments, *options)
    assert (result.code, said in result.err) == (2, True), result.err
    assert not (tmp_path / "out").exists()


def test_a_model_is_needed(run_command, tmp_path):
    result = run_command("reproduce", "--parts", "--data", "shapes-parts", "--output", tmp_path)
    assert (result.code, "--parts needs --model" in result.err) == (2, True)
