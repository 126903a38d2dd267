"""Tests that need a GPU, of the model alone: torch, triton and transformers are enough; nothing need be installed.

`pytest tests/gpu` takes under a minute. ANY2POINT_GPU_TESTS_DEVICE=cpu runs what it can with a CPU for both devices, to
see that the tests themselves work.
"""

import importlib.util
import os
import warnings
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).parents[2]
DEVICE = os.environ.get("ANY2POINT_GPU_TESTS_DEVICE", "cuda")
ON_CPU = DEVICE == "cpu"
REPORT = []  # lines that pytest prints at its end


def load_source_tree():
    """What lets the package be imported where it is not installed, as benchmarks/gpu.py does."""
    spec = importlib.util.spec_from_file_location("source_tree", ROOT / "benchmarks" / "source_tree.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load_source_tree().make_importable()

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification  # noqa: E402
from any2point_hf.modeling.backbones.loading import build_backbone  # noqa: E402


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="needs a GPU (torch.cuda.is_available() is false)")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not ON_CPU and not torch.cuda.is_available():
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    if REPORT:
        terminalreporter.section("measured on " + (torch.cuda.get_device_name() if not ON_CPU else "the CPU"))
        for line in REPORT:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def report():
    """Takes lines that are printed after the tests, whether they passed or not."""
    return REPORT.append


@pytest.fixture(scope="session")
def device():
    return torch.device(DEVICE)


@pytest.fixture
def needs_cuda():
    if ON_CPU:
        pytest.skip("only CUDA has streams and graphs")


@pytest.fixture(autouse=True)
def _exact_products():
    torch.manual_seed(0)
    with warnings.catch_warnings():  # newer torch prefers another name
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def load_families():
    path = ROOT / "tests" / "modeling" / "families.py"
    spec = importlib.util.spec_from_file_location("families", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


families = load_families()
NUM_CLASSES = 5


def make_model(family, width=48, dtype=torch.float32):
    """A classifier on a tiny backbone, without dropout; every call gives the same weights, on the CPU."""
    from transformers import AutoConfig

    model_type, fields = families.FAMILIES[family]
    fields = {**fields, "hidden_size": width, "head_dim": width // 4} if "head_dim" in fields else fields
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = build_backbone(AutoConfig.for_model(model_type, **{**fields, "hidden_size": width}))
        config = Any2PointConfig(
            num_points=256,
            num_neighbors=8,
            num_views=3,
            adapter_dim=4,
            adapter_dropout=0.0,
            voxel_size=0.4,
            num_labels=NUM_CLASSES,
        )
        model = Any2PointForPointCloudClassification(config, backbone=backbone)
        with torch.no_grad():  # no start value may hide a term: biases and tables start at 0, norms at 1
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.classifier.dropout1.p = model.classifier.dropout2.p = 0.0
    return model.to(dtype)


def make_batch(seed=0, batch_size=4, num_points=256):
    """Points [B, N, 3] in the unit sphere and labels [B], on the CPU; clouds of clearly different extents.

    Clouds that are alike have pooled features that are alike, and the head's batch norms would enlarge their rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(batch_size, num_points, 3, generator=generator)
    points = points * torch.rand(batch_size, 1, 3, generator=generator).square()
    labels = torch.randint(NUM_CLASSES, (batch_size,), generator=generator)
    return points / points.norm(dim=-1, keepdim=True).amax(dim=1, keepdim=True), labels


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def worst(found, expected, floor=1e-2):
    """The largest difference of tensors by name, each relative to its own largest entry: (value, name).

    Tensors that ought to be zero are noise alone: what counts is then `floor` times the largest entry of all.
    """
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    found = {name: tensor.detach().double().cpu() for name, tensor in found.items()}
    expected = {name: tensor.detach().double().cpu() for name, tensor in expected.items()}
    least = floor * max(tensor.abs().max().item() for tensor in expected.values())
    differences = {}
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max().item()
        differences[name] = difference / max(tensor.abs().max().item(), least)
    wrong = [name for name, value in differences.items() if value != value]
    assert not wrong, f"not a number: {wrong}"
    return max((value, name) for name, value in differences.items())


class Apart(NamedTuple):
    whole: float
    median: float
    largest: float
    where: str

    def __str__(self):
        return f"{self.whole:.1e} of their length, median {self.median:.1e}, largest {self.largest:.1e} ({self.where})"


def gradients_apart(found, expected):
    """What is to be told of two models' gradients: whole, median and largest relative distance, and whose that is.

    Distances are lengths, not single entries: where two neighbours are the maximum, or a relu's input is zero, up to
    rounding, a few entries may well be others'.
    """
    found, expected = gradients(found), gradients(expected)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    found = {name: tensor.double().cpu() for name, tensor in found.items()}
    expected = {name: tensor.double().cpu() for name, tensor in expected.items()}
    wrong = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    assert not wrong, f"not finite: the gradients of {wrong}"
    lengths = {name: tensor.norm().item() for name, tensor in expected.items()}
    differences = {name: (found[name] - expected[name]).norm().item() for name in expected}
    total = sum(length**2 for length in lengths.values()) ** 0.5
    whole = sum(difference**2 for difference in differences.values()) ** 0.5 / total
    by_name = {name: differences[name] / max(lengths[name], 1e-3 * total) for name in expected}
    where = max(by_name, key=by_name.get)
    return Apart(whole, median(by_name.values()), by_name[where], where)


class Tools:
    """A fixture, because test files cannot import from each other."""

    model = staticmethod(make_model)
    batch = staticmethod(make_batch)
    gradients = staticmethod(gradients)
    gradients_apart = staticmethod(gradients_apart)
    worst = staticmethod(worst)


@pytest.fixture(scope="session")
def tools():
    return Tools
