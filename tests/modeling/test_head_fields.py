import pytest
from huggingface_hub.errors import StrictDataclassError

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointForPointCloudSegmentation,
    ConfigurationError,
)
from any2point_hf.modeling.head_fields import problem_of, require_single_label


def test_no_problem_type_is_one_class_a_cloud():
    assert problem_of(Any2PointConfig()) == "single_label_classification"
    assert problem_of(Any2PointConfig(problem_type="regression")) == "regression"
    require_single_label(Any2PointConfig(), "a calibration")
    with pytest.raises(ConfigurationError, match="a calibration needs one class for each cloud, got 'regression'"):
        require_single_label(Any2PointConfig(problem_type="regression"), "a calibration")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem_type": "multi_label"}, "problem_type"),
        ({"target_mean": [0.0, 0.0], "target_std": [1.0, 1.0]}, "belongs to problem_type='regression'"),
        ({"problem_type": "regression", "target_mean": [0.0, 0.0]}, "given together"),
        ({"problem_type": "regression", "target_mean": [0.0], "target_std": [1.0]}, "must have 2 numbers"),
        ({"problem_type": "regression", "target_mean": [0.0, 0.0], "target_std": [1.0, 0.0]}, "must be positive"),
        ({"class_weight": [1.0]}, "2 numbers"),
        ({"class_weight": [1.0, -1.0]}, "none negative"),
        ({"class_weight": [0.0, 0.0]}, "not all 0"),
        ({"class_weight": "equal"}, "class_weight"),
        ({"class_weight": "balanced", "problem_type": "regression"}, "for one class a cloud"),
        ({"class_weight": [1.0, float("nan")]}, "class_weight"),
        (
            {"problem_type": "regression", "target_mean": [0.0, float("inf")], "target_std": [1.0, 1.0]},
            "target_mean must be finite",
        ),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(fields, message):
    with pytest.raises((ConfigurationError, StrictDataclassError), match=message):
        Any2PointConfig(**fields)


@pytest.mark.parametrize("labels", [{"num_labels": 1}, {"id2label": {0: "chair"}}])
def test_a_single_class_of_which_each_cloud_would_be_is_our_own_error(labels):
    with pytest.raises(ConfigurationError, match="at least 2 classes"):
        Any2PointConfig(problem_type="single_label_classification", **labels)


@pytest.mark.parametrize("fields", [{"problem_type": "regression"}, {"classifier": "MyHead"}])
def test_a_segmentation_model_has_none_of_them(bert, fields):
    with pytest.raises(ConfigurationError):
        Any2PointForPointCloudSegmentation(Any2PointConfig(backbone=bert, **fields))


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"num_labels": 3, "class_weight": [1.0, 2.0, 3.0]}, 3),
        ({"num_labels": 2, "problem_type": "regression", "target_mean": [1.0, 2.0], "target_std": [3.0, 4.0]}, 2),
    ],
)
def test_a_new_head_has_no_weights_or_units_of_the_old_labels(bert, tmp_path, fields, number):
    Any2PointForPointCloudClassification(Any2PointConfig(backbone=bert, **fields)).save_pretrained(tmp_path)
    new = Any2PointForPointCloudClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert (new.config.num_labels, new.config.class_weight, new.config.target_mean) == (5, None, None)
    same = Any2PointForPointCloudClassification.from_pretrained(tmp_path, num_labels=number)
    assert (same.config.class_weight, same.config.target_std) == (fields.get("class_weight"), fields.get("target_std"))
    other = Any2PointConfig.from_pretrained(tmp_path, problem_type="multi_label_classification")
    assert (other.class_weight, other.target_mean) == (None, None)
