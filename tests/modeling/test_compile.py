"""`torch.compile` takes the whole model as one graph, whatever the batch size, and gives what eager code gives."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

pytestmark = pytest.mark.slow


# Positions in a table of a line and of a plane, rotary ones, and biases between tokens
@pytest.mark.parametrize("compiled_family", ["bert", "vit", "llama", "t5"])
@torch.no_grad()
def test_inference_is_one_graph_for_all_batch_sizes(make, compiled_family):
    torch._dynamo.reset()
    counter = CompileCounter()
    model = make.model(compiled_family, head=True, num_points=64, num_labels=3)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)  # a graph break is an error
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).reshape(1, 64, 3) / 2 - 0.75
    for points in (make.points(2, 64), make.points(3, 64), grid.repeat(5, 1, 1)):
        torch.testing.assert_close(compiled(points).logits, model(points).logits, atol=1e-5, rtol=0)
    assert counter.frame_count == 1
    torch._dynamo.reset()
