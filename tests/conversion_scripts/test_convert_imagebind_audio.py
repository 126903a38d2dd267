"""A tiny file by the authors' names, converted, against a plain calculation from that file."""

import io
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from any2point_hf.conversion_scripts import convert_imagebind_audio
from any2point_hf.conversion_scripts.convert_imagebind_audio import main

MLP, JOINT = 96, 40
SCALE = "modality_postprocessors.audio.1.log_logit_scale"
FIRST_BLOCK = "modality_trunks.audio.blocks.0"
LAST_BLOCK = "modality_trunks.audio.blocks.1"


def make_state(width=128):
    shapes = {
        "modality_preprocessors.audio.cls_token": [1, 1, width],
        "modality_preprocessors.audio.rgbt_stem.proj.weight": [width, 1, 16, 16],
        "modality_preprocessors.audio.rgbt_stem.norm_layer.weight": [width],
        "modality_preprocessors.audio.rgbt_stem.norm_layer.bias": [width],
        "modality_preprocessors.audio.pos_embedding_helper.pos_embed": [1, 229, width],
        "modality_heads.audio.0.weight": [width],
        "modality_heads.audio.0.bias": [width],
        "modality_heads.audio.2.weight": [JOINT, width],
    }
    for block in (FIRST_BLOCK, LAST_BLOCK):
        shapes |= {
            f"{block}.attn.in_proj_weight": [3 * width, width],
            f"{block}.attn.in_proj_bias": [3 * width],
            f"{block}.attn.bias_k": [1, 1, width],
            f"{block}.attn.bias_v": [1, 1, width],
            f"{block}.attn.out_proj.weight": [width, width],
            f"{block}.attn.out_proj.bias": [width],
            f"{block}.norm_1.weight": [width],
            f"{block}.norm_1.bias": [width],
            f"{block}.norm_2.weight": [width],
            f"{block}.norm_2.bias": [width],
            f"{block}.mlp.fc1.weight": [MLP, width],
            f"{block}.mlp.fc1.bias": [MLP],
            f"{block}.mlp.fc2.weight": [width, MLP],
            f"{block}.mlp.fc2.bias": [width],
        }
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


OTHER_MODALITIES = {
    "modality_preprocessors.vision.cls_token": torch.zeros(1, 1, 12),
    "modality_trunks.text.blocks.0.attn.in_proj_weight": torch.zeros(36, 12),
    "modality_postprocessors.text.1.log_logit_scale": torch.tensor(4.6052),
}


def plain_outputs(state, features, scale):
    """Tokens and joint embedding, in float64, with torch's own attention module."""
    state = {name: tensor.double() for name, tensor in state.items()}
    stem, head = "modality_preprocessors.audio", "modality_heads.audio"
    width = state[f"{stem}.cls_token"].shape[-1]

    def norm(rows, name, eps):
        return F.layer_norm(rows, (width,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    patches = F.unfold(features.double(), kernel_size=16, stride=10).transpose(1, 2)
    patches = patches @ state[f"{stem}.rgbt_stem.proj.weight"].reshape(width, 256).T
    patches = norm(patches, f"{stem}.rgbt_stem.norm_layer", 1e-5)
    tokens = torch.cat([state[f"{stem}.cls_token"].expand(len(patches), 1, width), patches], dim=1)
    tokens = tokens + state[f"{stem}.pos_embedding_helper.pos_embed"]
    for block in (FIRST_BLOCK, LAST_BLOCK):
        attention = nn.MultiheadAttention(width, width // 64, add_bias_kv=True, batch_first=True, dtype=torch.float64)
        prefix = f"{block}.attn."
        attention.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
        normed = norm(tokens, f"{block}.norm_1", 1e-6)
        tokens = tokens + attention(normed, normed, normed)[0]
        inner = norm(tokens, f"{block}.norm_2", 1e-6) @ state[f"{block}.mlp.fc1.weight"].T
        inner = F.gelu(inner + state[f"{block}.mlp.fc1.bias"])
        tokens = tokens + inner @ state[f"{block}.mlp.fc2.weight"].T + state[f"{block}.mlp.fc2.bias"]
    tokens = norm(tokens, f"{head}.0", 1e-6)
    return tokens, scale * F.normalize(tokens[:, 0] @ state[f"{head}.2.weight"].T, dim=-1)


@pytest.fixture
def run_convert(tmp_path, capsys, one_thread):
    """Converts what `content` is: exit code, standard output and error, and the folder."""

    def run(content):
        path, output = tmp_path / "original.pth", tmp_path / "converted"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        code = main(["--checkpoint", str(path), "--output", str(output)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err, output

    return run


@torch.no_grad()
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(
    ("added", "scale"),
    [
        ({}, 20.0),
        ({SCALE: torch.tensor(math.log(20.0))} | OTHER_MODALITIES, 20.0),
        ({SCALE: torch.tensor(math.log(7.0))}, 7.0),
        ({SCALE: torch.tensor(5.0)}, 100.0),
    ],
    ids=["audio alone", "all modalities", "other scale", "clipped scale"],
)
def test_the_converted_model_computes_what_the_file_says(run_convert, width, added, scale):
    state = make_state(width)
    code, printed, error, output = run_convert(state | added)
    assert code == 0, error
    model = AutoModel.from_pretrained(output)
    features = torch.randn(2, 1, 128, 204, generator=torch.Generator().manual_seed(1))
    tokens, joint = plain_outputs(state, features, scale)
    outputs = model(features)
    torch.testing.assert_close(outputs.last_hidden_state.double(), tokens, atol=2e-5, rtol=0)
    torch.testing.assert_close(outputs.pooler_output.double(), joint, atol=2e-5 * scale, rtol=0)
    assert model.config.num_attention_heads == width // 64
    assert model.dtype == torch.float32
    assert f"2 blocks, width {width}, {width // 64} heads, MLP 96, joint embedding 40 of length {scale:g}\n" in printed
    assert f"audio encoder: {len(state) + (SCALE in added)} tensors" in printed
    assert f"left out: {len(added) - (SCALE in added)} tensors of other modalities, 0 other entries" in printed


def test_wrappers_and_other_entries_are_read_through(run_convert):
    state = {f"module.{name}": tensor for name, tensor in make_state(64).items()}
    code, printed, error, _ = run_convert({"state_dict": state, "epoch": 3})
    assert code == 0, error
    assert "left out: 0 tensors of other modalities, 1 other entries" in printed


def test_the_released_text_mask_is_no_obstacle(run_convert):
    mask = torch.full((77, 77), -torch.inf).triu(1)
    code, _, error, _ = run_convert(make_state(64) | {"modality_preprocessors.text.mask": mask})
    assert code == 0, error


def damaged(change):
    state = make_state(64)
    change(state)
    return state


def truncated():
    buffer = io.BytesIO()
    torch.save(make_state(64), buffer)
    return buffer.getvalue()[: buffer.tell() // 2]


def assert_refused(result, message):
    code, printed, error, output = result
    assert code == 2
    assert printed == ""
    assert re.search("^error: .*" + message, error, re.MULTILINE), error
    assert {file.name for file in output.parent.iterdir()} <= {"original.pth"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: damaged(lambda s: s.pop(f"{LAST_BLOCK}.attn.bias_k")),
         r"Missing: \['modality_trunks.audio.blocks.1.attn.bias_k'\]; unexpected: \[\]; wrongly shaped: \[\]"),
        (lambda: damaged(lambda s: s.pop("modality_heads.audio.2.weight")),
         "must hold modality_heads.audio.2.weight, which tells projection_dim; it is missing"),
        (lambda: damaged(lambda s: s.update({f"{FIRST_BLOCK}.attn.gate": torch.zeros(1)})),
         r"unexpected: \['modality_trunks.audio.blocks.0.attn.gate'\]"),
        (lambda: damaged(lambda s: s.update({"modality_postprocessors.audio.2.weight": torch.zeros(1)})),
         r"unexpected: \['modality_postprocessors.audio.2.weight'\]"),
        (lambda: damaged(lambda s: s.update({"modality_preprocessors.audio.cls_token": torch.zeros(64)})),
         r"cls_token, which tells hidden_size; it is wrongly shaped: \[64\]"),
        (lambda: damaged(lambda s: s.update({f"{FIRST_BLOCK}.mlp.fc1.weight": torch.zeros(0, 64)})),
         r"which tells intermediate_size; it is wrongly shaped: \[0, 64\]"),
        (lambda: damaged(lambda s: s.update(
            {"modality_preprocessors.audio.pos_embedding_helper.pos_embed": torch.zeros(1, 230, 64)})),
         r"wrongly shaped: \['modality_preprocessors.audio.pos_embedding_helper.pos_embed \[1, 230, 64\] for "
         r"\[1, 229, 64\]'\]"),
        (lambda: damaged(lambda s: s.update({f"{LAST_BLOCK}.mlp.fc1.bias": torch.zeros(MLP + 1)})),
         r"wrongly shaped: \['modality_trunks.audio.blocks.1.mlp.fc1.bias \[97\] for \[96\]'\]"),
        (lambda: damaged(lambda s: s.update({SCALE: torch.zeros(2)})), "log_logit_scale must be the logarithm of one"),
        (lambda: damaged(lambda s: s.update({SCALE: torch.tensor(-1e9)})), "must be the logarithm of one positive"),
        (lambda: make_state(80), "a head's, or of 12, the published number of heads; got 80"),
        (lambda: {name: tensor.half() for name, tensor in make_state(64).items()}, "weights in full precision"),
        (lambda: damaged(lambda s: s[f"{FIRST_BLOCK}.norm_1.bias"].fill_(torch.nan)), "must hold finite weights"),
        (lambda: damaged(lambda s: s["modality_heads.audio.2.weight"].zero_()), "must compute what the file's tensors"),
        (lambda: {"encoder.cls_token": torch.zeros(1, 1, 64), "encoder.norm.weight": torch.ones(64)},
         "must hold ImageBind's audio encoder.*none. It begins with encoder.cls_token, encoder.norm.weight"),
        (lambda: OTHER_MODALITIES, "must hold ImageBind's audio encoder"),
        (lambda: b"not a checkpoint", "must be a whole PyTorch checkpoint"),
        (truncated, "must be a whole PyTorch checkpoint"),
        (lambda: None, "is not there"),
    ],
)  # fmt: skip
def test_whatever_does_not_fit_is_exit_code_2_and_nothing_is_written(run_convert, content, message):
    assert_refused(run_convert(content()), message)


def test_a_wrong_conversion_is_found_and_left_nowhere(run_convert, monkeypatch):
    monkeypatch.setitem(convert_imagebind_audio.RENAMED, ".norm1.", ".norm_2.")
    monkeypatch.setitem(convert_imagebind_audio.RENAMED, ".norm2.", ".norm_1.")
    assert_refused(run_convert(make_state(64)), "the converted model must compute what the file's tensors do to 0.0001")


def test_an_output_that_is_a_file_is_refused(run_convert, tmp_path):
    (tmp_path / "converted").write_text("mine")
    code, _, error, output = run_convert(make_state(64))
    assert code == 2
    assert "--output must be a folder" in error
    assert output.read_text() == "mine"
