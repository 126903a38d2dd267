"""`any2point predict` with a segmenter: files of parts, summaries, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    label_points,
    label_scene,
)
from any2point_hf.point_clouds.ply import read_ply

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def files(tmp_path):
    clouds = {"a": 64, "b": 200}
    for name, size in clouds.items():
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32))
    return [tmp_path / f"{name}.npy" for name in clouds]


@pytest.fixture
def expected(tiny_segmenter, files):
    return [label_points(tiny_segmenter.model, tiny_segmenter.processor, file) for file in files]


def numbers(summary):
    rows = [[part[name] for name in ("id", "points", "share", "confidence")] for part in summary["parts"]]
    return [*rows, [summary["confidence"]]]


def test_one_file_to_each_format(run_command, tiny_segmenter, files, expected, tmp_path):
    for name in ("b.ply", "b-parts.npy", "b.csv"):
        out = tmp_path / "out" / name
        result = run_command("predict", files[1], "--model", tiny_segmenter.folder, "--out", out)
        assert result.code == 0, result.err
        assert result.out.startswith(
            f"{files[1]}: 200 points: ant/head {100 * (expected[1].parts == 0).mean():.1f} %, "
        )
        assert result.out.endswith(f"; written to {out}\n")
        if out.suffix == ".npy":
            np.testing.assert_array_equal(np.load(out), expected[1].parts)
    geometry = read_ply(tmp_path / "out" / "b.ply", ["part"])
    np.testing.assert_array_equal(geometry.features["part"], expected[1].parts)
    np.testing.assert_array_equal(geometry.points, np.load(files[1]))


def test_several_files_to_a_folder(run_command, tiny_segmenter, files, expected, tmp_path):
    options = ("--model", tiny_segmenter.folder, "--out", tmp_path / "out", "--format", "npy", "--json")
    result = run_command("predict", *files, *options)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-parts.npy", "b-parts.npy"]
    for entry, file, labelled in zip(json.loads(result.out), files, expected, strict=True):
        out = tmp_path / "out" / f"{file.stem}-parts.npy"
        assert (entry["file"], entry["out"], entry["points"]) == (str(file), str(out), len(labelled.points))
        assert [pytest.approx(part, abs=2e-6) for part in numbers(entry)] == numbers(labelled.summary())
        np.testing.assert_array_equal(np.load(out), labelled.parts)


def test_a_folder_gets_ply_by_default_and_nothing_is_needed(run_command, tiny_segmenter, files, tmp_path):
    assert run_command("predict", files[0], "--model", tiny_segmenter.folder, "--out", tmp_path / "out").code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-parts.ply"]
    result = run_command("predict", files[0], "--model", tiny_segmenter.folder, "--json")
    assert json.loads(result.out)[0]["out"] is None


def test_a_category_is_named(run_command, segmenter_with_categories, files):
    result = run_command(
        "predict", files[0], "--model", segmenter_with_categories.folder, "--category", "ant", "--json"
    )
    (summary,) = json.loads(result.out)
    assert summary["category"] == "ant"
    assert {part["id"] for part in summary["parts"]} <= {0, 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "a.las"), "must end in .ply, .npy, .csv, got 'a.las'"),
        (("--out", "a.ply"), "--out must be a folder for 2 files, got a.ply"),
        (("--top", "1"), "--top belongs to classifiers"),
        (("--category", "ant"), 'this model has no categories, got --category "ant"'),
        (("--skip-bad",), "--skip-bad needs --out FILE.parquet"),
        (("--out", "parts", "--format", "las"), "must be one of ply, npy, csv, got las"),
        (("--context", "1"), "--context is the margin of a --block, got 1 without one"),
        (("--block", "1", "--context", "-1"), "--context must be a width of at least 0, got -1"),
        (("--block", "1", "--out", "a.parquet"), "--block labels files, got --out a.parquet"),
        (("--block", "0"), "--block"),
    ],
)
def test_bad_options(run_command, tiny_segmenter, files, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run_command("predict", *files, "--model", tiny_segmenter.folder, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "Traceback" not in result.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scene_is_labelled_by_squares(run_command, tiny_segmenter, files, tmp_path):
    options = ("--block", "1.5", "--context", "0.25", "--out", tmp_path / "scene.npy")
    assert run_command("predict", files[1], "--model", tiny_segmenter.folder, *options).code == 0
    points = torch.from_numpy(np.load(files[1]))
    expected = label_scene(tiny_segmenter.model, points, 1.5, 0.25, num_points=64)
    np.testing.assert_array_equal(np.load(tmp_path / "scene.npy"), expected.numpy())


def test_files_are_never_written_over(run_command, tiny_segmenter, files, tmp_path):
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "a.npy", np.load(files[0]))
    options = ("--model", tiny_segmenter.folder, "--out")
    assert "must not replace a file that is read" in run_command("predict", files[0], *options, files[0]).err
    twice = run_command("predict", files[0], tmp_path / "other" / "a.npy", *options, tmp_path / "out")
    assert (twice.code, "two of the files would be written to a-parts.ply" in twice.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_bad_clouds_are_one_line(run_command, tiny_segmenter, segmenter_with_categories, files, tmp_path):
    np.save(tmp_path / "few.npy", np.eye(3))
    result = run_command("predict", tmp_path / "few.npy", "--model", tiny_segmenter.folder)
    assert (result.code, result.out) == (2, "")
    assert "few.npy must have at least 8 distinct points, got 3" in result.err
    result = run_command("predict", files[0], "--model", segmenter_with_categories.folder)
    assert (result.code, "--category is one of zebra, ant, got none" in result.err) == (2, True)


def test_options_of_segmenters_are_refused_for_classifiers(run_command, tiny_adapter, files):
    for option, value in (("--category", "ant"), ("--format", "npy"), ("--block", "2")):
        result = run_command("predict", files[0], "--model", tiny_adapter.folder, option, value)
        assert (result.code, f"{option} belongs to segmenters" in result.err) == (2, True)


def test_a_regression_lists_no_classes(run_command, files, bert, tmp_path):
    fields = {"problem_type": "regression", "num_points": 64, "num_neighbors": 8, "num_views": 2, "num_labels": 2}
    Any2PointForPointCloudClassification(Any2PointConfig(backbone=bert, **fields)).save_pretrained(tmp_path / "model")
    Any2PointProcessor(64).save_pretrained(tmp_path / "model")
    for out in ((), ("--out", tmp_path / "numbers.parquet")):
        result = run_command(
            "predict", files[0].parent if out else files[0], "--model", tmp_path / "model", "--top", "2", *out
        )
        assert (result.code, "--top lists classes" in result.err) == (2, True)
    assert not (tmp_path / "numbers.parquet").exists()
