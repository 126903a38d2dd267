"""Labels stay with their points: through the processor, the collator, random subsets and augmentation, and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments

from any2point_hf import Any2PointProcessor, DataCollatorForPointClouds
from any2point_hf.data.augmentation import Augmentation
from any2point_hf.data.parts.dataset import LabelledCloud, build_part_dataset_dict
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.training.batches import BatchAugmentation, TrainingClouds
from any2point_hf.training.trainer import process_split

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*fewer than")]


def labelled(size, seed=0):
    """A cloud whose labels say where a point is: which octant of the axes through its mean."""
    points = np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)
    return points, octants(points - points.astype(np.float64).mean(axis=0))


def octants(centred):
    return (centred > 0) @ [1, 2, 4]


@given(st.integers(8, 300), st.integers(0, 50), st.sampled_from(["first", "farthest"]), st.booleans())
def test_sampled_and_repeated_points_keep_their_labels(size, seed, start, scaled):
    points, labels = labelled(size, seed)
    processor = Any2PointProcessor(64, scale_to_unit_sphere=scaled, sampling_start=start)
    batch = processor([points, points], labels=[labels, labels.tolist()], return_tensors="np")
    assert batch["labels"].shape == (2, 64)
    assert batch["labels"].dtype == np.int64
    np.testing.assert_array_equal(batch["labels"], octants(batch["points"]))
    np.testing.assert_array_equal(batch["points"], processor([points, points], return_tensors="np")["points"])


def test_labels_of_dropped_points_go_with_them(tmp_path):
    points, labels = labelled(100)
    spoiled = np.insert(points, [3, 50], np.nan, axis=0)
    spoiled_labels = np.insert(labels, [3, 50], 77)
    np.save(tmp_path / "a.npy", spoiled)
    processor = Any2PointProcessor(64, drop_invalid=True)
    expected = processor(points, labels=[labels], return_tensors="np")
    for cloud in (spoiled, tmp_path / "a.npy", str(tmp_path / "a.npy")):
        with pytest.warns(UserWarning, match="2 of 102 points are dropped"):
            batch = processor([cloud], labels=[spoiled_labels], return_tensors="np")
        np.testing.assert_array_equal(batch["labels"], expected["labels"])
        with pytest.warns(UserWarning, match="2 of 102 points are dropped"):
            whole = processor.all_points(cloud)
        assert whole.total == 102
        np.testing.assert_array_equal(whole.kept, np.delete(np.arange(102), [3, 51]))
        given = whole.in_given_order(octants(whole.batch["points"][0].numpy()))
        np.testing.assert_array_equal(given, np.where(spoiled_labels == 77, -100, spoiled_labels))


@given(st.integers(8, 300), st.integers(0, 50), st.sampled_from(["first", "farthest"]))
def test_all_points_come_back_to_their_order(size, seed, start):
    points, labels = labelled(size, seed)
    processor = Any2PointProcessor(64, sampling_start=start)
    whole = processor.all_points(points)
    centred = points - points.astype(np.float64).mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1).max()
    assert whole.batch["points"].shape == (1, size, 3)
    np.testing.assert_allclose(whole.batch["points"][0].numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(whole.in_given_order(octants(whole.batch["points"][0].numpy())), labels)


def test_a_reduced_cloud_is_a_part_of_the_whole_one():
    points, _ = labelled(200)
    processor = Any2PointProcessor(64, point_feature_names=["intensity"])
    cloud = {"points": points, "intensity": np.arange(200, dtype=np.float32)}
    whole, reduced = processor.all_points(cloud).batch, processor(cloud)
    chosen = reduced["point_features"][0, :, 0].long()
    assert torch.equal(whole["points"][0, chosen], reduced["points"][0])
    assert whole["point_features"][0, :, 0].tolist() == list(range(200))


def test_permuting_points_permutes_labels():
    points, labels = labelled(200)
    order = np.random.default_rng(1).permutation(200)
    processor = Any2PointProcessor(64)
    one, other = (processor(p, labels=[x]) for p, x in ((points, labels), (points[order], labels[order])))
    assert torch.equal(one["points"], other["points"])
    assert torch.equal(one["labels"], other["labels"])


@pytest.mark.parametrize("name", ["part", "labels", "label", "label_ids"])
def test_the_collator_gives_labels_and_categories(name):
    (first, labels), (second, others) = labelled(70), labelled(130, 1)
    labels = labels.copy()
    labels[labels == 3] = -100
    rows = [
        {"points": first.tolist(), name: labels.tolist(), "category": 1, "id": "a"},
        {"points": second, name: torch.from_numpy(others), "category": np.int64(0), "id": "b"},
    ]
    batch = DataCollatorForPointClouds(Any2PointProcessor(64))(rows)
    assert {*batch} == {"points", "labels", "category"}
    expected = octants(batch["points"].numpy())
    expected[0][expected[0] == 3] = -100
    np.testing.assert_array_equal(batch["labels"].numpy(), expected)
    assert batch["category"].tolist() == [1, 0]
    assert batch["category"].dtype == batch["labels"].dtype == torch.int64


def test_a_class_goes_before_labels_of_points():
    points, labels = labelled(70)
    batch = DataCollatorForPointClouds(Any2PointProcessor(64))(
        [{"points": points, "label": 2, "part": labels, "category": 1}]
    )
    assert {*batch} == {"points", "labels"}
    assert batch["labels"].tolist() == [2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"part": np.zeros(69, int)}], r"row 0 must have as many labels as points, \[70\], got \[69\]"),
        ([{"part": np.full(70, 0.5)}], "row 0: labels of points must be integers, got 0.5"),
        ([{"part": ["seat"] * 70}], "row 0: labels of points must be integers, got seat"),
        ([{"part": np.zeros(70, int)}, {}], r"row 1 must have as many labels as points, \[70\], got \[\]"),
        ([{"part": np.zeros(70, int)}, {"label": 1}], r"row 1 must have as many labels as points"),
        ([{"part": np.zeros(70, int), "category": "chair"}], "an integer as its category, got 'chair'"),
        ([{"part": np.zeros(70, int), "category": 1}, {"part": np.zeros(70, int)}], "its category, got None"),
    ],
)
def test_rows_that_make_no_batch(rows, message):
    points, _ = labelled(70)
    with pytest.raises(DatasetError, match=message):
        DataCollatorForPointClouds(Any2PointProcessor(64))([{"points": points, **row} for row in rows])


def part_dataset(sizes):
    clouds = [
        LabelledCloud(*labelled(size, seed), {"intensity": labelled(size, seed)[1] / 10})
        for seed, size in enumerate(sizes)
    ]
    names = [str(octant) for octant in range(8)]
    return build_part_dataset_dict({"train": (clouds, [index % 2 for index in range(len(sizes))])}, names, ["a", "b"])


@pytest.mark.parametrize("features", [[], ["intensity"]])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_training_draws_labels_with_their_points(features, drop):
    processor = Any2PointProcessor(64, point_feature_names=features)
    clouds = process_split(part_dataset([150, 120, 140])["train"], processor, 100)
    assert clouds["labels"][:].shape == (3, 100)
    rows = TrainingClouds(clouds)[2]
    assert rows["category"] == 0
    batch = {name: torch.stack([row[name] for row in TrainingClouds(clouds).__getitems__([0, 1, 2])]) for name in rows}
    augmentation = Augmentation(scale=(0.5, 2.0), shift=0.0, drop=drop)  # which leaves each point in its octant
    hook = BatchAugmentation(augmentation, 64, seed=0, feature_names=features)
    _, augmented = hook(torch.nn.Identity(), (), batch)
    assert augmented["points"].shape == (3, 64, 3)
    assert augmented["labels"].shape == (3, 64)
    assert augmented["labels"].dtype == torch.int64
    np.testing.assert_array_equal(augmented["labels"].numpy(), octants(augmented["points"].numpy()))
    assert augmented["category"].tolist() == [0, 1, 0]
    if features:
        assert augmented["point_features"].shape == (3, 64, 1)
        np.testing.assert_allclose(augmented["point_features"][..., 0], augmented["labels"] / 10, atol=1e-6)
    else:
        assert "point_features" not in augmented


class Recorder(torch.nn.Module):
    """Takes what a segmentation model takes, and keeps it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, points, labels=None, category=None):
        self.batches.append((points, labels, category))
        return {"loss": self.weight.sum() * 0 + 0.0, "logits": points}


@pytest.mark.parametrize("way", ["keep", "rename"])
def test_the_stock_trainer_hands_labels_and_categories_over(tmp_path, way):
    dataset = part_dataset([150, 70, 140, 65])["train"].remove_columns("intensity")
    options = {"remove_unused_columns": False}
    if way == "rename":
        dataset, options = dataset.rename_column("part", "labels"), {}
    model = Recorder()
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, max_steps=2, report_to="none", save_strategy="no", **options
    )
    Trainer(model, arguments, train_dataset=dataset, processing_class=Any2PointProcessor(64)).train()
    seen = []
    for points, labels, category in model.batches:
        np.testing.assert_array_equal(labels.cpu().numpy(), octants(points.cpu().numpy()))
        seen += category.tolist()
    assert sorted(seen) == [0, 0, 1, 1]


def test_points_without_a_label_stay_so():
    points, labels = labelled(100)
    labels = np.where(labels == 5, -100, labels)
    dataset = build_part_dataset_dict(
        {"train": ([LabelledCloud(points, labels)] * 2, None)}, [str(i) for i in range(8)]
    )
    clouds = process_split(dataset["train"], Any2PointProcessor(64), 80)
    batch = {
        name: torch.stack([row[name] for row in TrainingClouds(clouds).__getitems__([0, 1])])
        for name in TrainingClouds(clouds)[0]
    }
    _, augmented = BatchAugmentation(Augmentation(shift=0.0), 64, 0)(torch.nn.Identity(), (), batch)
    expected = octants(augmented["points"].numpy())
    np.testing.assert_array_equal(augmented["labels"].numpy(), np.where(expected == 5, -100, expected))
