import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointForPointCloudSegmentation,
    Any2PointModel,
)
from any2point_hf.modeling.backbones.loading import build_backbone
from any2point_hf.modeling.backbones.part_of_model import tower_config
from any2point_hf.modeling.hub.names import pulled_folder
from any2point_hf.modeling.publishing.push import push_files

settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("quick")


def load_beside(name):
    """A module of this folder; test files cannot import from each other."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


families = load_beside("families")

# A tokenizer, views and cells small enough for plain loops; two prefix settings are spelled out by each test.
SMALL = {"num_points": 128, "num_neighbors": 8, "num_views": 3, "adapter_dim": 4, "voxel_size": 0.6}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def naive():
    return load_beside("naive")


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


def make_backbone(family, attn_implementation=None):
    config = families.make_config(family)
    if attn_implementation is not None:
        config._attn_implementation = attn_implementation
    backbone = build_backbone(config).eval()
    with torch.no_grad():  # biases, tables and norms start at 0 and 1, which hides terms
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


def make_model(family="vit", head=False, **settings):
    model_class = Any2PointForPointCloudClassification if head else Any2PointModel
    return make_model_of(model_class, family, **settings)


def make_segmenter(family="vit", **settings):
    return make_model_of(Any2PointForPointCloudSegmentation, family, **settings)


def make_model_of(model_class, family, **settings):
    backbone = make_backbone(family) if isinstance(family, str) else family
    return randomize(model_class(Any2PointConfig(**{**SMALL, **settings}), backbone=backbone)).eval()


def make_points(batch_size=2, num_points=128):
    points = torch.randn(batch_size, num_points, 3)
    return points / points.norm(dim=-1, keepdim=True).amax(dim=1, keepdim=True)


class Make:
    """What tests build models of; a fixture, because test files cannot import from each other."""

    config = staticmethod(families.make_config)
    backbone = staticmethod(make_backbone)
    model = staticmethod(make_model)
    segmenter = staticmethod(make_segmenter)
    points = staticmethod(make_points)
    tower_config = staticmethod(lambda family: tower_config(families.make_config(family), None))
    native_inputs = staticmethod(families.make_native_inputs)
    families_of = families.FAMILIES
    randomize = staticmethod(randomize)
    small = SMALL

    @staticmethod
    def arrays(module):
        """State by name, as float64 arrays."""
        return {name: t.detach().double().numpy().copy() for name, t in module.state_dict().items()}


@pytest.fixture(scope="session")
def make():
    return Make


@pytest.fixture(params=["bert", "roberta", "clip_text", "clip", "vit", "deit", "dinov2", "ast", "imagebind_audio"])
def family(request):
    """The families of the published settings."""
    return request.param


@pytest.fixture(scope="module", params=list(families.FAMILIES))
def any_family(request):
    return request.param


# What tests of the Hub share

ADAPTER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


@pytest.fixture
def push(hub, tiny_adapter):
    """Puts the adapter on the Hub, as small files."""

    def put(name, token="token-of-me", **options):
        hub.large_suffixes = ()
        files = {file: tiny_adapter.folder / file for file in ADAPTER_FILES}
        return push_files(files, name, commit_message="put", token=token, **options)

    return put


@pytest.fixture
def pull(tiny_adapter):
    """Gets the adapter, and checks that every byte of it is there."""

    def get(name, **options):
        folder = pulled_folder(name, ADAPTER_FILES, **options)
        assert all((folder / file).read_bytes() == (tiny_adapter.folder / file).read_bytes() for file in ADAPTER_FILES)
        return folder

    return get
