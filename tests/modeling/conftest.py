import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers import (
    ASTConfig,
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPTextConfig,
    DeiTConfig,
    Dinov2Config,
    RobertaConfig,
    ViTConfig,
)

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    ImageBindAudioConfig,
)

settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile("quick")

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CLIP_TEXT = {**SIZES, "vocab_size": 30, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 29}
BACKBONE_CONFIGS = {
    "bert": lambda: BertConfig(**SIZES, vocab_size=30, max_position_embeddings=24),
    "roberta": lambda: RobertaConfig(**SIZES, vocab_size=30, max_position_embeddings=26, pad_token_id=1),
    "clip_text": lambda: CLIPTextConfig(**CLIP_TEXT),
    "clip": lambda: CLIPConfig(
        text_config=CLIP_TEXT, vision_config={**SIZES, "image_size": 16, "patch_size": 8}, projection_dim=16
    ),
    "vit": lambda: ViTConfig(**SIZES, image_size=(24, 32), patch_size=8),
    "deit": lambda: DeiTConfig(**SIZES, image_size=32, patch_size=8),
    "dinov2": lambda: Dinov2Config(**{**SIZES, "image_size": 28, "patch_size": 7, "mlp_ratio": 2}),
    "ast": lambda: ASTConfig(**SIZES, num_mel_bins=32, max_length=66, patch_size=16),
    "imagebind_audio": lambda: ImageBindAudioConfig(**SIZES, projection_dim=8),
}
# A tokenizer, views and cells small enough for plain loops; two prefix settings are spelled out by each test.
SMALL = {"num_points": 128, "num_neighbors": 8, "num_views": 3, "adapter_dim": 4, "voxel_size": 0.6}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def naive():
    spec = importlib.util.spec_from_file_location("naive_twins", Path(__file__).with_name("naive.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomize(module):
    """Every trained tensor and running statistic away from its start value, so that no term can hide."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "backbone." in name:
                continue
            spread = 0.2 if parameter.dim() < 2 or "norm" in name else parameter.shape[-1] ** -0.5
            is_scale = "norm" in name and name.endswith("weight")
            parameter.copy_(spread * torch.randn_like(parameter) + is_scale)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return module


def make_backbone(family):
    backbone = AutoModel.from_config(BACKBONE_CONFIGS[family]()).eval()
    with torch.no_grad():  # biases, tables and norms start at 0 and 1, which hides terms
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


def make_model(family="vit", head=False, **settings):
    backbone = make_backbone(family) if isinstance(family, str) else family
    model_class = Any2PointForPointCloudClassification if head else Any2PointModel
    return randomize(model_class(Any2PointConfig(**{**SMALL, **settings}), backbone=backbone)).eval()


def make_points(batch_size=2, num_points=128):
    points = torch.randn(batch_size, num_points, 3)
    return points / points.norm(dim=-1, keepdim=True).amax(dim=1, keepdim=True)


def make_native_inputs(backbone):
    config = backbone.config
    if config.model_type in ("bert", "roberta", "clip_text_model"):
        return {"input_ids": torch.randint(3, config.vocab_size - 1, (2, 12))}
    if config.model_type == "audio-spectrogram-transformer":
        return {"input_values": torch.randn(2, config.max_length, config.num_mel_bins)}
    if config.model_type == "imagebind_audio":
        return {"input_features": torch.randn(2, 1, config.num_mel_bins, config.max_length)}
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": torch.randn(2, 3, height, width)}


class Make:
    """What tests build models of; a fixture, because test files cannot import from each other."""

    config = staticmethod(lambda family: BACKBONE_CONFIGS[family]())
    backbone = staticmethod(make_backbone)
    model = staticmethod(make_model)
    points = staticmethod(make_points)
    native_inputs = staticmethod(make_native_inputs)
    randomize = staticmethod(randomize)
    small = SMALL

    @staticmethod
    def arrays(module):
        """State by name, as float64 arrays."""
        return {name: t.detach().double().numpy().copy() for name, t in module.state_dict().items()}


@pytest.fixture(scope="session")
def make():
    return Make


@pytest.fixture(params=list(BACKBONE_CONFIGS))
def family(request):
    return request.param
