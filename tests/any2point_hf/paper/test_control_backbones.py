"""Control backbones: the same sizes without what was learned."""

import importlib.util
from pathlib import Path

import pytest
import torch

from any2point_hf.modeling import Any2PointConfig, Any2PointModel
from any2point_hf.modeling.backbones.loading import build_backbone
from any2point_hf.paper.control_backbones import permuted_weights, random_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def load_families():
    path = Path(__file__).parents[2] / "modeling" / "families.py"
    spec = importlib.util.spec_from_file_location("families", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


families = load_families()


def make_backbone(family):
    torch.manual_seed(0)
    backbone = build_backbone(families.make_config(family)).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


def tensors_of(backbone):
    return {name: tensor.clone() for name, tensor in backbone.state_dict().items()}


PLACES = ("layer.", "layers.", "h.", "albert_layer_groups.", "block.")
FAMILIES = ["bert", "clip_text", "gpt2", "llama", "vit", "dinov2", "albert", "albert_groups", "t5", "beit"]


def names_of_matrices(backbone):
    """Of linear layers in the blocks."""
    named = [(name, each) for name, each in backbone.named_parameters() if not name.startswith("decoder.")]
    named = [name for name, each in named if each.ndim == 2 and "relative" not in name]
    return {name for name in named if any(f".{place}" in f".{name}" for place in PLACES)}


@pytest.mark.parametrize(
    "family", ["bert", "clip_text", "gpt2", "llama", "vit", "dinov2", "albert", "albert_groups", "t5"]
)
def test_the_entries_of_each_matrix_are_permuted_and_nothing_else_is_changed(family):
    backbone = make_backbone(family)
    before = tensors_of(backbone)
    permuted = permuted_weights(backbone, 0)
    after, matrices = tensors_of(permuted), names_of_matrices(backbone)
    assert after.keys() == before.keys()
    assert len(matrices) >= 6
    for name, tensor in before.items():
        if name in matrices:
            assert not torch.equal(after[name], tensor), name
            assert torch.equal(after[name].flatten().sort().values, tensor.flatten().sort().values), name
        else:  # norms, biases, embeddings, the table of positions
            assert torch.equal(after[name], tensor), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(backbone).items())
    pointers = [{tensor.data_ptr() for tensor in each.parameters()} for each in (backbone, permuted)]
    assert not pointers[0] & pointers[1]
    assert not permuted.training


def test_entries_go_anywhere_in_their_matrix():
    backbone = make_backbone("bert")
    weight = backbone.encoder.layer[0].intermediate.dense.weight
    with torch.no_grad():
        weight.copy_(torch.arange(weight.numel()).view_as(weight))
    moved = permuted_weights(backbone, 0).encoder.layer[0].intermediate.dense.weight
    rows, columns = moved.long() // weight.shape[1], moved.long() % weight.shape[1]
    assert len(rows[0].unique()) > 20  # a row has entries of many
    assert len(columns[:, 0].unique()) > 20
    assert (moved == weight).sum() < 10


def test_a_seed_is_an_order_and_torchs_generator_is_left_alone():
    backbone = make_backbone("bert")
    state = torch.get_rng_state()
    first, again, other = (tensors_of(permuted_weights(backbone, seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    matrices = names_of_matrices(backbone)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in matrices)


def test_shared_layers_are_permuted_once():
    permuted = permuted_weights(make_backbone("albert"), 0)
    model = Any2PointModel(Any2PointConfig(num_points=64, num_neighbors=8, num_views=2), backbone=permuted)
    first, second = (block.attention.query.weight for block in model.blocks())
    assert first.data_ptr() == second.data_ptr()
    assert torch.equal(first, permuted.encoder.albert_layer_groups[0].albert_layers[0].attention.query.weight)


def test_a_backbone_that_a_model_uses_keeps_its_weights():
    backbone = make_backbone("bert")
    model = Any2PointModel(Any2PointConfig(num_points=64, num_neighbors=8, num_views=2), backbone=backbone).eval()
    points = torch.randn(2, 64, 3)
    with torch.no_grad():
        before = model(points).pooler_output
        permuted_weights(backbone, 0)
        assert torch.equal(model(points).pooler_output, before)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_random_weights_follow_from_the_seed_alone(family):
    backbone = make_backbone(family)
    before = tensors_of(backbone)
    found = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        found.append(tensors_of(random_weights(backbone, seed)))
        assert torch.equal(torch.get_rng_state(), state)
    first, again, other = found
    assert first.keys() == before.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in names_of_matrices(backbone):
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], before[name])
        assert first[name].std() == pytest.approx(0.02, rel=0.1)  # the family's own start values
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(backbone).items())


def test_random_weights_do_not_share_the_config():
    backbone = make_backbone("bert")
    made = random_weights(backbone, 0)
    assert made.config is not backbone.config
    assert made.config.hidden_size == 48
