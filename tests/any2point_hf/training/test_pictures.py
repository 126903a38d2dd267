"""Pictures of a training: what colour stands where, and that the same figures give the same bytes."""

import itertools

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from any2point_hf.training import pictures as training_pictures
from any2point_hf.training.pictures import ABSENT, COLOR_MAP, draw_confusion_matrix, draw_training_curves


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was drawn last."""
    figures = []
    save = training_pictures._save
    monkeypatch.setattr(
        training_pictures, "_save", lambda figure, path: (figures.append(figure), save(figure, path))[1]
    )
    return lambda: figures[-1]


def cell_colors(figure, path, size):
    """The colour near the corner of each cell in the written file, [size, size, 3] in 0…1."""
    pixels = np.asarray(Image.open(path).convert("RGB")) / 255
    axes = figure.axes[0]
    FigureCanvasAgg(figure).draw()
    box = figure.get_tightbbox().padded(0.1)  # what is cut off around the picture, in inches
    rows, columns = np.mgrid[:size, :size]
    corners = np.stack([columns - 0.3, rows - 0.3], axis=-1).reshape(-1, 2)
    places = axes.transData.transform(corners) / figure.dpi * 110 - np.array([box.x0, box.y0]) * 110
    x, y = np.rint(places).astype(int).T
    return pixels[pixels.shape[0] - 1 - y, x].reshape(size, size, 3)


@pytest.mark.parametrize("size", [2, 5, 15, 55])
def test_a_cells_colour_is_its_share_of_the_row(tmp_path, drawn, size):
    generator = np.random.default_rng(size)
    matrix = generator.multinomial(40, generator.dirichlet(np.ones(size), size=size))
    if size > 2:
        matrix[1] = 0
    draw_confusion_matrix(matrix, [f"class {index}" for index in range(size)], tmp_path / "confusion.png")
    totals = matrix.sum(axis=1, keepdims=True)
    expected = np.array(colormaps[COLOR_MAP](matrix / np.maximum(totals, 1)))[..., :3]
    expected[totals[:, 0] == 0] = to_rgb(ABSENT)
    found = cell_colors(drawn(), tmp_path / "confusion.png", size)
    np.testing.assert_allclose(found, expected, atol=0.01)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_counts_stand_in_the_cells_of_few_classes(tmp_path, drawn):
    draw_confusion_matrix(np.array([[7, 0], [2, 31]]), ["ball", "disc"], tmp_path / "a.png")
    assert texts(drawn().axes[0]) == ["7", "2", "31"]
    assert [text.get_color() for text in drawn().axes[0].texts] == ["white", "black", "white"]
    draw_confusion_matrix(np.eye(21, dtype=int), [str(index) for index in range(21)], tmp_path / "b.png")
    assert texts(drawn().axes[0]) == []


def test_no_label_overlaps_another(tmp_path, drawn):
    names = [f"a_long_class_name_{index}" for index in range(55)]
    draw_confusion_matrix(np.eye(55, dtype=int), names, tmp_path / "a.png")
    axes = drawn().axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) == 55
        assert not any(first.overlaps(second) for first, second in itertools.pairwise(boxes))


def test_any_class_name_is_drawn_as_it_is(tmp_path, drawn, recwarn):
    names = ["$\\broken{", "椅子"]
    draw_confusion_matrix(np.eye(2, dtype=int), names, tmp_path / "a.png")
    assert [label.get_text() for label in drawn().axes[0].get_xticklabels()] == names
    assert not recwarn.list


HISTORY = [
    {"loss": 2.0, "learning_rate": 1e-3, "epoch": 1.0},
    {"eval_validation_accuracy": 0.5, "eval_validation_loss": 1.5, "epoch": 1.0},
    {"eval_test_accuracy": 0.4, "eval_test_loss": 1.6, "epoch": 1.0},
    {"loss": 1.0, "learning_rate": 1e-4, "epoch": 2.0},
    {"eval_validation_accuracy": 0.75, "eval_validation_loss": 1.2, "epoch": 2.0},
    {"eval_test_accuracy": 0.6, "eval_test_loss": 1.3, "epoch": 2.0},
    {"loss": 0.5, "learning_rate": 0.0, "epoch": 3.0},
    {"eval_validation_accuracy": 0.75, "eval_validation_loss": 1.1, "epoch": 3.0},
    {"eval_test_accuracy": 0.9, "eval_test_loss": 1.0, "epoch": 3.0},
    {"train_runtime": 3.0, "train_loss": 1.1, "epoch": 3.0},
]


def curves(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_the_curves_of_a_training_with_a_validation_split(tmp_path, drawn):
    draw_training_curves(HISTORY, tmp_path / "curves.png")
    loss, accuracy = drawn().axes
    epochs = [1.0, 2.0, 3.0]
    assert curves(loss) == {
        "train": (epochs, [2.0, 1.0, 0.5]),
        "validation": (epochs, [1.5, 1.2, 1.1]),
        "test": (epochs, [1.6, 1.3, 1.0]),
        "epoch kept": ([2.0, 2.0], [0, 1]),  # the first of equals
    }
    assert curves(accuracy) == {
        "validation": (epochs, [0.5, 0.75, 0.75]),
        "test": (epochs, [0.4, 0.6, 0.9]),
        "epoch kept": ([2.0, 2.0], [0, 1]),
    }


def test_the_curves_of_one_epoch_without_a_validation_split(tmp_path, drawn):
    history = [{"loss": 2.0, "epoch": 1.0}, {"eval_accuracy": 0.5, "eval_loss": 1.5, "epoch": 1.0}]
    draw_training_curves(history, tmp_path / "curves.png")
    loss, accuracy = drawn().axes
    assert curves(loss) == {"train": ([1.0], [2.0]), "test": ([1.0], [1.5])}
    assert curves(accuracy) == {"test": ([1.0], [0.5])}


def test_the_same_figures_give_the_same_bytes_and_no_date(tmp_path):
    for name in ("a", "b"):
        draw_training_curves(HISTORY, tmp_path / f"{name}-curves.png")
        draw_confusion_matrix(np.array([[3, 1], [0, 4]]), ["ball", "disc"], tmp_path / f"{name}-confusion.png")
    for kind in ("curves", "confusion"):
        assert (tmp_path / f"a-{kind}.png").read_bytes() == (tmp_path / f"b-{kind}.png").read_bytes()
        assert set(Image.open(tmp_path / f"a-{kind}.png").info) == {"dpi"}
