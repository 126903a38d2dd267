"""The model card of a converted checkpoint: that of any adapter, and where its tensors come from."""

from dataclasses import replace

from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from any2point_hf.modeling.presets import PRESETS
from any2point_hf.modeling.publishing.model_card import model_card
from any2point_hf.modeling.publishing.model_description import describe

_REMARKS = """## Where it comes from

The authors' released *{setting}* model of Any2Point ({dataset}, {num_labels} classes), converted by
`any2point convert`. It has `released_compatibility=True`: the arithmetic of the authors' code at 4e03b69, which departs
from the paper in several places (docs/method.md, section 6, of any2point_hf). The published accuracy is {accuracy} %,
of the best epoch on the test split, without voting; it was not measured again here. `conversion_report.json` says which
tensor of the original file went where. The licence of the authors' checkpoint is not in their file: see where it was
downloaded from.

## Training it anew

`any2point train --preset {setting} --data DATA --output my-adapter{backbone_argument}` trains the same setting as the
paper describes it."""


def converted_model_card(setting: str, model: Any2PointForPointCloudClassification, title: str) -> str:
    """The card's markdown.

    Args:
        setting: the preset's name.
        model: the converted model.
        title: name of the repository.
    """
    preset = PRESETS[setting]
    description = replace(describe(model), licence={})  # the adapter is the authors' work
    if preset.backbone is not None:  # the frozen weights in the authors' file are those of the backbone that was given
        description = replace(description, backbone=preset.backbone, base_model=preset.backbone)
    remarks = _REMARKS.format(
        setting=setting,
        dataset=preset.dataset.title,
        num_labels=model.config.num_labels,
        accuracy=preset.accuracy,
        backbone_argument="" if preset.backbone else f" --backbone {description.backbone}",
    )
    return str(model_card(description, title, remarks=remarks))
