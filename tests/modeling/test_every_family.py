"""One bank of checks that every family of backbones passes, on tiny random models."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, Gemma3Config, LlamaForCausalLM, LlamaModel

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    BackboneLoadError,
    ConfigurationError,
)
from any2point_hf.modeling.backbones.blocks import call_block, freeze_backbone
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.loading import build_backbone, load_backbone, share_backbone
from any2point_hf.modeling.backbones.part_of_model import tower_module
from any2point_hf.modeling.backbones.positions_in_blocks import BiasOnGrid, BiasOnLine, RotaryOnGrid, RotaryOnLine
from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.backbones.table import BACKBONES

NO_ADAPTERS = {"adapter_blocks": 0, "aggregation": "none"}
WITHOUT_POSITIONS = {"deberta", "wav2vec2", "wav2vec2_stable", "hubert", "wavlm"}
# Towers whose last_hidden_state is what comes before their final norm.
UNNORMED = {"clip_vision"}
# No sdpa, or (data2vec) the implementation is fixed when the model is made.
EAGER_ALONE = {"mpnet", "deberta", "wavlm", "gemma2", "clap", "data2vec_vision", "data2vec_shared"}
DUALS = {
    "clip": {"text_config": "clip_text", "vision_config": "clip_vision"},
    "siglip": {"text_config": "siglip_text", "vision_config": "siglip_vision"},
    "siglip2": {"text_config": "siglip2_text", "vision_config": "siglip2_vision"},
}
COMPILED = ["clip_text", "albert", "vit", "llama", "t5"]  # beside that of test_compile.py
PARAMETRIZED = {"wav2vec2", "wav2vec2_stable", "hubert", "wavlm"}
NUM_TOKENS = 16  # of the clouds here

pytestmark = [
    pytest.mark.slow,  # together
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*has no positions that a point could be given:UserWarning"),
]


# Each family's tiny backbone and model are built once, for all tests that change nothing in them.


@pytest.fixture(scope="module")
def backbone(make, any_family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = make.backbone(any_family)
    yield from as_it_was(backbone)


@pytest.fixture(scope="module")
def model(make, backbone):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make.model(backbone)
    yield from as_it_was(model)


def as_it_was(module):
    """Lends the module, and checks that no test changed it."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    yield module
    assert not module.training
    assert module.state_dict().keys() == before.keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def frozen(backbone):
    shared = share_backbone(backbone)
    spec = backbone_spec(shared.config)
    freeze_backbone(shared, spec, None)
    return shared, spec


def run_blocks(backbone, spec, hidden):
    """All blocks, without positions."""
    blocks = find(backbone, spec.blocks)
    neutral = spec.neutral_arguments(backbone, hidden.shape[1], torch.float32, hidden.device)
    for index, block in enumerate(blocks):
        hidden = call_block(block, hidden, {**spec.arguments, **neutral(index)})
    return hidden


def run_with_positions(model, tokens, centers):
    """CLS and tokens through the blocks with the positions of these centres, without adapters."""
    coordinates = model.projection(centers)
    positions, arguments = model.encode_positions(centers, coordinates), model.block_arguments(coordinates)
    hidden = torch.cat([model.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
    hidden = hidden if positions is None else hidden + positions
    for index, block in enumerate(find(model.backbone, model.spec.blocks)):
        hidden = model.call_block(block, hidden, arguments(index))
    return hidden


def test_the_bank_holds_every_family_of_the_table(make):
    listed = {tower.model_type for tower in map(make.tower_config, make.families_of)}
    listed |= {"ernie", "camembert", "timm_wrapper"}  # BERT's and RoBERTa's code; a test of its own
    assert listed == set(BACKBONES)


@torch.no_grad()
def test_our_block_loop_is_the_native_forward(make, any_family, backbone):
    backbone = tower_module(backbone, None)
    backbone.config.use_cache = False
    spec = backbone_spec(backbone.config)
    unrolled = frozen(backbone)[0] if spec.prepare and "unrolled" in spec.blocks else backbone
    blocks = list(find(unrolled, spec.blocks))
    natives = dict.fromkeys(type(block) for block in blocks)
    calls = []

    def capture(_, args, kwargs):
        calls.append((args, kwargs))

    handles = [
        module.register_forward_pre_hook(capture, with_kwargs=True)
        for name, module in backbone.named_modules()
        if type(module) in natives and "decoder.layers" not in name.replace("decoder.layers", "", any_family == "opt")
    ]
    native = backbone(**make.native_inputs(backbone)).last_hidden_state
    for handle in handles:
        handle.remove()
    assert len(calls) == len(blocks)
    hidden = calls[0][0][0] if calls[0][0] else calls[0][1]["hidden_states"]
    for block, (args, kwargs) in zip(blocks, calls, strict=True):
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        output = block(hidden, *args[1:], **rest)
        hidden = output[0] if isinstance(output, tuple) else output
    if spec.final_norm is not None and any_family not in UNNORMED:
        hidden = find(backbone, spec.final_norm)(hidden)
    torch.testing.assert_close(hidden, native, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_backbone_in_use_saves_and_loads_as_itself(backbone, tmp_path):
    own = tower_module(backbone, None)
    in_use, _ = frozen(own)
    before = own.state_dict()
    assert set(in_use.state_dict()) == set(before)
    in_use.save_pretrained(tmp_path)
    again = copy.deepcopy(in_use)
    for parameter in again.parameters():
        parameter.zero_()
    again.load_state_dict(in_use.state_dict())
    for copied in (again, type(own).from_pretrained(tmp_path)):
        for name, tensor in copied.state_dict().items():
            assert torch.equal(tensor, before[name])


@torch.no_grad()
def test_a_model_can_be_pickled(make, any_family, model):
    if any_family in PARAMETRIZED:
        pytest.skip("torch pickles no parametrized modules, such as transformers' position convolution of these")
    points = make.points()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(points).pooler_output, model(points).pooler_output)


@torch.no_grad()
def test_every_token_attends_to_every_other(backbone):
    shared, spec = frozen(backbone)
    hidden = torch.randn(2, 9, 48)
    changed = hidden.clone()
    changed[0, -1] = torch.randn(48)
    moved = (run_blocks(shared, spec, changed) - run_blocks(shared, spec, hidden)).abs().amax(dim=-1)
    assert (moved[0] > 1e-5).all()  # CLS and token 1 included
    assert (moved[1] == 0).all()


@torch.no_grad()
def test_blocks_know_no_order(backbone):
    shared, spec = frozen(backbone)
    hidden, order = torch.randn(1, 9, 48), torch.cat([torch.zeros(1).long(), 1 + torch.randperm(8)])
    outputs = run_blocks(shared, spec, hidden)
    torch.testing.assert_close(run_blocks(shared, spec, hidden[:, order]), outputs[:, order], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_model_does_not_know_the_order_of_points(make, model):
    points = make.points(1)
    order = torch.cat([torch.zeros(1).long(), 1 + torch.randperm(127)])  # sampling starts at the first point
    found, expected = model(points[:, order]), model(points)
    torch.testing.assert_close(found.point_centers, expected.point_centers)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_cloud_does_not_know_the_clouds_beside_it(make, model):
    points = make.points(3)
    together, alone = model(points).last_hidden_state, model(points[1:2]).last_hidden_state
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("placement", ["after", "before", "parallel"])
def test_gradients_reach_every_adapter_and_no_backbone_parameter(make, backbone, placement):
    model = make.model(backbone, head=True, num_labels=3, adapter_placement=placement).train()
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
def test_placements_differ_and_are_hooked_once_a_block(make, backbone, model):
    points = make.points()
    assert model.config.adapter_placement == "after"
    models = [model, *(make.model(backbone, adapter_placement=placement) for placement in ("before", "parallel"))]
    for other in models[1:]:
        other.load_state_dict(model.state_dict())
    outputs = [each(points).last_hidden_state for each in models]
    assert len(models[0].bottlenecks) == 2
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (outputs[first] - outputs[second]).abs().max() > 1e-4
    changed = copy.deepcopy(models[0])
    changed.bottlenecks["1"].up.weight.mul_(2)  # of the last block alone
    states = [m(points, output_hidden_states=True).hidden_states for m in (models[0], changed)]
    assert torch.equal(states[0][1], states[1][1])
    assert not torch.equal(states[0][2], states[1][2])


@torch.no_grad()
def test_save_and_load_give_the_same_logits(make, backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "backbone")
    model = make.model(backbone, head=True, num_labels=3)
    model.save_pretrained(tmp_path / "adapter")
    points = make.points()
    expected = model(points).logits
    for given in (backbone, tmp_path / "backbone"):
        loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "adapter", backbone=given)
        assert not loaded.training
        torch.testing.assert_close(loaded(points).logits, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("one_family", ["clip_text", "llama", "t5", "dinov2", "beit", "ast", "whisper"])
def test_a_segmenter_labels_saves_and_trains_on_families_of_every_modality(make, one_family, tmp_path):
    backbone = make.backbone(one_family)
    model = make.segmenter(backbone, num_labels=5, category_parts={"zebra": [0, 1], "ant": [2, 3, 4]})
    points, category, order = make.points(), torch.tensor([1, 0]), torch.randperm(128)
    with torch.no_grad():
        logits = model(points, category=category).logits
        permuted = model(points[:, order], category=category).logits
        alone = model(points[1:], category=category[1:]).logits
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path, backbone=backbone)(points, category=category).logits
    torch.testing.assert_close(permuted, logits[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, logits[1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, logits, atol=1e-6, rtol=1e-6)
    labels = torch.randint(0, 5, (2, 128))
    model.train()(points, labels=labels, category=category).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == ("backbone." in name), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("modality", [None, "1d", "2d"])
@pytest.mark.parametrize("dual", DUALS)
@torch.no_grad()
def test_modality_chooses_the_tower_of_a_dual_model(make, dual, modality, tmp_path):
    fields = {name: make.families_of[tower][1] for name, tower in DUALS[dual].items()}
    whole = AutoModel.from_config(AutoConfig.for_model(dual, **fields)).eval()
    whole.save_pretrained(tmp_path / "dual")
    config = Any2PointConfig(**make.small, backbone=tmp_path / "dual", modality=modality)
    model = Any2PointModel(config)
    tower = whole.vision_model if modality == "2d" else whole.text_model
    assert model.config.backbone_config.model_type == tower.config.model_type
    assert model.modality == (modality or "1d")
    own = model.backbone.state_dict()
    assert own.keys() == tower.state_dict().keys()
    for name, tensor in tower.state_dict().items():
        assert torch.equal(own[name], tensor), name
    model.eval().save_pretrained(tmp_path / "adapter")
    points = make.points()
    for given in (None, whole):
        loaded = Any2PointModel.from_pretrained(tmp_path / "adapter", backbone=given)
        torch.testing.assert_close(loaded(points).last_hidden_state, model(points).last_hidden_state)


def gradients(model, points):
    model.zero_grad()
    torch.manual_seed(5)
    model(points, labels=torch.tensor([0, 1])).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients(make, backbone):
    model = make.model(backbone, head=True, num_labels=3, adapter_dropout=0.0).train()
    points, twin = make.points(), copy.deepcopy(model)
    (getattr(twin, "activation_checkpointing_enable", None) or twin.gradient_checkpointing_enable)()
    plain, checkpointed = gradients(model, points), gradients(twin, points)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        error = (checkpointed[name] - gradient).norm() / gradient.norm().clamp(min=1e-4)
        assert error <= 1e-6, name


def test_a_half_precision_backbone_works_under_single_precision_adapters(make, backbone, model):
    half = Any2PointModel(model.config, backbone=copy.deepcopy(backbone).bfloat16())
    half.load_state_dict({n: t for n, t in model.state_dict().items() if "backbone." not in n}, strict=False)
    half.eval()
    points = make.points()
    found = half(points)
    assert half.dtype == found.last_hidden_state.dtype == torch.float32
    assert next(half.backbone.parameters()).dtype == torch.bfloat16
    expected = model(points).last_hidden_state
    error = (found.last_hidden_state - expected).norm() / expected.norm()
    assert 0 < error < 0.05
    half.train()(points).last_hidden_state.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.requires_grad)


@torch.no_grad()
def test_sdpa_and_eager_agree_and_eager_gives_attentions(make, any_family):
    backbone = make.backbone(any_family)
    if any_family.startswith("data2vec"):
        backbone = make.backbone(any_family, attn_implementation="eager")
    model = make.model(backbone)
    points = make.points()
    if any_family not in EAGER_ALONE:
        model.set_attn_implementation("sdpa")
        assert model.backbone.config._attn_implementation == "sdpa"
        sdpa = model(points)
        assert sdpa.attentions is None
        with pytest.raises(ValueError, match=r"eager.*got 'sdpa'.*set_attn_implementation"):
            model(points, output_attentions=True)
        model.set_attn_implementation("eager")
    eager = model(points, output_attentions=True)
    if any_family not in EAGER_ALONE:
        torch.testing.assert_close(eager.last_hidden_state, sdpa.last_hidden_state, atol=1e-5, rtol=1e-5)
    num_keys = 18 if any_family == "imagebind_audio" else 17  # its learned row is a key too
    assert [a.shape for a in eager.attentions] == [(2, 4, 17, num_keys)] * 2
    for attention in eager.attentions:
        assert (attention > 0).all()
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 4, 17))
    assert model(points).attentions is None


@pytest.mark.slow
@pytest.mark.parametrize("compiled_family", COMPILED)
@torch.no_grad()
def test_inference_compiles_without_graph_breaks(make, compiled_family):
    model = make.model(compiled_family)
    points = make.points()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(points).last_hidden_state, model(points).last_hidden_state, atol=1e-5, rtol=1e-5
    )


# Positions


@torch.no_grad()
def test_positions_are_felt_and_belong_to_their_points(make, any_family):
    if any_family in WITHOUT_POSITIONS:
        with pytest.warns(UserWarning, match=r"no positions that a point could be given.*sinusoidal"):
            model = make.model(any_family, **NO_ADAPTERS)
        assert model.position_encoding == "none"
        assert not model.adds_positions
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make.model(any_family, **NO_ADAPTERS)
    assert model.position_encoding == "virtual"
    tokens = torch.randn(1, NUM_TOKENS, 48)
    centers = torch.randn(1, NUM_TOKENS, 3) / 3
    outputs = run_with_positions(model, tokens, centers)
    moved = run_with_positions(model, tokens, centers.flip(1))
    assert (moved - outputs).abs().max() > 1e-4
    order = torch.randperm(NUM_TOKENS)
    with_cls = torch.cat([torch.zeros(1).long(), 1 + order])
    permuted = run_with_positions(model, tokens[:, order], centers[:, order])
    torch.testing.assert_close(permuted, outputs[:, with_cls], atol=1e-5, rtol=1e-5)
    without = make.model(model.backbone, position_encoding="none", **NO_ADAPTERS)
    without.cls_token.copy_(model.cls_token)
    assert torch.equal(
        run_with_positions(without, tokens, centers.flip(1)), run_with_positions(without, tokens, centers)
    )


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["sinusoidal", "learnable"])
def test_positions_of_the_users_choice(make, backbone, encoding):
    model = make.model(backbone, position_encoding=encoding, **NO_ADAPTERS)
    assert model.adds_positions
    tokens, centers = torch.randn(1, NUM_TOKENS, 48), torch.randn(1, NUM_TOKENS, 3) / 3
    outputs = run_with_positions(model, tokens, centers)
    assert outputs.isfinite().all()
    assert (run_with_positions(model, tokens, centers.flip(1)) - outputs).abs().max() > 1e-4


@torch.no_grad()
def test_a_table_is_read_exactly_at_its_own_places(make, backbone):
    if backbone_spec(tower_module(backbone, None).config).positions is None:
        pytest.skip("its positions are no table")
    model = make.model(backbone, **NO_ADAPTERS, num_views=2)
    table = model.spec.table(model.backbone)
    assert table.shape == (model.spec.num_rows(model.backbone.config), 48)
    if model.modality == "1d":
        coordinates = torch.arange(float(model.projection.length)).view(1, 1, -1, 1)
        expected = table[: model.projection.length]
    else:
        rows, columns = model.projection.grid
        assert len(table) == rows * columns
        x = torch.linspace(0, model.projection.width - 1, columns)
        y = torch.linspace(0, model.projection.height - 1, rows)
        coordinates = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(1, 1, -1, 2)
        expected = table
    found = model.projection.encode(coordinates.expand(-1, 2, -1, -1), table)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_table_is_what_the_backbone_adds(make, any_family):
    """Moving the rows that are read moves the native input of block 0, position by position."""
    backbone = tower_module(make.backbone(any_family), None)
    spec = backbone_spec(backbone.config)
    if spec.positions is None:
        pytest.skip("its positions are no table")
    before = spec.table(backbone).clone()
    captured = []
    norm = None if spec.input_norm is None else find(backbone, spec.input_norm)
    if norm is not None:
        norm.register_forward_hook(lambda _m, args, _o: args[0])  # look before the norm
    if spec.projected_by is not None:  # its norm comes before the projection
        backbone.embeddings.LayerNorm.register_forward_hook(lambda _m, args, _o: args[0])
        find(backbone, spec.projected_by).register_forward_hook(lambda _m, _a, output: captured.append(output.clone()))
    else:
        first = find(backbone, spec.blocks)[0]
        first.register_forward_pre_hook(
            lambda _m, args, kwargs: captured.append((args[0] if args else kwargs["hidden_states"]).clone()),
            with_kwargs=True,
        )
    inputs = make.native_inputs(backbone)
    torch.manual_seed(1)  # ViT-MAE shuffles
    backbone(**inputs)
    positions = spec.positions(backbone) if callable(spec.positions) else find(backbone, spec.positions)
    raw = positions.weight if isinstance(positions, torch.nn.Module) else positions
    raw.add_(torch.randn_like(raw))
    torch.manual_seed(1)
    backbone(**inputs)
    shift = spec.table(backbone) - before
    moved = (captured[1] - captured[0])[0]
    moved = moved[len(moved) - len(shift) :] if spec.modality == "2d" and len(moved) > len(shift) else moved
    if any_family in ("vivit", "videomae"):  # the rows of the first frames; the others' moved otherwise
        moved = (captured[1] - captured[0])[0][1 if any_family == "vivit" else 0 :][: len(shift)]
    if any_family == "vit_mae":
        moved, shift = (values[values[:, 0].argsort()] for values in (moved, shift))
    torch.testing.assert_close(moved, shift[: len(moved)], atol=1e-5, rtol=0)


@torch.no_grad()
def test_positions_in_blocks_are_the_native_ones_at_whole_places(backbone):
    shared, spec = frozen(backbone)
    kind = spec.in_blocks
    if kind is None:
        pytest.skip("its positions do not act in its blocks")
    if isinstance(kind, (RotaryOnLine, BiasOnLine)):
        extent, places = (12,), torch.arange(12.0).view(1, 1, 12, 1)
    else:
        extent = spec.grid(shared.config)
        places = torch.cartesian_prod(*(torch.arange(float(n)) for n in extent)).view(1, 1, -1, 2)
    arguments = kind.arguments(shared, places.expand(2, 3, -1, -1), extent, torch.float32)
    for index in range(2):
        if isinstance(kind, RotaryOnLine):
            layer_types = (shared.config.layer_types[index],) if kind.by_layer_type else ()
            native = shared.rotary_emb(torch.empty(0), torch.arange(12)[None], *layer_types)
            for found, expected in zip(arguments(index)["position_embeddings"], native, strict=True):
                assert found.shape[:2] == (2, 13)
                torch.testing.assert_close(found[:, 1:], expected.expand(2, -1, -1), atol=1e-6, rtol=0)
                torch.testing.assert_close(found[0, 0], found[0, 1], atol=0, rtol=0)  # CLS: no rotation
        elif isinstance(kind, RotaryOnGrid):
            native = shared.rope_embeddings(torch.empty(1, 3, 32, 32))
            for found, expected in zip(arguments(index)["position_embeddings"], native, strict=True):
                torch.testing.assert_close(found[1, 0], expected, atol=1e-5, rtol=0)
        else:
            bias = native_bias(shared, kind, index)
            (found,) = arguments(index).values()
            torch.testing.assert_close(found[:, :, 1:, 1:], bias.expand(2, -1, -1, -1), atol=1e-5, rtol=0)
            assert not found[:, :, 0].any()
            assert not found[:, :, :, 0].any()


def native_bias(backbone, kind, index):
    """The bias among 12 tokens on a line, or among all patches."""
    if isinstance(kind, BiasOnGrid):
        return kind.tables(backbone)[index]((4, 4))[:, :, 1:, 1:]
    if backbone.config.model_type == "mpnet":
        return backbone.encoder.compute_position_bias(torch.empty(1, 12, 48))
    return backbone.block[0].layer[0].SelfAttention.compute_bias(12, 12)


def test_views_share_the_frequencies_of_a_rotation(make):
    shared, spec = frozen(make.backbone("llama"))  # 6 frequencies
    positions = torch.zeros(1, 4, 3, 1)
    positions[:, 1] = 5.0  # view 1 alone moves: frequencies 1 and 5 of 4 views
    cosines, _ = spec.in_blocks.arguments(shared, positions, (20,), torch.float32)(0)["position_embeddings"]
    turned = (cosines[0, 1] != 1).tolist()
    assert turned == [f % 4 == 1 for f in range(6)] * 2
    assert (cosines[0, 0] == 1).all()


def test_biases_are_interpolated_and_averaged_over_views(make):
    shared, spec = frozen(make.backbone("t5"))
    attention = shared.block[0].layer[0].SelfAttention
    table = attention.relative_attention_bias.weight
    positions = torch.tensor([[0.0, 2.25], [1.0, 1.0]]).view(1, 2, 2, 1)
    (bias,) = spec.in_blocks.arguments(shared, positions, (20,), torch.float32)(0).values()

    def at(distance):
        return table[attention._relative_position_bucket(torch.tensor(distance), num_buckets=32)]

    first = 0.75 * at(2) + 0.25 * at(3)
    torch.testing.assert_close(bias[0, :, 1, 2], (first + at(0)) / 2)  # query 0, key 1
    back = 0.75 * at(-2) + 0.25 * at(-3)
    torch.testing.assert_close(bias[0, :, 2, 1], (back + at(0)) / 2)


def test_grid_biases_are_interpolated_bilinearly(make):
    shared, spec = frozen(make.backbone("beit"))
    table = spec.in_blocks.tables(shared)[1].relative_position_bias_table[:-3].view(7, 7, 4)
    positions = torch.tensor([[1.0, 2.0], [0.5, 0.75]]).view(1, 1, 2, 2)
    (bias,) = spec.in_blocks.arguments(shared, positions, (4, 4), torch.float32)(1).values()
    row, column = 3 + 0.5, 3 + 1.25  # query minus key, from the middle of the table
    place = torch.tensor([column / 6 * 2 - 1, row / 6 * 2 - 1]).view(1, 1, 1, 2)
    expected = F.grid_sample(table.permute(2, 0, 1)[None], place, align_corners=True).flatten()
    torch.testing.assert_close(bias[0, :, 1, 2], expected)


@torch.no_grad()
def test_the_final_norm_starts_as_the_backbones(make, backbone):
    model = Any2PointModel(Any2PointConfig(**make.small), backbone=backbone)
    if model.spec.final_norm is None:
        assert model.final_norm is None
        return
    own = find(model.backbone, model.spec.final_norm)
    hidden = torch.randn(2, 5, 48) * 3 + 1
    torch.testing.assert_close(model.final_norm(hidden), own(hidden), atol=1e-5, rtol=0)
    assert model.final_norm.weight.data_ptr() != own.weight.data_ptr()
    if model.spec.cls_token is not None:
        assert torch.equal(model.cls_token.flatten(), find(model.backbone, model.spec.cls_token).flatten())


def test_trained_parameters_are_counted_alike(model):
    """What is trained does not depend on the backbone's family, but for norms and positions that it has or lacks."""
    names = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    expected = {"cls_token", "tokenizer", "bottlenecks", "aggregations", "local_attention"}
    expected |= {"final_norm"} if model.spec.final_norm else set()
    expected |= {"cls_position"} if model.adds_positions else set()
    assert names == expected
    assert math.prod(model.cls_token.shape) == 48


@torch.no_grad()
def test_aimv2s_fixed_positions_are_read_too(make):
    config = make.tower_config("aimv2")
    config.is_native = True
    backbone = build_backbone(config).eval()
    captured = []
    backbone.encoder.layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: captured.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    backbone.embeddings.rms_norm.register_forward_hook(lambda _m, _a, output: torch.zeros_like(output))
    backbone(pixel_values=torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(backbone_spec(config).table(backbone), captured[0][0])


def test_weights_that_positions_and_shared_layers_need_are_missed(make, tmp_path):
    for family, ending in (
        ("albert", "albert_layers.0.ffn.weight"),
        ("mpnet", "encoder.relative_attention_bias.weight"),
        ("beit_shared", "relative_position_bias_table"),
        ("data2vec_shared", "encoder.relative_position_bias.relative_position_bias_table"),
        ("t5", "encoder.block.1.layer.1.DenseReluDense.wi.weight"),
        ("llama", "layers.1.mlp.up_proj.weight"),
    ):
        folder = tmp_path / family
        make.backbone(family).save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if not name.endswith(ending)}
        assert len(kept) == len(weights) - 1, (family, list(weights))
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(BackboneLoadError, match=f"1 weights are missing or wrongly shaped, such as .*{ending}"):
            load_backbone(str(folder))


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("beit", {"modality": "1d"}),
        ("dinov3", {"modality": "1d"}),
        ("llama", {"modality": "2d", "plane": [64, 64]}),
        ("t5", {"modality": "2d", "plane": [64, 32]}),
    ],
)
def test_positions_inside_blocks_keep_their_own_kind_of_place(make, family, fields):
    with pytest.raises(ConfigurationError, match=r"modality must be '.d' for .* whose positions act"):
        make.model(family, **fields)
    if family in ("beit", "dinov3"):
        assert make.model(family, **fields, position_encoding="sinusoidal")(make.points()) is not None


def test_wrappers_and_heads_are_looked_through(make, tmp_path):
    text, vision = make.families_of["gemma3"][1], make.families_of["siglip_vision"][1]
    whole = AutoModel.from_config(
        Gemma3Config(text_config=text, vision_config={**vision, "model_type": "siglip_vision_model"})
    ).eval()
    whole.save_pretrained(tmp_path / "whole")
    inner = whole.language_model
    config = Any2PointConfig(**make.small, backbone=tmp_path / "whole")
    for model in (Any2PointModel(config), make.model(whole)):
        assert model.config.backbone_config.model_type == "gemma3_text"
        for name, tensor in inner.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[name], tensor)
    with_head = LlamaForCausalLM(make.tower_config("llama"))
    assert type(make.model(with_head).backbone) is LlamaModel


@torch.no_grad()
def test_offloaded_backbones_are_shared_and_run(make):
    for family in ("bert", "llama", "vit", "electra", "gpt2"):
        backbone, points = make.backbone(family), make.points()
        expected = make.model(backbone, head=True)
        adapters = {name: tensor for name, tensor in expected.state_dict().items() if "backbone." not in name}
        offloaded = cpu_offload(copy.deepcopy(backbone), execution_device="cpu")
        assert next(offloaded.parameters()).is_meta
        model = make.model(offloaded, head=True)
        model.load_state_dict(adapters, strict=False)
        torch.testing.assert_close(model(points).logits, expected(points).logits)
        maps = [m._hf_hook.weights_map for m in offloaded.modules() if getattr(m, "_hf_hook", None) is not None]
        shared = [m._hf_hook.weights_map for m in model.backbone.modules() if getattr(m, "_hf_hook", None) is not None]
        assert {id(part) for part in maps} >= {id(part) for part in shared}  # no weight is copied
