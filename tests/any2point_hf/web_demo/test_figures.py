"""The figures of the page, without a browser; test_app.py looks at them in one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gradio", reason="gradio is not installed")

from any2point_hf.pictures.interactive_pictures import CAMERA
from any2point_hf.pictures.kinds import draw_attention
from any2point_hf.web_demo.figures import FILLED, SIGHT, attention_figure, scene_sides
from any2point_hf.web_demo.inference import classify, example_cloud, load_adapters

DISTANCE = np.linalg.norm([CAMERA["eye"][axis] for axis in "xyz"])


def highest(points, direction, up):
    """How far from the middle of the picture a cloud reaches, as seen from a direction: 1 is its edge."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.where(high > low, high - low, 1)
    scene = (points - (low + high) / 2) / extent * scene_sides(points)
    forward = -direction / np.linalg.norm(direction)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    across = scene @ np.stack([right, np.cross(right, forward)], axis=1)
    depth = DISTANCE + scene @ forward
    return float(np.abs(across / depth[:, None]).max() / np.tan(SIGHT / 2))


@given(seed=st.integers(0, 2**16), sides=st.tuples(*[st.floats(0.01, 100)] * 3), flat=st.booleans())
def test_a_cloud_is_in_sight_however_it_is_turned(seed, sides, flat):
    generator = np.random.default_rng(seed)
    points = (generator.uniform(-1, 1, (50, 3)) * sides + 5).astype(np.float32)
    if flat:
        points[:, 2] = 0
    for direction, up in generator.normal(size=(20, 2, 3)):
        assert highest(points, direction, up) <= 1


def test_a_ball_fills_the_picture():
    directions = np.random.default_rng(0).normal(size=(20_000, 3))
    ball = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert highest(ball, np.array([0.9, -1.5, 0.7]), np.array([0.0, 0, 1])) == pytest.approx(FILLED, abs=0.03)


def test_blocks_and_shares_are_those_of_the_pictures(tiny_adapter, one_thread):
    (adapter,) = load_adapters([str(tiny_adapter.folder)]).values()
    cloud = example_cloud("mug")[: adapter.processor.num_points]  # the picture shows the same points then
    picture = draw_attention(adapter.model, adapter.processor, cloud)
    figure = attention_figure(classify(adapter, cloud), block=1)
    assert [panel.title for panel in picture.panels] == ["block 0", "block 1"]
    assert [trace.visible for trace in figure.data] == [False, True]
    for panel, trace in zip(picture.panels, figure.data, strict=True):
        np.testing.assert_allclose(np.sort(trace.marker.color), np.sort(panel.values), rtol=1e-5)
        assert (trace.marker.cmin, trace.marker.cmax) == pytest.approx(panel.limits, rel=1e-5)
        assert trace.marker.colorbar.title.text == picture.label
        assert "%" in trace.hovertemplate
