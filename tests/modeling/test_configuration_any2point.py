import json
import os

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BertConfig, Dinov2Config

from any2point_hf.modeling import Any2PointConfig, ConfigurationError, UnsupportedBackboneError

CHANGED = {
    "backbone": "somebody/backbone",
    "backbone_revision": "abc",
    "backbone_blocks": 2,
    "modality": "2d",
    "num_points": 512,
    "num_point_features": 4,
    "point_feature_names": ["red", "green", "blue", "intensity"],
    "sampling_start": "first",
    "num_views": 8,
    "num_neighbors": 81,
    "neighborhood_norm": "deviation",
    "adapter_dim": 8,
    "adapter_scale": 1.0,
    "adapter_dropout": 0.0,
    "adapter_placement": "parallel",
    "adapter_blocks": [0, 2],
    "aggregation": "3d",
    "aggregation_scale": 0.7,
    "ensemble": "mean",
    "cell_size": 26,
    "cell_pooling": "mean+max",
    "voxel_size": 0.08,
    "local_attention_dim": 24,
    "local_attention_heads": 3,
    "position_encoding": "sinusoidal",
    "position_injection": "input+blocks",
    "projection": "orthographic",
    "camera_distance": 1.8,
    "line_direction": [-1.0, 0.0, 1.0],
    "line_length": 70,
    "plane": [192, 304],
    "pooling": ["cls", "max"],
    "head_bias": True,
    "label_smoothing": 0.1,
    "temperature": 1.7,
    "layer_norm_eps": 1e-6,
    "final_norm_eps": 1e-7,
    "adapter_start": "scan",
    "token_scale": "embedding",
    "released_compatibility": True,
    "problem_type": "regression",
    "target_mean": [0.5, 3e9, 0.0, -1.0],
    "target_std": [2.0, 1e8, 1.0, 1.0],
    "classifier": "MyHead",
    "lora": True,
    "unfrozen_blocks": 1,
    "category_parts": {"zebra": [1], "ant": [1, 0]},
    "segmentation_blocks": [0, 2],
}
OF_OTHER_PROBLEMS = {"problem_type": "single_label_classification", "class_weight": [1.0, 0.5, 2.0, 3.0]}


def test_defaults_are_those_of_the_spec():
    config = Any2PointConfig()
    assert (config.num_points, config.num_views, config.adapter_dim) == (1024, 6, 16)
    assert (config.adapter_scale, config.adapter_dropout) == (0.3, 0.1)
    assert (config.local_attention_dim, config.local_attention_heads) == (12, 6)
    assert (config.adapter_placement, config.aggregation, config.ensemble) == ("after", "source", "adaptive")
    assert (config.position_encoding, config.position_injection) == ("virtual", "input")
    assert (config.cell_pooling, config.head_bias, config.released_compatibility) == ("mean", False, False)
    assert config.line_direction == [1.0, -1.0, 0.0]
    assert config.pooling == ["max", "cls"]


@pytest.mark.parametrize("changed", [CHANGED, OF_OTHER_PROBLEMS])
def test_every_field_survives_a_round_trip(tmp_path, changed):
    config = Any2PointConfig(**changed, backbone_config=Dinov2Config(hidden_size=48, num_hidden_layers=3), num_labels=4)
    config.save_pretrained(tmp_path)
    for loaded in (Any2PointConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is Any2PointConfig
        for name, value in changed.items():
            assert getattr(loaded, name) == value != getattr(Any2PointConfig(), name), name
        assert type(loaded.backbone_config) is Dinov2Config
        assert loaded.backbone_config.hidden_size == 48
        assert loaded.num_labels == 4
        loaded.name_or_path = config.name_or_path  # where it was loaded from is no setting
        assert loaded.to_dict() == config.to_dict()


def test_sampling_starts_at_the_farthest_point_but_in_the_released_code():
    assert Any2PointConfig().sampling_start == "farthest"
    assert Any2PointConfig(released_compatibility=True).sampling_start == "first"
    assert Any2PointConfig(released_compatibility=True, sampling_start="farthest").sampling_start == "farthest"
    with pytest.raises(StrictDataclassError, match="sampling_start"):
        Any2PointConfig(sampling_start="nearest")


@pytest.mark.parametrize("start", ["first", "farthest"])
def test_a_config_of_before_there_was_a_start_samples_from_the_first_point(tmp_path, start):
    Any2PointConfig(sampling_start=start).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved.pop("sampling_start") == start
    assert Any2PointConfig.from_pretrained(tmp_path).sampling_start == start
    file.write_text(json.dumps(saved), encoding="utf-8")
    for loaded in (Any2PointConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert loaded.sampling_start == "first"
    assert Any2PointConfig.from_pretrained(tmp_path, sampling_start="farthest").sampling_start == "farthest"


def test_fields_under_test_are_all_fields():
    own = set(Any2PointConfig.__annotations__) - {"keys_to_ignore_at_inference", "model_type", "transformers_version"}
    assert own - {"backbone_config"} <= {*CHANGED, *OF_OTHER_PROBLEMS}


def test_labels_survive_a_round_trip(tmp_path):
    Any2PointConfig(id2label={0: "chair", 1: "lamp"}, label2id={"chair": 0, "lamp": 1}).save_pretrained(tmp_path)
    loaded = Any2PointConfig.from_pretrained(tmp_path)
    assert (loaded.id2label, loaded.num_labels) == ({0: "chair", 1: "lamp"}, 2)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("num_points", 63, "at least 64"),
        ("num_points", -1, "positive"),
        ("num_views", 0, "1…10"),
        ("num_views", 11, "1…10"),
        ("num_neighbors", 0, "positive"),
        ("adapter_dim", 0, "positive"),
        ("voxel_size", 0.0, "positive"),
        ("cell_size", -2, "positive"),
        ("line_length", 0, "positive"),
        ("layer_norm_eps", 0.0, "positive"),
        ("final_norm_eps", -1e-6, "positive"),
        ("local_attention_heads", 5, r"divide local_attention_dim \(12\)"),
        ("local_attention_heads", 0, "divide"),
        ("adapter_dropout", 1.0, r"\[0, 1\)"),
        ("adapter_dropout", -0.1, r"\[0, 1\)"),
        ("label_smoothing", 1.0, r"\[0, 1\)"),
        ("temperature", 0, "positive"),
        ("line_direction", [1.0, 0.0], "three numbers"),
        ("line_direction", [0.0, 0.0, 0.0], "not all zero"),
        ("num_point_features", -1, "negative"),
        ("point_feature_names", ["red", "red"], "different names"),
        ("point_feature_names", [""], "different names"),
        ("plane", [518], "width, height"),
        ("plane", [1, 518], "above 1"),
        ("pooling", ["max", "max"], "in some order"),
        ("pooling", ["max"], "in some order"),
    ],
)
def test_values_out_of_range_are_refused_with_the_rule_and_the_value(name, value, rule):
    with pytest.raises(StrictDataclassError, match=rf"(?s){rule}.*got "):
        Any2PointConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modality", "3d"),
        ("neighborhood_norm", "none"),
        ("adapter_placement", "inside"),
        ("aggregation", "2d"),
        ("ensemble", "max"),
        ("cell_pooling", "max"),
        ("position_encoding", "rotary"),
        ("position_injection", "output"),
        ("projection", "fisheye"),
        ("num_views", 6.5),
        ("adapter_dim", "16"),
    ],
)
def test_values_of_another_kind_are_refused_by_name(name, value):
    with pytest.raises(StrictDataclassError, match=name):
        Any2PointConfig(**{name: value})


@pytest.mark.parametrize(
    ("listed", "expected"),
    [(None, [0, 1, 2, 3]), (2, [0, 1]), (0, []), (4, [0, 1, 2, 3]), ([3, 1, 3], [1, 3]), ([], [])],
)
def test_adapted_blocks(listed, expected):
    assert Any2PointConfig(adapter_blocks=listed).adapted_blocks(4) == expected


@pytest.mark.parametrize("listed", [5, [0, 4], [-1]])
def test_adapted_blocks_outside_the_backbone_are_refused(listed):
    with pytest.raises(ValueError, match="the backbone's 4 blocks"):
        Any2PointConfig(adapter_blocks=listed).adapted_blocks(4)


def test_a_negative_number_of_adapted_blocks_is_refused():
    with pytest.raises(ValueError, match="adapter_blocks"):
        Any2PointConfig(adapter_blocks=-1).adapted_blocks(4)


def test_a_folder_is_recorded_absolutely_and_a_hub_id_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Any2PointConfig(backbone="weights").backbone == str(tmp_path / "weights")
    assert Any2PointConfig(backbone=tmp_path / "weights").backbone == os.fspath(tmp_path / "weights")
    assert Any2PointConfig(backbone="somebody/weights").backbone == "somebody/weights"


def test_backbone_config_is_taken_as_a_dict_too():
    as_dict = BertConfig(hidden_size=48).to_dict()
    config = Any2PointConfig(backbone_config=as_dict)
    assert type(config.backbone_config) is BertConfig
    assert config.backbone_config.hidden_size == 48
    assert as_dict["model_type"] == "bert"  # the caller's dict is left alone


@pytest.mark.parametrize("values", [{"hidden_size": 48}, {"model_type": "no-such-family"}])
def test_backbone_config_of_no_known_family_is_refused(values):
    with pytest.raises(UnsupportedBackboneError, match="model_type"):
        Any2PointConfig(backbone_config=values)


def test_names_of_point_features_count_them_and_are_made_up_where_there_are_none():
    named = Any2PointConfig(point_feature_names=["red", "green"])
    counted = Any2PointConfig(num_point_features=2)
    assert (named.num_point_features, named.point_feature_names) == (2, ["red", "green"])
    assert (counted.num_point_features, counted.point_feature_names) == (2, ["feature_0", "feature_1"])
    with pytest.raises(StrictDataclassError, match="3 different names"):
        Any2PointConfig(num_point_features=3, point_feature_names=["red", "green"])


@pytest.mark.parametrize(
    ("name", "meant"), [("num_channels", "num_point_features"), ("adapter_dims", "adapter_dim"), ("zzz", None)]
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(name, meant, tmp_path):
    hint = rf"{name}.*Did you mean {meant}\?" if meant else rf"{name}.*none\. A config"
    with pytest.raises(ConfigurationError, match=hint):
        Any2PointConfig(**{name: 6})
    Any2PointConfig().save_pretrained(tmp_path)
    for config_class in (Any2PointConfig, AutoConfig):
        with pytest.raises(ConfigurationError, match=hint):
            config_class.from_pretrained(tmp_path, **{name: 6})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: 6}))
    with pytest.raises(ConfigurationError, match=hint):
        Any2PointConfig.from_pretrained(tmp_path)
