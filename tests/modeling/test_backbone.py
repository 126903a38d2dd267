import copy
import re

import pytest
import torch
from transformers import AutoModel, GPT2Config, GPT2Model, SwinConfig, T5Config

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    BackboneLoadError,
    UnsupportedBackboneError,
)
from any2point_hf.modeling.backbone import (
    BACKBONES,
    BottleneckHook,
    backbone_spec,
    build_backbone,
    call_block,
    check_same_family,
    find,
    freeze_backbone,
    load_backbone,
    load_backbone_config,
    patch_size,
    share_backbone,
)
from any2point_hf.modeling.errors import CheckpointError

NO_ADAPTERS = {"adapter_blocks": 0, "aggregation": "none"}


def frozen(backbone):
    shared = share_backbone(backbone)
    spec = backbone_spec(shared.config)
    freeze_backbone(shared, spec, None)
    return shared, spec


def run_blocks(backbone, spec, hidden):
    for block in find(backbone, spec.blocks):
        hidden = call_block(block, hidden)
    return hidden


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


@torch.no_grad()
def test_our_block_loop_is_the_native_forward(make, family):
    shared, spec = frozen(make.backbone(family))
    captured = []

    def capture(block, args, kwargs):
        if kwargs.get("attention_mask") is not None:  # a causal family's mask; the method has none
            kwargs["attention_mask"] = None
        kwargs.pop("is_causal", None)
        captured.append(args[0])
        return args, kwargs

    handles = [
        block.register_forward_pre_hook(capture, with_kwargs=True) for block in find(shared, spec.blocks)
    ]
    native = shared(**make.native_inputs(shared)).last_hidden_state
    for handle in handles:
        handle.remove()
    hidden = run_blocks(shared, spec, captured[0])
    if spec.final_norm is not None:
        hidden = find(shared, spec.final_norm)(hidden)
    torch.testing.assert_close(hidden, native, atol=1e-6, rtol=0)


@torch.no_grad()
def test_native_embeddings_are_tokens_plus_our_table(make, family):
    # Moving the rows of the table that we read moves exactly the native input of block 0, position by position.
    shared, spec = frozen(make.backbone(family))
    captured = []
    first = find(shared, spec.blocks)[0]
    first.register_forward_pre_hook(lambda _m, args: captured.append(args[0].clone()))
    norm = None if spec.input_norm is None else find(shared, spec.input_norm)
    if norm is not None:
        norm.register_forward_hook(lambda _m, args, _o: args[0])  # look before the norm
    inputs = make.native_inputs(shared)
    shared(**inputs)
    table = spec.table(shared)
    length = captured[0].shape[1]
    before = captured[0][:, -len(table) :]
    first_row = length - before.shape[1]
    shift = torch.randn_like(table)
    table += shift
    shared(**inputs)
    after = captured[1][:, -len(table) :]
    torch.testing.assert_close(after - before, shift[: before.shape[1]].expand_as(before), atol=1e-5, rtol=0)
    assert torch.equal(captured[0][:, :first_row], captured[1][:, :first_row])  # prefix tokens have other rows


def test_table_rows_are_those_of_the_backbone(make, family):
    shared, spec = frozen(make.backbone(family))
    skipped = {"roberta": 2, "vit": 1, "deit": 2, "dinov2": 1, "ast": 2}.get(family, 0)
    positions = find(shared, spec.positions)
    rows = positions.weight if hasattr(positions, "weight") else positions[0]
    table = spec.table(shared)
    assert torch.equal(table, rows[skipped:])
    assert not table.requires_grad
    assert len(table) == {"bert": 24, "roberta": 24, "clip_text": 20, "clip": 20}.get(family, len(rows) - skipped)
    if spec.modality == "2d":
        grid = spec.grid(shared.config)
        assert grid == {"vit": (3, 4), "deit": (4, 4), "dinov2": (4, 4), "ast": (2, 6)}[family]
        assert len(table) == grid[0] * grid[1]


def test_sampled_encoding_is_the_table_at_grid_points(make, family):
    model = make.model(family, **NO_ADAPTERS, num_views=1)
    table = model.spec.table(model.backbone)
    if model.config.modality == "1d":
        coordinates = torch.arange(float(model.projection.length)).view(1, 1, -1, 1)
        expected = table[: model.projection.length]
    else:
        rows, columns = model.projection.grid
        x = torch.linspace(0, model.projection.width - 1, columns)
        y = torch.linspace(0, model.projection.height - 1, rows)
        coordinates = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(1, 1, -1, 2)
        expected = table
    torch.testing.assert_close(
        model.projection.encode(coordinates, table)[0], expected, atol=1e-5, rtol=0
    )


def test_canvas_and_cells_follow_the_backbone(make, family):
    projection = make.model(family, **NO_ADAPTERS).projection
    if family in ("vit", "deit", "dinov2", "ast"):
        canvas, cell = {
            "vit": ((32, 24), 2),
            "deit": ((32, 32), 2),
            "dinov2": ((28, 28), 2),
            "ast": ((96, 32), 5),  # columns are time, rows frequency; the grid times the patch size
        }[family]
        assert (projection.width, projection.height) == canvas
    else:
        assert projection.length == {"bert": 24, "roberta": 24}.get(family, 20)
        cell = 2
    assert projection.cell_size == cell


def test_long_tables_give_lines_of_77(make):
    config = make.config("bert")
    config.max_position_embeddings = 100
    model = Any2PointModel(Any2PointConfig(backbone_config=config, **NO_ADAPTERS))
    assert model.projection.length == 77
    assert make.model(model.backbone, line_length=90, **NO_ADAPTERS).projection.length == 90
    with pytest.raises(ValueError, match="line_length must not exceed the backbone's 100 positions, got 101"):
        make.model(model.backbone, line_length=101, **NO_ADAPTERS)


def test_overrides_of_the_canvas(make):
    projection = make.model("vit", plane=[40, 60], cell_size=7, camera_distance=1.8, **NO_ADAPTERS).projection
    assert (projection.width, projection.height, projection.cell_size) == (40, 60, 7)
    assert projection.camera_distance == 1.8


def test_modality_may_be_overridden_where_it_makes_sense(make):
    model = make.model("vit", modality="1d")
    assert model.projection.length == 12
    assert model(make.points()).last_hidden_state.isfinite().all()
    with pytest.raises(ValueError, match="grid.*bert"):
        make.model("bert", modality="2d")


@torch.no_grad()
def test_every_token_attends_to_every_other(make, family):
    shared, spec = frozen(make.backbone(family))
    hidden = torch.randn(2, 9, 48)
    changed = hidden.clone()
    changed[0, -1] = torch.randn(48)
    moved = (run_blocks(shared, spec, changed) - run_blocks(shared, spec, hidden)).abs().amax(dim=-1)
    assert (moved[0] > 1e-4).all()  # CLS and token 1 included
    assert (moved[1] == 0).all()


@torch.no_grad()
def test_blocks_know_no_order(make, family):
    shared, spec = frozen(make.backbone(family))
    hidden, order = torch.randn(1, 9, 48), torch.cat([torch.zeros(1).long(), 1 + torch.randperm(8)])
    outputs = run_blocks(shared, spec, hidden)
    torch.testing.assert_close(run_blocks(shared, spec, hidden[:, order]), outputs[:, order], atol=1e-5, rtol=0)


@torch.no_grad()
def test_whole_model_does_not_know_the_order_of_points(make, family):
    model = make.model(family)
    points = make.points(1)
    order = torch.cat([torch.zeros(1).long(), 1 + torch.randperm(127)])  # sampling starts at the first point
    found, expected = model(points[:, order]), model(points)
    torch.testing.assert_close(found.point_centers, expected.point_centers)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=0)


def test_gradients_reach_every_adapter_and_no_backbone_parameter(make, family):
    torch.manual_seed(1)
    model = make.model(family, head=True, num_labels=3).train()
    assert not model.backbone.training
    model(make.points(4), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    for name, parameter in model.named_parameters():
        if "backbone." in name:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if name.endswith("weight"):
                assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_save_and_load_give_the_same_logits(make, family, tmp_path):
    backbone = make.backbone(family)
    backbone.save_pretrained(tmp_path / "backbone")
    model = make.model(backbone, head=True, num_labels=3)
    model.save_pretrained(tmp_path / "adapter")
    points = make.points()
    expected = model(points).logits
    for given in (backbone, tmp_path / "backbone", str(tmp_path / "backbone")):
        loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "adapter", backbone=given)
        assert not loaded.training
        torch.testing.assert_close(loaded(points).logits, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_recorded_folder_is_found_again(make, tmp_path, monkeypatch):
    make.backbone("bert").save_pretrained(tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    config = Any2PointConfig(**make.small, backbone="backbone", num_labels=3)
    model = make.randomize(Any2PointForPointCloudClassification(config)).eval()
    assert model.config.backbone_config.model_type == "bert"
    model.save_pretrained("adapter")
    monkeypatch.chdir("/")
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "adapter")
    points = make.points()
    assert torch.equal(loaded(points).logits, model(points).logits)


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


@pytest.mark.parametrize("family", ["bert", "vit", "clip_text", "dinov2"])
def test_a_half_precision_backbone_works_under_single_precision_adapters(make, family):
    backbone = make.backbone(family)
    model = make.model(backbone)
    half = Any2PointModel(model.config, backbone=copy.deepcopy(backbone).bfloat16())
    half.load_state_dict({n: t for n, t in model.state_dict().items() if "backbone." not in n}, strict=False)
    half.eval()
    points = make.points()
    found = half(points)
    assert half.dtype == found.last_hidden_state.dtype == torch.float32
    assert next(half.backbone.parameters()).dtype == torch.bfloat16
    expected = model(points).last_hidden_state
    error = (found.last_hidden_state - expected).norm() / expected.norm()
    assert 0 < error < 0.03
    half.train()(points).last_hidden_state.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_the_whole_model_in_another_dtype(make, dtype):
    for family in ("bert", "dinov2"):
        model = make.model(family, head=True)
        points = make.points()
        expected = model(points).last_hidden_state
        found = copy.deepcopy(model).to(dtype)(points)
        assert found.logits.dtype == found.last_hidden_state.dtype == dtype
        error = (found.last_hidden_state.float() - expected).norm() / expected.norm()
        assert error < (0.1 if dtype == torch.bfloat16 else 1e-5)


@torch.no_grad()
def test_sdpa_and_eager_agree_and_eager_gives_attentions(make, family):
    model = make.model(family)
    points = make.points()
    model.set_attn_implementation("sdpa")
    sdpa = model(points)
    assert sdpa.attentions is None
    with pytest.raises(ValueError, match=r"eager.*got 'sdpa'.*set_attn_implementation"):
        model(points, output_attentions=True)
    model.set_attn_implementation("eager")
    eager = model(points, output_attentions=True)
    torch.testing.assert_close(eager.last_hidden_state, sdpa.last_hidden_state, atol=1e-5, rtol=0)
    assert [a.shape for a in eager.attentions] == [(2, 4, 17, 17)] * 2
    for attention in eager.attentions:
        assert (attention > 0).all()
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 4, 17))
    assert model(points).attentions is None


@torch.no_grad()
def test_models_on_one_backbone_do_not_meet(make, family):
    backbone = make.backbone(family)
    weights = [parameter.clone() for parameter in backbone.parameters()]
    modes = [parameter.requires_grad for parameter in backbone.parameters()]
    first = make.model(backbone)
    points = make.points()
    before = first(points).last_hidden_state
    second = make.model(backbone, adapter_scale=1.0, adapter_placement="before", layer_norm_eps=0.1)
    third = make.model(first.backbone)
    assert torch.equal(first(points).last_hidden_state, before)
    assert not torch.allclose(second(points).last_hidden_state, before)
    assert len(bottleneck_hooks(third.backbone)) == len(bottleneck_hooks(first.backbone)) == 2
    assert not bottleneck_hooks(backbone)
    for parameter, value in zip(backbone.parameters(), weights, strict=True):
        assert torch.equal(parameter, value)
    memory = {parameter.data_ptr() for parameter in backbone.parameters()}
    assert all(parameter.data_ptr() in memory for parameter in second.backbone.parameters())  # no weight is copied
    assert all(modes)


@torch.no_grad()
def test_the_caller_s_own_hooks_and_settings_stay(make):
    backbone = make.backbone("vit").train()
    calls = []
    backbone.layers[0].register_forward_hook(lambda *_: calls.append(1))
    eps = backbone.layers[0].layernorm_before.eps
    model = make.model(backbone, layer_norm_eps=0.25, final_norm_eps=0.5)
    model(make.points())
    assert calls == [1]
    assert backbone.training
    assert backbone.layers[0].layernorm_before.eps == eps
    assert model.backbone.layers[0].layernorm_before.eps == 0.25
    assert model.backbone.layernorm.eps == eps
    assert model.final_norm.eps == 0.5


def test_final_norm_keeps_the_backbone_s_eps_and_values(make):
    for family in ("vit", "clip_text", "dinov2", "ast"):
        backbone = make.backbone(family)
        model = Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)
        own = find(backbone, model.spec.final_norm)
        assert model.final_norm.eps == own.eps == backbone.config.layer_norm_eps
        assert torch.equal(model.final_norm.weight, own.weight)
        assert torch.equal(model.final_norm.bias, own.bias)
        assert model.final_norm.weight.data_ptr() != own.weight.data_ptr()
    assert make.model("bert").final_norm is None


@torch.no_grad()
def test_a_deep_copy_is_independent(make):
    for placement in ("after", "parallel"):
        model = make.model("bert", adapter_placement=placement)
        points = make.points()
        before = model(points).last_hidden_state
        twin = copy.deepcopy(model)
        assert torch.equal(twin(points).last_hidden_state, before)
        for bottleneck in twin.bottlenecks.values():
            bottleneck.up.weight.add_(1)
        assert torch.equal(model(points).last_hidden_state, before)
        changed = twin(points).last_hidden_state
        assert not torch.allclose(changed, before)
        for bottleneck in model.bottlenecks.values():
            bottleneck.up.weight.zero_()
        assert torch.equal(twin(points).last_hidden_state, changed)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=30),
        SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 1], window_size=4),
        T5Config(d_model=48, num_layers=2, num_heads=4, vocab_size=30),
    ],
    ids=lambda config: config.model_type,
)
def test_unsupported_families_are_refused_with_those_supported(config):
    with pytest.raises(UnsupportedBackboneError, match=f"got '{config.model_type}'") as raised:
        Any2PointModel(Any2PointConfig(backbone_config=config))
    for name in [*BACKBONES, "clip"]:
        assert re.search(rf"\b{name}\b", str(raised.value))


def test_an_unsupported_module_or_folder_is_refused(tmp_path):
    module = GPT2Model(GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=30))
    with pytest.raises(UnsupportedBackboneError, match="gpt2"):
        Any2PointModel(Any2PointConfig(), backbone=module)
    module.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedBackboneError, match="gpt2"):
        load_backbone(str(tmp_path))
    with pytest.raises(UnsupportedBackboneError, match="gpt2"):
        Any2PointModel(Any2PointConfig(backbone=str(tmp_path)))


def test_no_backbone_is_refused():
    with pytest.raises(UnsupportedBackboneError, match="a backbone must be named"):
        Any2PointModel(Any2PointConfig())


def test_a_folder_without_a_backbone_is_refused(make, tmp_path):
    for load in (load_backbone, load_backbone_config):
        with pytest.raises(BackboneLoadError, match="Hub id or a folder"):
            load(str(tmp_path))
    make.config("bert").save_pretrained(tmp_path)
    assert load_backbone_config(str(tmp_path)).model_type == "bert"
    with pytest.raises(BackboneLoadError, match="could not be loaded"):
        load_backbone(str(tmp_path))


@torch.no_grad()
def test_the_text_tower_of_a_dual_clip_is_taken(make, tmp_path):
    dual = make.backbone("clip")
    dual.save_pretrained(tmp_path)
    assert load_backbone_config(str(tmp_path)).model_type == "clip_text_model"
    tower = load_backbone(str(tmp_path))
    assert tower.config.model_type == "clip_text_model"
    for name, value in share_backbone(dual).state_dict().items():
        assert torch.equal(tower.state_dict()[name.removeprefix("text_model.")], value), name
    model = make.model(dual)
    assert model.config.backbone_config.model_type == "clip_text_model"
    from_folder = Any2PointModel(Any2PointConfig(**make.small, backbone=str(tmp_path)))
    adapters = {n: t for n, t in model.state_dict().items() if "backbone." not in n}
    from_folder.load_state_dict(adapters, strict=False)
    points = make.points()
    torch.testing.assert_close(
        from_folder.eval()(points).last_hidden_state, model(points).last_hidden_state, atol=1e-6, rtol=0
    )


def test_a_random_backbone_is_built_from_its_config(make, family):
    config = make.config(family)
    model = Any2PointModel(Any2PointConfig(**make.small, backbone_config=config))
    assert len(find(model.backbone, model.spec.blocks)) == 2
    if family != "clip":
        built = build_backbone(config)
        assert type(built) is type(AutoModel.from_config(config))
        assert built.config is not config


def test_adapters_fit_only_their_family_width_and_depth(make):
    recorded = make.config("bert")
    check_same_family(recorded, make.config("bert"))
    check_same_family(make.config("clip_text"), make.config("clip"))
    with pytest.raises(CheckpointError, match="made for model_type=bert, the given backbone has model_type=roberta"):
        check_same_family(recorded, make.config("roberta"))
    for name, value in (("hidden_size", 64), ("num_hidden_layers", 3)):
        given = make.config("bert")
        setattr(given, name, value)
        with pytest.raises(CheckpointError, match=f"{name}={value}"):
            check_same_family(recorded, given)


def test_patch_sizes(make):
    assert patch_size(make.config("vit")) == (8, 8)
    assert patch_size(make.config("ast")) == (16, 16)
