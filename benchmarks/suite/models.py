"""What is measured against what: a published setting's model with random weights, and its own bare backbone.

Bare: the backbone's blocks one after the other on random [B, 1 + 128, D], with full attention and without our hooks; in
eval the forward, in training forward and backward to the input, its weights being frozen. Ours: the whole model on
clouds, in training with labels, a loss and the gradients of all trained weights.
"""

import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling.backbones.blocks import block_dtype, call_block, freeze_backbone
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.loading import build_backbone
from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.presets import PRESETS
from any2point_hf.modeling.tokenizer.fast.freed_memory import keep_freed_memory

from .clouds import random_clouds

OTHER_SETTINGS = ("dinov2-scan", "imagebind-audio-scan")
TINY = {
    **{"model_type": "clip_text_model", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 64, "vocab_size": 50, "max_position_embeddings": 24},
}


def make_config(setting: str, **overrides: Any) -> Any2PointConfig:
    """The config of a preset, or of "tiny", which runs everything in milliseconds."""
    preset, backbone = setting, None
    if setting == "tiny":
        preset, backbone = "clip-text-scan", TINY
        overrides = {"num_points": 128, "num_neighbors": 8, **overrides}
    backbone = dict(backbone or PRESETS[preset].backbone_config)
    backbone_config = AutoConfig.for_model(backbone.pop("model_type"), **backbone)
    return Any2PointConfig.from_preset(preset, backbone_config=backbone_config, **overrides)


def freed_memory_states() -> tuple[str, ...]:
    """What malloc can be told: "default", and "kept" where it can keep what is freed."""
    has_glibc = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
    return ("default", "kept") if has_glibc else ("default",)


def set_freed_memory(state: str) -> None:
    """Leaves malloc as it is ("default"), or does to it what `any2point train` does ("kept")."""
    if state == "kept":
        keep_freed_memory()


def describe(arguments: Mapping[str, Any]) -> str:
    """A case in words, for the first column."""
    words = [arguments["setting"], arguments["mode"], f"B = {arguments['batch']}"]
    words += [arguments[name] for name in ("dtype",) if arguments.get(name, "float32") != "float32"]
    if arguments.get("freed_memory") == "kept":
        words.append("freed memory kept")
    return " ".join(words)


class Pair:
    """A model and its bare backbone over the same tensors, or one of them alone.

    Args:
        setting: a preset's name, or "tiny".
        dtype: "float32", or "bfloat16": loaded in it for eval, autocast for training, as the documentation says.
        device: "cpu" or "cuda".
        only: "bare" or "model", for memory.
        overrides: fields of the config.
    """

    def __init__(
        self,
        setting: str,
        dtype: str = "float32",
        device: str = "cpu",
        only: Literal["bare", "model"] | None = None,
        **overrides: Any,
    ) -> None:
        torch.manual_seed(0)
        self.config = make_config(setting, **overrides)
        self.device, self.dtype, self.only = device, getattr(torch, dtype), only
        self.spec = backbone_spec(self.config.backbone_config)
        self.backbone = build_backbone(self.config.backbone_config).to(device)
        freeze_backbone(self.backbone, self.spec, None)
        self.blocks = find(self.backbone, self.spec.blocks)
        self.model = None
        if only != "bare":
            self.model = Any2PointForPointCloudClassification(self.config, self.backbone).to(device)

    def bare(self, hidden: Tensor) -> Tensor:
        """The backbone's blocks alone: [B, L, D] -> same."""
        own = self.spec.neutral_arguments(self.backbone, hidden.shape[1], block_dtype(self.blocks[0]), hidden.device)
        for index, block in enumerate(self.blocks):
            hidden = call_block(block, hidden, {**self.spec.arguments, **own(index)})
        return hidden

    def contestants(self, mode: str, batch: int, num_points: int | None = None) -> dict[str, Callable[[], object]]:
        """Both as calls without arguments, by the names "bare" and "model".

        Args:
            mode: "eval" or "train".
            batch: B.
            num_points: N; None for the config's.
        """
        num_points = num_points or self.config.num_points
        is_training = mode == "train"
        if not is_training and self.dtype != torch.float32:
            self._load_in_dtype()
        hidden = torch.randn(batch, 1 + num_points // 8, self.config.backbone_config.hidden_size, device=self.device)
        hidden = (hidden if is_training else hidden.to(self.dtype)).requires_grad_(is_training)
        precision = nullcontext
        if is_training and self.dtype != torch.float32:
            precision = lambda: torch.autocast(self.device, self.dtype)  # noqa: E731

        def bare() -> None:
            if not is_training:
                with torch.no_grad():
                    self.bare(hidden)
                return
            with precision():
                total = self.bare(hidden).float().sum()
            total.backward()
            hidden.grad = None

        calls: dict[str, Callable[[], object]] = {"bare": bare}
        if self.model is None:
            return calls
        self.model.train(is_training)
        points = random_clouds(batch, num_points).to(self.device)
        labels = torch.arange(batch, device=self.device) % self.config.num_labels

        def model() -> None:
            if not is_training:
                with torch.no_grad():
                    self.model(points)
                return
            with precision():
                loss = self.model(points, labels=labels).loss
            loss.backward()
            self.model.zero_grad()

        return {**calls, "model": model} if self.only is None else {"model": model}

    def _load_in_dtype(self) -> None:
        """What `from_pretrained(folder, dtype=...)` gives: adapters and backbone in it, coordinates in float32."""
        self.backbone.to(self.dtype)
        if self.model is not None:
            with tempfile.TemporaryDirectory() as folder:
                self.model.save_pretrained(folder)
                load = Any2PointForPointCloudClassification.from_pretrained
                self.model = load(folder, backbone=self.backbone, dtype=self.dtype).to(self.device)
