import numpy as np
import pytest
import torch

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudSegmentation

CATEGORIES = {"zebra": [0, 1], "ant": [2, 3, 4], "bee": [4]}


def layer_norm(values, state, name):
    centered = values - values.mean(axis=-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
    return normed * state[f"{name}.weight"] + state[f"{name}.bias"]


def carry(points, centers, features):
    """The three nearest centres by inverse squared distance, [N, C]; no point lies on a centre but as one."""
    squared = ((points[:, None] - centers[None]) ** 2).sum(axis=-1)
    nearest = np.argsort(squared, axis=-1, kind="stable")[:, :3]
    near = np.take_along_axis(squared, nearest, axis=-1)
    shares = np.where(near[:, :1] > 0, near[:, :1] / np.where(near > 0, near, 1), near == 0)
    return np.einsum("nk,nkc->nc", shares / shares.sum(axis=-1, keepdims=True), features[nearest])


@pytest.mark.parametrize("categories", [None, CATEGORIES], ids=["alone", "with categories"])
@torch.no_grad()
def test_the_head_is_the_naive_one(naive, make, categories):
    model = make.segmenter("vit", num_labels=5, category_parts=categories).double()
    points = make.points(3).double()
    category = None if categories is None else torch.tensor([2, 0, 1])
    found = model(points, category=category, output_hidden_states=True)
    base = model.any2point(points, output_hidden_states=True, output_point_levels=True)
    state = make.arrays(model)
    levels = [(place.numpy(), features.numpy()) for place, features in base.point_levels]

    def project(values, name):
        return naive.linear(layer_norm(values, state, f"segmenter.{name}.norm"), state, f"segmenter.{name}.linear")

    for cloud in range(3):
        own = points[cloud].numpy()
        hidden = project(levels[0][1][cloud], "levels.0") + project(base.pooler_output[cloud].numpy(), "pooled")
        for level in (1, 2):
            features = project(levels[level][1][cloud], f"levels.{level}")
            hidden = hidden + carry(own, levels[level][0][cloud], features)
        for number, states in enumerate(base.hidden_states[1:]):  # both blocks
            tokens = project(states[cloud, 1:].numpy(), f"blocks.{number}")
            hidden = hidden + carry(own, base.point_centers[cloud].numpy(), tokens)
        if category is not None:
            hidden = hidden + state["segmenter.categories"][category[cloud]]
        hidden = naive.relu(layer_norm(hidden, state, "segmenter.norm1"))
        hidden = naive.linear(hidden, state, "segmenter.hidden")
        hidden = naive.relu(layer_norm(hidden, state, "segmenter.norm2"))
        logits = naive.linear(hidden, state, "segmenter.output")
        np.testing.assert_allclose(found.logits[cloud], logits, atol=1e-9)
    assert found.logits.shape == (3, 128, 5)


def test_start_values_are_those_of_the_method(make):
    backbone = make.backbone("vit")
    config = Any2PointConfig(**make.small, num_labels=40, category_parts={str(k): [k] for k in range(40)})
    torch.manual_seed(3)
    first = Any2PointForPointCloudSegmentation(config, backbone=backbone).segmenter
    torch.manual_seed(3)
    again = Any2PointForPointCloudSegmentation(config, backbone=backbone).segmenter
    state = first.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert abs(float(first.categories.detach().std()) - 1) < 0.05
    for name, tensor in state.items():
        if "norm" in name:
            assert torch.equal(tensor, torch.full_like(tensor, float(name.endswith("weight")))), name
        elif name.endswith("weight"):
            assert 0.015 < float(tensor.std()) < 0.025, name
    assert not first.output.bias.any()
    assert not torch.equal(state["blocks.0.linear.weight"], state["blocks.1.linear.weight"])
