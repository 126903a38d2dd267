import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from any2point_hf.modeling.backbones.blocks import call_block, record_attention
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.imagebind_audio.configuration_imagebind_audio import ImageBindAudioConfig
from any2point_hf.modeling.backbones.imagebind_audio.modeling_imagebind_audio import ImageBindAudioModel
from any2point_hf.modeling.backbones.spec import find

TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "projection_dim": 48,
}
UNEVEN = {**TINY, "num_mel_bins": 40, "max_length": 50, "patch_size": 8, "frequency_stride": 6, "time_stride": 9}


def make_model(implementation="sdpa", **settings):
    config = ImageBindAudioConfig(**{**TINY, **settings}, attn_implementation=implementation)
    model = ImageBindAudioModel(config).eval()
    with torch.no_grad():  # away from start values, so that no term can hide
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_features(config, batch_size=2):
    return torch.randn(batch_size, 1, config.num_mel_bins, config.max_length)


def plain_attention(attention, hidden, heads, with_rows):
    """torch's own module: output [B, L, D] and weights [B, H, L, L + 1]."""
    plain = nn.MultiheadAttention(
        hidden.shape[-1], heads, add_bias_kv=with_rows, batch_first=True, dtype=hidden.dtype
    ).eval()
    state = {
        "in_proj_weight": attention.qkv.weight,
        "in_proj_bias": attention.qkv.bias,
        "out_proj.weight": attention.out_proj.weight,
        "out_proj.bias": attention.out_proj.bias,
    }
    rows = {"bias_k": attention.bias_k, "bias_v": attention.bias_v} if with_rows else {}
    plain.load_state_dict(state | rows)
    return plain(hidden, hidden, hidden, average_attn_weights=False)


def plain_outputs(model, features, with_rows=True):
    """Hidden states, attention weights, tokens after the final norm and joint embedding, step by step."""
    config, embeddings = model.config, model.embeddings
    patches = []
    for row in range(config.grid[0]):
        for column in range(config.grid[1]):
            top, left = row * config.frequency_stride, column * config.time_stride
            patch = features[:, 0, top : top + config.patch_size, left : left + config.patch_size]
            patches.append(torch.einsum("bij,dij->bd", patch, embeddings.projection.weight[:, 0]))
    width = (config.hidden_size,)
    patches = F.layer_norm(torch.stack(patches, dim=1), width, embeddings.norm.weight, embeddings.norm.bias, eps=1e-5)
    cls_token = embeddings.cls_token.expand(len(features), 1, -1)
    hidden = torch.cat([cls_token, patches], dim=1) + embeddings.position_embeddings
    states, weights = [hidden], []
    for layer in model.layers:
        normed = F.layer_norm(hidden, width, layer.norm1.weight, layer.norm1.bias, eps=1e-6)
        attended, weight = plain_attention(layer.attention, normed, config.num_attention_heads, with_rows)
        hidden = hidden + attended
        normed = F.layer_norm(hidden, width, layer.norm2.weight, layer.norm2.bias, eps=1e-6)
        inner = normed @ layer.mlp.fc1.weight.T + layer.mlp.fc1.bias
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        hidden = hidden + inner @ layer.mlp.fc2.weight.T + layer.mlp.fc2.bias
        states.append(hidden)
        weights.append(weight)
    tokens = F.layer_norm(hidden, width, model.layernorm.weight, model.layernorm.bias, eps=1e-6)
    joint = tokens[:, 0] @ model.joint_projection.weight.T
    return states, weights, tokens, config.logit_scale * joint / joint.norm(dim=-1, keepdim=True)


def assert_equal(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("settings", [TINY, {**UNEVEN, "logit_scale": 3}], ids=["published input", "uneven strides"])
def test_the_model_is_the_plain_calculation(implementation, settings):
    model = make_model(implementation, **settings).double()
    assert model.config._attn_implementation == implementation
    features = make_features(model.config).double()
    states, weights, tokens, joint = plain_outputs(model, features)
    wants_weights = implementation == "eager"
    outputs = model(features, output_hidden_states=True, output_attentions=wants_weights)
    assert_equal(outputs.last_hidden_state, tokens)
    assert_equal(outputs.pooler_output, joint)
    assert_equal(outputs.hidden_states, tuple(states))
    if wants_weights:
        assert_equal(outputs.attentions, tuple(weights))
        assert weights[0].shape == (2, 2, tokens.shape[1], tokens.shape[1] + 1)
    as_tuple = model(features, return_dict=False)
    assert_equal(as_tuple, (outputs.last_hidden_state, outputs.pooler_output), tolerance=0)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_without_the_learned_rows_attention_is_the_usual_one(implementation):
    model = make_model(implementation, **UNEVEN).double()
    features = make_features(model.config).double()
    with_rows = model(features).pooler_output
    for layer in model.layers:
        assert layer.attention.append_key_value_rows is True
        layer.attention.append_key_value_rows = False
    _, _, tokens, joint = plain_outputs(model, features, with_rows=False)
    outputs = model(features)
    assert_equal(outputs.last_hidden_state, tokens)
    assert_equal(outputs.pooler_output, joint)
    assert (joint - with_rows).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_mask_covers_the_learned_row_too(implementation):
    attention = make_model(implementation, **UNEVEN).layers[0].attention
    hidden = torch.randn(2, 7, 128)
    mask = torch.zeros(2, 1, 7, 8)
    mask[..., -1] = -torch.inf
    masked, _ = attention(hidden, mask)
    attention.append_key_value_rows = False
    assert_equal(masked, attention(hidden)[0], tolerance=1e-5)


@torch.no_grad()
def test_blocks_run_one_by_one_are_the_native_forward():
    model = make_model("eager", **UNEVEN).eval()
    spec = backbone_spec(model.config)
    features = make_features(model.config)
    native = model(features, output_attentions=True)
    hidden = model.embeddings(features)
    with record_attention(model, spec, wanted=True) as weights:
        for block in find(model, spec.blocks):
            hidden = call_block(block, hidden)
    assert_equal(find(model, spec.final_norm)(hidden), native.last_hidden_state, tolerance=1e-6)
    assert_equal(tuple(weights), native.attentions, tolerance=1e-6)
    assert_equal(spec.table(model), model.embeddings.position_embeddings[0, 1:], tolerance=0)
    assert find(model, spec.cls_token).shape == (1, 1, 128)
    assert find(find(model, spec.blocks)[0], spec.feed_forward[1])(hidden).shape == hidden.shape


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = make_model(logit_scale=7.5)
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    config = AutoConfig.from_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(config) is ImageBindAudioConfig
    assert type(loaded) is ImageBindAudioModel
    assert config.logit_scale == 7.5
    features = make_features(config)
    assert_equal(loaded(features).pooler_output, model(features).pooler_output, tolerance=0)
    assert not loaded.training


def test_auto_classes_know_the_type():
    config = AutoConfig.for_model("imagebind_audio", **UNEVEN)
    model = AutoModel.from_config(config, attn_implementation="eager")
    assert type(model) is ImageBindAudioModel
    assert model.config._attn_implementation == "eager"
    assert model.get_input_embeddings() is model.embeddings.projection


def check_start_values(model):
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert abs(parameter.std().item() / 0.05 - 1) < 0.4, name
            assert abs(parameter.mean().item()) < 0.02, name


def test_every_weight_has_a_start_value_even_when_loaded_from_an_empty_file(tmp_path):
    model = ImageBindAudioModel(ImageBindAudioConfig(**UNEVEN, initializer_range=0.05))
    check_start_values(model)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({"layernorm.weight": load_file(path)["layernorm.weight"]}, path, metadata={"format": "pt"})
    check_start_values(ImageBindAudioModel.from_pretrained(tmp_path))


def test_defaults_are_the_published_sizes():
    config = ImageBindAudioConfig()
    assert config.grid == (12, 19)
    with torch.device("meta"):
        model = ImageBindAudioModel(config)
        outputs = model(torch.empty(3, 1, 128, 204))
    assert model.embeddings.position_embeddings.shape == (1, 229, 768)
    assert outputs.last_hidden_state.shape == (3, 229, 768)
    assert outputs.pooler_output.shape == (3, 1024)
    block = 2 * 1536 + (768 * 2304 + 2304) + 2 * 768 + (768 * 768 + 768) + (2 * 768 * 3072 + 3072 + 768)
    embeddings = 768 * 16 * 16 + 1536 + 768 + 229 * 768
    assert model.num_parameters() == embeddings + 12 * block + 1536 + 768 * 1024 == 86_235_648


def gradients(model, features):
    model.zero_grad()
    model(features).pooler_output.square()[:, :5].sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_gives_equal_gradients():
    model = make_model(**UNEVEN).double().train()
    features = make_features(model.config).double()
    expected = gradients(model, features)
    calls = []
    model.layers[0].norm1.register_forward_hook(lambda *_: calls.append(1))
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    assert_equal(gradients(model, features), expected)
    assert len(calls) == 2  # forward, and again for backward
    assert all(gradient.abs().max() > 0 for gradient in expected.values())


@torch.no_grad()
def test_half_precision_takes_full_precision_spectrograms():
    model = make_model(**UNEVEN)
    features = make_features(model.config)
    expected = model(features).pooler_output
    halved = model.to(torch.bfloat16)(features).pooler_output
    assert halved.dtype == torch.bfloat16
    assert_equal(halved.float(), expected, tolerance=1)
    assert F.cosine_similarity(halved.float(), expected).min() > 0.99


@pytest.mark.parametrize("shape", [(2, 128, 204), (2, 1, 204, 128), (2, 3, 128, 204), (2, 1, 128, 205), (204,)])
def test_spectrograms_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \[B, 1, 128, 204\].*got \[" + ", ".join(map(str, shape))):
        make_model()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 5}, r"num_attention_heads must divide hidden_size \(128\), got 5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be positive"),
        ({"time_stride": 0}, "time_stride must be positive"),
        ({"logit_scale": float("nan")}, "logit_scale must be positive and finite"),
        ({"max_length": 15}, "must hold a patch of 16, got 128 and 15"),
        ({"hidden_size": 64.5}, "hidden_size"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(StrictDataclassError, match=message):
        ImageBindAudioConfig(**{**TINY, **settings})
