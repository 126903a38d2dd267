import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, Trainer, TrainingArguments

from any2point_hf.modeling import (
    Any2PointError,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    CheckpointError,
)
from any2point_hf.modeling.backbones.bottleneck_hook import BottleneckHook


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
def save_adapter(make, backbone_folder, tmp_path):
    """Writes an adapter with random weights; says its folder and what it makes of clouds by itself."""

    def save(name, backbone=None, **settings):
        backbone = AutoModel.from_pretrained(backbone_folder) if backbone is None else backbone
        make.model(backbone, head=True, **settings).save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def load(folder, backbone=None):
    return Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone)


@pytest.fixture
def points(make):
    return make.points(4)


@pytest.fixture
def folders(save_adapter):
    return save_adapter("scan", num_labels=3), save_adapter("cad", num_labels=5, num_views=4, adapter_dim=6)


@pytest.fixture
def model(folders):
    model = load(folders[0])
    model.load_adapter(folders[1], "cad")
    return model


def backbone_tensors(model):
    backbone = model.base_model.backbone
    return {name: t.data_ptr() for name, t in (*backbone.named_parameters(), *backbone.named_buffers())}


# Loading and switching

SETTINGS = {
    "views": {"num_views": 5, "num_neighbors": 12, "num_labels": 7},
    "before, eps": {"adapter_placement": "before", "layer_norm_eps": 0.3, "adapter_dim": 3},
    "no aggregation": {"aggregation": "none", "adapter_placement": "parallel", "head_bias": True},
    "learnable": {"position_encoding": "learnable", "adapter_blocks": [1], "ensemble": "mean"},
    "no positions": {"position_encoding": "none", "pooling": ["cls", "max"], "voxel_size": 0.3},
}


@torch.no_grad()
def test_each_of_several_adapters_computes_what_it_does_alone(save_adapter, points):
    folders = {name: save_adapter(name, **settings) for name, settings in SETTINGS.items()}
    alone = {name: load(folder)(points).logits for name, folder in folders.items()}
    first, *others = folders
    model = load(folders[first])
    for name in others:
        model.load_adapter(folders[name], name)
    assert model.adapter_names == ["default", *others]
    for name in ["default", *others, *reversed(others), "default"]:
        model.set_adapter(name)
        assert model.active_adapter == name
        assert torch.equal(model(points).logits, alone[first if name == "default" else name]), name
        assert model.config is model.adapter_config(name) is model.any2point.config
    assert model.adapter_names == ["default", *others]


@pytest.mark.filterwarnings("ignore:deberta-v2 has no positions")
@torch.no_grad()
@pytest.mark.parametrize("family", ["albert", "beit", "deberta", "dinov2", "imagebind_audio", "t5"])
def test_families_whose_modules_are_changed_take_a_second_adapter(make, family, tmp_path):
    backbone, points = make.backbone(family), make.points()
    settings = {"released_compatibility": True} if family == "imagebind_audio" else {"layer_norm_eps": 0.2}
    model, other = make.model(backbone, **settings), make.model(backbone)
    other.save_pretrained(tmp_path)
    before = model(points).pooler_output
    model.load_adapter(tmp_path, "other", backbone=model.backbone)
    model.set_adapter("other")
    assert torch.equal(model(points).pooler_output, other(points).pooler_output)
    model.set_adapter("default")
    assert torch.equal(model(points).pooler_output, before)


def test_switching_moves_no_backbone_weight(model):
    before = backbone_tensors(model)
    assert backbone_tensors(model._adapters["cad"]) == before  # shared while it waits
    own = {name: t for name, t in model.state_dict().items() if "backbone" not in name}
    model.set_adapter("cad")
    assert backbone_tensors(model) == before
    for name, tensor in model.state_dict().items():
        assert ("backbone" in name) or name not in own or tensor.data_ptr() != own[name].data_ptr(), name


def test_only_the_active_adapter_is_in_sight(model, folders):
    alone = load(folders[1])
    model.set_adapter("cad")
    assert model.state_dict().keys() == alone.state_dict().keys()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in alone.named_parameters()]
    assert model.num_parameters(only_trainable=True) == alone.num_parameters(only_trainable=True)
    assert model._keys_to_ignore_on_save == alone._keys_to_ignore_on_save
    assert repr(model) == repr(alone)
    assert all(parameter.requires_grad != ("backbone." in name) for name, parameter in model.named_parameters())


@torch.no_grad()
def test_only_the_active_adapter_is_saved(model, folders, tmp_path, points):
    model.set_adapter("cad")
    model.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.adapter_names == ["default"]
    assert again.config.num_labels == 5
    assert torch.equal(again(points).logits, load(folders[1])(points).logits)


def test_every_attribute_of_a_model_is_known_to_be_the_adapters_or_not(make):
    stays = {*vars(nn.Module()), "kernel_config", "loss_type", "gradient_checkpointing", "_is_hf_initialized"}
    stays |= {name for name in vars(make.model(head=True)) if name.endswith(("_plan", "_keys", "_modules"))}
    stays |= {"_keys_to_ignore_on_load_unexpected", "_keys_to_ignore_on_load_missing", "_skip_keys_device_placement"}
    stays |= {"_keep_in_fp32_modules_strict"}
    for model in (make.model(), make.model(head=True), make.model(position_encoding="none", aggregation="none")):
        assert set(vars(model)) <= (stays | set(model.adapter_attributes)), set(vars(model)) - stays


@torch.no_grad()
def test_a_waiting_adapter_follows_when_it_becomes_active(model, points):
    model.double().train()
    model.set_attn_implementation("eager")
    model.activation_checkpointing_enable()
    model.set_adapter("cad")
    assert model.dtype == torch.float64
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float64}
    assert model.training
    assert model.classifier.dropout1.training
    assert not model.backbone.training
    assert model.is_activation_checkpointing
    assert len(model.eval()(points.double(), output_attentions=True).attentions) == 2
    model.activation_checkpointing_disable()
    model.set_adapter("default")
    assert not model.classifier.dropout1.training
    assert not model.any2point.gradient_checkpointing


def test_adapters_keep_their_dtype_where_the_backbones_is_another(folders, backbone_folder):
    backbone = AutoModel.from_pretrained(backbone_folder, dtype=torch.bfloat16)
    model = load(folders[0], backbone=backbone)
    model.load_adapter(folders[1], "cad")
    model.set_adapter("cad")
    assert model.dtype == torch.float32
    assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch.bfloat16}


def test_training_goes_through_the_active_adapter_alone(model, folders, points, tmp_path):
    model.set_adapter("cad")
    rows = [{"points": cloud, "labels": label} for cloud, label in zip(points, (0, 4, 2, 1), strict=True)]
    arguments = TrainingArguments(
        tmp_path / "run",
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=rows).train()
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = load(folders[1]).state_dict()
    moved = {name for name, tensor in trained.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not any("backbone." in name for name in moved)
    model.set_adapter("default")
    untouched = load(folders[0]).state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in model.state_dict().items())
    saved = load(next((tmp_path / "run").glob("checkpoint-*")))
    assert all(torch.equal(tensor, trained[name]) for name, tensor in saved.state_dict().items())


@torch.no_grad()
def test_copies_and_pickles_take_all_adapters_along(model, points):
    expected = model(points, adapter_names=["cad", "default"] * 2).logits
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        own = backbone_tensors(again)
        assert own.keys() == backbone_tensors(model).keys()
        assert not set(own.values()) & set(backbone_tensors(model).values())
        assert backbone_tensors(again._adapters["cad"]) == own  # copied once for all adapters
        assert torch.equal(again(points, adapter_names=["cad", "default"] * 2).logits, expected)


# Deleting


def test_a_deleted_adapter_leaves_nothing_behind(model, points):
    gc.collect()
    hooks = sum(type(thing) is BottleneckHook for thing in gc.get_objects())
    waiting = model._adapters["cad"]
    gone = [weakref.ref(part) for part in (waiting, waiting.classifier, waiting.any2point.cls_token)]
    del waiting
    model.set_adapter("cad")
    model(points)
    model.set_adapter("default")
    model.delete_adapter("cad")
    gc.collect()
    assert [part() for part in gone] == [None] * 3
    assert sum(type(thing) is BottleneckHook for thing in gc.get_objects()) == hooks - 2
    assert model.adapter_names == ["default"]


@torch.no_grad()
def test_the_first_adapter_can_be_deleted_too(model, folders, points):
    model.set_adapter("cad")
    model.delete_adapter("default")
    assert model.adapter_names == ["cad"]
    assert torch.equal(model(points).logits, load(folders[1])(points).logits)


# Names


def test_errors_of_names(model, folders):
    for act in (model.set_adapter, model.delete_adapter, model.adapter_config):
        with pytest.raises(Any2PointError, match=r"no adapter 'cda'; there are: default, cad\. Load it first"):
            act("cda")
    with pytest.raises(Any2PointError, match=r"must be new, got 'cad'; there are: default, cad"):
        model.load_adapter(folders[0], "cad")
    with pytest.raises(Any2PointError, match=r"active adapter cannot be deleted, got 'default'.*set_adapter"):
        model.delete_adapter("default")
    with pytest.raises(Any2PointError, match="must be a string that is not empty"):
        model.load_adapter(folders[0], "")


# Which backbone an adapter was made for


def test_another_width_is_refused(make, save_adapter, model):
    config = make.config("bert")
    config.hidden_size = 32
    wider = save_adapter("narrow", backbone=AutoModel.from_config(config))
    with pytest.raises(CheckpointError, match=r"hidden_size=32, the given backbone has hidden_size=48"):
        model.load_adapter(wider, "narrow", backbone=model.backbone)
    assert model.adapter_names == ["default", "cad"]


@pytest.mark.parametrize(
    ("record", "named"),
    [({"backbone": "some/bert"}, "'some/bert'"), ({"backbone_revision": "v2"}, r"bert' \(revision v2\)")],
)
def test_another_backbone_of_the_same_shape_is_refused(model, folders, backbone_folder, record, named):
    config = model.config.from_pretrained(folders[1])
    config.update(record)
    config.save_pretrained(folders[1])
    with pytest.raises(CheckpointError, match=rf"was made for .*{named}, the model's backbone is .*bert'\. If they"):
        model.load_adapter(folders[1], "other")
    for declared in (model.backbone, backbone_folder):  # said to be a copy
        model.load_adapter(folders[1], f"other {type(declared).__name__}", backbone=declared)
    model.load_adapter(folders[1], "once more")  # known from then on
    with pytest.raises(CheckpointError, match="was made for"):
        model.load_adapter(folders[1], "elsewhere", backbone="some/other")
    assert model.config.backbone == model.adapter_config("once more").backbone == str(backbone_folder)


@torch.no_grad()
def test_adapters_whose_checkpoints_name_the_same_backbone_fit(folders, backbone_folder, points):
    for folder in folders:  # of another machine
        config = load(folder).config
        config.backbone = "/home/alice/bert"
        config.save_pretrained(folder)
    for given in (backbone_folder, AutoModel.from_pretrained(backbone_folder)):
        model = load(folders[0], backbone=given)
        model.load_adapter(folders[1], "cad")
        model.set_adapter("cad")
        assert torch.equal(model(points).logits, load(folders[1], backbone=backbone_folder)(points).logits)


def test_a_backbone_without_a_name_must_be_said_to_be_the_same(make, tmp_path):
    model = make.model()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="was made for a backbone without a name"):
        model.load_adapter(tmp_path, "again")
    with pytest.raises(CheckpointError, match="was made for"):
        model.load_adapter(tmp_path, "again", backbone=make.backbone("vit"))
    model.load_adapter(tmp_path, "again", backbone=model.backbone)


# Mixed batches


@torch.no_grad()
@pytest.mark.parametrize("active", ["default", "cad"])
def test_a_mixed_batch_equals_each_cloud_alone(model, folders, points, active):
    alone = {"default": load(folders[0]), "cad": load(folders[1])}
    model.set_adapter(active)
    names, labels = ["cad", "default", "default", "cad"], torch.tensor([4, 0, 2, 1])
    output = model(points, labels=labels, adapter_names=names, output_hidden_states=True)
    losses = []
    for row, name in enumerate(names):
        expected = alone[name](points[row : row + 1], output_hidden_states=True)
        width = expected.logits.shape[1]
        assert torch.allclose(output.logits[row, :width], expected.logits[0], atol=1e-5)
        assert (output.logits[row, width:] == float("-inf")).all()
        for field in ("pooler_output", "last_hidden_state", "point_centers"):
            assert torch.allclose(output[field][row], expected[field][0], atol=1e-5), field
        for state, expected_state in zip(output.hidden_states, expected.hidden_states, strict=True):
            assert torch.allclose(state[row], expected_state[0], atol=1e-5)
        losses.append(F.cross_entropy(expected.logits, labels[row : row + 1]))
    assert output.logits.shape == (4, 5)
    assert torch.allclose(output.loss, torch.stack(losses).mean(), atol=1e-5)
    assert model.active_adapter == active
    assert type(model(points, adapter_names=names, return_dict=False)) is tuple


def test_a_mixed_batch_trains_each_clouds_adapter(model, points):
    model(points, labels=torch.tensor([0, 1, 2, 4]), adapter_names=["default"] * 3 + ["cad"]).loss.backward()
    heads = [model.classifier, model._adapters["cad"].classifier]
    assert all(head.output.weight.grad.abs().sum() > 0 for head in heads)
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@torch.no_grad()
def test_features_of_a_mixed_batch(make, tmp_path):
    model = make.model(num_views=2)
    make.model(model.backbone, num_views=5).save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "other", backbone=model.backbone)
    points = make.points(3)
    mixed = model(points, adapter_names=["other", "default", "other"]).pooler_output
    plain = model(points).pooler_output
    model.set_adapter("other")
    expected = torch.stack([model(points).pooler_output[0], plain[1], model(points).pooler_output[2]])
    assert torch.allclose(mixed, expected, atol=1e-5)
    assert isinstance(model, Any2PointModel)


def test_errors_of_mixed_batches(model, points):
    with pytest.raises(Any2PointError, match=r"one name a cloud, got 4 clouds and \['cad'\]"):
        model(points, adapter_names=["cad"])
    with pytest.raises(Any2PointError, match="one name a cloud"):
        model(points[:3], adapter_names="cad")
    with pytest.raises(Any2PointError, match=r"no adapter 'car'; there are: default, cad"):
        model(points, adapter_names=["cad", "cad", "car", "default"])
    with pytest.raises(Any2PointError, match=r"labels must lie in 0…2"):
        model(points, labels=torch.tensor([4, 4, 3, 4]), adapter_names=["cad", "cad", "default", "cad"])


# Weighted means


@pytest.fixture
def alike(save_adapter):
    model = load(save_adapter("first", num_labels=3))
    model.load_adapter(save_adapter("second", num_labels=3), "second")
    return model


def test_a_weighted_mean_of_tensors_and_statistics(alike):
    first = {name: tensor.clone() for name, tensor in alike.state_dict().items()}
    alike.set_adapter("second")
    second = alike.state_dict()
    alike.add_weighted_adapter(["default", "second"], [1, 3], "mean")
    assert alike.active_adapter == "second"
    assert alike.adapter_names == ["default", "second", "mean"]
    backbone = backbone_tensors(alike)
    alike.set_adapter("mean")
    assert backbone_tensors(alike) == backbone
    for name, tensor in alike.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, 0.25 * first[name] + 0.75 * second[name], atol=1e-6), name
    assert sum(name.endswith("running_var") for name in first) > 2
    assert not alike.training


@torch.no_grad()
def test_a_mean_of_one_is_that_one(alike, points, tmp_path):
    expected = alike(points).logits
    alike.add_weighted_adapter(["default", "second"], [2.0, 0.0], "mean")
    alike.set_adapter("mean")
    assert torch.equal(alike(points).logits, expected)
    alike.save_pretrained(tmp_path / "mean")
    assert torch.equal(load(tmp_path / "mean")(points).logits, expected)  # the backbone is recorded


def test_settings_of_the_loss_do_not_keep_adapters_from_a_mean(alike, save_adapter):
    alike.load_adapter(
        save_adapter("weighted", num_labels=3, class_weight=[1.0, 2.0, 3.0], label_smoothing=0.3), "weighted"
    )
    alike.add_weighted_adapter(["default", "weighted"], [1, 1], "mean")
    assert alike.adapter_names == ["default", "second", "weighted", "mean"]


def test_errors_of_means(model, alike, save_adapter):
    with pytest.raises(Any2PointError, match=r"same settings and classes: num_views is 3 in 'default' and 4 in 'cad'"):
        model.add_weighted_adapter(["default", "cad"], [1, 1], "mean")
    with pytest.raises(Any2PointError, match="no adapter 'third'"):
        alike.add_weighted_adapter(["default", "third"], [1, 1], "mean")
    with pytest.raises(Any2PointError, match="must be new, got 'second'"):
        alike.add_weighted_adapter(["default", "second"], [1, 1], "second")
    for weights in ([1, float("nan")], [float("inf"), 1], [0, 0], [2, -1]):
        with pytest.raises(Any2PointError, match="weights of an average must be finite, not negative"):
            alike.add_weighted_adapter(["default", "second"], weights, "mean")
    with pytest.raises(Any2PointError, match="a weight for each"):
        alike.add_weighted_adapter(["default", "second"], [1], "mean")
    alike.load_adapter(save_adapter("names", id2label={0: "a", 1: "b", 2: "c"}), "names")
    with pytest.raises(Any2PointError, match="id2label is"):
        alike.add_weighted_adapter(["default", "names"], [1, 1], "mean")
    assert alike.adapter_names == ["default", "second", "names"]
