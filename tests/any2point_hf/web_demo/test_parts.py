"""What the page shows of a segmenter, without a browser."""

import numpy as np
import pytest

from any2point_hf import label_points

pytest.importorskip("gradio", reason="gradio is not installed")

from any2point_hf.web_demo.app import _results
from any2point_hf.web_demo.inference import example_cloud, load_adapters
from any2point_hf.web_demo.model_calls import model_call

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def adapters(tiny_segmenter, segmenter_with_categories, tiny_adapter):
    return load_adapters([str(loaded.folder) for loaded in (tiny_segmenter, segmenter_with_categories, tiny_adapter)])


def show(adapters, name, category=None):
    return _results(adapters[name], name, "mug", 0, category, None, 1, None, model_call(adapters))


def test_parts_have_colours_names_and_shares(adapters, tiny_segmenter):
    shares, figure, slider, message, choice = show(adapters, "segmenter")
    expected = label_points(tiny_segmenter.model, tiny_segmenter.processor, example_cloud("mug"))
    assert shares == {part["name"]: part["share"] for part in expected.summary()["parts"]}
    (trace,) = figure.data
    assert [text.rpartition(" ")[0] for text in trace.text] == [
        tiny_segmenter.part_names[part] for part in expected.parts
    ]
    assert trace.hoverinfo == "text"
    assert set(trace.marker.colorbar.ticktext) == set(shares)
    assert "4,096 points of which 4,096 are labelled" in message
    assert (slider["visible"], choice["visible"]) == (False, False)


def test_the_category_is_chosen(adapters):
    for asked, used, allowed in ((None, "zebra", "zebra"), ("ant", "ant", "ant"), ("chair", "zebra", "zebra")):
        shares, *_, choice = show(adapters, "with_categories", asked)
        assert {name.split("/")[0] for name in shares} == {allowed}
        assert (choice["choices"], choice["value"], choice["visible"]) == (
            ["zebra", "ant"],
            used,
            True,
        )


def test_a_classifier_is_shown_as_before(adapters):
    shares, figure, slider, message, choice = show(adapters, "adapter")
    assert np.isclose(sum(shares.values()), 1)
    assert (len(figure.data), slider["maximum"], slider["value"], choice["visible"]) == (2, 1, 1, False)
    assert "of which the model sees 64;" in message
