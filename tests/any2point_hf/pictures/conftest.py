import copy

import numpy as np
import pytest

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "bert": {**SIZES, "vocab_size": 30, "max_position_embeddings": 20},
    "vit": {**SIZES, "image_size": 32, "patch_size": 8},
    "llama": {**SIZES, "vocab_size": 30, "max_position_embeddings": 20, "num_key_value_heads": 1, "head_dim": 12},
    "t5": {"d_model": 24, "num_layers": 3, "num_heads": 2, "d_kv": 12, "d_ff": 32, "vocab_size": 30},
    "data2vec-vision": {**SIZES, "image_size": 32, "patch_size": 8, "use_relative_position_bias": True},
}


def make_picture_model(family, **settings):
    """A model of three blocks and 16 tokens of 128 points, every parameter away from its start value."""
    import torch
    from transformers import AutoConfig

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **CONFIGS[family])
        fields = {"num_points": 128, "num_neighbors": 8, "num_views": 3, "adapter_dim": 4, **settings}
        model = Any2PointForPointCloudClassification(Any2PointConfig(backbone_config=config, **fields))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def picture_model(one_thread):
    """`picture_model(family, **settings)`, each made once; a test that changes one copies it."""
    made = {}

    def get(family="bert", **settings):
        key = (family, tuple(sorted(settings.items())))
        if key not in made:
            made[key] = make_picture_model(family, **settings)
        return made[key]

    return get


@pytest.fixture
def own_model(picture_model):
    return copy.deepcopy(picture_model())


@pytest.fixture
def points():
    cloud = np.random.default_rng(0).normal(size=(128, 3))
    return (cloud / np.linalg.norm(cloud, axis=1).max()).astype(np.float32)


@pytest.fixture
def processor():
    from any2point_hf import Any2PointProcessor

    return Any2PointProcessor(num_points=128)


@pytest.fixture
def picture():
    """`picture(**changes)`: two panels of 600 points with marks, a background and scales of their own."""
    from any2point_hf.pictures.picture import Picture
    from any2point_hf.pictures.picture_content import Panel

    def make(num_panels=2, **changes):
        generator = np.random.default_rng(0)
        panels = []
        for index in range(num_panels):
            places = generator.normal(size=(600, 3)).astype(np.float32)
            values = generator.random(600).astype(np.float32) * (index + 1)
            extra = {"background": places[:9] * 2, "marked": places[:1]} if index == 0 else {}
            panels.append(Panel(f"panel {index}", places, values, (0.0, float(index + 1)), **extra))
        return Picture(**{"title": "A <title> & more", "label": "share (%)", "panels": tuple(panels), **changes})

    return make
