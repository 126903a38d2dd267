"""Exported files compute what the model computes, on clouds and batch sizes that the export has not seen."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, ViTConfig

from any2point_hf import (
    Any2PointConfig,
    Any2PointError,
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    export_onnx,
    export_program,
)
from any2point_hf.export import METADATA_FILE, check_logits

pytestmark = pytest.mark.slow

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
SIZES = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
BACKBONES = {
    "plane": ViTConfig(**SIZES, image_size=32, patch_size=8),
    "rotary": LlamaConfig(**SIZES, vocab_size=30, max_position_embeddings=64),
}


def clouds():
    """Batches of other sizes than the example's; equal distances, repeated points and flat clouds among them."""
    generator = torch.Generator().manual_seed(1)
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).reshape(1, 64, 3) / 2 - 0.75
    random = torch.randn(7, 64, 3, generator=generator) / 3
    return {
        "random": random,
        "grid": grid,
        "repeated": random[:2, :8].repeat(1, 8, 1),
        "flat": random[:2] * torch.tensor([1.0, 1.0, 0.0]),
        "at one place": torch.ones(1, 64, 3),
    }


def run_onnx(file, points):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"points": points.numpy()})[0])


def assert_same_logits(model, run):
    spread = 0.0
    for name, points in clouds().items():
        with torch.no_grad():
            expected = model(points).logits
        torch.testing.assert_close(run(points), expected, atol=1e-4, rtol=0, msg=lambda text, at=name: f"{at}: {text}")
        spread = max(spread, float(expected.std(dim=0).max()) if len(points) > 1 else 0.0)
    assert spread > 1e-3  # clouds are told apart


def trained(model):
    """The model away from its start values, in which little depends on the cloud."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "backbone." not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def model(tiny_adapter):
    return trained(Any2PointForPointCloudClassification.from_pretrained(tiny_adapter.folder))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    report = export_onnx(model, path, Any2PointProcessor(64, scale_to_unit_sphere=False))
    assert report.files == [str(path)]
    assert report.bytes == path.stat().st_size
    assert report.max_difference <= 1e-4
    return path


def test_onnx_runtime_gives_the_models_logits(model, onnx_file):
    assert_same_logits(model, lambda points: run_onnx(onnx_file, points))


def test_an_onnx_file_does_not_see_the_order_of_the_points(onnx_file):
    for points in clouds().values():
        permuted = points[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
        torch.testing.assert_close(run_onnx(onnx_file, permuted), run_onnx(onnx_file, points), atol=1e-5, rtol=0)


def test_an_onnx_file_says_what_it_is(model, onnx_file):
    session = onnxruntime.InferenceSession(onnx_file)
    (points,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (points.name, points.shape, points.type) == ("points", ["batch", 64, 3], "tensor(float)")
    assert (logits.name, logits.shape) == ("logits", ["batch", 3])
    said = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert said["id2label"] == {str(index): name for index, name in model.config.id2label.items()}
    processor = Any2PointProcessor.from_dict(said["processor"])
    assert (processor.num_points, processor.scale_to_unit_sphere) == (said["num_points"], False) == (64, False)


@pytest.mark.parametrize("positions", BACKBONES)
def test_positions_on_planes_and_inside_blocks_are_exported(tmp_path, positions):
    config = Any2PointConfig(
        backbone_config=BACKBONES[positions], num_points=64, num_neighbors=8, num_views=2, num_labels=3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = trained(Any2PointForPointCloudClassification(config))
    export_onnx(model, tmp_path / "model.onnx")
    assert_same_logits(model, lambda points: run_onnx(tmp_path / "model.onnx", points))


def test_a_program_gives_the_models_logits_when_it_is_read_back(model, tmp_path):
    model.train()
    export_program(model, tmp_path / "model.pt2", Any2PointProcessor(64))
    assert model.training  # as it was before
    model.eval()
    extra = {METADATA_FILE: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert_same_logits(model, program.module())
    assert json.loads(json.loads(extra[METADATA_FILE])["num_points"]) == 64


def test_other_logits_are_refused(model):
    with pytest.raises(Any2PointError, match=r"within 0\.0001 of the model's, got a difference of 0\.001"):
        check_logits(model, lambda points: model(points).logits.detach() + 1e-3, 64)
    with pytest.raises(Any2PointError, match="got a difference of nan"):
        check_logits(model, lambda points: model(points).logits.detach() * np.nan, 64)


def test_what_fails_its_check_does_not_replace_a_file(model, tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"old")
    program = type("Program", (), {"model": type("Model", (), {"metadata_props": {}}), "save": lambda *_: None})()
    monkeypatch.setattr("any2point_hf.export._to_onnx", lambda _: program)
    monkeypatch.setattr("any2point_hf.export._trace", lambda *_: None)
    monkeypatch.setattr("any2point_hf.export._onnx_runtime", lambda _: lambda points: torch.zeros(len(points), 3))
    with pytest.raises(Any2PointError, match="nothing was written"):
        export_onnx(model, file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr("any2point_hf.export.ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(Any2PointError, match=r"no_such_package is not installed.*any2point-hf\[export\]"):
        export_onnx(model, tmp_path / "model.onnx")


def test_the_command(run_command, tiny_adapter, tmp_path):
    file = tmp_path / "model.pt2"
    command = ("export", "--model", tiny_adapter.folder, "--format", "torch", "--output", file, "--json")
    report = json.loads(run_command(*command).out)
    assert report["files"] == [str(file)]
    assert report["bytes"] == file.stat().st_size
    assert 0 <= report["max_difference"] <= 1e-4
    result = run_command("export", "--model", tiny_adapter.folder, "--format", "onnx", "--output", file)
    assert result.code == 2
    assert "--output must end in .onnx" in result.err


class OwnHead(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.output = torch.nn.LayerNorm(96), torch.nn.Linear(96, 2)

    def forward(self, feature):
        return self.output(self.norm(feature))


@pytest.mark.parametrize("kind", ["regression", "own head"])
def test_a_regression_in_large_units_and_a_head_of_ones_own(tmp_path, kind):
    torch.manual_seed(0)
    units = {"problem_type": "regression", "target_mean": [3e6, -0.5], "target_std": [2e6, 1e-3], "num_labels": 2}
    fields = units if kind == "regression" else {"num_labels": 2}
    config = Any2PointConfig(backbone_config=BACKBONES["plane"], num_points=64, num_neighbors=8, num_views=2, **fields)
    head = OwnHead() if kind == "own head" else None
    model = trained(Any2PointForPointCloudClassification(config, classifier=head).eval())
    report, points = export_onnx(model, tmp_path / "model.onnx"), clouds()["random"]
    with torch.no_grad():
        expected = model(points).logits
    assert report.max_difference <= 1e-4
    deviations = torch.tensor(fields.get("target_std", 1.0))
    found = run_onnx(tmp_path / "model.onnx", points)
    torch.testing.assert_close(found / deviations, expected / deviations, atol=1e-4, rtol=1e-6)
    if kind == "regression":
        assert expected[:, 0].abs().max() > 1e5
        assert (found[:, 0] - expected[:, 0]).abs().max() < 200
