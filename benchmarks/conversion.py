"""Time and peak memory of converting full-depth checkpoints of the released layouts.

python benchmarks/conversion.py shared/golden/*.json

Each file lists names and shapes of a released checkpoint, two blocks deep; twelve blocks are filled with random numbers
and converted, with the backbone that they belong to, in a process of their own.
"""

import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from any2point_hf.conversion_scripts.original_layouts import layout_of, recognize_setting
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.loading import build_backbone
from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.configuration_any2point import Any2PointConfig
from any2point_hf.modeling.presets import PRESETS

DEPTH = 12
CONVERSION = """
import resource, sys, time
start = time.perf_counter()
from any2point_hf.cli import main
code = main(sys.argv[1:])
assert code == 0
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{time.perf_counter() - start:.1f} s with imports, peak memory {peak:.2f} GiB")
"""


def fill(name: str, shape: list[int]) -> torch.Tensor:
    """Random numbers of the size that such a tensor has."""
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape)
    if len(shape) > 1:
        return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.1 * torch.randn(shape) + name.endswith(".weight")


def full_depth(listed: list[tuple[str, list[int], str]]) -> dict[str, torch.Tensor]:
    """Random tensors of a list two blocks deep, made twelve deep."""
    state = {}
    for name, shape, _ in listed:
        is_last = re.search(r"blocks\.1\.", name)
        for index in range(1, DEPTH) if is_last else [None]:
            deeper = name if index is None else name.replace("blocks.1.", f"blocks.{index}.")
            state[deeper] = fill(deeper, shape)
    return state


def save_backbone(setting: str, state: dict[str, torch.Tensor], folder: Path) -> None:
    """The published backbone's architecture with the frozen weights of the state dict."""
    layout, prefix = layout_of(setting)
    config = Any2PointConfig(backbone_config=PRESETS[setting].backbone_config).backbone_config
    backbone = build_backbone(config)
    with torch.no_grad():
        for index, block in enumerate(find(backbone, backbone_spec(config).blocks)):
            own = dict(block.named_parameters())
            for name, parts in layout.frozen.items():
                original = state[f"{prefix}{layout.blocks}.{index}.{name}"]
                for part, tensor in zip(parts, original.chunk(len(parts)), strict=True):
                    own[part].copy_(tensor)
    backbone.save_pretrained(folder)


def main(files: list[str]) -> None:
    """Makes and converts one checkpoint after the other."""
    for file in files:
        listed = json.loads(Path(file).read_text(encoding="utf-8"))
        state = full_depth(listed["state_dict"])
        setting = recognize_setting(state)
        with tempfile.TemporaryDirectory() as folder:
            save_backbone(setting, state, Path(folder, "backbone"))
            checkpoint = Path(folder, "checkpoint.pth")
            torch.save({"model": state}, checkpoint)
            megabytes = checkpoint.stat().st_size / 1e6
            command = [sys.executable, "-c", CONVERSION, "convert", "--checkpoint", str(checkpoint)]
            command += ["--backbone", str(Path(folder, "backbone")), "--output", str(Path(folder, "output"))]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            adapter = Path(folder, "output", "model.safetensors").stat().st_size / 1e6
            print(f"{setting}: {megabytes:.0f} MB -> {adapter:.2f} MB; {result.stdout.splitlines()[-1]}")


if __name__ == "__main__":
    main(sys.argv[1:])
