import inspect

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig

from any2point_hf import AutoModelForPointCloudClassification, AutoModelForPointCloudSegmentation
from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointError,
    Any2PointForPointCloudClassification,
    Any2PointForPointCloudSegmentation,
    Any2PointModel,
    CheckpointError,
    ConfigurationError,
    DatasetError,
    PointCloudError,
    PointCloudSegmenterOutput,
)
from any2point_hf.modeling.presets import find_preset

PARTS = {"zebra": [0, 1], "ant": [2, 3, 4]}


@pytest.fixture(scope="module")
def model(make):
    torch.manual_seed(0)
    return make.segmenter("vit", num_labels=5)


@torch.no_grad()
def test_output_holds_the_model_s(make, model):
    points = make.points(2)
    output, inner = model(points, output_hidden_states=True), model.any2point(points)
    assert type(output) is PointCloudSegmenterOutput
    assert (output.loss, output.logits.shape, len(output.hidden_states)) == (None, (2, 128, 5), 3)
    for name in ("last_hidden_state", "pooler_output", "point_centers"):
        assert torch.equal(output[name], inner[name])
    assert model(points).hidden_states is None
    assert model.backbone is model.any2point.backbone
    assert torch.equal(model(points, return_dict=False)[0], output.logits)
    names = list(inspect.signature(Any2PointForPointCloudSegmentation.forward).parameters)
    assert names[:5] == ["self", "points", "point_features", "labels", "category"]


@torch.no_grad()
def test_the_base_model_hands_out_levels_only_when_asked(make, model):
    points = make.points(2)
    assert model.any2point(points).point_levels is None
    levels = model.any2point(points, output_point_levels=True).point_levels
    assert [tuple(features.shape) for _, features in levels] == [(2, 128, 6), (2, 64, 12), (2, 32, 24), (2, 16, 48)]
    assert torch.equal(levels[0][0], points)


@pytest.mark.parametrize("start", ["farthest", "first"])
@torch.no_grad()
def test_logits_follow_their_points(make, start):
    model = make.segmenter("vit", num_labels=5, sampling_start=start, num_point_features=2)
    points, features, order = make.points(2), torch.rand(2, 128, 2), torch.randperm(128)
    if start == "first":  # sampling starts at the first point given
        order = torch.cat([torch.zeros(1).long(), order[order > 0]])
    logits = model(points, features).logits
    found = model(points[:, order], features[:, order]).logits
    torch.testing.assert_close(found, logits[:, order], atol=1e-5, rtol=0)
    assert (logits[:, 1:] - logits[:, :1]).abs().amax(dim=-1).min() > 1e-3  # they differ from point to point


@torch.no_grad()
def test_a_cloud_does_not_know_the_clouds_beside_it(make):
    model = make.segmenter("clip_text", num_labels=5, category_parts=PARTS)
    points, category = make.points(3), torch.tensor([0, 1, 1])
    together = model(points, category=category).logits
    for cloud in range(3):
        alone = model(points[cloud : cloud + 1], category=category[cloud : cloud + 1]).logits
        torch.testing.assert_close(alone[0], together[cloud], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_the_mean_over_points_with_a_label(make, smoothing):
    model = make.segmenter("vit", num_labels=5, label_smoothing=smoothing)
    labels = torch.randint(0, 5, (2, 128), dtype=torch.int32)
    labels[0, 5:] = -100
    output = model(make.points(2), labels=labels)
    kept = labels != -100
    expected = F.cross_entropy(output.logits[kept], labels[kept].long(), label_smoothing=smoothing)
    torch.testing.assert_close(output.loss, expected)


def test_weighted_losses_are_divided_by_the_number_of_points(make):
    """Point by point: how a step is divided into batches must not matter, so not by the sum of weights."""
    weights = [0.5, 2.0, 0.0, 1.0, 3.0]
    model = make.segmenter("vit", num_labels=5, class_weight=weights)
    labels = torch.randint(0, 5, (2, 128))
    labels[0, 5:] = -100
    output = model(make.points(2), labels=labels)
    losses = [
        -weights[label] * torch.log_softmax(row, dim=0)[label]
        for row, label in zip(output.logits.flatten(0, 1), labels.flatten().tolist(), strict=True)
        if label != -100
    ]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())


def test_balanced_weights_are_numbers_before_the_loss(make):
    model = make.segmenter("vit", num_labels=5, class_weight="balanced")
    with pytest.raises(ConfigurationError, match="computed by make_trainer"):
        model(make.points(2), labels=torch.zeros(2, 128, dtype=torch.long))


def test_a_batch_without_labels_has_the_loss_0_and_gradients_of_0(make, model):
    loss = model(make.points(2), labels=torch.full((2, 128), -100)).loss
    assert loss.item() == 0
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    model.zero_grad()


@torch.no_grad()
def test_the_loss_is_never_halved(make):
    model = make.segmenter("vit", num_labels=5).bfloat16()
    output = model(make.points(2), labels=torch.zeros(2, 128, dtype=torch.long))
    assert (output.logits.dtype, output.loss.dtype) == (torch.bfloat16, torch.float32)


@torch.no_grad()
def test_parts_are_those_of_the_category(make):
    model = make.segmenter("vit", num_labels=5, category_parts=PARTS)
    points, category = make.points(2), torch.tensor([1, 0])
    logits = model(points, category=category).logits
    assert logits.isfinite().all()  # of all parts
    parts = model.predict_parts(logits, category)
    for cloud, allowed in enumerate(([2, 3, 4], [0, 1])):
        expected = [allowed[int(row.argmax())] for row in logits[cloud][:, allowed]]
        assert parts[cloud].tolist() == expected
    assert not torch.equal(logits, model(points, category=1 - category).logits)  # the head reads it, too
    with pytest.raises(DatasetError, match="needs category"):
        model.predict_parts(logits)


@torch.no_grad()
def test_categories_may_be_bytes(make):
    """As .npz files hold them; torch would take as many bytes as categories for a mask of these."""
    model = make.segmenter("vit", num_labels=5, category_parts=PARTS)
    points, category = make.points(2), torch.tensor([1, 1])
    logits = model(points, category=category).logits
    in_bytes = category.to(torch.uint8)
    assert torch.equal(model(points, category=in_bytes).logits, logits)
    assert torch.equal(model.predict_parts(logits, in_bytes), model.predict_parts(logits, category))


@torch.no_grad()
def test_without_categories_every_part_may_win(make, model):
    logits = model(make.points(2)).logits
    assert torch.equal(model.predict_parts(logits), logits.argmax(dim=-1))


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        (torch.zeros(2, 127, dtype=torch.long), r"\[2, 128\] integers, got torch.int64 \[2, 127\]"),
        (torch.zeros(2, dtype=torch.long), "For one label a cloud"),
        (torch.zeros(2, 128), "labels must be integers, got torch.float32"),
        (torch.full((2, 128), 5), r"0…4 \(the model has 5 parts\), or be -100 .*got 5"),
        (torch.full((2, 128), -1), "got -1"),
    ],
)
def test_bad_labels_are_refused(make, model, labels, rule):
    with pytest.raises(DatasetError, match=rule):
        model(make.points(2), labels=labels)


@pytest.mark.parametrize(
    ("category", "rule"),
    [
        (None, r"needs category \[2\].*\(zebra, ant\), got none"),
        (torch.tensor([0]), r"needs category \[2\]"),
        (torch.tensor([0, 2]), r"0…1 \(the model's are zebra, ant\), got 2"),
        (torch.tensor([0, -1]), "got -1"),
        (torch.tensor([0.0, 1.0]), "category must be integers"),
    ],
)
def test_bad_categories_are_refused(make, category, rule):
    model = make.segmenter("vit", num_labels=5, category_parts=PARTS)
    with pytest.raises(DatasetError, match=rule):
        model(make.points(2), category=category)


def test_other_bad_input_is_refused(make, model):
    with pytest.raises(DatasetError, match="has no categories"):
        model(make.points(2), category=torch.tensor([0, 1]))
    with_features = make.segmenter("vit", num_labels=5, num_point_features=2)
    features = torch.rand(2, 128, 2)
    features[1, 3, 0] = torch.nan
    with pytest.raises(PointCloudError, match=r"point_features must be finite, .* clouds \[1\]"):
        with_features(make.points(2), features)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"segmentation_blocks": [2]}, "0…1 .*got"),
        ({"segmentation_blocks": []}, "segmentation_blocks must be"),
        ({"segmentation_blocks": [0, 0]}, "different"),
        ({"released_compatibility": True}, "released none"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, settings, rule):
    with pytest.raises(ConfigurationError, match=rule):
        make.segmenter("vit", num_labels=5, **settings)


@pytest.mark.parametrize(("num_blocks", "expected"), [(12, [3, 7, 11]), (3, [0, 1, 2]), (2, [0, 1]), (0, [-1])])
def test_the_head_reads_the_last_block_of_each_third(num_blocks, expected):
    assert Any2PointConfig().blocks_of_segmentation(num_blocks) == expected


@torch.no_grad()
def test_the_head_reads_the_blocks_it_is_told_to(make):
    model = make.segmenter("vit", num_labels=5, segmentation_blocks=[0])
    points = make.points(1)
    before = model(points).logits
    model.segmenter.blocks[0].linear.weight.mul_(2)
    assert len(model.segmenter.blocks) == 1
    assert not torch.equal(model(points).logits, before)


@torch.no_grad()
def test_without_a_backbone_the_head_reads_the_tokens(make):
    model = make.segmenter("vit", num_labels=5, backbone_blocks=0)
    assert model.read_blocks == [-1]
    assert model(make.points(1)).logits.shape == (1, 128, 5)


def test_a_few_steps_learn_the_upper_half(make):
    model = make.segmenter("vit", num_labels=2, adapter_dropout=0.0).train()
    points = make.points(4)
    labels = (points[..., 2] > 0).long()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(15):
        loss = model(points, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_single_cloud_can_be_trained(make):
    model = make.segmenter("vit", num_labels=2).train()
    model(make.points(1), labels=torch.zeros(1, 128, dtype=torch.long)).loss.backward()
    assert model.any2point.tokenizer.stem.weight.grad.abs().max() > 0


def test_early_stages_get_the_head_s_gradients_by_the_fast_ways_too(make):
    """With no backbone path: the head's own projections of tokens and pooled features are zero."""
    model = make.segmenter("vit", num_labels=2, adapter_dropout=0.0, token_scale="none").double().train()
    for part in (model.segmenter.pooled, *model.segmenter.blocks):
        torch.nn.init.zeros_(part.linear.weight)
    model.segmenter.dropout.p = 0.0
    points, labels = make.points(2).double(), torch.zeros(2, 128, dtype=torch.long)
    tokenizer = model.any2point.tokenizer

    def gradients():
        model.zero_grad()
        model(points, labels=labels).loss.backward()
        return {name: p.grad.clone() for name, p in tokenizer.named_parameters() if p.grad is not None}

    fast = gradients()
    hooks = [stage.bottlenecks.register_forward_hook(lambda *_: None) for stage in tokenizer.stages]  # plain_stage
    plain = gradients()
    for hook in hooks:
        hook.remove()
    assert fast["stages.1.bottlenecks.0.down.weight"].abs().max() > 0
    for name, gradient in plain.items():
        torch.testing.assert_close(fast[name], gradient, atol=1e-8, rtol=1e-6, msg=name)


@pytest.mark.parametrize("head", ["classifier", "segmenter"])
def test_an_adapter_of_another_task_is_refused_in_one_line(make, tmp_path, head):
    backbone = make.backbone("vit")
    by_name = {
        "classifier": (Any2PointForPointCloudClassification, "classification", "Classification"),
        "segmenter": (Any2PointForPointCloudSegmentation, "segmentation", "Segmentation"),
    }
    model_class, task, name = by_name.pop(head)
    ((other_class, other_task, _),) = by_name.values()
    model_class(Any2PointConfig(**make.small, num_labels=5), backbone=backbone).save_pretrained(tmp_path)
    rule = f"is a point cloud {task} adapter, .* as a {other_task} model. .*ForPointCloud{name}"
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=rule):
            other_class.from_pretrained(tmp_path, backbone=backbone, strict=strict)
    model = other_class(Any2PointConfig(**make.small, num_labels=5), backbone=backbone)
    with pytest.raises(CheckpointError, match=rule):
        model.load_adapter(tmp_path, "other", backbone=model.backbone)
    assert Any2PointModel.from_pretrained(tmp_path, backbone=backbone).head is None  # takes either


@torch.no_grad()
def test_a_classifier_and_a_segmenter_share_a_backbone(make, tmp_path):
    segmenter = make.segmenter("clip_text", num_labels=5, category_parts=PARTS)
    segmenter.save_pretrained(tmp_path)
    points, category = make.points(2), torch.tensor([0, 1])
    expected = segmenter(points, category=category).logits
    classifier = make.model(segmenter.backbone, head=True, num_labels=3)
    alone = classifier(points).logits
    beside = Any2PointForPointCloudSegmentation.from_pretrained(tmp_path, backbone=classifier.backbone)
    torch.testing.assert_close(beside(points, category=category).logits, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(classifier(points).logits, alone)
    theirs = dict(classifier.backbone.named_parameters())
    assert all(
        parameter.data_ptr() == theirs[name].data_ptr() for name, parameter in beside.backbone.named_parameters()
    )


def test_the_auto_class_makes_it(make, tmp_path):
    backbone = make.backbone("vit")
    make.segmenter(backbone, num_labels=5).save_pretrained(tmp_path)
    loaded = AutoModelForPointCloudSegmentation.from_pretrained(tmp_path, backbone=backbone)
    assert type(loaded) is Any2PointForPointCloudSegmentation
    with pytest.raises(CheckpointError, match="segmentation adapter"):
        AutoModelForPointCloudClassification.from_pretrained(tmp_path, backbone=backbone)


@torch.no_grad()
def test_adapters_by_name_have_parts_and_categories_of_their_own(make, tmp_path):
    backbone = make.backbone("vit")
    first = make.segmenter(backbone, num_labels=5, category_parts=PARTS)
    second = make.segmenter(backbone, num_labels=3, segmentation_blocks=[1])
    second.save_pretrained(tmp_path)
    points, category = make.points(3), torch.tensor([0, 1, 1])
    expected = first(points, category=category).logits, second(points).logits
    first.load_adapter(tmp_path, "second", backbone=first.backbone)
    mixed = first(points, category=category, adapter_names=["default", "second", "default"]).logits
    torch.testing.assert_close(mixed[[0, 2]], expected[0][[0, 2]], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mixed[1, :, :3], expected[1][1], atol=1e-6, rtol=1e-6)
    assert torch.isinf(mixed[1, :, 3:]).all()
    first.set_adapter("second")
    torch.testing.assert_close(first(points).logits, expected[1], atol=1e-6, rtol=1e-6)
    assert (first.read_blocks, first.config.category_parts) == ([1], None)
    first.set_adapter("default")
    torch.testing.assert_close(first(points, category=category).logits, expected[0], atol=1e-6, rtol=1e-6)


def test_an_average_needs_categories_in_the_same_order(make, tmp_path):
    backbone = make.backbone("vit")
    model = make.segmenter(backbone, num_labels=5, category_parts=PARTS)
    other = make.segmenter(backbone, num_labels=5, category_parts=dict(reversed(PARTS.items())))
    other.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "other", backbone=model.backbone)
    with pytest.raises(Any2PointError, match="category_parts"):
        model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "mean")


@torch.no_grad()
def test_lora_and_unfrozen_blocks_are_saved_with_it(make, tmp_path):
    points = make.points(2)
    for settings in ({"lora": True}, {"unfrozen_blocks": 1}):
        folder, backbone = tmp_path / next(iter(settings)), make.backbone("vit")
        model = make.segmenter(backbone, num_labels=5, **settings)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "backbone." in name and parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        loaded = Any2PointForPointCloudSegmentation.from_pretrained(folder, backbone=backbone)
        torch.testing.assert_close(loaded(points).logits, model(points).logits, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_at_width_768_of_clip_s_text_tower_under_a_million_and_a_half_is_trained():
    fields = {**find_preset("clip-text-scan").backbone_config, "vocab_size": 8}
    config = Any2PointConfig.from_preset(
        "clip-text-scan",
        backbone_config=AutoConfig.for_model(**fields),
        num_labels=50,
        category_parts={str(number): [number] for number in range(16)},
    )
    with torch.device("meta"):
        model = Any2PointForPointCloudSegmentation(config)
    trained = sum(p.numel() for name, p in model.named_parameters() if "backbone." not in name)
    assert sum(p.numel() for p in model.segmenter.parameters()) == 458_162
    assert trained == 1_406_474
