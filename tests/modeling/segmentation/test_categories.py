import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from any2point_hf.modeling import Any2PointConfig, ConfigurationError
from any2point_hf.modeling.segmentation.categories import as_category_parts, parts_mask

PARTS = {"zebra": [0, 1], "ant": [4, 2]}


def test_the_mask_holds_each_category_s_parts():
    expected = [[True, True, False, False, False], [False, False, True, False, True]]
    assert parts_mask(PARTS, 5, torch.device("cpu")).tolist() == expected


def test_the_order_of_categories_survives_a_file_with_sorted_keys(tmp_path):
    Any2PointConfig(num_labels=5, category_parts=PARTS).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["category_parts"] == [["zebra", [0, 1]], ["ant", [4, 2]]]
    assert list(Any2PointConfig.from_pretrained(tmp_path).category_parts.items()) == list(PARTS.items())
    assert as_category_parts([("zebra", (0, 1)), ["ant", [4, 2]]]) == PARTS
    assert as_category_parts(None) is None


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ({"chair": []}, "at least one part, and 'chair' has none"),
        ({"chair": [0, 5]}, r"parts of 'chair' .* 0…4 \(num_labels\), got \[0, 5\]"),
        ({"chair": [-1]}, "0…4"),
        ({"chair": [1, 1]}, "different numbers"),
        ({"chair": [1.0]}, "Field 'category_parts'"),
        ({"chair": "seat"}, "Field 'category_parts'"),
        ([["chair", [1.0]]], "must name each category's parts"),
        ({"": [1]}, "must name each category's parts"),
        ({}, "must name each category's parts"),
        ([["chair", [0]], ["chair", [1]]], "each category once"),
        ([["chair"]], "must name each category's parts"),
    ],
)
def test_categories_without_proper_parts_are_refused(parts, rule):
    with pytest.raises((ConfigurationError, StrictDataclassError), match=rule):
        Any2PointConfig(num_labels=5, category_parts=parts)


def test_a_config_claims_no_mask_larger_than_memory():
    with pytest.raises((ConfigurationError, StrictDataclassError), match="at most"):
        Any2PointConfig(num_labels=2**14, category_parts={str(number): [0] for number in range(2**11)})
