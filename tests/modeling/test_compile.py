"""`torch.compile` with inductor, its own backend, gives what eager code gives: two tiny models, any batch size."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),  # what inductor imports
]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """Nothing that was compiled before is used."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def assert_trained_alike(model, batches, options):
    """Compiled steps on these batches, without dropout, have the losses, gradients and statistics of eager ones."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, **options)
    for batch in batches:
        losses, gradients = [], []
        for run, trained in ((compiled, model), (twin, twin)):
            trained.zero_grad()
            losses.append(run(**batch).loss)
            losses[-1].backward()
            gradients.append({name: p.grad for name, p in trained.named_parameters() if p.grad is not None})
        torch.testing.assert_close(*losses, atol=0, rtol=1e-3)
        found, expected = gradients
        assert found.keys() == expected.keys()
        largest = max(gradient.norm() for gradient in expected.values())
        for name, gradient in expected.items():  # those that are zero but for rounding are compared with the largest
            assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6 * largest, name
        for (name, buffer), other in zip(model.named_buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(buffer, other, atol=1e-4, rtol=1e-4, msg=name)
    assert len(counters["graph_break"]) == 1  # around the tokenizer, in each frame above it


@pytest.mark.parametrize("options", [{}, {"dynamic": True, "fullgraph": True}], ids=["plain", "dynamic"])
@torch.no_grad()
def test_compiled_evaluation_gives_the_logits_of_eager_code(make, options):
    model = make.model("bert", head=True, num_points=64, num_labels=3, backbone_blocks=1)
    compiled = torch.compile(model, **options)
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).reshape(1, 64, 3) / 2 - 0.75
    for points in (make.points(2, 64), make.points(3, 64), grid.repeat(5, 1, 1), make.points(2, 64)):
        torch.testing.assert_close(compiled(points).logits, model(points).logits, atol=1e-4, rtol=0)
    assert counters["stats"]["unique_graphs"] == (1 if options else 2)  # for the first size, and for all others
    assert not counters["graph_break"]


@pytest.mark.parametrize("options", [{}, {"dynamic": True}], ids=["plain", "dynamic"])
def test_compiled_training_gives_the_gradients_and_statistics_of_eager_code(make, options):
    model = make.model("bert", head=True, num_points=64, num_labels=3, backbone_blocks=1).train()
    batches = [{"points": make.points(size, 64), "labels": torch.arange(size) % 3} for size in (6, 7, 9)]
    assert_trained_alike(model, batches, options)


# Of segmentation what classification lacks: levels of the tokenizer, the head and its loss. Compiling it all takes
# half a minute or more, so it is done once for evaluation and once for training, without blocks.


@pytest.fixture
def segmenter(make):
    parts = {"zebra": [0, 1], "ant": [2]}
    settings = {"backbone_blocks": 0, "position_encoding": "none", "category_parts": parts}
    return make.segmenter("bert", num_points=64, num_labels=3, **settings)


@torch.no_grad()
def test_compiled_segmentation_gives_the_logits_of_eager_code(make, segmenter):
    compiled = torch.compile(segmenter, dynamic=True, fullgraph=True)
    for batch_size in (2, 3, 2):
        points, category = make.points(batch_size, 64), torch.arange(batch_size) % 2
        expected = segmenter(points, category=category).logits
        torch.testing.assert_close(compiled(points, category=category).logits, expected, atol=1e-4, rtol=0)
    assert counters["stats"]["unique_graphs"] == 1


def test_compiled_training_of_segmentation_gives_the_gradients_of_eager_code(make, segmenter):
    batches = []
    for batch_size in (2, 3, 2):
        labels = torch.randint(3, (batch_size, 64)).masked_fill_(torch.rand(batch_size, 64) < 0.2, -100)
        inputs = {"labels": labels, "category": torch.arange(batch_size) % 2}
        batches.append({"points": make.points(batch_size, 64), **inputs})
    assert_trained_alike(segmenter.train(), batches, {"dynamic": True})
