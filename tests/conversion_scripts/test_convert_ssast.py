"""SSAST patch checkpoints, tiny and random, converted and compared with torch's own transformer layers."""

import pytest
import torch
from torch import nn
from transformers import ASTModel, AutoModel

from any2point_hf.conversion_scripts import convert_ssast
from any2point_hf.conversion_scripts.convert_ssast import convert, main, spectrogram_grid
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.errors import CheckpointError

WIDTH, HIDDEN = 128, 96


def ssast_state(rows=512, width=WIDTH, depth=2, patch=(16, 16)):
    """A state dict as `torch.nn.DataParallel` of SSAST saves it."""
    shapes = {
        "mask_embed": [1, 1, width],
        "v.cls_token": [1, 1, width],
        "v.pos_embed": [1, 2 + rows, width],
        "v.dist_token": [1, 1, width],
        "v.patch_embed.proj.weight": [width, 1, *patch],
        "v.patch_embed.proj.bias": [width],
        "v.norm.weight": [width],
        "v.norm.bias": [width],
        "v.head.weight": [10, width],
        "v.head.bias": [10],
        "v.head_dist.weight": [10, width],
        "cpredlayer.0.weight": [width, width],
        "gpredlayer.2.bias": [256],
    }
    for index in range(depth):
        for name, (outputs, inputs) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (HIDDEN, width),
            "mlp.fc2": (width, HIDDEN),
        }.items():
            shapes |= {f"v.blocks.{index}.{name}.weight": [outputs, inputs], f"v.blocks.{index}.{name}.bias": [outputs]}
        for name in ("norm1", "norm2"):
            shapes |= {f"v.blocks.{index}.{name}.weight": [width], f"v.blocks.{index}.{name}.bias": [width]}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) * 0.2 + (".norm" in name and "weight" in name)
        for name, shape in shapes.items()
    }
    state |= {"p_input_fdim": torch.tensor(128), "p_input_tdim": torch.tensor(1024)}
    return {f"module.{name}": tensor for name, tensor in state.items()}


def torch_features(state, spectrogram, stride):
    """The same trunk made of torch's own layers."""
    state = {name.removeprefix("module.v."): tensor for name, tensor in state.items()}
    patches = nn.Conv2d(1, WIDTH, 16, stride)
    patches.load_state_dict({kind: state[f"patch_embed.proj.{kind}"] for kind in ("weight", "bias")})
    norm = nn.LayerNorm(WIDTH, eps=1e-6)
    norm.load_state_dict({kind: state[f"norm.{kind}"] for kind in ("weight", "bias")})
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    with torch.no_grad():
        grid = patches(spectrogram.mT[:, None])  # [B, D, frequency, time]
        tokens = torch.cat([state["cls_token"], state["dist_token"], grid.flatten(2).mT], dim=1) + state["pos_embed"]
        for index in range(2):
            block = nn.TransformerEncoderLayer(
                WIDTH, 2, HIDDEN, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
            )
            block.load_state_dict(
                {
                    f"{new}{k}": state[f"blocks.{index}.{old}{k}"]
                    for new, old in names.items()
                    for k in ("weight", "bias")
                }
            )
            tokens = block.train()(tokens)
        return norm(tokens)


@pytest.fixture
def save(tmp_path, one_thread):
    def save(state):
        torch.save(state, tmp_path / "ssast.pth")
        return tmp_path / "ssast.pth"

    return save


@pytest.mark.parametrize(("rows", "stride", "sizes"), [(512, 16, {}), (32, 16, {"p_input_tdim": 64}), (45, 10, None)])
def test_the_converted_model_computes_what_the_original_does(tmp_path, save, rows, stride, sizes):
    if sizes is None:  # a fine-tuned model: overlapping patches
        sizes = {"p_input_fdim": 64, "p_input_tdim": 96}
    state = ssast_state(rows)
    state |= {f"module.{name}": torch.tensor(size) for name, size in sizes.items()}
    convert(save(state), tmp_path / "ast")
    model = AutoModel.from_pretrained(tmp_path / "ast")
    assert isinstance(model, ASTModel)
    assert model.dtype == torch.float32
    config = model.config
    assert (config.num_mel_bins, config.max_length) == (
        sizes.get("p_input_fdim", 128),
        sizes.get("p_input_tdim", 1024),
    )
    assert (config.frequency_stride, config.time_stride) == (stride, stride)
    assert (config.hidden_size, config.intermediate_size) == (WIDTH, HIDDEN)
    assert (config.num_attention_heads, config.num_hidden_layers) == (2, 2)
    assert (config.layer_norm_eps, config.hidden_act) == (1e-6, "gelu")
    spectrogram = torch.randn(1, config.max_length, config.num_mel_bins)
    expected = torch_features(state, spectrogram, stride)
    with torch.no_grad():
        torch.testing.assert_close(model(spectrogram).last_hidden_state, expected, rtol=1e-4, atol=1e-4)
    table = backbone_spec(config).table(model)
    assert torch.equal(table, state["module.v.pos_embed"][0, 2:])


@pytest.mark.parametrize(
    ("rows", "mel_bins", "frames", "stride"),
    [(512, 128, 1024, 16), (1212, 128, 1024, 10), (113 * 1009, 128, 1024, 1), (1, 16, 16, 16), (2, 16, 32, 16)],
)
def test_the_stride_is_found_from_the_rows(rows, mel_bins, frames, stride):
    sizes = {"p_input_fdim": torch.tensor(mel_bins), "p_input_tdim": torch.tensor(frames)}
    assert spectrogram_grid(sizes, rows) == (mel_bins, frames, stride)


def test_a_file_without_sizes_is_of_128_by_1024_and_wrappers_are_taken_off(tmp_path, save):
    state = {name: tensor for name, tensor in ssast_state().items() if "p_input" not in name}
    convert(save({"model": state, "epoch": 3}), tmp_path / "ast")
    config = AutoModel.from_pretrained(tmp_path / "ast").config
    assert (config.num_mel_bins, config.max_length, config.time_stride) == (128, 1024, 16)


def test_whatever_is_left_out_is_listed(tmp_path, save, capsys):
    state = ssast_state(rows=32)
    state["module.p_input_tdim"] = torch.tensor(64)
    state["module.unfold.kernel"] = torch.zeros(1)
    state["note"] = "no tensor"
    assert main(["--checkpoint", str(save(state)), "--output", str(tmp_path / "ast")]) == 0
    printed = capsys.readouterr().out
    left_out = next(line for line in printed.splitlines() if line.startswith("left out, 10: "))
    for name in ("mask_embed", "v.head.weight", "v.head.bias", "v.head_dist.weight", "cpredlayer.0.weight"):
        assert repr(name) in left_out
    for name in ("gpredlayer.2.bias", "p_input_fdim", "p_input_tdim", "unfold.kernel", "note"):
        assert repr(name) in left_out


def without(name):
    return lambda state: state.pop(f"module.{name}")


def with_(name, tensor):
    return lambda state: state.update({f"module.{name}": tensor})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("v.dist_token"), r"1 miss: \['v.dist_token'\]"),
        (without("v.blocks.1.mlp.fc2.bias"), r"1 miss: \['v.blocks.1.mlp.fc2.bias'\]"),
        (lambda state: [state.pop(name) for name in list(state) if ".blocks." in name], r"12 miss: \['v.blocks.0"),
        (with_("v.blocks.3.norm1.weight", torch.ones(WIDTH)), r"miss: \['v.blocks.2.norm1.weight'"),
        (with_("v.blocks.1.ls1.gamma", torch.ones(WIDTH)), r"not known there: \['v.blocks.1.ls1.gamma'\]"),
        (with_("v.pre_logits.fc.weight", torch.ones(WIDTH)), r"not known there: \['v.pre_logits.fc.weight'\]"),
        (with_("v.patch_embed.proj.weight", torch.ones(WIDTH, 1, 128, 2)), r"got \[1, 128, 2\]. Pass a patch"),
        (with_("v.patch_embed.proj.weight", torch.ones(WIDTH, 3, 16, 16)), r"got \[3, 16, 16\]"),
        (with_("v.patch_embed.proj.weight", torch.ones(WIDTH, 256)), r"in 4 dimensions, got .* \[128, 256\]"),
        (with_("v.patch_embed.proj.weight", torch.ones(100, 1, 16, 16)), r"whole heads of 64, got 100"),
        (with_("v.patch_embed.proj.weight", torch.ones(0, 1, 16, 16)), r"whole heads of 64, got 0"),
        (with_("v.pos_embed", torch.ones(1, 2 + 500, WIDTH)), r"none gives its 500 rows"),
        (with_("v.pos_embed", torch.ones(1, 1, WIDTH)), r"none gives its -1 rows"),
        (with_("v.pos_embed", torch.ones(514, WIDTH)), r"v.pos_embed must be .* in 3 dimensions"),
        (with_("v.pos_embed", torch.ones(1, 514, 64)), r"must be \[1, 514, 128\] .* \[1, 514, 64\]"),
        (with_("v.blocks.0.mlp.fc1.weight", torch.ones(())), r"fc1.weight must be .* in 2 dimensions"),
        (with_("v.blocks.1.mlp.fc1.weight", torch.ones(32, WIDTH)), r"blocks.1.mlp.fc1.weight must be .*\[96, 128\]"),
        (with_("v.blocks.1.attn.qkv.bias", torch.ones(WIDTH)), r"attn.qkv.bias must be .*\[384\]"),
        (with_("v.norm.bias", torch.ones(WIDTH, dtype=torch.int64)), r"v.norm.bias must be .* got torch.int64"),
        (with_("v.norm.bias", torch.full([WIDTH], float("nan"))), r"must hold finite weights"),
        (with_("v.norm.bias", torch.ones(WIDTH).half()), r"full precision"),
        (with_("p_input_tdim", torch.tensor(998)), r"128 mel bins and 998 frames .* none gives its 512 rows"),
        (with_("p_input_fdim", torch.tensor([128, 128])), r"p_input_fdim and p_input_tdim must be one whole"),
        (with_("p_input_fdim", torch.tensor(128.0)), r"p_input_fdim and p_input_tdim must be one whole"),
        (lambda state: state.update({f"module.p_input_{axis}dim": torch.tensor(-100) for axis in "ft"}), r"least 16"),
        (with_("p_input_fdim", torch.tensor(15)), r"one whole number each, at least 16, got \[\[15\], \[1024\]\]"),
    ],
)  # fmt: skip
def test_whatever_does_not_fit_is_refused_before_anything_is_written(tmp_path, save, damage, message):
    state = ssast_state()
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        convert(save(state), tmp_path / "ast")
    assert [path.name for path in tmp_path.iterdir()] == ["ssast.pth"]


@pytest.mark.parametrize("kind", ["missing", "truncated", "text"])
def test_files_that_are_no_checkpoints_are_exit_code_2(tmp_path, save, capsys, kind):
    path = save(ssast_state(rows=8))
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:2000] if kind == "truncated" else b"not a checkpoint")
    assert main(["--checkpoint", str(path), "--output", str(tmp_path / "ast")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "ast").exists()


def test_a_model_that_computes_something_else_is_not_written(tmp_path, save, capsys, monkeypatch):
    original = convert_ssast.ast_config

    def other_activation(*arguments):
        config = original(*arguments)
        config.hidden_act = "relu"
        return config

    monkeypatch.setattr(convert_ssast, "ast_config", other_activation)
    assert main(["--checkpoint", str(save(ssast_state())), "--output", str(tmp_path / "ast")]) == 2
    assert "must compute what the original weights compute" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ssast.pth"]
