"""What the pictures show against plain loops over the model's own attentions, states and tables."""

import copy

import numpy as np
import pytest
import torch

from any2point_hf.modeling.errors import Any2PointError, PointCloudError, UnsupportedBackboneError
from any2point_hf.pictures import measures

NUM_TOKENS = 16


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def run(model, points, **wanted):
    with torch.no_grad():
        return model(torch.from_numpy(points)[None], **wanted)


def test_attention_is_the_cls_row_of_each_block_on_average_over_heads(picture_model, points):
    model = picture_model()
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    outputs = run(eager, points, output_attentions=True)
    centers, weights = measures.cls_attention(model, points)
    np.testing.assert_array_equal(centers, outputs.point_centers[0].numpy())
    assert weights.shape == (3, NUM_TOKENS)
    assert weights.dtype == np.float32
    for block, attention in enumerate(outputs.attentions):
        heads = attention[0].numpy()
        for token in range(NUM_TOKENS):
            expected = (heads[0, 0, 1 + token] + heads[1, 0, 1 + token]) / 2
            assert weights[block, token] == pytest.approx(expected, rel=1e-6)
        assert weights[block].sum() + heads[:, 0, 0].mean() == pytest.approx(1, abs=1e-6)


def test_a_point_has_the_attention_of_its_nearest_token(picture_model, points):
    centers, weights = measures.cls_attention(picture_model(), points)
    values = measures.attention_on_points(picture_model(), points)
    assert values.shape == (3, 128)
    assert values.dtype == np.float32
    for index, point in enumerate(points):
        distances = [float(np.sum((point - center) ** 2)) for center in centers]
        np.testing.assert_array_equal(values[:, index], weights[:, distances.index(min(distances))])


def test_a_measure_leaves_the_model_as_it_was(own_model, points):
    own_model.train()
    own_model.classifier.eval()
    before = {name: tensor.clone() for name, tensor in own_model.state_dict().items()}
    modes = [module.training for module in own_model.modules()]
    first = measures.attention_on_points(own_model, points)
    measures.cls_similarity(own_model, points)
    measures.position_similarity(own_model, points, 0)
    assert own_model.backbone.config._attn_implementation == "sdpa"
    assert [module.training for module in own_model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_model.state_dict().items())
    np.testing.assert_array_equal(first, measures.attention_on_points(own_model.eval(), points))


def test_an_error_leaves_the_model_as_it_was(own_model, points):
    with pytest.raises(PointCloudError, match="63"):
        measures.attention_on_points(own_model.train(), points[:63])
    assert own_model.backbone.config._attn_implementation == "sdpa"
    assert own_model.training


def test_an_audio_models_learned_key_is_no_point(points):
    """A family whose attention has a key more than there are tokens gives weights of the tokens alone."""
    from any2point_hf import Any2PointConfig, Any2PointModel
    from any2point_hf.modeling.backbones.imagebind_audio.configuration_imagebind_audio import ImageBindAudioConfig

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = Any2PointConfig(backbone_config=ImageBindAudioConfig(**sizes), num_points=128, num_neighbors=8)
    torch.manual_seed(0)
    model = Any2PointModel(config).eval()
    _, weights = measures.cls_attention(model, points)
    model.set_attn_implementation("eager")
    attention = run(model, points, output_attentions=True).attentions[1][0].mean(dim=0)
    assert attention.shape == (1 + NUM_TOKENS, 2 + NUM_TOKENS)
    np.testing.assert_allclose(weights[1], attention[0, 1:-1].numpy(), rtol=1e-6)


def test_attention_that_cannot_be_had_is_refused(picture_model, points):
    with pytest.raises(UnsupportedBackboneError, match=r"data2vec-vision .* backbone_kwargs"):
        measures.cls_attention(picture_model("data2vec-vision"), points)


def test_attention_between_clouds_is_refused(picture_model, points):
    released = picture_model("bert", released_compatibility=True)
    with (
        pytest.warns(UserWarning, match="across the batch"),
        pytest.raises(UnsupportedBackboneError, match=r"\[B, heads, 17, keys\].* gave \[17, 2, 1, 1\]"),
    ):
        measures.cls_attention(released, points)


@pytest.mark.parametrize("family", ["bert", "vit"])  # without and with a final norm
def test_similarity_of_cls_with_the_tokens_after_each_block(picture_model, points, family):
    model = picture_model(family)
    outputs = run(model, points, output_hidden_states=True)
    centers, similarities = measures.cls_similarity(model, points)
    np.testing.assert_array_equal(centers, outputs.point_centers[0].numpy())
    assert similarities.shape == (3, NUM_TOKENS)
    norm = model.any2point.final_norm
    assert (norm is not None) == (family == "vit")
    for block in range(3):
        states = outputs.hidden_states[1 + block][0]
        states = (states if norm is None else norm(states)).detach().numpy()
        for token in range(NUM_TOKENS):
            assert similarities[block, token] == pytest.approx(cosine(states[0], states[1 + token]), abs=1e-5)
    last = outputs.last_hidden_state[0].numpy()
    assert similarities[-1, 5] == pytest.approx(cosine(last[0], last[6]), abs=1e-5)


def test_similarity_of_positions_of_a_table(picture_model, points):
    base = picture_model().any2point
    table = base.backbone.embeddings.position_embeddings.weight.detach().double().numpy()
    centers, averaged, per_view = measures.position_similarity(picture_model(), points, 4)
    _, positions, extent, _ = measures.token_positions(picture_model(), points)
    assert extent == (20,)
    encodings = np.zeros((3, NUM_TOKENS, 24))
    for view in range(3):
        for token in range(NUM_TOKENS):
            place = float(positions[view, token, 0])
            left = min(int(place), 18)
            encodings[view, token] = table[left] * (left + 1 - place) + table[left + 1] * (place - left)
    for token in range(NUM_TOKENS):
        for view in range(3):
            expected = cosine(encodings[view, 4], encodings[view, token])
            assert per_view[view, token] == pytest.approx(expected, abs=1e-4)
        expected = cosine(encodings[:, 4].mean(axis=0), encodings[:, token].mean(axis=0))
        assert averaged[token] == pytest.approx(expected, abs=1e-4)
    assert np.abs(averaged - per_view.mean(axis=0)).max() > 0.01  # of the mean encoding, not the mean of the cosines
    assert centers.shape == (NUM_TOKENS, 3)


def test_similarity_of_rotary_positions_is_the_mean_cosine_of_the_angles(picture_model, points):
    model = picture_model("llama")
    frequencies = model.backbone.rotary_emb.inv_freq.double().numpy()
    positions = measures.token_positions(model, points).positions[..., 0].astype(np.float64)
    _, averaged, per_view = measures.position_similarity(model, points, 2)
    assert len(frequencies) == 6
    for token in range(NUM_TOKENS):
        apart = positions[:, token] - positions[:, 2]
        for view in range(3):
            assert per_view[view, token] == pytest.approx(np.cos(apart[view] * frequencies).mean(), abs=1e-4)
        angles = [apart[index % 3] * frequency for index, frequency in enumerate(frequencies)]
        assert averaged[token] == pytest.approx(np.cos(angles).mean(), abs=1e-4)


def test_learned_positions_have_no_views(picture_model, points):
    model = picture_model("bert", position_encoding="learnable")
    centers, averaged, per_view = measures.position_similarity(model, points, 3)
    with torch.no_grad():
        encodings = model.any2point.learnable_encoding(torch.from_numpy(centers)).numpy()
    assert per_view.shape == (0, NUM_TOKENS)
    assert averaged[7] == pytest.approx(cosine(encodings[3], encodings[7]), abs=1e-5)


def test_positions_that_cannot_be_compared_are_refused(picture_model, points):
    with pytest.raises(UnsupportedBackboneError, match="t5 tells positions by biases"):
        measures.position_similarity(picture_model("t5"), points, 0)
    with pytest.raises(UnsupportedBackboneError, match='position_encoding="none"'):
        measures.position_similarity(picture_model("bert", position_encoding="none"), points, 0)


@pytest.mark.parametrize("token", [-1, NUM_TOKENS])
def test_a_token_that_is_not_there_is_refused(picture_model, points, token):
    with pytest.raises(Any2PointError, match=rf"0…15 .*got {token}"):
        measures.position_similarity(picture_model(), points, token)


def test_positions_on_planes_are_rows_and_columns(picture_model, points):
    model = picture_model("vit")
    centers, positions, extent, cells = measures.token_positions(model, points)
    assert extent == (4, 4)
    assert positions.shape == (3, NUM_TOKENS, 2)
    projection = model.any2point.projection
    pixels = projection(torch.from_numpy(centers)[None])[0].numpy()
    for view in range(3):
        for token in range(NUM_TOKENS):
            x, y = pixels[view, token]
            assert positions[view, token] == pytest.approx((y * 3 / 31, x * 3 / 31), abs=1e-5)
            assert cells[view, token] == int(x // 2) + 16 * int(y // 2)  # patches of 2 of 32 pixels


def test_each_cloud_has_one_answer_wherever_the_points_come_from(picture_model, points):
    first = measures.attention_on_points(picture_model(), points)
    second = measures.attention_on_points(picture_model().any2point, torch.from_numpy(points))
    np.testing.assert_array_equal(first, second)
