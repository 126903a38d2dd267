import json
from pathlib import Path

import pytest
import torch

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification, ConfigurationError
from any2point_hf.modeling.presets import PRESETS, find_preset

# `trainable` and `trainable_without_head` at full depth, of the lists that came with the golden numbers.
PUBLISHED_COUNTS = {
    "clip-text-scan": (1_411_943, 948_312),
    "dinov2-scan": (1_264_391, 800_760),
    "imagebind-audio-scan": (1_338_167, 874_536),
    "clip-text-modelnet": (1_418_880, 948_312),
    "dinov2-modelnet": (1_271_328, 800_760),
    "imagebind-audio-modelnet": (1_271_328, 800_760),
}
SAME_MODALITY = {
    "roberta-scan": "clip-text-scan",
    "deit-scan": "dinov2-scan",
    "ssast-scan": "imagebind-audio-scan",
}


def published(name: str) -> dict:
    file = Path(__file__).parents[2].parent / "shared" / "presets.json"
    if not file.is_file():
        pytest.skip("shared/presets.json is not here")
    return json.loads(file.read_text())[name]


def trained_parameters(name):
    """(with, without head) of a preset at full size, without any memory."""
    with torch.device("meta"):
        config = Any2PointConfig.from_preset(name, backbone_config=PRESETS[name].backbone_config)
        model = Any2PointForPointCloudClassification(config)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    head = sum(count for name, count in counts.items() if name.startswith("classifier."))
    return sum(counts.values()), sum(counts.values()) - head


def test_there_are_nine():
    assert set(PRESETS) == {*PUBLISHED_COUNTS, *SAME_MODALITY}


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_fields_are_the_published_ones(name):
    fields = published(name)
    preset = PRESETS[name]
    config = Any2PointConfig.from_preset(name, **({} if fields["backbone"] else {"backbone": "folder"}))
    assert fields.pop("scale_to_unit_sphere") == preset.dataset.scale_to_unit_sphere
    assert fields.pop("backbone") == preset.backbone
    assert fields.pop("num_labels") == config.num_labels == len(preset.dataset.class_names)
    fields.pop("backbone_note", None)
    released = {key.removesuffix("_released"): fields.pop(key) for key in list(fields) if key.endswith("_released")}
    assert preset.released == released
    modality = fields["modality"]
    start = preset.config["adapter_start"]  # read in the released code, and not in the file
    assert start == ("scan" if name.endswith("-scan") else "modelnet")
    assert preset.config == fields | {"adapter_start": start}  # neither more nor less
    for field, value in fields.items():
        assert getattr(config, field) == value
    for field in released:  # the released values are for conversion alone
        assert getattr(config, field) == getattr(Any2PointConfig(), field)
    assert not config.released_compatibility
    with torch.device("meta"):
        random = Any2PointConfig.from_preset(name, backbone_config=preset.backbone_config)
        assert Any2PointForPointCloudClassification(random).any2point.modality == modality


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_trained_parameters_are_the_published_numbers(name):
    assert trained_parameters(name) == PUBLISHED_COUNTS[name]


@pytest.mark.parametrize(("name", "source"), SAME_MODALITY.items())
def test_other_backbones_take_the_values_of_their_modality(name, source):
    fields = {field: value for field, value in PRESETS[source].config.items() if field != "plane"}
    assert PRESETS[name].config == fields
    assert PRESETS[name].dataset is PRESETS[source].dataset
    counts = trained_parameters(name)
    norm = 1536 if name == "roberta-scan" else 0  # a post-norm backbone has no final norm
    assert counts == tuple(count - norm for count in PUBLISHED_COUNTS[source])


@pytest.mark.parametrize("name", ["imagebind-audio-scan", "imagebind-audio-modelnet", "ssast-scan"])
def test_a_backbone_that_is_on_no_hub_must_be_given(name):
    with pytest.raises(ConfigurationError, match=r"needs backbone=<folder.*conversion_scripts/convert_"):
        Any2PointConfig.from_preset(name)
    assert Any2PointConfig.from_preset(name, backbone="some/folder").backbone == "some/folder"


def test_overrides_win(make):
    config = Any2PointConfig.from_preset(
        "dinov2-scan", backbone_config=make.config("dinov2"), num_neighbors=5, id2label={0: "a", 1: "b"}
    )
    assert config.backbone is None
    assert (config.num_neighbors, config.num_labels, config.aggregation_scale) == (5, 2, 0.7)
    assert Any2PointConfig.from_preset("dinov2-scan", num_labels=7).num_labels == 7
    assert Any2PointConfig.from_preset("dinov2-scan", backbone="a/b").backbone == "a/b"


def test_a_preset_is_a_copy():
    config = Any2PointConfig.from_preset("clip-text-scan")
    config.pooling.reverse()
    assert Any2PointConfig.from_preset("clip-text-scan").pooling == ["max", "cls"]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"one of clip-text-scan, .*got 'clip-scan'. Did you mean"):
        find_preset("clip-scan")
    with pytest.raises(ConfigurationError, match=r"got 'xyz'\.$"):
        Any2PointConfig.from_preset("xyz")
