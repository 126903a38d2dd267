import inspect

import numpy as np
import pytest
import torch

from any2point_hf.modeling import Any2PointForPointCloudClassification, DatasetError, PointCloudClassifierOutput


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_the_head_is_the_naive_one(naive, make, bias):
    model = make.model("vit", head=True, num_labels=5, head_bias=bias).double()
    found = model(make.points(3).double())
    state = make.arrays(model)
    feature = found.pooler_output.numpy()
    for index in (1, 2):
        assert (f"classifier.hidden{index}.bias" in state) == bias
        feature = naive.linear(feature, state, f"classifier.hidden{index}")
        feature = naive.relu(naive.batch_norm(feature, state, f"classifier.norm{index}"))
        assert feature.shape == (3, 256)
    np.testing.assert_allclose(found.logits, naive.linear(feature, state, "classifier.output"), atol=1e-10)
    assert found.logits.shape == (3, 5)


@torch.no_grad()
def test_output_of_the_task_model_holds_the_model_s(make):
    model = make.model("vit", head=True, num_labels=3)
    points = make.points(2)
    output, inner = model(points, output_hidden_states=True), model.any2point(points)
    assert type(output) is PointCloudClassifierOutput
    assert output.loss is None
    assert output.logits.shape == (2, 3)
    assert len(output.hidden_states) == 3
    for name in ("last_hidden_state", "pooler_output", "point_centers"):
        assert torch.equal(output[name], inner[name])
    assert model(points).hidden_states is None
    assert model.backbone is model.any2point.backbone


@torch.no_grad()
def test_tuples_on_request(make):
    model = make.model("vit", head=True, num_labels=3)
    points = make.points(2)
    whole, parts = model(points), model(points, return_dict=False)
    assert isinstance(parts, tuple)
    assert len(parts) == 4
    assert torch.equal(parts[0], whole.logits)
    loss, logits, *_ = model(points, labels=torch.tensor([0, 1]), return_dict=False)
    assert loss.shape == ()
    assert torch.equal(logits, whole.logits)
    assert torch.equal(model.any2point(points, return_dict=False)[0], whole.last_hidden_state)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_the_smoothed_cross_entropy(make, smoothing):
    model = make.model("vit", head=True, num_labels=5, label_smoothing=smoothing)
    labels = torch.tensor([4, 0, 2])
    output = model(make.points(3), labels=labels)
    log_probabilities = output.logits.log_softmax(dim=-1)
    target = torch.full((3, 5), smoothing / 5)
    target[torch.arange(3), labels] += 1 - smoothing
    torch.testing.assert_close(output.loss, -(target * log_probabilities).sum(dim=-1).mean())


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
@torch.no_grad()
def test_the_loss_is_never_narrower_than_the_logits_nor_halved(make, dtype, wide):
    model = make.model("vit", head=True, num_labels=5).to(dtype)
    output = model(make.points(3).to(dtype), labels=torch.tensor([4, 0, 2]))
    assert (output.logits.dtype, output.loss.dtype) == (dtype, wide)
    torch.testing.assert_close(
        output.loss.double(), -output.logits.double().log_softmax(dim=-1)[torch.arange(3), [4, 0, 2]].mean()
    )


@pytest.mark.parametrize("label", [3, -1, -100])
def test_labels_outside_the_classes_are_refused(make, label):
    model = make.model("vit", head=True, num_labels=3)
    with pytest.raises(DatasetError, match=rf"0…2 .*got {label}"):
        model(make.points(2), labels=torch.tensor([0, label]))


def test_forward_names_what_the_trainer_feeds():
    assert Any2PointForPointCloudClassification.main_input_name == "points"
    names = list(inspect.signature(Any2PointForPointCloudClassification.forward).parameters)
    assert names[:4] == ["self", "points", "point_features", "labels"]


def test_a_few_steps_learn_four_clouds(make):
    model = make.model("vit", head=True, num_labels=2, adapter_dropout=0.0).train()
    points, labels = make.points(4), torch.tensor([0, 1, 0, 1])
    before = [p.clone() for p in model.backbone.parameters()]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(12):
        loss = model(points, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    for parameter, value in zip(model.backbone.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
