"""The converted transformers compute what the originals do, and are backbones like any other."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification

NAMES = ("kwt1", "vit_cifar10")
# Biases right before a batch norm, which takes them out again: their gradient is rounding alone.
CANCELLED = re.compile(
    r"any2point\.(tokenizer\.stages\.\d\.bottlenecks\.\d\.(down|up)\.bias|local_attention\.out_bias)"
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def real_backbones():
    path = Path(__file__).parents[2] / "benchmarks" / "real_backbones.py"
    spec = importlib.util.spec_from_file_location("real_backbones", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(shared_data):
    return {name: shared_data / "backbones" / name for name in NAMES}


@pytest.fixture(scope="module")
def converted(real_backbones, sources, tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp("real_backbones") / name for name in NAMES}
    for name in NAMES:
        real_backbones.main([name, str(sources[name]), str(folders[name])])
    return folders


@pytest.fixture(scope="module")
def weights(sources):
    return {name: load_file(sources[name] / f"{name}.safetensors") for name in NAMES}


# The originals, written out


def linear(weights, name, hidden):
    return F.linear(hidden, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def kwt1_norm(weights, name, hidden):
    return F.layer_norm(hidden, hidden.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)


def kwt1_embeddings(weights, audio):
    """Waveforms [B, 16000] to CLS and 98 frames [B, 99, 64]: MFCCs, projected, plus positions."""
    frames = audio.unfold(-1, 480, 160) * weights["frontend.window"]
    spectrum = torch.hypot(frames @ weights["frontend.rdft_real"].T, frames @ weights["frontend.rdft_imag"].T)
    mel = (spectrum @ weights["frontend.mel"].T).clamp(min=1e-12).log()
    features = linear(weights, "embeddings.projection", mel @ weights["frontend.dct"].T)
    cls_token = weights["embeddings.cls_token"].expand(len(audio), -1, -1)
    return torch.cat([cls_token, features], dim=1) + weights["embeddings.position_embeddings"]


def kwt1_block(weights, name, hidden):
    query, key, value = (linear(weights, f"{name}.attention.{part}", hidden) for part in ("query", "key", "value"))
    mixed = (0.125 * query @ key.transpose(-1, -2)).softmax(dim=-1) @ value
    hidden = kwt1_norm(weights, f"{name}.norm1", hidden + linear(weights, f"{name}.attention.out", mixed))
    inner = F.gelu(linear(weights, f"{name}.mlp.fc1", hidden), approximate="tanh")
    return kwt1_norm(weights, f"{name}.norm2", hidden + linear(weights, f"{name}.mlp.fc2", inner))


def kwt1_blocks(weights, hidden):
    for index in range(12):
        hidden = kwt1_block(weights, f"layers.{index}", hidden)
    return hidden


def vit_cifar10_embeddings(weights, images):
    """Images [B, 3, 32, 32] to CLS and 64 patches [B, 65, 128]."""
    convolution = (weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"])
    patches = F.conv2d(images, *convolution, stride=4).flatten(2).transpose(1, 2)
    cls_token = weights["cls_token"].expand(len(images), -1, -1)
    return torch.cat([cls_token, patches], dim=1) + weights["pos_embed"]


# The conversions against the originals


@pytest.fixture(scope="module")
def recordings(sources):
    """Four waveforms and the logits of the original model file."""
    with np.load(sources["kwt1"] / "reference_io.npz") as arrays:
        return torch.from_numpy(arrays["audio"]), torch.from_numpy(arrays["logits"])


@torch.no_grad()
def test_kwt1_written_out_gives_the_reference_logits(weights, recordings):
    audio, logits = recordings
    hidden = kwt1_blocks(weights["kwt1"], kwt1_embeddings(weights["kwt1"], audio))
    torch.testing.assert_close(linear(weights["kwt1"], "classifier", hidden[:, 0]), logits, rtol=0, atol=1e-3)


@torch.no_grad()
def test_converted_kwt1_gives_the_reference_logits(weights, recordings, converted):
    audio, logits = recordings
    encoder = AutoModel.from_pretrained(converted["kwt1"]).encoder
    embeddings = kwt1_embeddings(weights["kwt1"], audio)
    hidden = encoder(embeddings).last_hidden_state
    torch.testing.assert_close(hidden, kwt1_blocks(weights["kwt1"], embeddings), rtol=0, atol=1e-4)
    torch.testing.assert_close(linear(weights["kwt1"], "classifier", hidden[:, 0]), logits, rtol=0, atol=1e-3)


@torch.no_grad()
def test_converted_vit_cifar10_equals_the_original(weights, converted):
    layer = torch.nn.TransformerEncoderLayer(128, 8, dim_feedforward=256, activation="relu", batch_first=True)
    original = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    root = "transformer."
    blocks = {k.removeprefix(root): tensor for k, tensor in weights["vit_cifar10"].items() if k.startswith(root)}
    original.load_state_dict(blocks)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    hidden = vit_cifar10_embeddings(weights["vit_cifar10"], images)
    encoder = AutoModel.from_pretrained(converted["vit_cifar10"]).encoder
    torch.testing.assert_close(encoder(hidden).last_hidden_state, original(hidden), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "table", "rows"), [("kwt1", "embeddings.position_embeddings", 98), ("vit_cifar10", "pos_embed", 64)]
)
def test_embeddings_hold_the_positions_alone(weights, converted, name, table, rows):
    model = AutoModel.from_pretrained(converted[name])
    assert model.config.max_position_embeddings == rows
    assert torch.equal(model.embeddings.position_embeddings.weight, weights[name][table][0, 1:])
    assert not model.embeddings.word_embeddings.weight.any()
    assert not model.embeddings.token_type_embeddings.weight.any()
    assert (model.embeddings.LayerNorm.weight == 1).all()
    assert not model.embeddings.LayerNorm.bias.any()


# As backbones


ON_GRID = {"modality": "2d", "plane": [32, 32]}


@pytest.fixture(scope="module", params=[("kwt1", {}), ("vit_cifar10", {}), ("vit_cifar10", ON_GRID)], ids=str)
def trained(request, converted):
    """A classifier of three classes after one step, with its loss, gradients and folder of its backbone."""
    name, fields = request.param
    folder = converted[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"num_points": 128, "num_neighbors": 8, "adapter_start": "scan"}  # large enough for gradients to be seen
        config = Any2PointConfig(backbone=folder, num_labels=3, **size, **fields)
        model = Any2PointForPointCloudClassification(config).train()
        loss = model(torch.randn(4, 128, 3) / 3, labels=torch.tensor([0, 1, 2, 0])).loss
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    loss.backward()
    torch.optim.AdamW(parameters.values()).step()
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    return SimpleNamespace(model=model.eval(), loss=loss, gradients=gradients, folder=folder)


def test_one_step_leaves_the_backbone_as_it_was(trained):
    assert trained.loss.isfinite()
    tensors = trained.model.backbone.state_dict()
    for name, tensor in load_file(trained.folder / "model.safetensors").items():
        assert torch.equal(tensors[name], tensor), name


def test_gradients_reach_everything_trained(trained):
    assert set(trained.gradients) == {n for n, _ in trained.model.named_parameters() if "backbone." not in n}
    for name, gradient in trained.gradients.items():
        assert gradient.isfinite().all(), name
        assert CANCELLED.fullmatch(name) or gradient.norm() > 1e-4, name


@torch.no_grad()
def test_saved_adapters_reload_with_the_same_logits(trained, tmp_path):
    trained.model.save_pretrained(tmp_path)
    assert not any("backbone." in name for name in load_file(tmp_path / "model.safetensors"))
    reloaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path)
    points = torch.randn(2, 128, 3) / 3
    torch.testing.assert_close(reloaded(points).logits, trained.model(points).logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_images_positions_lie_on_their_grid(converted, weights):
    config = Any2PointConfig(backbone=converted["vit_cifar10"], num_points=128, num_neighbors=8, **ON_GRID)
    projection = Any2PointForPointCloudClassification(config).any2point.projection
    assert (projection.grid, projection.width, projection.height) == ((8, 8), 32, 32)
    table = weights["vit_cifar10"]["pos_embed"][0, 1:]
    rows, columns = torch.tensor([0, 2, 7, 7]), torch.tensor([7, 5, 0, 7])
    pixels = torch.stack([columns, rows], dim=-1) * 31 / 7  # corner cells under corner pixels
    encoding = projection.encode(pixels.view(1, 1, 4, 2), table)[0]
    torch.testing.assert_close(encoding, table.view(8, 8, -1)[rows, columns], atol=1e-5, rtol=0)
