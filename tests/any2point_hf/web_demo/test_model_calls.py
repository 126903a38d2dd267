"""Calls of the models by name, and as ZeroGPU makes them: in another process, which gets and gives pickles."""

import pickle
import socket
import sys
from types import ModuleType

import numpy as np
import pytest

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.point_clouds.files import PointCloud
from any2point_hf.web_demo.inference import classify, embed, example_cloud, load_adapters, segment
from any2point_hf.web_demo.model_calls import lend_gpu, model_call
from any2point_hf.web_demo.server import serve

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def adapters(tiny_adapter, segmenter_with_categories):
    return load_adapters([str(tiny_adapter.folder), str(segmenter_with_categories.folder)])


@pytest.fixture
def lent(monkeypatch):
    """A package `spaces` whose decorator pickles what goes in and out, as ZeroGPU does; its calls."""
    calls = []

    def decorate(function):
        def call(*arguments):
            calls.append(arguments)
            return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))

        return call

    module = ModuleType("spaces")
    module.GPU = decorate
    monkeypatch.setitem(sys.modules, "spaces", module)
    return calls


def answers(adapters):
    call, cloud = model_call(adapters), PointCloud(example_cloud("mug"))
    classes = call("classify", "adapter", cloud)
    labelled = call("segment", "with_categories", cloud, "ant")
    return classes.probabilities, classes.attention, call("embed", "adapter", cloud), labelled.parts


def test_a_call_gives_what_the_function_gives(adapters):
    probabilities, attention, embedding, parts = answers(adapters)
    cloud = PointCloud(example_cloud("mug"))
    expected = classify(adapters["adapter"], cloud)
    assert probabilities == expected.probabilities
    np.testing.assert_array_equal(attention, expected.attention)
    np.testing.assert_array_equal(embedding, embed(adapters["adapter"], cloud))
    np.testing.assert_array_equal(parts, segment(adapters["with_categories"], cloud, "ant").parts)


def test_with_spaces_every_call_is_lent_a_gpu_and_gives_the_same(adapters, lent):
    lent_answers = answers(adapters)
    assert [call[:2] for call in lent] == [
        ("classify", "adapter"),
        ("segment", "with_categories"),
        ("embed", "adapter"),
    ]
    sys.modules.pop("spaces")
    plain = answers(adapters)
    assert len(lent) == 3
    assert lent_answers[0] == plain[0]
    for ours, theirs in zip(lent_answers[1:], plain[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_error_of_a_visitors_comes_back_as_one(adapters, lent):
    with pytest.raises(Any2PointError, match="the cloud"):
        model_call(adapters)("classify", "adapter", PointCloud(np.full((9, 3), np.nan, np.float32)))


def test_spaces_is_there_before_a_model_is_moved(lent, monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.delitem(sys.modules, "spaces")
    (tmp_path / "spaces.py").write_text("def GPU(function): return function\n")
    monkeypatch.syspath_prepend(tmp_path)

    def load(*_):
        raise Any2PointError("spaces is there" if "spaces" in sys.modules else "it is not")

    monkeypatch.setattr("any2point_hf.web_demo.inference.load_adapters", load)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Any2PointError, match="spaces is there"):
        serve(["adapter"], port=port)


def test_without_spaces_a_function_stays_as_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert lend_gpu(len) is len
