"""The host never waits for the GPU in a forward or backward: torch itself raises where it would."""

import pytest
import torch


@pytest.fixture(params=["bert", "clip_text", "llama", "vit", "dinov3"])
def prepared(request, needs_cuda, tools, device):
    """Model, points and labels on the device; kernels have been built, in both modes."""
    model = tools.model(request.param).to(device)
    points, labels = (tensor.to(device) for tensor in tools.batch())
    for training in (True, False):
        model.train(training)(points, labels=labels).loss.backward()
    model.zero_grad()
    torch.cuda.synchronize()
    return model, points, labels


@pytest.fixture
def raises_on_waiting(prepared):
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("raises_on_waiting")
class TestNoWaiting:
    @torch.no_grad()
    def test_in_eval_mode(self, prepared):
        model, points, _ = prepared
        model.eval()(points)

    @pytest.mark.parametrize("training", [True, False])
    def test_forward_and_backward(self, prepared, training):
        model, points, labels = prepared
        model.train(training)(points, labels=labels).loss.backward()

    def test_under_autocast(self, prepared):
        model, points, labels = prepared
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.train()(points, labels=labels).loss
        loss.backward()
