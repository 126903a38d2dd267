"""The model card of a converted checkpoint."""

from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from any2point_hf.modeling.presets import PRESETS

_TEMPLATE = """---
library_name: any2point_hf
{base_model}tags:
- any2point
- point-cloud
- point-cloud-classification
---

# {title}

The authors' released *{setting}* model of [Any2Point](https://arxiv.org/abs/2404.07989) ({dataset},
{num_labels} classes), converted by `any2point convert`. This folder holds {trainable:,} trained parameters
({without_head:,} without the head) and nothing of the frozen backbone, `{backbone}`.

```python
from any2point_hf import Any2PointForPointCloudClassification, Any2PointProcessor

model = Any2PointForPointCloudClassification.from_pretrained("{title}")
processor = Any2PointProcessor.from_pretrained("{title}")
logits = model(**processor(["chair.ply"])).logits
```

## What it computes

It has `released_compatibility=True`: the arithmetic of the authors' code at 4e03b69, which departs from the paper in
several places ({documentation}). The published accuracy is {accuracy} %, of the best epoch on the test split, without
voting; it was not measured again here. `conversion_report.json` says which tensor of the original file went where.
{warning}
## Training it anew

`any2point train --preset {setting} --data DATA --output my-adapter{backbone_argument}` trains the same setting as the
paper describes it.
"""

_ACROSS_BATCH = """
## Its answer for a cloud depends on the clouds beside it

The released CLIP code runs attention **across the batch**: token t of a cloud attends to token t of the other clouds of
the batch, never to its own cloud's tokens. Alone, a cloud is outside what this model was trained for; the published
accuracy was taken in batches of 64 unshuffled test clouds. For one answer a cloud, train the preset anew in the default
mode, as below.
"""

_DOCUMENTATION = "docs/method.md, section 6, of any2point_hf"


def model_card(setting: str, model: Any2PointForPointCloudClassification, backbone: str, title: str) -> str:
    """The card's markdown.

    Args:
        setting: the preset's name.
        model: the converted model.
        backbone: Hub id or folder that was given.
        title: name of the repository.
    """
    preset = PRESETS[setting]
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    head = sum(count for name, count in trained.items() if name.startswith("classifier."))
    across_batch = model.base_model.modality == "1d"
    return _TEMPLATE.format(
        base_model=f"base_model: {preset.backbone}\n" if preset.backbone else "",
        title=title,
        setting=setting,
        dataset=preset.dataset.title,
        num_labels=model.config.num_labels,
        trainable=sum(trained.values()),
        without_head=sum(trained.values()) - head,
        backbone=backbone,
        documentation=_DOCUMENTATION,
        accuracy=preset.accuracy,
        warning=_ACROSS_BATCH if across_batch else "",
        backbone_argument="" if preset.backbone else f" --backbone {backbone}",
    )
