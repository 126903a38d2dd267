"""`any2point visualize`: what it writes and prints, and what it refuses."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cloud(two_classes, tmp_path):
    np.save(tmp_path / "disc.npy", two_classes.cloud(1, np.random.default_rng(5)))
    return tmp_path / "disc.npy"


@pytest.mark.parametrize("kind", ["attention", "similarity", "clusters", "tokens"])
def test_both_formats_beside_each_other(run_command, adapter, cloud, tmp_path, kind):
    result = run_command("visualize", cloud, "--model", adapter, "--kind", kind, "--out", tmp_path / "out")
    png, html = tmp_path / "out" / f"disc-{kind}.png", tmp_path / "out" / f"disc-{kind}.html"
    assert (result.code, result.out) == (0, f"written to {png}\nwritten to {html}\n")
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert ": disc</title>" in html.read_text(encoding="utf-8")


def test_the_current_folder_is_where_they_go(run_command, adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_command("visualize", "shapes:mug", "--model", adapter, "--kind", "clusters", "--json")
    written = json.loads(result.out)
    assert written == {"cloud": "shapes:mug", "kind": "clusters", "files": ["mug-clusters.png", "mug-clusters.html"]}
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(written["files"])


def test_files_by_name(run_command, adapter, cloud, tmp_path):
    outs = ("--out", tmp_path / "a" / "one.html", "--out", tmp_path / "b" / "two.png")
    result = run_command("visualize", cloud, "--model", adapter, "--kind", "attention", "--block", "1", *outs)
    assert result.code == 0
    page = (tmp_path / "a" / "one.html").read_text(encoding="utf-8")
    assert "slider" not in page[-3000:]  # one block, nothing to page through
    assert (tmp_path / "b" / "two.png").is_file()
    assert not (tmp_path / "a" / "one.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kind", "heat"), "heat"),
        (("--kind", "attention", "--block", "2"), "block must lie in 0…1 (the blocks there are), got 2"),
        (("--kind", "attention", "--block", "last"), "invalid block value: 'last'"),
        (("--kind", "similarity", "--token", "8"), "token must lie in 0…7 (the tokens there are), got 8"),
        (("--kind", "similarity", "--token", "-1"), "must not be negative, got -1"),
        (("--kind", "tokens", "--block", "0"), "--block belongs to attention and clusters, got --kind tokens"),
        (("--kind", "clusters", "--token", "0"), "--token belongs to similarity, got --kind clusters"),
        (("--kind", "tokens", "--out", "a.jpg"), ".png or .html, or a folder, got a.jpg"),
    ],
)
def test_bad_options(run_command, adapter, cloud, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = run_command("visualize", cloud, "--model", adapter, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "Traceback" not in result.err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disc.npy"]


@pytest.mark.parametrize(
    ("name", "said"), [("no.ply", "no.ply does not exist"), ("shapes:teapot", "names no built-in shape; there are")]
)
def test_a_cloud_that_is_not_there(run_command, adapter, tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    result = run_command("visualize", name, "--model", adapter, "--kind", "tokens")
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err


def test_a_backbone_without_such_positions(run_command, two_classes, cloud, tmp_path):
    import torch
    from transformers import T5Config, T5EncoderModel

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor

    torch.manual_seed(0)
    sizes = {"d_model": 24, "num_layers": 2, "num_heads": 2, "d_kv": 12, "d_ff": 32, "vocab_size": 30}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    config = Any2PointConfig(backbone=str(tmp_path / "t5"), num_points=64, num_neighbors=8)
    Any2PointForPointCloudClassification(config).save_pretrained(tmp_path / "adapter")
    Any2PointProcessor(num_points=64).save_pretrained(tmp_path / "adapter")
    out = tmp_path / "out"
    result = run_command("visualize", cloud, "--model", tmp_path / "adapter", "--kind", "similarity", "--out", out)
    assert result.code == 2
    assert "t5 tells positions by biases between two tokens" in result.err
    assert not out.exists()


def test_parts_of_a_segmenter(run_command, tiny_segmenter, segmenter_with_categories, adapter, cloud, tmp_path):
    result = run_command("visualize", cloud, "--model", tiny_segmenter.folder, "--kind", "parts", "--out", tmp_path)
    assert result.out == f"written to {tmp_path / 'disc-parts.png'}\nwritten to {tmp_path / 'disc-parts.html'}\n"
    assert "zebra\\u002flegs" in (tmp_path / "disc-parts.html").read_text(encoding="utf-8")
    for model, options, said in (
        (segmenter_with_categories.folder, (), "category is one of zebra, ant"),
        (tiny_segmenter.folder, ("--category", "ant"), "this model has no categories"),
        (adapter, (), "is a point cloud classification adapter"),
    ):
        result = run_command("visualize", cloud, "--model", model, "--kind", "parts", *options)
        assert (result.code, said in result.err) == (2, True)


def test_a_segmenter_s_attention(run_command, segmenter_with_categories, cloud, tmp_path):
    options = ("--model", segmenter_with_categories.folder, "--kind", "attention", "--block", "0")
    assert run_command("visualize", cloud, *options, "--out", tmp_path / "a.png").code == 0


def test_a_row_of_a_data_set(run_command, segmenter_of, tiny_segmenter, tmp_path):
    points = np.random.default_rng(0).normal(size=(2, 70, 3)).astype(np.float32)
    names = np.array(tiny_segmenter.part_names)
    part = np.arange(140).reshape(2, 70) % len(names)
    np.savez(tmp_path / "data.npz", points=points, part=part, part_names=names, split=np.array([0, 1]))
    options = ("--model", tiny_segmenter.folder, "--kind", "parts", "--out", tmp_path)
    result = run_command("visualize", tmp_path / "data.npz", "--row", "0", *options)
    assert result.code == 0, result.err
    assert "truth" in (tmp_path / "data-0-parts.html").read_text(encoding="utf-8")
    result = run_command("visualize", tmp_path / "data.npz", "--row", "1", *options)
    assert (result.code, "--row must lie in 0…0" in result.err) == (2, True)
