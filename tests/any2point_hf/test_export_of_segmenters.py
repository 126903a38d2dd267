"""Exported segmenters give the logits of all points, for batches of any size."""

import json

import pytest
import torch

from any2point_hf import Any2PointProcessor, export_onnx
from any2point_hf.export import METADATA_FILE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


@torch.no_grad()
def assert_same(model, run, with_category, num_features=0):
    generator = torch.Generator().manual_seed(5)
    for batch_size in (1, 2, 4):
        points = torch.nn.functional.normalize(torch.randn(batch_size, 64, 3, generator=generator), dim=-1)
        features = [torch.rand(batch_size, 64, num_features, generator=generator)] if num_features else []
        category = {"category": torch.arange(batch_size) % 2} if with_category else {}
        expected = model(points, *features, **category).logits
        assert expected.shape == (batch_size, 64, 5)
        assert expected.std(dim=1).min() > 0.1  # points are told apart
        torch.testing.assert_close(run(points, *features, **category), expected, atol=1e-4, rtol=0)


def run_onnx(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(points, *features, **others):
        named = {"points": points, **dict(zip(["point_features"], features, strict=False)), **others}
        return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in named.items()})[0])

    return session, run


def test_onnx_with_features_and_categories(segmenter_of, tmp_path):
    names = ["intensity"]
    model = segmenter_of(category_parts={"zebra": [2, 3, 4], "ant": [0, 1]}, point_feature_names=names)
    report = export_onnx(model, tmp_path / "a.onnx", Any2PointProcessor(64, point_feature_names=names))
    assert report.max_difference <= 1e-4
    session, run = run_onnx(tmp_path / "a.onnx")
    assert_same(model, run, True, num_features=1)
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    assert inputs == {"points": ["batch", 64, 3], "point_features": ["batch", 64, 1], "category": ["batch"]}
    assert session.get_outputs()[0].shape == ["batch", 64, 5]
    said = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert said["id2label"]["3"] == "zebra/stripes"
    assert said["category_parts"] == [["zebra", [2, 3, 4]], ["ant", [0, 1]]]


def test_the_command_writes_a_program(run_command, tiny_segmenter, tmp_path):
    file = tmp_path / "a.pt2"
    command = ("export", "--model", tiny_segmenter.folder, "--format", "torch", "--output", file, "--json")
    assert json.loads(run_command(*command).out)["max_difference"] <= 1e-4
    extra = {METADATA_FILE: ""}
    assert_same(tiny_segmenter.model, torch.export.load(file, extra_files=extra).module(), False)
    assert json.loads(json.loads(extra[METADATA_FILE])["category_parts"]) is None
