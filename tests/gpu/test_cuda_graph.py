"""A whole training step, and a forward, captured once as a CUDA graph and replayed on other points."""

import pytest
import torch

pytestmark = pytest.mark.usefixtures("needs_cuda")
FAMILIES = ["bert", "llama", "vit", "dinov3"]


def capture(work, warm_ups=3):
    """What `work` returns, in a graph; it ran on a stream of its own before, as torch asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step(family, tools, device, report):
    model, eager = (tools.model(family).to(device).train() for _ in range(2))
    for one in (model, eager):
        one.classifier.eval()  # its batch norms over so few clouds enlarge every rounding
    points, labels = (tensor.to(device) for tensor in tools.batch())

    def step():
        model.zero_grad(set_to_none=True)
        loss = model(points, labels=labels).loss
        loss.backward()
        return loss.detach()

    graph, loss = capture(step)
    for seed in (1, 2):
        others = [tensor.to(device) for tensor in tools.batch(seed)]
        points.copy_(others[0])
        labels.copy_(others[1])
        graph.replay()
        eager.zero_grad()
        expected = eager(*others).loss
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        value, where = tools.worst(tools.gradients(model), tools.gradients(eager))
        report(f"{family}: gradients of a replayed training step differ by {value:.1e} ({where})")
        assert value < 1e-4, f"the gradient of {where} differs by {value:.2e} of its largest entry"


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_in_eval_mode(family, tools, device):
    model = tools.model(family).to(device).eval()
    points = tools.batch()[0].to(device)
    graph, logits = capture(lambda: model(points).logits)
    for seed in (1, 2):
        others = tools.batch(seed)[0].to(device)
        points.copy_(others)
        graph.replay()
        torch.testing.assert_close(logits, model(others).logits, atol=1e-5, rtol=1e-5)
