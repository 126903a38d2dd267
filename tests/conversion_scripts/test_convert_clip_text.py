"""OpenAI's CLIP, tiny and random, archived as OpenAI does, converted and compared with torch's own attention."""

import os
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn
from transformers import AutoModel, CLIPTextModel

from any2point_hf.conversion_scripts import convert_clip_text
from any2point_hf.conversion_scripts.convert_clip_text import convert, main
from any2point_hf.modeling.errors import CheckpointError

WIDTH, WORDS, POSITIONS = 128, 30, 7


class QuickGELU(nn.Module):
    def forward(self, features):
        return features * torch.sigmoid(1.702 * features)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1 = nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 96), "gelu": QuickGELU(), "c_proj": nn.Linear(96, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, features, mask):  # features: [T, B, D]
        normed = self.ln_1(features)
        features = features + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return features + self.mlp(self.ln_2(features))


class Transformer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resblocks = nn.Sequential(Block(width), Block(width))


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 4, bias=False)
        self.proj = nn.Parameter(torch.randn(8, 5))
        self.transformer = Transformer(64)


class TinyClip(nn.Module):
    """The names and types of OpenAI's module."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.visual = Visual()
        self.transformer = Transformer(width)
        self.token_embedding = nn.Embedding(WORDS, width)
        self.positional_embedding = nn.Parameter(torch.randn(POSITIONS, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, 5))
        self.logit_scale = nn.Parameter(torch.ones([]))
        for name, number in (("input_resolution", 224), ("context_length", POSITIONS), ("vocab_size", WORDS)):
            self.register_buffer(name, torch.tensor(number))

    def forward(self, features):  # what is traced; nobody runs it
        return self.ln_final(features)

    def encode_text(self, token_ids):
        features = (self.token_embedding(token_ids) + self.positional_embedding).transpose(0, 1)
        mask = torch.full((POSITIONS, POSITIONS), float("-inf")).triu(1)
        for block in self.transformer.resblocks:
            features = block(features, mask)
        return self.ln_final(features).transpose(0, 1)


@pytest.fixture
def clip(one_thread):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = TinyClip().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
    for layer in module.modules():  # as `convert_weights` of OpenAI
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.half()
    module.text_projection.data = module.text_projection.data.half()
    return module


def save_archive(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, WIDTH)), path)
    return path


def assert_converted(folder, clip):
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, CLIPTextModel)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    token_ids = torch.randint(WORDS, (3, POSITIONS))
    with torch.no_grad():
        expected = clip.float().encode_text(token_ids)
        torch.testing.assert_close(model(token_ids).last_hidden_state, expected, rtol=1e-4, atol=1e-4)
    return model.config


def test_an_archive_becomes_the_text_model(tmp_path, clip, capsys):
    path = save_archive(clip, tmp_path / "clip.pt")
    assert main(["--checkpoint", str(path), "--output", str(tmp_path / "text")]) == 0
    printed = capsys.readouterr().out
    config = assert_converted(tmp_path / "text", clip)
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (WIDTH, 96, 2)
    assert (config.vocab_size, config.max_position_embeddings) == (WORDS, POSITIONS)
    assert (config.num_attention_heads, config.hidden_act, config.layer_norm_eps) == (2, "quick_gelu", 1e-5)
    assert (config.bos_token_id, config.eos_token_id) == (WORDS - 2, WORDS - 1)
    assert "28 tensors written" in printed
    num_visual = len(clip.visual.state_dict())
    assert f"left out, {num_visual + 5} tensors" in printed
    assert f"'visual': {num_visual}" in printed
    for name in ("text_projection", "logit_scale", "input_resolution", "context_length", "vocab_size"):
        assert f"'{name}': 1" in printed


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("only_text", [False, True])
def test_state_dicts_do_as_well(tmp_path, clip, wrapped, only_text):
    state = clip.state_dict()
    if only_text:
        names = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.")
        state = {name: tensor for name, tensor in state.items() if name.startswith(names)}
    if wrapped:
        state = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / "clip.pth")
    convert(tmp_path / "clip.pth", tmp_path / "text")
    assert_converted(tmp_path / "text", clip)


BLOCK = "transformer.resblocks.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ln_final.bias": None}, r"1 miss: \['ln_final.bias'\]"),
        ({f"{BLOCK}.attn.in_proj_bias": None}, rf"1 miss: \['{BLOCK}.attn.in_proj_bias'\]"),
        ({"transformer.resblocks.3.ln_1.bias": torch.zeros(WIDTH)}, r"miss: \['transformer.resblocks.2.ln_1.weight'"),
        ({f"{BLOCK}.attn.bias_k": torch.zeros(WIDTH)}, rf"not known there: \['{BLOCK}.attn.bias_k'\]"),
        ({"bert.weight": torch.zeros(2)}, r"not known there: \['bert.weight'\]"),
        ({"logit_scale.extra": torch.zeros(2)}, r"not known there"),
        ({"token_embedding.weight": torch.zeros(WORDS)}, r"in 2 dimensions, got torch.float32 \[30\]"),
        ({"token_embedding.weight": torch.zeros(WORDS, 100)}, r"whole heads of 64, got 100"),
        ({"token_embedding.weight": torch.zeros(WORDS, 0)}, r"whole heads of 64, got 0"),
        ({"token_embedding.weight": torch.zeros(1, WIDTH)}, r"two words and a position, got 1 and 7"),
        ({"positional_embedding": torch.zeros(0, WIDTH)}, r"two words and a position, got 30 and 0"),
        ({"positional_embedding": torch.zeros(POSITIONS, 64)}, r"positional_embedding must be .*\[7, 128\]"),
        ({f"{BLOCK}.attn.in_proj_weight": torch.zeros(WIDTH, WIDTH)}, r"in_proj_weight must be .*\[384, 128\]"),
        ({f"{BLOCK}.mlp.c_fc.weight": torch.zeros(95, WIDTH)}, r"c_fc.weight must be .*\[96, 128\]"),
        ({f"{BLOCK}.ln_2.bias": torch.zeros(WIDTH, dtype=torch.int64)}, r"ln_2.bias must be floating-point"),
        ({f"{BLOCK}.ln_2.bias": torch.full([WIDTH], float("inf")).half()}, r"must hold finite weights.*ln_2.bias"),
        ({"transformer": None}, r"must hold all 16 weights of the model; 12 miss"),
    ],
)  # fmt: skip
def test_whatever_does_not_fit_is_refused_before_anything_is_written(tmp_path, clip, change, message):
    state = clip.state_dict() | change
    gone = tuple(name for name, tensor in change.items() if tensor is None)
    state = {name: tensor for name, tensor in state.items() if not (gone and name.startswith(gone))}
    torch.save(state, tmp_path / "clip.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "clip.pth", tmp_path / "text")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.pth"]


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "foreign zip", "list", "malicious", "other module"])
def test_files_that_are_not_clip_are_exit_code_2(tmp_path, clip, capsys, kind):
    path = tmp_path / "clip.pt"
    if kind == "truncated":
        save_archive(clip, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "foreign zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", "hello")
    elif kind == "list":
        torch.save([torch.zeros(2)], path)
    elif kind == "malicious":
        torch.save({"positional_embedding": Touch(tmp_path / "it_ran")}, path)
    elif kind == "other module":
        save_archive(nn.Linear(WIDTH, 2), path)
    assert main(["--checkpoint", str(path), "--output", str(tmp_path / "text")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ([] if kind == "missing" else ["clip.pt"])


def test_a_malicious_archive_is_not_run(tmp_path, clip, capsys):
    save_archive(clip, tmp_path / "clip.pt")
    mark = tmp_path / "it_ran"
    call = f"cos\nsystem\n(Vtouch {mark}\ntR.".encode()
    with (
        zipfile.ZipFile(tmp_path / "clip.pt") as old,
        zipfile.ZipFile(tmp_path / "malicious.pt", "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, call if name.endswith("/data.pkl") else old.read(name))
    assert main(["--checkpoint", str(tmp_path / "malicious.pt"), "--output", str(tmp_path / "text")]) == 2
    assert "it names 'os.system', which was not run" in capsys.readouterr().err
    assert not mark.exists()


def test_a_model_that_computes_something_else_is_not_written(tmp_path, clip, monkeypatch):
    torch.save(clip.state_dict(), tmp_path / "clip.pth")
    original = convert_clip_text.clip_text_config

    def other_activation(*arguments):
        config = original(*arguments)
        config.hidden_act = "gelu"
        return config

    monkeypatch.setattr(convert_clip_text, "clip_text_config", other_activation)
    with pytest.raises(CheckpointError, match="must compute what the original weights compute"):
        convert(tmp_path / "clip.pth", tmp_path / "text")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.pth"]
