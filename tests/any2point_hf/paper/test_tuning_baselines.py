import copy
import sys

import pytest
import torch
from transformers import BertConfig, Dinov2Config, GPT2Config, LlamaConfig, T5Config

from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.configuration_any2point import Any2PointConfig
from any2point_hf.modeling.errors import Any2PointError, UnsupportedBackboneError
from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from any2point_hf.modeling.several_adapters.lora import attention_projections
from any2point_hf.paper.tuning_baselines import apply_method, check_method

pytestmark = pytest.mark.usefixtures("one_thread")

pytest.importorskip("peft")

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
BACKBONES = {
    "bert": BertConfig(**SIZES, intermediate_size=64, vocab_size=50, max_position_embeddings=24),
    "dinov2": Dinov2Config(**SIZES, mlp_ratio=2, image_size=32, patch_size=8),
    "gpt2": GPT2Config(n_embd=48, n_layer=3, n_head=4, n_positions=24, vocab_size=50),
}
LLAMA = LlamaConfig(**SIZES, intermediate_size=64, vocab_size=50)


def make(method, backbone="bert", **fields):
    torch.manual_seed(0)
    fields = {"num_points": 64, "num_neighbors": 8, "num_labels": 2, "adapter_blocks": 0} | fields
    model = Any2PointForPointCloudClassification(Any2PointConfig(backbone_config=BACKBONES[backbone], **fields))
    apply_method(model, method)
    return model


def some_points(count=4):
    return torch.randn(count, 64, 3, generator=torch.Generator().manual_seed(1))


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def step(model):
    """One step of gradient descent: the parameters that changed, and those that were trained."""
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # LoRA's A learns from the second step on, as B starts at zero
        optimizer.zero_grad()
        model.train()(some_points(), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def of_backbone(names):
    return {name for name in names if ".backbone." in name}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", ["full", "prompt", "lora"])
def test_a_step_changes_what_is_trained_and_nothing_else(method, backbone):
    model = make(method, backbone)
    changed, own = step(model), trained(make("any2point", backbone))
    assert changed <= trained(model)
    assert changed >= {name for name in own if name.endswith("weight")}  # tokenizer and head as ever
    extra = trained(model) - own
    if method == "full":
        assert extra == of_backbone(extra)
        assert {name for name in extra if name.endswith("weight")} <= changed
    elif method == "lora":
        assert extra == changed - own
        assert all(".lora_A." in name or ".lora_B." in name for name in extra)
    else:
        assert extra == {f"prompts.{index}.embedding.weight" for index in range(3)} == changed - own


def test_full_fine_tuning_trains_the_blocks_but_no_embeddings():
    names = of_backbone(trained(make("full")))
    assert len(names) == 3 * 16 + 2  # tensors of a BERT block; the norm before the blocks
    embeddings = {name for name in names if ".embeddings." in name}
    assert embeddings == {f"any2point.backbone.embeddings.LayerNorm.{part}" for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("bert", ["self.query", "self.key", "self.value", "output.dense"]),
        ("dinov2", ["attention.query", "attention.key", "attention.value", "output.dense"]),
        ("gpt2", ["c_attn", "c_proj"]),
    ],
)
def test_lora_stands_on_the_attention_of_every_block(backbone, layers):
    model = make("any2point", backbone)
    names = attention_projections(model.backbone, model.any2point.spec)
    prefix = {"gpt2": "h.{}.attn."}.get(backbone, "encoder.layer.{}.attention.")
    if backbone == "dinov2":
        assert len(names) == 3 * 4
        assert not [name for name in names if "mlp" in name]
    else:
        assert sorted(names) == sorted(prefix.format(i) + layer for i in range(3) for layer in layers)


def test_lora_starts_as_the_frozen_backbone():
    points, plain, tuned = some_points(), make("any2point").eval(), make("lora").eval()
    with torch.no_grad():
        torch.testing.assert_close(tuned(points).logits, plain(points).logits)


@pytest.mark.parametrize(("method", "expected"), [("lora", 12 * 4 * 2 * 768 * 8), ("prompt", 12 * 10 * 768)])
def test_parameters_on_twelve_blocks_of_width_768(method, expected):
    """The paper has 0.9 M and 0.4 M with the tokenizer's 0.3 M."""
    backbone = BertConfig(vocab_size=50, max_position_embeddings=24, intermediate_size=8)
    config = Any2PointConfig(backbone_config=backbone, num_neighbors=8, adapter_blocks=0)
    model = Any2PointForPointCloudClassification(config)
    own = sum(p.numel() for p in model.parameters() if p.requires_grad)
    apply_method(model, method)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) - own == expected


@pytest.mark.parametrize("backbone", BACKBONES)
def test_prompts_are_seen_and_leave_again(backbone):
    points, plain, prompted = some_points(), make("any2point", backbone).eval(), make("prompt", backbone).eval()
    with torch.no_grad():
        before = plain(points, output_hidden_states=True)
        after = prompted(points, output_hidden_states=True)
        prompted.prompts[2].embedding.weight.normal_()
        other = prompted(points, output_hidden_states=True)
    assert [state.shape for state in after.hidden_states] == [state.shape for state in before.hidden_states]
    torch.testing.assert_close(after.hidden_states[0], before.hidden_states[0])
    assert not torch.allclose(after.hidden_states[1], before.hidden_states[1])
    torch.testing.assert_close(other.hidden_states[2], after.hidden_states[2])  # each block has its own
    assert not torch.allclose(other.hidden_states[3], after.hidden_states[3])


def test_a_copy_of_a_prompted_model_has_prompts_of_its_own():
    model = make("prompt").eval()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(some_points()).logits
        model.prompts[0].embedding.weight.normal_()
        torch.testing.assert_close(copied(some_points()).logits, expected)
        assert not torch.allclose(model(some_points()).logits, expected)


@pytest.mark.parametrize("config", [LLAMA, T5Config(d_model=48, num_layers=2, vocab_size=50)])
def test_blocks_with_positions_of_their_own_take_no_prompts(config):
    with pytest.raises(UnsupportedBackboneError, match=r"prompt tuning needs blocks that take tokens alone"):
        check_method("prompt", backbone_spec(config))
    check_method("lora", backbone_spec(config))


@pytest.mark.parametrize("method", ["prompt", "lora"])
def test_peft_missing(method, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(Any2PointError, match=r"not installed: pip install 'peft>=0\.17'"):
        check_method(method)
    check_method("full")
