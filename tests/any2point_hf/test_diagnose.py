import copy
import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, CLIPTextConfig, DebertaV2Config, Dinov2Config, OPTConfig, T5Config

from any2point_hf.data import build_dataset_dict, load_point_cloud_dataset
from any2point_hf.diagnose import choose_clouds, cosine_within_clouds, diagnose, effective_rank
from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointModel
from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.errors import Any2PointError, PointCloudError
from any2point_hf.processing_any2point import Any2PointProcessor

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*has no positions that a point could be given:UserWarning"),
]

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {"vocab_size": 30, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 29}
BACKBONES = {
    "bert": BertConfig(**SIZES, **WORDS, max_position_embeddings=24),  # norms after the branches
    "dinov2": Dinov2Config(**SIZES, image_size=28, patch_size=7, mlp_ratio=2),
    "opt": OPTConfig(**SIZES, **WORDS, max_position_embeddings=26, ffn_dim=64, word_embed_proj_dim=48),
    "t5": T5Config(**WORDS, d_model=48, num_layers=3, num_heads=4, d_kv=12, d_ff=64),  # blocks give tuples
    "deberta": DebertaV2Config(**SIZES, **WORDS, position_biased_input=False, type_vocab_size=0),  # no positions
}
MEASURED = {"stream_rms", "effective_rank", "clean_cosine"}
ADDED = {f"{part}_{kind}" for part in ("feed_forward", "bottleneck", "aggregation") for kind in ("rms", "share")}


def make(backbone="bert", model_class=Any2PointModel, **fields):
    torch.manual_seed(0)
    fields = {"num_points": 128, "num_neighbors": 8, "num_views": 3, "voxel_size": 0.6, "adapter_scale": 1.0} | fields
    return model_class(Any2PointConfig(backbone_config=BACKBONES[backbone], **fields))


@pytest.fixture
def points():
    return torch.randn(4, 128, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def trained(points):
    """A model whose running statistics are of clouds, and whose norms of cells differ from their start."""
    model = make()
    with torch.no_grad():
        for _ in range(3):
            model.train()(points)
    return model.eval()


def rms(values):
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=np.float64)))))


def without_adapters(model):
    """A copy with weights that add nothing."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for bottleneck in model.bottlenecks.values():
            bottleneck.up.weight.zero_()
            bottleneck.up.bias.zero_()
        for aggregation in model.aggregations.values():
            aggregation.scale = 0.0
    return model


# Numbers


def test_states_against_a_copy_without_adapters(trained, points):
    numbers = diagnose(trained, points)
    with torch.no_grad():
        states = trained(points, output_hidden_states=True).hidden_states
        clean = without_adapters(trained)(points, output_hidden_states=True).hidden_states
    assert (numbers["mode"], numbers["num_clouds"], numbers["num_tokens"]) == ("eval", 4, 16)
    assert [block["block"] for block in numbers["blocks"]] == [0, 1, 2]
    for index, block in enumerate(numbers["blocks"], start=1):
        tokens, clean_tokens = (state[index][:, 1:].double().numpy() for state in (states, clean))
        rows = tokens.reshape(-1, 48)
        shares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
        shares /= shares.sum()
        lengths = np.linalg.norm(tokens, axis=-1) * np.linalg.norm(clean_tokens, axis=-1)
        cosine = ((tokens * clean_tokens).sum(axis=-1) / lengths).mean()
        assert block["stream_rms"] == pytest.approx(rms(tokens), rel=1e-6)
        assert block["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
        assert block["clean_cosine"] == pytest.approx(cosine, abs=1e-6)
        assert block["clean_cosine"] < 0.999


def test_before_the_blocks(trained, points):
    numbers = diagnose(trained, points)
    with torch.no_grad():
        tokens, centers = trained.tokenizer(points)
        positions = trained.encode_positions(centers, trained.projection(centers))[:, 1:]
    cosines = []
    for cloud in tokens.double().numpy():
        unit = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
        cosines += [float(unit[i] @ unit[j]) for i in range(16) for j in range(16) if i != j]
    assert numbers["tokens_rms"] == pytest.approx(rms(tokens), rel=1e-6)
    assert numbers["positions_rms"] == pytest.approx(rms(positions), rel=1e-6)
    assert numbers["tokens_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)


@pytest.mark.parametrize("placement", ["after", "before", "parallel"])
def test_what_a_block_adds_against_its_parts_one_by_one(points, placement):
    model = make(adapter_placement=placement, adapter_dropout=0.0)
    numbers = diagnose(model, points)["blocks"][0]
    block, bottleneck = model.backbone.encoder.layer[0], model.bottlenecks["0"]
    with torch.no_grad():
        before, after = model(points, output_hidden_states=True).hidden_states[:2]
        attended = block.attention(before)[0]
        into = attended + bottleneck(attended) if placement == "before" else attended
        branch = torch.nn.functional.gelu(into @ block.intermediate.dense.weight.T + block.intermediate.dense.bias)
        branch = branch @ block.output.dense.weight.T + block.output.dense.bias
        change = bottleneck(branch if placement == "after" else attended)
        added = branch if placement == "before" else branch + change
        given_out = block.output.LayerNorm(added + attended)
    expected = {
        "feed_forward": rms(branch[:, 1:]),
        "bottleneck": rms(change[:, 1:]),
        "aggregation": rms((after - given_out)[:, 1:]),
    }
    for part, value in expected.items():
        assert numbers[f"{part}_rms"] == pytest.approx(value, rel=1e-4)
        assert numbers[f"{part}_share"] == pytest.approx(value / rms(after[:, 1:]), rel=1e-4)


def test_a_bottleneck_that_adds_nothing(points):
    model = make(aggregation="none")
    with torch.no_grad():
        for bottleneck in model.bottlenecks.values():
            bottleneck.up.weight.zero_()
            bottleneck.up.bias.zero_()
    for block in diagnose(model, points)["blocks"]:
        assert (block["bottleneck_rms"], block["bottleneck_share"]) == (0.0, 0.0)
        assert block["clean_cosine"] == pytest.approx(1.0, abs=1e-12)
        assert block["aggregation_rms"] is block["aggregation_share"] is None


def test_a_known_aggregation(points, monkeypatch):
    model = make(adapter_blocks=[1])
    monkeypatch.setattr(model.aggregations["1"], "forward", lambda tokens, *_: tokens + 3)
    first, second, third = diagnose(model, points)["blocks"]
    assert second["aggregation_rms"] == pytest.approx(3, rel=1e-6)
    assert second["aggregation_share"] == pytest.approx(3 / second["stream_rms"], rel=1e-6)
    assert first["clean_cosine"] == pytest.approx(1.0, abs=1e-12)
    assert second["clean_cosine"] < 0.5
    assert second["clean_cosine"] < third["clean_cosine"] < 0.9999  # a norm takes the constant away again
    assert first["bottleneck_rms"] is first["aggregation_rms"] is third["bottleneck_rms"] is None


def test_effective_rank_and_cosine_of_known_tokens():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    signs = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).double()
    tokens = (signs[1:].T @ basis[:3]).reshape(2, 2, 8)  # three directions of equal strength, mean 0
    assert effective_rank(tokens) == pytest.approx(3)
    assert effective_rank(tokens + 100) == pytest.approx(3)  # centred
    assert effective_rank(tokens[:, :, :1] * torch.ones(8)) == pytest.approx(1)
    assert cosine_within_clouds(torch.ones(2, 5, 4)) == pytest.approx(1)
    assert cosine_within_clouds(torch.tensor([[[1.0, 0], [0, 5]], [[2, 0], [-1, 0]]])) == pytest.approx(-0.5)


# Families


@pytest.mark.parametrize("placement", ["after", "before", "parallel"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_layout_of_a_block(backbone, placement, points):
    numbers = diagnose(make(backbone, adapter_placement=placement, adapter_blocks=[0, 2]), points)
    assert (numbers["positions_rms"] is None) == (backbone in ("t5", "deberta"))
    for index, block in enumerate(numbers["blocks"]):
        assert set(block) == {"block"} | MEASURED | ADDED
        absent = {name for name in ADDED if not name.startswith("feed_forward")} if index == 1 else set()
        assert {name for name, value in block.items() if value is None} == absent
        assert all(value > 0 for name, value in block.items() if value is not None and name in MEASURED | ADDED)


def test_a_model_without_blocks(points):
    assert diagnose(make(backbone_blocks=0), points)["blocks"] == []
    one, all_three = (diagnose(make(backbone_blocks=count), points)["blocks"] for count in (1, None))
    assert len(one) == 1
    assert one == all_three[:1]


def test_tokens_brought_to_the_backbones_size(points):
    model = make(token_scale="embedding")
    numbers = diagnose(model, points)
    with torch.no_grad():
        tokens = model.token_scale(model.tokenizer(points)[0])
    assert numbers["tokens_rms"] == pytest.approx(rms(tokens), rel=1e-6)
    assert numbers["tokens_rms"] < 0.2 * diagnose(make(), points)["tokens_rms"]


def test_a_model_without_adapters(points):
    for block in diagnose(make("dinov2", adapter_blocks=0), points)["blocks"]:
        assert block["bottleneck_rms"] is block["aggregation_rms"] is None
        assert block["clean_cosine"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.filterwarnings("ignore:this converted model computes:UserWarning")
def test_a_block_that_runs_across_the_batch(points, monkeypatch):
    monkeypatch.setitem(BACKBONES, "clip", CLIPTextConfig(**SIZES, **WORDS, max_position_embeddings=20))
    model = make("clip", released_compatibility=True)
    branches, last = [], find(find(model.backbone, model.spec.blocks)[0], model.spec.feed_forward[1])
    with last.register_forward_hook(lambda _, __, output: branches.append(output.detach()), prepend=True):
        numbers = diagnose(model, points)["blocks"][0]
    assert branches[-1].shape == (17, 4, 48)
    assert numbers["feed_forward_rms"] == pytest.approx(rms(branches[-1][1:]), rel=1e-6)
    assert numbers["feed_forward_rms"] != pytest.approx(rms(branches[-1][:, 1:]), rel=1e-6)


# What is left behind


def hooks_of(model):
    return {name: (dict(part._forward_hooks), dict(part._forward_pre_hooks)) for name, part in model.named_modules()}


@pytest.mark.parametrize("model_class", [Any2PointModel, Any2PointForPointCloudClassification])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_changes(model_class, training, points):
    model = make(model_class=model_class, adapter_dropout=0.5).train(training)
    modes = {name: part.training for name, part in model.named_modules()}
    state, hooks, random_state = copy.deepcopy(model.state_dict()), hooks_of(model), torch.random.get_rng_state()
    numbers = diagnose(model, points)
    assert numbers == diagnose(model, points)  # no dropout, nothing random
    assert numbers["mode"] == "train"
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert hooks_of(model) == hooks
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failure_leaves_nothing_behind_either(points):
    model = make().eval()
    hooks, state = hooks_of(model), copy.deepcopy(model.state_dict())
    with pytest.raises(PointCloudError, match="at least 64"):
        diagnose(model, points[:, :10])
    with torch.no_grad():
        model.bottlenecks["1"].up.bias.fill_(torch.nan)
    with pytest.raises(Any2PointError, match=r"those of block 1 are not.*lower learning rate"):
        diagnose(model, points)
    del state["bottlenecks.1.up.bias"]
    assert not any(part.training for part in model.modules())
    assert hooks_of(model) == hooks
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


# The clouds


def test_clouds_are_chosen_by_the_seed():
    clouds = [np.random.default_rng(index).normal(size=(80, 3)).astype(np.float32) for index in range(50)]
    split = build_dataset_dict({"train": (clouds, [0] * 50)}, ["a"])["train"]
    processor = Any2PointProcessor(64)
    everything = processor(clouds)["points"]
    chosen = choose_clouds(split, processor)
    assert chosen.shape == (32, 64, 3)
    rows = [next(row for row in range(50) if torch.equal(everything[row], cloud)) for cloud in chosen]
    assert rows == sorted(set(rows))
    assert torch.equal(choose_clouds(split, processor), chosen)
    assert not torch.equal(choose_clouds(split, processor, seed=1), chosen)
    assert len(choose_clouds(split.select(range(5)), processor)) == 5


# The command line

SMALL = ("--num-points", "64", "--num-neighbors", "8")


def test_info_of_a_new_model(run_command, bert, two_classes):
    arguments = ("info", "--backbone", bert, *SMALL, "--diagnose", two_classes.path)
    result = run_command(*arguments, "--json")
    numbers = json.loads(result.out)
    assert (result.code, numbers["mode"], numbers["num_clouds"], numbers["num_tokens"]) == (0, "train", 16, 8)
    assert [block["block"] for block in numbers["blocks"]] == [0, 1]
    assert json.loads(run_command(*arguments, "--json").out) == numbers
    lines = run_command(*arguments).out.splitlines()
    assert lines[0] == "measured on 16 training clouds of 8 tokens each, without dropout"
    assert lines[1].startswith("never trained, so in train mode")
    assert lines[2].startswith(f"tokens as the tokenizer leaves them: RMS {numbers['tokens_rms']:.4g}, cosine")
    assert lines[3] == f"position encodings added: RMS {numbers['positions_rms']:.4g}"
    second = numbers["blocks"][1]
    row, branch = lines[-1].split(), "feed_forward"
    assert row[:3] == ["1", f"{second['stream_rms']:.4g}", f"{second[f'{branch}_rms']:.4g}"]
    assert row[3:5] == [f"{100 * second[f'{branch}_share']:.1f}", "%"]
    assert row[-2:] == [f"{second['effective_rank']:.1f}", f"{second['clean_cosine']:.4f}"]


def test_info_of_an_adapter(run_command, adapter, two_classes):
    result = run_command("info", "--model", adapter, "--diagnose", two_classes.path, "--json")
    numbers = json.loads(result.out)
    assert (result.code, numbers["mode"]) == (0, "eval")
    model = Any2PointForPointCloudClassification.from_pretrained(adapter)
    split = load_point_cloud_dataset(str(two_classes.path))["train"]
    assert numbers == diagnose(model, choose_clouds(split, Any2PointProcessor.from_pretrained(adapter)))


def test_a_block_without_adapters_has_dashes(run_command, bert, two_classes):
    without = ("--set", "adapter_blocks=[1]", "--set", "position_encoding=none")
    out = run_command("info", "--backbone", bert, *SMALL, *without, "--diagnose", two_classes.path).out
    rows = [line.split() for line in out.splitlines()[-2:]]
    assert rows[0][5:7] == ["-", "-"]
    assert "-" not in rows[1]
    assert "position encodings added: none" in out


def test_what_cannot_be_diagnosed(run_command, bert, tmp_path, two_classes):
    def refused(message, *arguments):
        result = run_command("info", *arguments)
        assert (result.code, result.out) == (2, "")
        assert message in result.err
        assert "Traceback" not in result.err

    refused("--diagnose needs --model, --preset or --backbone", "--diagnose", two_classes.path)
    refused("Cannot load a data set from", "--backbone", bert, "--diagnose", tmp_path / "nothing")
    refused("--backbone is needed", "--preset", "imagebind-audio-scan", "--diagnose", two_classes.path)
    arrays = two_classes.arrays()
    np.savez(tmp_path / "test.npz", **(arrays | {"split": np.ones_like(arrays["split"])}))
    refused("split", "--backbone", bert, "--diagnose", tmp_path / "test.npz")
