"""Start values: how each part is drawn, and that models of one seed share what they have in common."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointModel
from any2point_hf.modeling.numerics.initialization import (
    LINEAR_DEVIATION,
    TOKEN_DEVIATION,
    StartValues,
    draw_seed,
    named_seed,
)
from any2point_hf.modeling.numerics.named_dropout import set_dropout_keys

pytestmark = pytest.mark.usefixtures("one_thread")

TINY_BERT = {
    **{"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    **{"vocab_size": 30, "max_position_embeddings": 24},
}
OTHER_BERT = {**TINY_BERT, "num_hidden_layers": 2, "max_position_embeddings": 40}


def new_model(make, seed=0, head=True, backbone=TINY_BERT, **settings):
    """A new model on a BERT of random weights; the seed is torch's."""
    torch.manual_seed(seed)
    backbone_config = BertConfig(**backbone) if isinstance(backbone, dict) else make.config(backbone)
    config = Any2PointConfig(**{**make.small, **settings}, backbone_config=backbone_config)
    return (Any2PointForPointCloudClassification if head else Any2PointModel)(config)


def own_tensors(model):
    """All but the backbone's, by name."""
    return {name: tensor for name, tensor in model.state_dict().items() if "backbone." not in name}


def linear_weights(model):
    """Weights [out, in] by the group that decides their start: "default" of torch, "head" or "adapters"."""
    model = getattr(model, "any2point", model), getattr(model, "classifier", None)
    inner, head = model
    groups = {"default": [], "head": [inner.tokenizer.stem], "adapters": []}
    for stage in inner.tokenizer.stages:
        for bottleneck in stage.bottlenecks:
            groups["default"] += [bottleneck.down, bottleneck.up]
    groups["head"] += [head.hidden1, head.hidden2, head.output]
    for bottleneck in inner.bottlenecks.values():
        groups["adapters"] += [bottleneck.down, bottleneck.up]
    if isinstance(inner.tokenizer.projection, nn.Linear):
        groups["adapters"] += [inner.tokenizer.projection]
    if inner.learnable_encoding is not None:
        groups["adapters"] += [inner.learnable_encoding[0], inner.learnable_encoding[2]]
    return groups


def assert_uniform(tensors, bounds):
    """That tensors, each divided by its bound, are uniform in [-1, 1]."""
    values = torch.cat([(t.detach() / bound).flatten() for t, bound in zip(tensors, bounds, strict=True)])
    error = 1 / math.sqrt(len(values))
    assert 1 - 30 / len(values) < values.abs().max() <= 1 + 1e-6
    assert abs(values.mean()) < 4 * error
    assert abs(values.square().mean() - 1 / 3) < 2 * error


def assert_normal(tensors, deviation):
    values = torch.cat([t.detach().flatten() for t in tensors]) / deviation
    error = 1 / math.sqrt(len(values))
    assert abs(values.mean()) < 4 * error
    assert abs(values.square().mean() - 1) < 6 * error
    assert abs(values.pow(4).mean() - 3) < 40 * error  # not uniform, whose fourth moment is 1.8


def assert_torch_default(linears):
    bounds = [1 / math.sqrt(linear.in_features) for linear in linears]
    assert_uniform([linear.weight for linear in linears], bounds)
    with_bias = [(linear.bias, bound) for linear, bound in zip(linears, bounds, strict=True) if linear.bias is not None]
    assert_uniform(*zip(*with_bias, strict=True))


def assert_xavier(weights):
    assert_uniform(weights, [(6 / sum(weight.shape)) ** 0.5 for weight in weights])


# Distributions (SPEC section 5)


LEARNABLE = {"position_encoding": "learnable", "head_bias": True}


def stacked_weights(model):
    attention = model.any2point.local_attention
    return [*attention.qkv_weight, *attention.out_weight]  # of each view


def test_scan_starts_adapters_by_xavier_and_the_rest_by_torchs_default(make):
    model = new_model(make, adapter_start="scan", **LEARNABLE)
    groups = linear_weights(model)
    assert_torch_default(groups["default"])
    assert_torch_default(groups["head"])
    assert_xavier([*(linear.weight for linear in groups["adapters"]), *stacked_weights(model)])
    assert not any(linear.bias.any() for linear in groups["adapters"])


def test_each_view_is_one_xavier(make):
    for weight in stacked_weights(new_model(make, adapter_start="scan")):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("start", ["modelnet", "zero", "scaled"])
def test_modelnet_starts_linear_layers_by_a_narrow_normal(make, start):
    model = new_model(make, adapter_start=start, **LEARNABLE)
    groups = linear_weights(model)
    assert_torch_default(groups["default"])
    drawn = [linear for linear in groups["head"] + groups["adapters"] if start != "zero" or linear.weight.any()]
    assert_normal([*(linear.weight for linear in drawn), *stacked_weights(model)], LINEAR_DEVIATION)
    biases = [linear.bias for linear in groups["head"] + groups["adapters"] if linear.bias is not None]
    assert len(biases) == len(groups["head"] + groups["adapters"]) - 1  # the stem has none
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("start", ["scan", "modelnet", "zero", "scaled"])
def test_norms_tokens_and_statistics_start_alike_everywhere(make, start):
    model = new_model(make, adapter_start=start)
    inner = model.any2point
    assert_normal([inner.cls_token, inner.cls_position], TOKEN_DEVIATION)
    assert not torch.equal(inner.cls_token, inner.cls_position)
    norms = [module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)]
    norms += [aggregation.voxel_norm for aggregation in inner.aggregations.values()]
    if start in ("scan", "modelnet"):
        norms += [aggregation.view_norm for aggregation in inner.aggregations.values()]
    for norm in norms:
        assert (norm.weight == 1).all()
        assert (norm.running_var == 1).all()
        assert not norm.bias.any()
        assert not norm.running_mean.any()
    attention = inner.local_attention
    assert (attention.norm_weight == 1).all()
    assert not any(bias.any() for bias in (attention.norm_bias, attention.qkv_bias, attention.out_bias))


def test_final_norm_and_cls_token_are_copies_of_the_backbones(make):
    backbone = make.backbone("dinov2")
    model = Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)
    for mine, own in (
        (model.cls_token, backbone.embeddings.cls_token),
        (model.final_norm.weight, backbone.layernorm.weight),
        (model.final_norm.bias, backbone.layernorm.bias),
    ):
        assert torch.equal(mine, own)
        assert mine.data_ptr() != own.data_ptr()


@pytest.mark.parametrize("settings", [{}, {"cell_pooling": "mean+max"}, {"adapter_placement": "parallel"}])
def test_zero_starts_as_the_frozen_backbone(make, settings):
    model = new_model(make, adapter_start="zero", **settings)
    inner = model.any2point
    assert not any(bottleneck.up.weight.any() for bottleneck in inner.bottlenecks.values())
    assert all(bottleneck.down.weight.any() for bottleneck in inner.bottlenecks.values())
    assert not any(aggregation.view_norm.weight.any() for aggregation in inner.aggregations.values())
    assert all((aggregation.voxel_norm.weight == 1).all() for aggregation in inner.aggregations.values())
    without = new_model(make, adapter_blocks=0)
    points, labels = make.points(4), torch.tensor([0, 1, 0, 1])
    for mode in (False, True):
        for each in (model, without):
            set_dropout_keys(each, seed=0, step="0")  # the head of both drops the same
        outputs = model.train(mode)(points, labels=labels)
        torch.testing.assert_close(without.train(mode)(points).logits, outputs.logits, rtol=0, atol=1e-6)
    outputs.loss.backward()
    for bottleneck in inner.bottlenecks.values():  # it can leave the start
        assert bottleneck.up.weight.grad.any()
    for aggregation in inner.aggregations.values():
        assert aggregation.view_norm.weight.grad.any()


# Draws by seed and name


def drawn(seed, name, kind="modelnet"):
    """What a layer and a stack by this name start with."""
    start = StartValues(kind, seed, f"part.{name}")
    linear, stack, token = nn.Linear(8, 6), torch.empty(2, 5, 8), torch.empty(1, 1, 8)
    start.linear(linear, "linear")
    start.stacked_matrices(stack, "stack")
    start.token(token, "token")
    default = nn.Linear(8, 6)
    start.default_linear(default, "default")
    return [linear.weight, default.weight, default.bias, *stack, token]


@pytest.mark.parametrize("kind", ["scan", "modelnet"])
def test_seed_and_name_decide_each_tensor(kind):
    first = drawn(3, "a", kind)
    torch.manual_seed(99)  # torch's own generator is not asked
    state = torch.get_rng_state()
    again = drawn(3, "a", kind)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    for others in (drawn(4, "a", kind), drawn(3, "b", kind)):
        assert not any(torch.equal(one, other) for one, other in zip(first, others, strict=True))
    assert not torch.equal(first[3], first[4])  # two views
    torch.set_rng_state(state)
    StartValues(kind, 3, "part").matrix(torch.empty(4, 4), "weight")
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_of_names_are_the_same_on_every_machine():
    assert named_seed(0, "any2point.cls_token") == 11006001122822952
    names = [f"{seed} {name}" for seed in range(50) for name in "abcdef"]
    assert len({named_seed(0, name) for name in names}) == len(names)
    assert all(0 <= named_seed(2**61, name) < 2**56 for name in names)


def test_without_a_seed_torchs_generator_draws():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(nn.Linear(4, 4))
        StartValues().linear(weights[-1], "weight")
    assert torch.equal(weights[0].weight, weights[1].weight)
    assert not torch.equal(weights[0].weight, weights[2].weight)


def test_the_seed_is_one_draw_of_torchs_generator():
    torch.manual_seed(5)
    first, second = draw_seed(), draw_seed()
    torch.manual_seed(5)
    assert (draw_seed(), draw_seed()) == (first, second)
    assert first != second


# Models that differ in one part


VARIANTS = [
    {"aggregation": "none"},
    {"aggregation": "3d"},
    {"adapter_blocks": 0},
    {"adapter_blocks": [1]},
    {"backbone_blocks": 0},
    {"num_views": 4},
    {"adapter_placement": "before"},
    {"adapter_placement": "parallel"},
    {"num_labels": 7},
    {"adapter_dim": 6},
    {"position_encoding": "learnable"},
    {"position_encoding": "none"},
    {"ensemble": "mean"},
    {"head_bias": True},
    {"token_scale": "embedding"},
    {"backbone": OTHER_BERT},
    {"backbone": "gpt2"},
    {"backbone": "vit"},
]


@pytest.mark.parametrize("start", ["scan", "modelnet"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_models_of_one_seed_start_alike_in_all_that_they_share(make, start, variant):
    settings = {"adapter_start": start, "num_views": 6}
    first, second = (own_tensors(new_model(make, **settings | changes)) for changes in ({}, variant))
    copied = ("final_norm", "cls_token") if variant.get("backbone") == "vit" else ()
    shared = [name for name in first.keys() & second.keys() if not any(part in name for part in copied)]
    unequal = []
    for name in shared:
        one, other = first[name], second[name]
        if one.shape != other.shape and name.startswith("any2point.") and "num_views" in variant:
            one = one[: len(other)]  # the views that both have
        if one.shape == other.shape and not torch.equal(one, other):
            unequal.append(name)
    assert not unequal
    assert any("classifier.hidden1.weight" in name for name in shared)
    assert any("tokenizer.stem.weight" in name for name in shared)
    of_shape = [name for name in shared if first[name].shape == second[name].shape]
    expected = {"num_labels": 2, "adapter_dim": 9}  # output; down's weight and bias, and up's weight, of each block
    if not variant.keys() & {"num_views"}:
        assert len(shared) - len(of_shape) == expected.get(next(iter(variant)), 0)


def test_random_backbones_of_one_seed_are_the_same(make):
    first, second = new_model(make), new_model(make, aggregation="none", num_labels=7)
    backbones = [model.backbone.state_dict() for model in (first, second)]
    assert backbones[0].keys() == backbones[1].keys()
    assert all(torch.equal(backbones[0][name], backbones[1][name]) for name in backbones[0])
    other = new_model(make, seed=1).backbone.state_dict()
    assert any(not torch.equal(backbones[0][name], other[name]) for name in other)


def test_a_model_starts_as_the_base_of_its_task_model(make):
    base, task = own_tensors(new_model(make, head=False)), own_tensors(new_model(make))
    assert all(torch.equal(tensor, task[f"any2point.{name}"]) for name, tensor in base.items())


def test_two_models_one_after_the_other_differ(make):
    first = new_model(make)
    second = Any2PointForPointCloudClassification(
        Any2PointConfig(**make.small, backbone_config=BertConfig(**TINY_BERT))
    )
    first, second = own_tensors(first), own_tensors(second)
    matrices = [name for name, tensor in first.items() if tensor.ndim > 1 and tensor.std() > 0]
    assert len(matrices) > 20
    assert not any(torch.equal(first[name], second[name]) for name in matrices)


def test_two_blocks_start_differently(make):
    tensors = own_tensors(new_model(make))
    for name in ("bottlenecks.{}.down.weight", "bottlenecks.{}.up.weight"):
        first, second = (tensors[f"any2point.{name.format(block)}"] for block in (0, 1))
        assert not torch.equal(first, second)


def test_nothing_depends_on_what_is_drawn_after_the_first_draw(make, monkeypatch):
    expected = new_model(make, lora=True).state_dict()
    original = Any2PointModel.load_and_attach_backbone

    def drawing(model, backbone=None):
        torch.rand(7)
        original(model, backbone)

    monkeypatch.setattr(Any2PointModel, "load_and_attach_backbone", drawing)
    found = new_model(make, lora=True).state_dict()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


# Loading


@pytest.mark.parametrize("start", ["scan", "modelnet", "zero", "scaled"])
def test_loading_starts_only_what_is_missing(make, tmp_path, start):
    backbone = make.backbone("bert")
    settings = {**make.small, "adapter_start": start, "head_bias": True}
    model = Any2PointForPointCloudClassification(Any2PointConfig(**settings), backbone=backbone)
    make.randomize(model).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    dropped = [
        *("any2point.local_attention.qkv_weight", "classifier.hidden1.bias", "classifier.output.weight"),
        *("any2point.bottlenecks.0.up.weight", "any2point.cls_token", "any2point.aggregations.1.view_norm.weight"),
        *("any2point.tokenizer.stages.0.bottlenecks.0.up.bias", "any2point.aggregations.0.voxel_norm.running_mean"),
    ]
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    assert len(kept) == len(tensors) - len(dropped)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["checksums"]  # the change is meant
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = [
        own_tensors(Any2PointForPointCloudClassification.from_pretrained(tmp_path, backbone=backbone, strict=False))
        for _ in range(2)
    ]
    for name, tensor in kept.items():
        assert torch.equal(loaded[0][name], tensor), name
    for name in dropped:
        assert loaded[0][name].isfinite().all()
        assert not torch.equal(loaded[0][name], tensors[name])
    if start == "scan":
        attention = loaded[0]["any2point.local_attention.qkv_weight"]
        assert_xavier([*attention])
    else:
        assert_normal([*loaded[0]["any2point.local_attention.qkv_weight"]], LINEAR_DEVIATION)
    assert bool(loaded[0]["any2point.bottlenecks.0.up.weight"].any()) == (start != "zero")
    assert bool(loaded[0]["any2point.aggregations.1.view_norm.weight"].any()) == (start != "zero")
    assert not loaded[0]["any2point.aggregations.0.voxel_norm.running_mean"].any()
    assert not torch.equal(*(tensors["any2point.cls_token"] for tensors in loaded))  # each load draws its own


@pytest.mark.parametrize("start", ["scan", "scaled"])
def test_a_model_on_the_meta_device_takes_no_memory(make, start):
    with torch.device("meta"):
        model = new_model(make, adapter_start=start, token_scale="embedding")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert model.start_seed == new_model(make).start_seed
