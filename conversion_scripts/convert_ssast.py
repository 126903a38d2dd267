"""Turns a pre-trained SSAST patch checkpoint (YuanGongND/ssast) into a folder of transformers' `ASTModel`.

    python -m any2point_hf.conversion_scripts.convert_ssast --checkpoint SSAST-Base-Patch-400.pth --output ssast-base

Heads and what only pre-training needs are left out and listed. The folder appears only when the model loaded from it
computes what plain torch computes from the original tensors.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ASTConfig, ASTModel

from any2point_hf.conversion_scripts.conversion_output import exit_code, save_checked
from any2point_hf.conversion_scripts.original_checkpoint import check_numbers, read_original_checkpoint
from any2point_hf.conversion_scripts.renaming import HEAD_WIDTH, Layout, needed_tensors, renamed
from any2point_hf.modeling.errors import CheckpointError

PATCH_SIZE = 16
NORM_EPS = 1e-6

# Original names to the names in `ASTModel`; a fused tensor has several, in the order of its rows.
_EMBEDDINGS = {
    "v.cls_token": ("embeddings.cls_token",),
    "v.dist_token": ("embeddings.distillation_token",),
    "v.pos_embed": ("embeddings.position_embeddings",),
}
_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}


def ssast_layout(depth: int) -> Layout:
    """The original names of a trunk of this many blocks, each with its names in `ASTModel`."""
    modules: dict[str, tuple[str, ...]] = {
        "v.patch_embed.proj": ("embeddings.patch_embeddings.projection",),
        "v.norm": ("layernorm",),
    }
    for index in range(depth):
        for old, new in _BLOCK.items():
            modules[f"v.blocks.{index}.{old}"] = tuple(f"layers.{index}.{name}" for name in new)
    return _EMBEDDINGS | {
        f"{old}.{kind}": tuple(f"{name}.{kind}" for name in new)
        for old, new in modules.items()
        for kind in ("weight", "bias")
    }


def spectrogram_grid(tensors: dict[str, Tensor], rows: int) -> tuple[int, int, int]:
    """The (mel bins, frames, stride of the patches) of spectrograms with as many patches as the table has positions.

    Raises:
        CheckpointError: the file's size of spectrograms is invalid, or no stride gives this many patches at that size
            (128 × 1024 if the file has none).
    """
    sizes = [tensors.get(name, torch.tensor(usual)) for name, usual in (("p_input_fdim", 128), ("p_input_tdim", 1024))]
    if any(size.numel() != 1 or size.dtype != torch.int64 or size.item() < PATCH_SIZE for size in sizes):
        raise CheckpointError(
            f"p_input_fdim and p_input_tdim must be one whole number each, at least {PATCH_SIZE}, got "
            f"{[size.flatten()[:4].tolist() for size in sizes]}. Pass the original file."
        )
    mel_bins, frames = (int(size) for size in sizes)
    for stride in range(PATCH_SIZE, 0, -1):  # pre-training uses 16, without overlap, which comes first here
        if ((mel_bins - PATCH_SIZE) // stride + 1) * ((frames - PATCH_SIZE) // stride + 1) == rows:
            return mel_bins, frames, stride
    raise CheckpointError(
        f"the table of positions must be of {mel_bins} mel bins and {frames} frames at a stride of 1 to {PATCH_SIZE}, "
        f"and none gives its {rows} rows. Pass a checkpoint whose table was not cut or stretched to other sounds."
    )


def ast_config(tensors: dict[str, Tensor], depth: int) -> ASTConfig:
    """The config of the model that a checkpoint's tensors belong to.

    Raises:
        CheckpointError: its patches, width or positions are not those of a patch checkpoint.
    """
    width, *patch = tensors["v.patch_embed.proj.weight"].shape
    if patch != [1, PATCH_SIZE, PATCH_SIZE]:
        raise CheckpointError(
            f"patches must be {[1, PATCH_SIZE, PATCH_SIZE]} (channels, mel bins, frames), got {patch}. Pass a patch "
            "checkpoint, such as SSAST-Base-Patch-400.pth: a frame checkpoint's patches are not square, as AST's are."
        )
    if width == 0 or width % HEAD_WIDTH:
        raise CheckpointError(f"the width must be whole heads of {HEAD_WIDTH}, got {width}. Pass the original file.")
    mel_bins, frames, stride = spectrogram_grid(tensors, tensors["v.pos_embed"].shape[1] - 2)
    return ASTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=len(tensors["v.blocks.0.mlp.fc1.weight"]),
        hidden_act="gelu",
        layer_norm_eps=NORM_EPS,
        patch_size=PATCH_SIZE,
        qkv_bias=True,
        frequency_stride=stride,
        time_stride=stride,
        max_length=frames,
        num_mel_bins=mel_bins,
    )


def plain_features(state: dict[str, Tensor], spectrograms: Tensor, stride: int) -> Tensor:
    """What timm's distilled DeiT computes from the original tensors alone.

    Shapes:
        spectrograms [B, frames, mel bins] -> normed features of the prefix and the patches [B, 2 + rows, D].
    """

    def linear(features: Tensor, name: str) -> Tensor:
        return F.linear(features, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(features: Tensor, name: str) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], NORM_EPS)

    images = spectrograms.transpose(1, 2).unsqueeze(1)  # [B, 1, mel bins, frames]
    patches = F.conv2d(images, state["v.patch_embed.proj.weight"], state["v.patch_embed.proj.bias"], stride)
    prefix = [state[name].expand(len(images), -1, -1) for name in ("v.cls_token", "v.dist_token")]
    features = torch.cat([*prefix, patches.flatten(2).transpose(1, 2)], dim=1) + state["v.pos_embed"]
    index = 0
    while f"v.blocks.{index}.norm1.weight" in state:
        block = f"v.blocks.{index}"
        fused = linear(norm(features, f"{block}.norm1"), f"{block}.attn.qkv")
        query, key, value = fused.unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)  # each [B, heads, T, 64]
        weights = (query @ key.transpose(-1, -2) / HEAD_WIDTH**0.5).softmax(dim=-1)
        features = features + linear((weights @ value).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(features, f"{block}.norm2"), f"{block}.mlp.fc1"))
        features = features + linear(hidden, f"{block}.mlp.fc2")
        index += 1
    return norm(features, "v.norm")


def convert(checkpoint: Path, output: Path) -> None:
    """Converts one file; see the module's docstring.

    Raises:
        CheckpointError: something does not fit; raised before anything is written.
    """
    original = read_original_checkpoint(checkpoint)
    indices = {match[1] for name in original.tensors if (match := re.match(r"v\.blocks\.(\d+)\.", name))}
    depth = max(len(indices), 1)
    layout = ssast_layout(depth)
    sized = {"v.patch_embed.proj.weight": 4, "v.pos_embed": 3, "v.blocks.0.mlp.fc1.weight": 2}
    state = needed_tensors(original.tensors, layout, sized)
    check_numbers(checkpoint, {name: original.tensors[name] for name in layout})
    left_out = [name for name in original.tensors if name not in layout]
    unknown = [name for name in left_out if re.match(r"v\.(?!head(_dist)?\.)", name)]
    if unknown:
        raise CheckpointError(
            f"the trunk must be timm's distilled DeiT, and {len(unknown)} of its tensors are not known there: "
            f"{unknown[:4]}. Pass a checkpoint of the SSAST repository."
        )
    config = ast_config(original.tensors, depth)
    with torch.device("meta"):
        model = ASTModel(config)
    model.load_state_dict(renamed(state, layout, model), assign=True)

    spectrogram = torch.randn(1, config.max_length, config.num_mel_bins, generator=torch.Generator().manual_seed(0))
    expected = plain_features(state, spectrogram, config.time_stride)
    difference = save_checked(model, output, {"input_values": spectrogram}, expected)
    print(
        f"{len(layout)} tensors written to {output}: {depth} blocks of width {config.hidden_size}, "
        f"{config.num_mel_bins} mel bins, {config.max_length} frames, stride {config.time_stride}"
    )
    print(f"left out, {len(left_out) + len(original.other)}: {left_out + original.other}")
    print(f"reloaded and compared on one spectrogram: largest relative difference {difference:.3g}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns 0, or 2 where the user's input is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .pth")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: convert(options.checkpoint, options.output))


if __name__ == "__main__":
    sys.exit(main())
