"""Dropout's masks follow from seed, name and step, so that trainings that differ in one part drop alike elsewhere."""

import pytest
import torch
from torch import nn

from any2point_hf.modeling.numerics.named_dropout import NamedDropout, clear_dropout_keys, set_dropout_keys

pytestmark = pytest.mark.usefixtures("one_thread")

ONES = torch.ones(64, 32)


class Two(nn.Module):
    """Two layers, and others that are no concern of the keys."""

    def __init__(self, share=0.5, more=False):
        super().__init__()
        self.first = NamedDropout(share)
        if more:
            self.more = NamedDropout(share)
        self.second = nn.Sequential(nn.Dropout(share), NamedDropout(share))


def masks(model, seed, step):
    set_dropout_keys(model, seed, step)
    return model.first(ONES), model.second[1](ONES)


def test_seed_name_and_step_decide_a_mask_and_nothing_else():
    first, second = masks(Two(), 3, "7")
    torch.manual_seed(99)
    torch.rand(5)
    state = torch.get_rng_state()
    model = Two(more=True)  # a model with another layer before
    set_dropout_keys(model, 3, "7")
    model.more(ONES)
    assert torch.equal(model.second[1](ONES), second)
    assert torch.equal(model.first(ONES), first)
    assert torch.equal(torch.get_rng_state(), state)
    for seed, step in ((4, "7"), (3, "8")):
        for mask, before in zip(masks(Two(), seed, step), (first, second), strict=True):
            agreement = ((mask == 0) == (before == 0)).float().mean()
            assert 0.45 < agreement < 0.55  # independent ones agree by halves


def test_two_layers_drop_different_entries():
    first, second = masks(Two(), 0, "0")
    assert 0.45 < ((first == 0) == (second == 0)).float().mean() < 0.55


def test_plain_dropout_gets_no_key():
    model = Two()
    set_dropout_keys(model, 0, "0")
    assert not hasattr(model.second[0], "key")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_kept_is_scaled_so_that_the_mean_stays(share, dtype):
    layer = NamedDropout(share)
    set_dropout_keys(layer, 0, "0")
    output = layer(torch.ones(400, 500, dtype=dtype))
    assert output.dtype == dtype
    kept = output != 0
    assert kept.float().mean() == pytest.approx(1 - share, abs=0.005)
    assert output[kept].float().mean() == pytest.approx(1 / (1 - share), rel=0.005)
    assert len(output[kept].unique()) == 1


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_evaluation_and_no_dropout_change_nothing(share):
    layer = NamedDropout(share).train(share == 0)
    set_dropout_keys(layer, 0, "0")
    assert torch.equal(layer(ONES), ONES)


def test_gradients_are_those_of_the_mask():
    layer, hidden = NamedDropout(0.5), ONES.clone().requires_grad_()
    set_dropout_keys(layer, 0, "0")
    output = layer(hidden)
    output.sum().backward()
    assert torch.equal(hidden.grad, output.detach())


def test_without_a_key_torchs_generator_draws():
    layer, plain = NamedDropout(0.5), nn.Dropout(0.5)
    set_dropout_keys(layer, 0, "0")
    layer(ONES)
    clear_dropout_keys(layer)
    torch.manual_seed(1)
    expected = plain(ONES)
    torch.manual_seed(1)
    assert torch.equal(layer(ONES), expected)
    assert not torch.equal(layer(ONES), expected)


def test_a_compiled_layer_is_compiled_once_whatever_the_step():
    compiled = []

    def compiler(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    layer = NamedDropout(0.5)
    run = torch.compile(layer, backend=compiler)
    for step in range(3):
        set_dropout_keys(layer, 0, str(step))
        run(ONES)
    assert len(compiled) == 1


# In models


def train_step(model, points, labels, step="0"):
    set_dropout_keys(model, 5, step)
    model.zero_grad()
    outputs = model.train()(points, labels=labels)
    outputs.loss.backward()
    return outputs, {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("placement", ["after", "parallel"])
def test_gradient_checkpointing_replays_the_masks(make, placement):
    model = make.model("bert", head=True, adapter_placement=placement, adapter_dropout=0.5)
    points, labels = make.points(4), torch.tensor([0, 1, 0, 1])
    expected, gradients = train_step(model, points, labels)
    _, others = train_step(model, points, labels, step="1")
    name = "any2point.bottlenecks.0.up.weight"
    assert not torch.allclose(others[name], gradients[name], rtol=1e-2)  # the dropout is seen
    model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    found, replayed = train_step(model, points, labels)
    torch.testing.assert_close(found.loss, expected.loss)
    assert replayed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(replayed[name], gradient, rtol=1e-4, atol=1e-6)


def dropped_of_head(model, points, step="0"):
    """What both dropout layers of the head leave out, [B, width] bool each."""
    found = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: found.append((output == 0) & (inputs[0] != 0)))
        for layer in (model.classifier.dropout1, model.classifier.dropout2)
    ]
    set_dropout_keys(model.train(), 5, step)
    seen = [layer(torch.ones(4, 256)) == 0 for layer in (model.classifier.dropout1, model.classifier.dropout2)]
    found.clear()
    model(points)
    for hook in hooks:
        hook.remove()
    for mask, in_forward in zip(seen, found, strict=True):
        assert not (in_forward & ~mask).any()  # the forward drops by the mask
        assert in_forward.any()
    return seen


@pytest.mark.parametrize("changes", [{"adapter_blocks": 0}, {"aggregation": "none"}, {"adapter_dropout": 0.0}], ids=str)
def test_models_that_differ_by_their_adapters_drop_the_same_in_the_head(make, changes):
    points = make.points(4)
    expected = dropped_of_head(make.model("bert", head=True), points)
    found = dropped_of_head(make.model("bert", head=True, **changes), points)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert not torch.equal(*expected)
    other = dropped_of_head(make.model("bert", head=True), points, step="1")
    assert not torch.equal(expected[0], other[0])


def test_blocks_drop_different_entries(make):
    model = make.model("bert", head=True, adapter_dropout=0.5)
    set_dropout_keys(model, 0, "0")
    first, second = (bottleneck.train().dropout(ONES) for bottleneck in model.any2point.bottlenecks.values())
    assert not torch.equal(first, second)
