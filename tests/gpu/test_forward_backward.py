"""Outputs, loss and gradients on the GPU are those on the CPU, in float32; under autocast they are near."""

import pytest
import torch

MODELS = {  # family and width: the tokenizer's last channels are 48, and need a projection at 32
    "bert": ("bert", 48),
    "bert_32": ("bert", 32),
    "clip_text": ("clip_text", 48),
    "vit": ("vit", 48),
    "clip_vision_32": ("clip_vision", 32),
    "llama": ("llama", 48),
}
NAMES = ("logits", "last_hidden_state", "pooler_output")


@pytest.fixture(params=MODELS)
def pair(request, tools, device):
    """Name, the same model on the CPU and on the device, points and labels."""
    family, width = MODELS[request.param]
    on_cpu, on_device = (tools.model(family, width) for _ in range(2))
    return request.param, on_cpu, on_device.to(device), *tools.batch()


def named(outputs):
    return {name: getattr(outputs, name) for name in NAMES}


@torch.no_grad()
def test_outputs_in_eval_mode(pair, tools, device, report):
    name, on_cpu, on_device, points, _ = pair
    expected, found = on_cpu.eval()(points), on_device.eval()(points.to(device))
    assert torch.equal(found.point_centers.cpu(), expected.point_centers), "other points were sampled"
    value, where = tools.worst(named(found), named(expected))
    report(f"{name}: outputs in eval mode differ by {value:.1e} ({where})")
    assert value < 1e-4, f"{where} differs by {value:.2e}"


def train(model):
    """All but the head, whose batch norms over so few clouds enlarge every rounding a hundredfold."""
    model.train().classifier.eval()
    return model


def test_a_training_step(pair, tools, device, report):
    name, on_cpu, on_device, points, labels = pair
    expected, found = (
        train(on_cpu)(points, labels=labels),
        train(on_device)(points.to(device), labels=labels.to(device)),
    )
    value, where = tools.worst(named(found), named(expected))
    expected.loss.backward()
    found.loss.backward()
    apart = tools.gradients_apart(on_device, on_cpu)
    report(f"{name}: in training outputs differ by {value:.1e}, gradients by {apart}")
    assert value < 1e-4, f"{where} differs by {value:.2e}"
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-4)
    assert apart.median < 1e-3, str(apart)
    assert apart.whole < 1e-2, str(apart)
    assert apart.largest < 5e-2, str(apart)
    statistics = [{name: value for name, value in model.named_buffers() if "running" in name} for model in pair[1:3]]
    value, where = tools.worst(*reversed(statistics))
    assert value < 1e-4, f"{where} differs by {value:.2e}"


def test_the_head_in_training(pair, tools, device):
    _, on_cpu, on_device, points, labels = pair
    expected, found = (
        on_cpu.train()(points, labels=labels),
        on_device.train()(points.to(device), labels=labels.to(device)),
    )
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-3)
    wrong = [name for name, gradient in tools.gradients(on_device).items() if not gradient.isfinite().all()]
    assert not wrong, f"not finite: the gradients of {wrong}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_near(pair, tools, device, report, dtype):
    name, exact, rounded, points, labels = pair
    exact, points, labels = exact.to(device), points.to(device), labels.to(device)
    with torch.no_grad():
        expected = exact.eval()(points)
        with torch.autocast(device.type, dtype):
            found = rounded.eval()(points)
    value, where = tools.worst(named(found), named(expected))
    train(exact)(points, labels=labels).loss.backward()
    with torch.autocast(device.type, dtype):
        loss = train(rounded)(points, labels=labels).loss
    loss.backward()
    apart = tools.gradients_apart(rounded, exact)
    report(f"{name}: {dtype} differs by {value:.1e} ({where}); gradients by {apart}")
    assert torch.equal(found.point_centers, expected.point_centers), "other points were sampled"
    assert value < (4e-2 if dtype == torch.bfloat16 else 1e-2), f"{where} differs by {value:.2e}"
    assert apart.whole < 0.3, str(apart)
