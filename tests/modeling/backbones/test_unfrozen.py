import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling import Any2PointError, Any2PointModel, CheckpointError, ConfigurationError
from any2point_hf.modeling.publishing.model_card import model_card


def train_a_step(model, points):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model(points, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    return model.eval()


def load(folder, backbone, **options):
    return Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone, **options)


@pytest.mark.parametrize("family", ["bert", "albert", "dinov2", "gpt2", "beit"])
def test_trained_blocks_survive_a_round_trip_and_stay_the_models_own(make, tmp_path, family):
    backbone = make.backbone(family)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = make.model(backbone, head=True, num_labels=3)
    frozen = model.num_parameters(only_trainable=True)
    model.unfreeze_backbone(1)
    block = model.any2point.blocks()[-1]
    in_block = sum(parameter.numel() for parameter in block.parameters())
    assert model.num_parameters(only_trainable=True) == frozen + in_block
    points = make.points(4)
    trained = train_a_step(model, points)
    assert all(torch.equal(backbone.state_dict()[name], tensor) for name, tensor in before.items())
    trained.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for name, tensor in stored.items() if ".backbone." in name) >= in_block
    loaded = load(tmp_path, backbone)
    assert torch.equal(loaded(points).logits, trained(points).logits)
    assert loaded.num_parameters(only_trainable=True) == frozen + in_block
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in stored)
    base = Any2PointModel.from_pretrained(tmp_path, backbone=backbone)
    assert torch.equal(base(points).pooler_output, trained(points).pooler_output)


def test_a_config_unfreezes_a_new_model(make):
    config = Any2PointConfig(**make.small, backbone_config=make.config("bert"), unfrozen_blocks=2)
    model = Any2PointForPointCloudClassification(config)
    assert all(p.requires_grad for block in model.any2point.blocks()[-2:] for p in block.parameters())
    model.unfreeze_backbone(2)
    with pytest.raises(ConfigurationError, match=r"last_n must lie in 2…2 \(blocks that tokens pass; 2 are unfrozen\)"):
        model.unfreeze_backbone(1)


@pytest.mark.parametrize("last_n", [0, -1, 3, 1.0, True, "1"])
def test_other_numbers_are_refused(make, last_n):
    with pytest.raises(ConfigurationError, match="last_n must lie in 1…2"):
        make.model("bert").unfreeze_backbone(last_n)


def test_what_requires_grad_alone_unfroze_is_refused_by_name(make, tmp_path, caplog):
    model = make.model("bert", head=True, num_labels=3).eval()
    model.any2point.blocks()[-1].output.dense.requires_grad_(True)
    model.train()
    rule = r"the backbone's any2point\.backbone\.encoder\.layer\.1\.output\.dense\.weight, \S+bias would be lost"
    with pytest.raises(CheckpointError, match=rule):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    model.unfreeze_backbone(1)
    model.save_pretrained(tmp_path)


def test_missing_and_unexpected_tensors_of_the_backbone_are_refused(make, tmp_path):
    backbone = make.backbone("bert")
    model = make.model(backbone, head=True, num_labels=3)
    model.unfreeze_backbone(1)
    model.save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", json.loads((tmp_path / "config.json").read_text())
    stored, own = load_file(file), {name: tensor for name, tensor in model.state_dict().items() if "backbone" in name}

    def rewrite(tensors, **fields):
        save_file(tensors, file, metadata={"format": "pt"})
        (tmp_path / "config.json").write_text(json.dumps(config | {"checksums": None} | fields))

    first = next(name for name in stored if "backbone" in name)
    rewrite({name: tensor for name, tensor in stored.items() if name != first})
    with pytest.raises(
        CheckpointError, match=f"1 are missing, unexpected .* such as {first.partition('backbone.')[2]}"
    ):
        load(tmp_path, backbone)
    rewrite(stored | own)
    with pytest.raises(CheckpointError, match="missing, unexpected or wrongly shaped, such as embeddings"):
        load(tmp_path, backbone)
    rewrite(stored, unfrozen_blocks=0)
    with pytest.raises(CheckpointError, match=r"unfrozen_blocks=0 blocks, and it has unexpected \(16\)"):
        load(tmp_path, backbone)
    rewrite({name: tensor for name, tensor in stored.items() if "backbone" not in name})
    with pytest.raises(CheckpointError, match=r"unfrozen_blocks=1 blocks, and it has unexpected \(0\)"):
        load(tmp_path, backbone)


def test_a_bfloat16_backbone_is_trained_in_the_dtype_of_the_adapters(make):
    model = make.model(make.backbone("bert").bfloat16(), head=True, num_labels=3)
    model.unfreeze_backbone(1)
    first, last = model.any2point.blocks()
    assert {p.dtype for p in first.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in last.parameters()} == {torch.float32}
    train_a_step(model, make.points(4))


def test_several_adapters_and_a_lora_need_the_backbone_as_it_is(make, tmp_path):
    backbone = make.backbone("bert")
    frozen, unfrozen = make.model(backbone, head=True), make.model(backbone, head=True)
    unfrozen.unfreeze_backbone(1)
    frozen.save_pretrained(tmp_path / "frozen")
    unfrozen.save_pretrained(tmp_path / "unfrozen")
    with pytest.raises(Any2PointError, match="one has unfrozen_blocks=1"):
        unfrozen.load_adapter(tmp_path / "frozen", "other", backbone=unfrozen.backbone)
    with pytest.raises(Any2PointError, match="one has unfrozen_blocks=1"):
        frozen.load_adapter(tmp_path / "unfrozen", "other", backbone=frozen.backbone)
    frozen.load_adapter(tmp_path / "frozen", "other", backbone=frozen.backbone)
    with pytest.raises(Any2PointError, match="Unfreeze a model with one adapter"):
        frozen.unfreeze_backbone(1)


def test_the_card_counts_them(make):
    model = make.model("bert", head=True, num_labels=3)
    assert "nothing of the backbone, which stays frozen" in str(model_card(model, "me/adapter"))
    model.unfreeze_backbone(1)
    count = sum(parameter.numel() for parameter in model.any2point.blocks()[-1].parameters())
    card = str(model_card(model, "me/adapter"))
    assert f"of the backbone {count:,} of these parameters: its last 1 blocks, fine-tuned" in card
    assert f"It holds {model.num_parameters(only_trainable=True):,} trained parameters" in card


def test_trained_parameters_are_counted_as_peft_prints_them(make, capsys):
    model = make.model("bert", head=True, num_labels=3)
    for unfrozen in (0, 1):
        if unfrozen:
            model.unfreeze_backbone(unfrozen)
        model.print_trainable_parameters()
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        total = trained + sum(p.numel() for p in model.parameters() if not p.requires_grad)
        expected = (
            f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}\n"
        )
        assert capsys.readouterr().out == expected


def test_freezing_brings_a_new_models_state_back(make, tmp_path):
    model = make.model("bert", head=True, num_labels=3)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    model.freeze_backbone()  # what a script does by habit
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trained
    model.requires_grad_(True)
    with pytest.raises(CheckpointError, match=r"model\.freeze_backbone\(\)"):
        model.save_pretrained(tmp_path)
    model.freeze_backbone()
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trained
    model.save_pretrained(tmp_path)


def test_freezing_leaves_a_lora_trained(make):
    pytest.importorskip("peft")
    model = make.model("bert")
    model.add_lora()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("lora_" in name for name in trained)
    model.freeze_backbone()
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trained


def test_trained_blocks_are_saved_although_they_are_frozen_again(make, tmp_path):
    backbone, points = make.backbone("bert"), make.points(4)
    model = make.model(backbone, head=True, num_labels=3)
    model.unfreeze_backbone(2)
    train_a_step(model, points)
    model.freeze_backbone()
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    model.save_pretrained(tmp_path)
    expected = model(points).logits
    assert torch.equal(load(tmp_path, backbone)(points).logits, expected)
    with pytest.raises(ConfigurationError, match=r"last_n must lie in 2…2"):  # the other block would be lost
        model.unfreeze_backbone(1)
    model.unfreeze_backbone(2)
    assert all(parameter.requires_grad for block in model.any2point.blocks() for parameter in block.parameters())
    assert torch.equal(model(points).logits, expected)


class PackedTensor(torch.Tensor):
    """A weight in a form of its own, as torchao's: it says that it is float32."""


def test_quantised_weights_are_not_unfrozen(make):
    backbone = make.backbone("bert")
    layer = backbone.encoder.layer[-1].output.dense
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(PackedTensor), requires_grad=False)
    assert layer.weight.is_floating_point()
    with pytest.raises(ConfigurationError, match="quantised or offloaded"):
        make.model(backbone).unfreeze_backbone(1)
