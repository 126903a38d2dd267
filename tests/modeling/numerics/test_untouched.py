import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from any2point_hf.modeling.adapter.guided_adapter import LocalAttention
from any2point_hf.modeling.numerics.untouched import is_untouched

LAYERS = [
    "tokenizer.stem",
    "tokenizer.stem_norm",
    "tokenizer.stages.0.bottlenecks.1.down",
    "tokenizer.stages.1.bottlenecks.0.up_norm",
    "tokenizer.stages.2.bottlenecks.0",
    "tokenizer.projection",
    "bottlenecks.0.up",
    "aggregations.0.view_norm",
    "local_attention",
]


class Squashed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs):
        return self.layer(*inputs).tanh()


def run(model, points, trains):
    with torch.random.fork_rng(), torch.set_grad_enabled(trains):
        torch.manual_seed(0)
        return model.train(trains)(points).pooler_output.detach()


@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_hook_or_a_wrapper_on_any_layer_is_felt(make, name, trains):
    model, points = make.model("bert", adapter_dropout=0.0), make.points()
    plain, layer = run(model, points, trains), model.get_submodule(name)
    seen = []
    handle = layer.register_forward_hook(lambda *_: seen.append(True))
    hooked = run(model, points, trains)
    assert seen
    torch.testing.assert_close(hooked, plain, atol=1e-5, rtol=1e-5)
    handle.remove()
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = Squashed(layer)
    assert not torch.allclose(run(model, points, trains), plain, atol=1e-3)


def test_what_touches_a_layer():
    plain = nn.Sequential(nn.Linear(2, 2))
    own = (nn.Sequential, nn.Linear)
    assert is_untouched(plain, *own)
    assert not is_untouched(plain, nn.Sequential)
    plain[0].register_full_backward_hook(lambda *_: None)
    assert not is_untouched(plain, *own)
    other = nn.Sequential(nn.Linear(2, 2))
    other[0].forward = other[0].forward
    assert not is_untouched(other, *own)
    parametrized = nn.Sequential(nn.Linear(2, 2))
    parametrize.register_parametrization(parametrized[0], "weight", nn.Identity())
    assert not is_untouched(parametrized, *own)
    assert is_untouched(LocalAttention(12, 2, 4, 2), LocalAttention)
