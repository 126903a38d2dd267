import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf import Any2PointProcessor
from any2point_hf.modeling import ConfigurationError, DatasetError, PointCloudError, label_large_cloud, label_scene
from any2point_hf.modeling.segmentation.scenes import blocks_of, normalized

NUM_POINTS = 128


@pytest.fixture(scope="module")
def model(make):
    torch.manual_seed(0)
    return make.segmenter("vit", num_labels=5, num_points=NUM_POINTS)


def scene(num_points=1200, size=(4.0, 3.0, 1.0)):
    return torch.rand(num_points, 3) * torch.tensor(size)


def naive_blocks(ground, block, context, num_points):
    """For each square that has points: the ids of the points in and around it, and of its own."""
    low, high = ground.min(axis=0), ground.max(axis=0)
    last = [max(int(np.ceil((high[axis] - low[axis]) / block)) - 1, 0) for axis in (0, 1)]
    squares = {}
    for place, point in enumerate(ground):
        square = tuple(min(int((point[axis] - low[axis]) // block), last[axis]) for axis in (0, 1))
        squares.setdefault(square, []).append(place)
    found = []
    for square, own in sorted(squares.items()):
        center = [low[axis] + block * (square[axis] + 0.5) for axis in (0, 1)]
        distance = [max(abs(point[0] - center[0]), abs(point[1] - center[1])) for point in ground]
        nearest = sorted(range(len(ground)), key=lambda place: (distance[place], place))
        near = sum(value <= block / 2 + context for value in distance)
        found.append((sorted(nearest[: max(near, num_points)]), own))
    return found


@given(
    values=st.lists(st.tuples(*[st.integers(0, 24)] * 2), min_size=4, max_size=60),
    block=st.sampled_from([0.5, 1.0, 2.0, 64.0]),
    context=st.sampled_from([0.0, 0.25, 0.5, 3.0]),
    num_points=st.integers(1, 4),
)
def test_blocks_are_those_of_a_naive_search(values, block, context, num_points):
    ground = np.array(sorted(values)) / 4  # many points lie on edges
    found = list(blocks_of(torch.tensor(ground), block, context, num_points))
    expected = naive_blocks(ground, block, context, num_points)
    assert [(places.tolist(), places[is_inner].tolist()) for places, is_inner in found] == expected
    assert sorted(place for _, own in expected for place in own) == list(range(len(ground)))


@torch.no_grad()
def test_each_label_is_that_of_the_block_around_the_point(model):
    points, processor = scene(), Any2PointProcessor(NUM_POINTS)
    order = np.lexsort(points.numpy().T[::-1])
    expected = torch.full((len(points),), -1)
    for places, own in naive_blocks(points[order, :2].double().numpy(), 1.5, 0.4, NUM_POINTS):
        rows = torch.from_numpy(order[places])
        cloud = processor.all_points(points[rows]).batch["points"][0]
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        drawn = torch.cat([drawn, drawn[: -len(rows) % NUM_POINTS]])
        logits = model(cloud[drawn].view(-1, NUM_POINTS, 3)).logits.flatten(0, 1)[: len(rows)]
        labels = torch.empty(len(rows), dtype=torch.int64)
        labels[drawn[: len(rows)]] = logits.argmax(dim=-1)
        is_own = torch.isin(torch.tensor(places), torch.tensor(own))
        expected[rows[is_own]] = labels[is_own]
    parts = label_scene(model, points, block=1.5, context=0.4)
    assert torch.equal(parts, expected)
    assert parts.unique().numel() > 1


def test_a_scene_within_one_block_is_a_large_cloud(model):
    points = scene(500)
    cloud = Any2PointProcessor(NUM_POINTS).all_points(points).batch["points"][0]
    assert torch.equal(label_scene(model, points, block=4.0), label_large_cloud(model, cloud))


@pytest.mark.parametrize("scale", [True, False])
def test_blocks_are_centred_and_scaled_as_the_processor_does(scale):
    points = scene() + torch.tensor([5.0, -3.0, 100.0])
    expected = Any2PointProcessor(scale_to_unit_sphere=scale).all_points(points).batch["points"][0]
    torch.testing.assert_close(normalized(points, scale), expected, rtol=0, atol=1e-6)
    assert not normalized(torch.ones(70, 3), scale).any()


def test_labels_follow_their_points_and_are_the_same_every_time(model):
    points = scene()
    points[600:700] = points[:100]  # scans have points twice
    parts, order = label_scene(model, points, block=1.0), torch.randperm(1200)
    torch.manual_seed(99)
    assert torch.equal(label_scene(model, points, block=1.0), parts)
    assert torch.equal(label_scene(model, points[order], block=1.0), parts[order])
    assert torch.equal(label_scene(model, points, block=1.0, batch_size=3), parts)
    assert torch.equal(label_scene(model, points, block=1.0, context=0.25), parts)
    assert torch.equal(parts[600:700], parts[:100])
    assert not torch.equal(label_scene(model, points, block=1.0, seed=1), parts)
    assert not torch.equal(label_scene(model, points, block=1.0, context=0.5), parts)


def test_what_is_far_away_does_not_matter(model):
    points = scene()
    changed = points.clone()
    is_far = points[:, 0] > 1.6
    changed[is_far, 2] += 0.5 * torch.rand(int(is_far.sum()))
    parts, others = label_scene(model, points, block=1.0, context=0.5), label_scene(model, changed, 1.0, 0.5)
    is_left = points[:, 0] < 0.999
    assert torch.equal(parts[is_left], others[is_left])
    assert not torch.equal(parts, others)


def test_map_coordinates_change_nothing(model):
    points = scene().double().mul(1024).round() / 1024
    shifted = points + torch.tensor([431_000.0, 5_412_000.0, 240.0])
    assert torch.equal(label_scene(model, shifted, block=1.0), label_scene(model, points, block=1.0))


def test_no_lonely_point_is_lost(model, monkeypatch):
    points = torch.cat([scene(), torch.tensor([[1e5, 0.0, 0.0], [0.0, -7.0, 3.0]])])
    sizes, forward = [], type(model).forward

    def record(self, points, *others, **options):
        sizes.extend(map(len, points))
        return forward(self, points, *others, **options)

    monkeypatch.setattr(type(model), "forward", record)
    parts = label_scene(model, points, block=1.0)
    assert set(sizes) == {NUM_POINTS}
    assert len(parts) == 1202
    assert parts.min() >= 0
    assert parts.max() < 5
    assert len(label_scene(model, points[-70:], block=0.01)) == 70  # all are the context of each


def test_categories_and_features_follow_the_points(make):
    categories = {"room": [0, 1], "street": [2, 3, 4]}
    model = make.segmenter("vit", num_labels=5, category_parts=categories, num_point_features=2).train()
    points, features, order = scene(400), torch.rand(400, 2), torch.randperm(400)
    parts = label_scene(model, points, 2.0, point_features=features, category=1)
    assert set(parts.tolist()) <= {2, 3, 4}
    shuffled = label_scene(model, points[order], 2.0, point_features=features[order], category=1)
    assert torch.equal(shuffled, parts[order])
    assert not torch.equal(label_scene(model, points, 2.0, point_features=1 - features, category=1), parts)
    assert model.training
    with pytest.raises(DatasetError, match=r"needs category .*room, street"):
        label_scene(model, points, 2.0, point_features=features)


def test_widths_may_be_numbers_of_numpy(model):
    points = scene()
    expected = label_scene(model, points, 2.0, 1.0)
    assert torch.equal(label_scene(model, points, np.float32(2), np.int64(1)), expected)


@pytest.mark.parametrize(
    ("points", "options", "error", "rule"),
    [
        (torch.rand(300, 2), {}, PointCloudError, r"\[N, 3\], got \[300, 2\]"),
        (torch.ones(300, 3, dtype=torch.int64), {}, PointCloudError, "floating point"),
        (torch.rand(63, 3), {}, PointCloudError, "at least 64"),
        (torch.full((300, 3), torch.nan), {}, PointCloudError, "must be finite"),
        (torch.rand(300, 3), {"block": 0.0}, ConfigurationError, "block must be a positive width, got 0.0"),
        (torch.rand(300, 3), {"block": float("nan")}, ConfigurationError, "block must be a positive"),
        (torch.rand(300, 3), {"block": 1e-30}, ConfigurationError, "block must be at least"),
        (torch.rand(300, 3), {"context": -1.0}, ConfigurationError, "context must be"),
        (torch.rand(300, 3), {"num_points": 0}, ConfigurationError, "num_points must lie in 64…65536, got 0"),
        (torch.rand(300, 3), {"batch_size": 0}, ConfigurationError, "batch_size"),
    ],
)
def test_bad_scenes_and_widths_are_refused(model, points, options, error, rule):
    with pytest.raises(error, match=rule):
        label_scene(model, points, **({"block": 1.0} | options))


LIGHT = """
import json, resource, types
import torch
from any2point_hf.modeling import label_large_cloud, label_scene

class Light(torch.nn.Module):
    config, device, dtype = types.SimpleNamespace(num_points=4096), torch.device("cpu"), torch.float32
    def forward(self, points, features, category):
        return types.SimpleNamespace(logits=torch.stack([points[..., 2], -points[..., 2]], dim=-1))
    def possible_logits(self, logits, category):
        return logits

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

found = {}
small, points = torch.rand(100_000, 3), torch.rand(1_000_000, 3) * 40
for name, label in (("cloud", label_large_cloud), ("scene", lambda model, points: label_scene(model, points, 2.0))):
    label(Light(), small)
    before = peak()
    parts = label(Light(), points)
    found[name] = (peak() - before) / len(points)
found["parts"] = parts.bincount().tolist()
print(json.dumps(found))
"""


def test_a_million_points_take_little_more_than_their_own_memory(subprocess_environment):
    output = subprocess.run(
        [sys.executable, "-c", LIGHT], check=True, capture_output=True, text=True, env=subprocess_environment
    ).stdout
    found = json.loads(output)
    assert sum(found["parts"]) == 1_000_000
    assert found["cloud"] < 80  # bytes a point, of 12 for its coordinates
    assert found["scene"] < 80
