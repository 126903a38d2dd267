import pytest
import torch
from safetensors.torch import load_file, save_file

from any2point_hf import AutoModelForPointCloudClassification
from any2point_hf.modeling import (
    Any2PointForPointCloudClassification,
    Any2PointForPointCloudSegmentation,
    CheckpointError,
    ConfigurationError,
)


@pytest.fixture
def backbone(make):
    return make.backbone("vit")


@pytest.fixture
def classifier(make, backbone, tmp_path):
    model = make.model(backbone, head=True, num_labels=3)
    model.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier", model


@pytest.fixture
def segmenter(make, backbone, tmp_path):
    model = make.segmenter(backbone, num_labels=5, category_parts={"zebra": [0, 1], "ant": [2, 3, 4]})
    model.save_pretrained(tmp_path / "segmenter")
    return tmp_path / "segmenter", model


@pytest.fixture
def reported(monkeypatch):
    """What the loading warns of."""
    warnings = []
    monkeypatch.setattr("transformers.modeling_utils.logger.warning", lambda text, *_: warnings.append(text))
    return warnings


def assert_same_but(model, loaded, new):
    """All tensors are those of `model`, except those of the names `new`, which it lacks or has in another shape."""
    theirs = {name: tensor for name, tensor in model.state_dict().items() if "backbone" not in name}
    mine = {name: tensor for name, tensor in loaded.state_dict().items() if "backbone" not in name}
    changed = {name for name in mine if name not in theirs or not torch.equal(mine[name], theirs[name])}
    assert changed == set(new)
    assert all(name not in theirs or mine[name].shape != theirs[name].shape for name in new)
    assert all(mine[name].isfinite().all() for name in new)


def test_a_new_head_is_asked_for_as_in_transformers(make, classifier, backbone, reported):
    folder, model = classifier
    for model_class in (Any2PointForPointCloudClassification, AutoModelForPointCloudClassification):
        reported.clear()
        loaded = model_class.from_pretrained(
            folder, backbone=backbone, num_labels=5, ignore_mismatched_sizes=True, use_safetensors=True
        )
        new = ["classifier.output.weight", "classifier.output.bias"]
        assert_same_but(model, loaded, new)
        assert loaded(make.points()).logits.shape == (2, 5)
        (report,) = reported
        assert all(f"{name} " in report for name in new)
        assert report.count("MISMATCH |") == 2


def test_a_new_head_trains_is_saved_and_comes_back(make, classifier, backbone, tmp_path):
    names = {0: "chair", 1: "lamp"}
    loaded = Any2PointForPointCloudClassification.from_pretrained(
        classifier[0], backbone=backbone, id2label=names, ignore_mismatched_sizes=True
    )
    loaded.train()(make.points(4), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert loaded.classifier.output.weight.grad.abs().sum() > 0
    loaded.eval().save_pretrained(tmp_path / "new")
    again = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "new", backbone=backbone)
    assert again.config.id2label == names
    points = make.points()
    assert torch.equal(again(points).logits, loaded(points).logits)


@pytest.mark.parametrize("parts", [None, {"chair": [0, 1], "lamp": [2], "mug": [3, 4, 5, 6]}])
def test_a_new_segmentation_head(make, segmenter, backbone, reported, parts):
    folder, model = segmenter
    loaded = Any2PointForPointCloudSegmentation.from_pretrained(
        folder, backbone=backbone, num_labels=7, category_parts=parts, ignore_mismatched_sizes=True
    )
    new = ["segmenter.output.weight", "segmenter.output.bias", *(["segmenter.categories"] if parts else [])]
    assert_same_but(model, loaded, new)
    (report,) = reported
    assert all(f"{name} " in report for name in new)
    assert ("segmenter.categories" in report) == (model.config.category_parts != parts)
    category = None if parts is None else torch.tensor([0, 2])
    assert loaded(make.points(), category=category).logits.shape == (2, 128, 7)


def test_a_head_gains_categories(make, backbone, tmp_path, reported):
    model = make.segmenter(backbone, num_labels=5)
    model.save_pretrained(tmp_path)
    options = {"backbone": backbone, "category_parts": {"chair": [0, 1], "lamp": [2, 3, 4]}}
    with pytest.raises(CheckpointError, match=r"missing \(1\): segmenter.categories.*ignore_mismatched_sizes=True"):
        Any2PointForPointCloudSegmentation.from_pretrained(tmp_path, **options)
    loaded = Any2PointForPointCloudSegmentation.from_pretrained(tmp_path, **options, ignore_mismatched_sizes=True)
    assert_same_but(model, loaded, ["segmenter.categories"])
    assert loaded.segmenter.categories.std() > 0


def test_no_tensor_of_a_head_is_dropped_without_a_word(segmenter, classifier, backbone):
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): segmenter.categories.*ignore_mismatched_sizes=True"):
        Any2PointForPointCloudSegmentation.from_pretrained(segmenter[0], backbone=backbone, category_parts=None)
    tensors = load_file(classifier[0] / "model.safetensors")
    save_file(tensors | {"classifier.hidden3.weight": torch.zeros(2)}, classifier[0] / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): classifier.hidden3.weight"):
        Any2PointForPointCloudClassification.from_pretrained(classifier[0], backbone=backbone)


def test_a_head_on_an_adapter_without_one(make, backbone, tmp_path, reported):
    base = make.model(backbone)
    base.save_pretrained(tmp_path)
    options = {"backbone": backbone, "num_labels": 4, "ignore_mismatched_sizes": True}
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path, **options)
    points = make.points()
    assert torch.equal(loaded(points).pooler_output, base(points).pooler_output)
    assert all(name in reported[0] for name, _ in loaded.named_parameters() if name.startswith("classifier."))


def test_categories_of_the_old_parts_are_refused_before_anything_is_made(segmenter, backbone):
    with pytest.raises(CheckpointError, match="category_parts"):
        Any2PointForPointCloudSegmentation.from_pretrained(
            segmenter[0], backbone=backbone, num_labels=3, ignore_mismatched_sizes=True
        )


def test_without_being_asked_no_head_is_made_anew(classifier, backbone):
    for model_class in (Any2PointForPointCloudClassification, AutoModelForPointCloudClassification):
        with pytest.raises(CheckpointError, match=r"wrongly shaped \(2\).*pass ignore_mismatched_sizes=True"):
            model_class.from_pretrained(classifier[0], backbone=backbone, num_labels=5)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            lambda tensors: [tensors.pop(name) for name in [*tensors] if "tokenizer" in name],
            r"missing \(\d+\): .*token",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in [*tensors] if "any2point.bottlenecks.0" in name],
            r"missing \(4\): .*bott",
        ),
        (lambda tensors: tensors.update({"any2point.cls_token": torch.zeros(1, 1, 7)}), r"wrongly shaped \(1\): .*cls"),
    ],
)
def test_ignoring_sizes_hides_nothing_else(classifier, backbone, damage, found):
    folder, _ = classifier
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=found):
        Any2PointForPointCloudClassification.from_pretrained(
            folder, backbone=backbone, num_labels=5, ignore_mismatched_sizes=True
        )


def test_other_settings_are_no_new_head(classifier, backbone):
    with pytest.raises(CheckpointError, match=r"wrongly shaped \(\d+\): any2point\.bottlenecks.*Pass strict=False"):
        Any2PointForPointCloudClassification.from_pretrained(
            classifier[0], backbone=backbone, adapter_dim=3, num_labels=5, ignore_mismatched_sizes=True
        )


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("num_label", "num_labels"),
        ("ignore_mismatch_sizes", "ignore_mismatched_sizes"),
        ("adapter_dims", "adapter_dim"),
        ("back_bone", "backbone"),
        ("devicemap", "device_map"),
        ("num_features", "num_point_features"),
    ],
)
def test_an_unknown_argument_is_named(classifier, backbone, wrong, meant):
    for model_class in (Any2PointForPointCloudClassification, AutoModelForPointCloudClassification):
        with pytest.raises(ConfigurationError, match=rf"got '{wrong}', which is none\. Did you mean {meant}\?"):
            model_class.from_pretrained(classifier[0], backbone=backbone, **{wrong: 4})


def test_pickles_are_never_asked_for(classifier, backbone):
    with pytest.raises(ConfigurationError, match="use_safetensors must be True"):
        Any2PointForPointCloudClassification.from_pretrained(classifier[0], backbone=backbone, use_safetensors=False)


def test_adapters_are_never_quantised(classifier, backbone):
    with pytest.raises(ConfigurationError, match=r"the backbone alone is quantised.*Pass backbone_kwargs="):
        Any2PointForPointCloudClassification.from_pretrained(
            classifier[0], backbone=backbone, quantization_config={"quant_method": "torchao"}
        )
