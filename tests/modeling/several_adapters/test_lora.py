import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Trainer, TrainingArguments

from any2point_hf.modeling import (
    Any2PointError,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    CheckpointError,
    ConfigurationError,
)
from any2point_hf.modeling.backbones.bottleneck_hook import BottleneckHook

peft = pytest.importorskip("peft")

RANK = 3
# On each of BERT's two blocks four layers, 48 to 48, each with A [r, 48] and B [48, r].
LORA_PARAMETERS = 2 * 4 * 2 * 48 * RANK


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(scope="module")
def backbone_folder(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones") / "bert"
    torch.manual_seed(1)
    make.backbone("bert").save_pretrained(folder)
    return folder


@pytest.fixture
def model(make, backbone_folder):
    return make.model(AutoModel.from_pretrained(backbone_folder), head=True, num_labels=3)


@pytest.fixture
def points(make):
    return make.points(4)


def lora_tensors(model):
    return {name: tensor for name, tensor in model.named_parameters() if ".lora_" in name}


def fill(model):
    """LoRA starts at zero; this is one that has been trained."""
    with torch.no_grad():
        for tensor in lora_tensors(model).values():
            tensor.copy_(0.3 * torch.randn_like(tensor))
    return model


@pytest.fixture
def with_lora(model):
    model.add_lora(peft.LoraConfig(r=RANK, lora_alpha=2 * RANK))
    return fill(model)


@pytest.fixture
def folder(with_lora, tmp_path):
    with_lora.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def load(folder, **kwargs):
    return Any2PointForPointCloudClassification.from_pretrained(folder, **kwargs)


# In the backbone


@torch.no_grad()
def test_a_new_lora_changes_nothing(model, points):
    before = model(points).logits
    model.add_lora()
    assert torch.equal(model(points).logits, before)
    assert not torch.equal(fill(model)(points).logits, before)


@torch.no_grad()
def test_lora_adds_the_product_to_each_projection(with_lora, points):
    names = [f"{layer}.{part}" for layer in (0, 1) for part in ("query", "key", "value")]
    layers = {
        name: with_lora.backbone.get_submodule(f"encoder.layer.{name[0]}.attention.self.{name[2:]}") for name in names
    }
    expected = with_lora(points).logits
    for layer in (*layers.values(), *(block.attention.output.dense for block in with_lora.backbone.encoder.layer)):
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        layer.base_layer.weight.data = layer.base_layer.weight + 2 * product  # lora_alpha / r
        for tensor in layer.parameters():
            if tensor is layer.lora_B["default"].weight:
                tensor.zero_()
    assert torch.allclose(with_lora(points).logits, expected, atol=1e-4)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_what_is_trained_and_how_much(model, points, ours, lora):
    without = model.num_parameters(only_trainable=True)
    if lora:
        model.add_lora(peft.LoraConfig(r=RANK))
    if not ours:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
    assert model.num_parameters(only_trainable=True) == ours * without + lora * LORA_PARAMETERS
    if ours or lora:
        fill(model)(points, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    for name, parameter in model.named_parameters():
        is_trained = lora if ".lora_" in name else ours and "backbone." not in name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == is_trained or name.endswith("bias"), name


def test_dropout_of_lora_follows_the_mode_while_the_backbone_stays_in_eval(model):
    model.add_lora(peft.LoraConfig(lora_dropout=0.5))
    layer = model.backbone.encoder.layer[0].attention.self.query
    for mode in (True, False):
        model.train(mode)
        assert layer.lora_dropout["default"].training == mode
        assert not any(module.training for module in model.backbone.modules() if "embeddings" in str(type(module)))
        assert not model.backbone.encoder.layer[0].attention.output.dropout.training


@torch.no_grad()
def test_a_bottleneck_stays_after_the_whole_layer(model, points):
    model.add_lora(peft.LoraConfig(target_modules=["output.dense"]))
    for block, name in zip(model.backbone.encoder.layer, model.any2point.bottlenecks, strict=True):
        _, last = model.any2point.spec.feed_forward
        hooked = [
            part for part in block.modules() if any(type(h) is BottleneckHook for h in part._forward_hooks.values())
        ]
        assert hooked == [block.get_submodule(last)]
        assert [h.bottleneck for h in hooked[0]._forward_hooks.values()] == [model.any2point.bottlenecks[name]]


def test_the_backbones_own_module_and_weights_stay_as_they_are(make, backbone_folder, points):
    backbone = AutoModel.from_pretrained(backbone_folder)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    first, second = (make.model(backbone, head=True) for _ in range(2))
    expected = second(points).logits
    first.add_lora()
    fill(first).train()(points, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    torch.optim.SGD([p for p in first.parameters() if p.requires_grad], lr=0.1).step()
    assert backbone.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert torch.equal(second(points).logits, expected)


def test_lora_is_float32_in_a_bfloat16_backbone(make, backbone_folder, points, tmp_path):
    backbone = AutoModel.from_pretrained(backbone_folder, dtype=torch.bfloat16)
    model = make.model(backbone, head=True)
    model.add_lora()
    fill(model)
    assert {tensor.dtype for tensor in lora_tensors(model).values()} == {torch.float32}
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, backbone=backbone)(points).logits, model(points).logits)


@torch.no_grad()
@pytest.mark.parametrize("family", ["albert", "gpt2", "imagebind_audio", "vit"])
def test_round_trips_on_other_families(make, family, tmp_path):
    backbone, points = make.backbone(family), make.points()
    model = make.model(backbone)
    model.add_lora(peft.LoraConfig(r=2))
    fill(model).save_pretrained(tmp_path)
    loaded = Any2PointModel.from_pretrained(tmp_path, backbone=backbone)
    assert torch.equal(loaded(points).pooler_output, model(points).pooler_output)


# In a folder


def test_both_lie_side_by_side(with_lora, folder):
    assert {str(file.relative_to(folder).as_posix()) for file in folder.rglob("*") if file.is_file()} == {
        "config.json",
        "model.safetensors",
        "lora/adapter_config.json",
        "lora/adapter_model.safetensors",
    }
    assert json.loads((folder / "config.json").read_text())["lora"] is True
    assert json.loads((folder / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    stored = load_file(folder / "lora" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == LORA_PARAMETERS
    assert len(stored) == len(lora_tensors(with_lora))


@torch.no_grad()
def test_a_round_trip_is_exact(with_lora, folder, points, tmp_path):
    expected = with_lora(points).logits
    loaded = load(folder)
    assert torch.equal(loaded(points).logits, expected)
    assert not loaded.training
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, p in with_lora.named_parameters() if p.requires_grad
    }
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(load(tmp_path / "again")(points).logits, expected)
    base = Any2PointModel.from_pretrained(folder)
    assert torch.equal(base(points).pooler_output, with_lora(points).pooler_output)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # which peft asks for
@torch.no_grad()
def test_peft_itself_reads_the_subfolder(with_lora, folder, backbone_folder):
    plain = AutoModel.from_pretrained(backbone_folder)
    tokens = torch.arange(2, 12).reshape(2, 5)
    expected = plain(input_ids=tokens).last_hidden_state
    tuned = peft.PeftModel.from_pretrained(plain, folder / "lora")
    loaded = {name: t for name, t in tuned.named_parameters() if ".lora_" in name}
    mine = lora_tensors(with_lora)
    assert len(loaded) == len(mine)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, mine[name.replace("base_model.model.", "any2point.backbone.")]), name
    assert not torch.allclose(tuned(input_ids=tokens).last_hidden_state, expected)


def test_saving_without_a_lora_leaves_none_of_before(make, folder, points):
    plain = make.model("bert", head=True)
    plain.save_pretrained(folder)
    assert not any((folder / "lora").iterdir())
    again = load(folder, backbone=plain.backbone)
    assert again.any2point.lora is None
    assert torch.equal(again(points).logits, plain(points).logits)


def test_the_trainer_trains_both_and_goes_on_from_its_checkpoints(model, points, tmp_path, backbone_folder):
    model.add_lora(peft.LoraConfig(r=RANK))
    rows = [{"points": cloud, "labels": label} for cloud, label in zip(points, (0, 1, 2, 1), strict=True)]

    def trainer(model):
        arguments = TrainingArguments(
            tmp_path, max_steps=3, save_steps=1, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[]
        ).set_dataloader(pin_memory=False)
        return Trainer(model, arguments, train_dataset=rows)

    start = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer(model).train()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, start[name])}
    assert any(".lora_B" in name for name in moved)
    assert any(".bottlenecks." in name for name in moved)
    assert not any("base_layer" in name or "embeddings" in name for name in moved)

    first, last = tmp_path / "checkpoint-1", tmp_path / "checkpoint-3"
    with torch.no_grad():
        assert torch.equal(load(last)(points).logits, model.eval()(points).logits)
    resumed = load(first)
    fill(resumed)  # which the checkpoint must overwrite
    trainer(resumed).train(resume_from_checkpoint=str(last))  # nothing is left to do but to load it
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


# With several adapters


@torch.no_grad()
def test_each_of_several_adapters_has_its_own_lora(make, with_lora, folder, backbone_folder, points, tmp_path):
    plain = make.model(AutoModel.from_pretrained(backbone_folder), head=True, num_labels=4)
    expected = {"default": plain(points).logits, "lora": with_lora(points).logits}
    plain.load_adapter(folder, "lora")
    for name in ("lora", "default", "lora"):
        plain.set_adapter(name)
        assert torch.equal(plain(points).logits, expected[name]), name
        assert bool(lora_tensors(plain)) == (name == "lora")
    plain.add_weighted_adapter(["default"], [1], "mean")  # made while a LoRA is active
    plain.set_adapter("mean")
    assert torch.equal(plain(points).logits, expected["default"])
    plain.set_adapter("lora")
    mixed = plain(points, adapter_names=["lora", "default", "default", "lora"]).logits
    assert torch.allclose(mixed[[0, 3], :3], expected["lora"][[0, 3]], atol=1e-5)
    assert torch.allclose(mixed[[1, 2]], expected["default"][[1, 2]], atol=1e-5)
    plain.double()
    plain.set_adapter("default")
    assert {tensor.dtype for tensor in plain.backbone.parameters()} == {torch.float64}
    with pytest.raises(Any2PointError, match="with a LoRA cannot be averaged"):
        plain.add_weighted_adapter(["default", "lora"], [1, 1], "both")


# What a user can do wrong


def test_errors_of_adding(model):
    with pytest.raises(ConfigurationError, match=r"needs a peft\.LoraConfig, got IA3Config"):
        model.add_lora(peft.IA3Config())
    for setting in ({"bias": "all"}, {"modules_to_save": ["pooler"]}, {"init_lora_weights": "pissa"}):
        with pytest.raises(
            ConfigurationError, match=f"leave the backbone's own tensors as they are.*{next(iter(setting))}="
        ):
            model.add_lora(peft.LoraConfig(**setting))
    with pytest.raises(ConfigurationError, match=r"target_modules must name layers of the backbone \(BertModel\)"):
        model.add_lora(peft.LoraConfig(target_modules=["no_such_layer"]))
    with pytest.raises(ConfigurationError, match="LayerNorm"):
        model.add_lora(peft.LoraConfig(target_modules=["query", "LayerNorm"]))
    with pytest.raises(Any2PointError, match=r"Use add_lora"):
        model.add_adapter(peft.LoraConfig())
    assert not lora_tensors(model)
    model.add_lora()
    with pytest.raises(Any2PointError, match="has it already"):
        model.add_lora()


def test_the_users_config_is_not_changed(model):
    config = peft.LoraConfig(r=RANK)
    model.add_lora(config)
    assert config.target_modules is None


def test_peft_missing(make, folder, monkeypatch):
    plain = make.model("bert")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        Any2PointError, match=r"LoRA needs the peft library, which is not installed: pip install 'peft>"
    ):
        plain.add_lora()
    with pytest.raises(Any2PointError, match=r"this adapter has a LoRA, which needs the peft library.*pip install"):
        load(folder)


def test_files_that_are_not_whole(folder):
    weights, config = (folder / "lora" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    whole = weights.read_bytes()
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights)
    with pytest.raises(CheckpointError, match=r"1 are missing, unexpected or wrongly shaped, such as encoder\.layer"):
        load(folder)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="could not be read; was it copied whole"):
        load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has a LoRA, which must lie in .*lora.*adapter_model\.safetensors"):
        load(folder)
    weights.write_bytes(whole)
    config.write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="must be PEFT's config of a LoRA"):
        load(folder)


def test_peft_files_beside_ours_are_refused(folder):
    for file in (folder / "lora").iterdir():
        file.rename(folder / file.name)
    with pytest.raises(CheckpointError, match=r"lies in its subfolder lora, and .* holds an adapter_config\.json"):
        load(folder)


# As a setting


@torch.no_grad()
def test_a_new_model_of_a_config_with_a_lora_has_one(make, backbone_folder, points, tmp_path):
    model = make.model(AutoModel.from_pretrained(backbone_folder), head=True, lora=True)
    assert sum(tensor.numel() for tensor in lora_tensors(model).values()) == 2 * 4 * 2 * 48 * 8  # of rank 8
    assert all(tensor.requires_grad for tensor in lora_tensors(model).values())
    assert not model._keys_to_ignore_on_save & lora_tensors(model).keys()
    fill(model).save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path)(points).logits, model(points).logits)
