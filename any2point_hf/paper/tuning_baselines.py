"""The other ways of tuning a backbone that Table 2 compares with: full fine-tuning, prompt tuning and LoRA.

Each is put on a built model that has no adapters of its own (`adapter_blocks=0`); tokenizer, virtual positions and head
stay Any2Point's. Adapter tuning needs nothing here: it is our bottleneck with `aggregation="none"`. Prompt tuning and
LoRA use the `peft` library, which is needed for these two alone.

Unusual here: nothing becomes a PeftModel, because the backbone's forward is never run. LoRA's layers stand in the
blocks; hooks on the blocks insert and remove prompts. Checkpoints hold neither fully fine-tuned weights nor prompts.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.backbones.spec import BackboneSpec, find
from ..modeling.errors import UnsupportedBackboneError
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from ..modeling.numerics.initialization import StartValues
from ..modeling.several_adapters.lora import require_peft
from .rows import LORA_RANK, PROMPTS_PER_BLOCK

METHODS = ("any2point", "full", "prompt", "lora")
_OF_PEFT = ("prompt", "lora")


def check_method(method: str, spec: BackboneSpec | None = None) -> None:
    """Checks before any training that a method can be used; with `spec`, also on backbones of that family.

    Raises:
        Any2PointError: peft is needed and not installed.
        UnsupportedBackboneError: the family's blocks cannot be given prompts.
    """
    if method in _OF_PEFT:
        require_peft("prompt tuning and LoRA need")
    if method == "prompt" and spec is not None and (spec.in_blocks is not None or spec.neutral is not None):
        raise UnsupportedBackboneError(
            "prompt tuning needs blocks that take tokens alone, and this backbone's also take positions or masks of "
            "the sequence's length, which prompts would lengthen. Choose a backbone whose positions are added to the "
            "tokens, such as BERT, CLIP or DINOv2."
        )


def apply_method(model: Any2PointForPointCloudClassification, method: str) -> None:
    """Prepares a built model for tuning by a method; `"any2point"` leaves it as it is.

    Args:
        model: its config must have `adapter_blocks=0` for the other three methods. Its backbone's tensors are trained
            in place.
        method: one of `METHODS`.

    Raises:
        Any2PointError: peft is needed and not installed.
        UnsupportedBackboneError: the backbone's blocks cannot be tuned so.
    """
    check_method(method, model.any2point.spec)
    changes: dict[str, Callable] = {"full": unfreeze_backbone, "prompt": insert_prompts, "lora": insert_lora}
    if method in changes:
        changes[method](model)


def unfreeze_backbone(model: Any2PointForPointCloudClassification) -> None:
    """Full fine-tuning: trains the blocks and the norm before them, all that tokens pass apart from the positions."""
    spec = model.any2point.spec
    for path in filter(None, (spec.blocks, spec.input_norm)):
        find(model.backbone, path).requires_grad_(True)


def insert_lora(model: Any2PointForPointCloudClassification, rank: int = LORA_RANK) -> None:
    """LoRA (Hu et al. 2021): W + B A for every linear layer of the attention, W frozen, B zero at the start."""
    from peft import LoraConfig

    model.add_lora(LoraConfig(r=rank, lora_alpha=rank))


class InsertPrompts:
    """Pre-hook of a block: [CLS; tokens] [B, 1 + G, D] becomes [CLS; prompts; tokens]."""

    def __init__(self, prompts: nn.Module) -> None:
        self.prompts = prompts

    def __call__(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The block's inputs, the first of them longer."""
        hidden, *others = inputs
        indices = torch.arange(PROMPTS_PER_BLOCK, device=hidden.device)
        prompts = self.prompts(indices.expand(len(hidden), -1)).to(hidden.dtype)
        return torch.cat([hidden[:, :1], prompts, hidden[:, 1:]], dim=1), *others


def _take_prompts_away(block: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    hidden, *others = output if isinstance(output, tuple) else (output,)
    hidden = torch.cat([hidden[:, :1], hidden[:, 1 + PROMPTS_PER_BLOCK :]], dim=1)
    return (hidden, *others) if isinstance(output, tuple) else hidden


def insert_prompts(model: Any2PointForPointCloudClassification) -> None:
    """Prompt tuning (Jia et al. 2022, deep): every block has prompts of its own, seen by it alone."""
    from peft import PromptEmbedding, PromptTuningConfig

    blocks = model.any2point.blocks()
    backbone_config: Any = model.config.backbone_config
    width = backbone_config.hidden_size
    config = PromptTuningConfig(num_virtual_tokens=PROMPTS_PER_BLOCK, token_dim=width, num_transformer_submodules=1)
    model.prompts = nn.ModuleList(PromptEmbedding(config, None) for _ in blocks)
    prompts: Any
    start = StartValues(seed=model.start_seed, name="prompts")
    for index, (block, prompts) in enumerate(zip(blocks, model.prompts, strict=True)):
        start.token(prompts.embedding.weight, str(index))  # as the model's own CLS token
        block.register_forward_pre_hook(InsertPrompts(prompts))
        block.register_forward_hook(_take_prompts_away)
