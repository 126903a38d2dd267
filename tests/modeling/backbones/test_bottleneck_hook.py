import copy

import pytest
import torch

from any2point_hf.modeling.backbones.blocks import call_block
from any2point_hf.modeling.backbones.bottleneck_hook import BottleneckHook
from any2point_hf.modeling.backbones.loading import share_backbone
from any2point_hf.modeling.backbones.spec import find


def checkpoint_activations(model):
    # transformers renamed it in 5.23 and warns of the old name
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()


def bottleneck_hooks(module):
    return [
        hook
        for part in module.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks)
        for hook in hooks.values()
        if isinstance(hook, BottleneckHook)
    ]


@pytest.mark.parametrize("placement", ["after", "before", "parallel"])
@pytest.mark.parametrize("family", ["vit", "clip_text", "dinov2"])
@torch.no_grad()
def test_placements_on_a_pre_norm_block(make, family, placement):
    model = make.model(family, adapter_placement=placement)
    block, bottleneck = find(model.backbone, model.spec.blocks)[1], model.bottlenecks["1"]
    x = torch.randn(2, 7, 48)
    found = call_block(block, x)

    plain = copy.deepcopy(block)
    for part in plain.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()

    def adapter(hidden):  # s·A
        inner = hidden @ bottleneck.down.weight.T + bottleneck.down.bias
        return 0.3 * ((inner * torch.sigmoid(1.702 * inner)) @ bottleneck.up.weight.T + bottleneck.up.bias)

    taken = []
    plain.mlp.register_forward_pre_hook(lambda _m, args: taken.append(args[0].clone()))
    native = call_block(plain, x)  # x + attention + FFN, without adapters
    (normed,) = taken

    def feed_forward(hidden):
        output = plain.mlp(hidden)
        return plain.layer_scale2(output) if family == "dinov2" else output

    residual = native - feed_forward(normed)
    if placement == "after":
        expected = native + adapter(feed_forward(normed))
    elif placement == "before":
        expected = residual + feed_forward(normed + adapter(normed))
    else:
        expected = native + adapter(normed)
    assert (found - native).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("placement", ["after", "before", "parallel"])
@torch.no_grad()
def test_placements_on_a_post_norm_block(make, placement):
    model = make.model("bert", adapter_placement=placement)
    block, bottleneck = model.backbone.encoder.layer[0], model.bottlenecks["0"]
    x = torch.randn(2, 7, 48)
    h = block.attention(x)[0]

    def feed_forward(hidden):
        inner = block.intermediate.intermediate_act_fn(
            torch.nn.functional.linear(hidden, block.intermediate.dense.weight, block.intermediate.dense.bias)
        )
        return torch.nn.functional.linear(inner, block.output.dense.weight, block.output.dense.bias)

    if placement == "after":
        branch = feed_forward(h) + bottleneck(feed_forward(h))
    elif placement == "before":
        branch = feed_forward(h + bottleneck(h))
    else:
        branch = feed_forward(h) + bottleneck(h)
    torch.testing.assert_close(call_block(block, x), block.output.LayerNorm(branch + h), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("listed", "expected"), [(None, {"0", "1"}), (1, {"0"}), (0, set()), ([1], {"1"})])
def test_only_the_named_blocks_carry_adapters(make, listed, expected):
    model = make.model("vit", adapter_blocks=listed)
    assert set(model.bottlenecks) == set(model.aggregations) == expected
    assert len(bottleneck_hooks(model.backbone)) == len(expected)
    for index, block in enumerate(model.backbone.layers):
        assert len(bottleneck_hooks(block)) == (str(index) in expected)
    states = model(make.points(), output_hidden_states=True).hidden_states
    plain = share_backbone(model.backbone)
    for index in range(2):
        moved = (states[index + 1] - call_block(plain.layers[index], states[index])).abs().max() > 1e-3
        assert moved == (str(index) in expected)


@pytest.mark.parametrize("placement", ["after", "before", "parallel"])
def test_gradient_checkpointing_changes_nothing(make, placement):
    model = make.model("bert", head=True, num_labels=3, adapter_placement=placement).train()
    points, labels = make.points(3), torch.tensor([0, 1, 2])
    twin = copy.deepcopy(model)
    checkpoint_activations(twin)
    assert twin.any2point.gradient_checkpointing
    assert not model.any2point.gradient_checkpointing
    for each in (model, twin):
        torch.manual_seed(3)  # of the dropouts
        each(points, labels=labels).loss.backward()
    for (name, first), second in zip(model.named_parameters(), twin.parameters(), strict=True):
        if first.requires_grad:
            torch.testing.assert_close(second.grad, first.grad, atol=1e-6, rtol=1e-5, msg=name)
    for (name, first), second in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(second, first, msg=name)


def test_checkpointing_really_recomputes_the_blocks(make):
    model = make.model("vit").train()
    checkpoint_activations(model)
    calls = []
    model.backbone.layers[0].register_forward_pre_hook(lambda _m, _a: calls.append(1))
    model(make.points()).pooler_output.sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        model.eval()(make.points())
    assert len(calls) == 3
