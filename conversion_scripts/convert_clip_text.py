"""Turns OpenAI's CLIP, such as `ViT-L-14.pt`, into a folder of transformers' `CLIPTextModel`.

    python -m any2point_hf.conversion_scripts.convert_clip_text --checkpoint ViT-L-14.pt --output clip-text

The published file is a TorchScript archive, whose code is never run. A plain state dict works as well, of the text
tower alone or with the image tower. Half precision becomes float32. The folder appears only when the model loaded from
it computes what plain torch computes from the original tensors. The activation is taken to be OpenAI's own,
x·σ(1.702 x), because no weight would show that it is another one.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from any2point_hf.conversion_scripts.conversion_output import exit_code, save_checked
from any2point_hf.conversion_scripts.original_checkpoint import check_numbers, read_original_checkpoint
from any2point_hf.conversion_scripts.renaming import HEAD_WIDTH, Layout, needed_tensors, renamed
from any2point_hf.conversion_scripts.torchscript_archive import is_torchscript_archive, read_torchscript_archive
from any2point_hf.modeling.errors import CheckpointError

NORM_EPS = 1e-5
LEFT_OUT = r"visual\..+|text_projection|logit_scale|input_resolution|context_length|vocab_size"

# Original names to the names in `CLIPTextModel`; a fused tensor has several, in the order of its rows.
_EMBEDDINGS = {
    "token_embedding.weight": ("embeddings.token_embedding.weight",),
    "positional_embedding": ("embeddings.position_embedding.weight",),
}
_BLOCK = {
    "ln_1.": ("layer_norm1",),
    "attn.in_proj_": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.out_proj.": ("self_attn.out_proj",),
    "ln_2.": ("layer_norm2",),
    "mlp.c_fc.": ("mlp.fc1",),
    "mlp.c_proj.": ("mlp.fc2",),
}


def clip_text_layout(depth: int) -> Layout:
    """The original names of a text tower of this many blocks, each with its names in `CLIPTextModel`."""
    modules: dict[str, tuple[str, ...]] = {"ln_final.": ("final_layer_norm",)}
    for index in range(depth):
        for old, new in _BLOCK.items():
            modules[f"transformer.resblocks.{index}.{old}"] = tuple(f"encoder.layers.{index}.{name}" for name in new)
    return _EMBEDDINGS | {
        f"{old}{kind}": tuple(f"{name}.{kind}" for name in new)
        for old, new in modules.items()
        for kind in ("weight", "bias")
    }


def text_tower(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The text tower of a checkpoint in float32 by its original names, and its number of blocks.

    Raises:
        CheckpointError: names are missing or unknown.
    """
    indices = {match[1] for name in tensors if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    depth = max(len(indices), 1)
    layout = clip_text_layout(depth)
    sized = {"token_embedding.weight": 2, "positional_embedding": 2, "transformer.resblocks.0.mlp.c_fc.weight": 2}
    tower = needed_tensors(tensors, layout, sized)
    unknown = [name for name in tensors if name not in layout and not re.fullmatch(LEFT_OUT, name)]
    if unknown:
        raise CheckpointError(
            f"the checkpoint must be OpenAI's CLIP, and {len(unknown)} tensors are not known there: {unknown[:4]}. "
            "Pass the original file."
        )
    return tower, depth


def clip_text_config(tower: dict[str, Tensor], depth: int) -> CLIPTextConfig:
    """The config of the model that a text tower's tensors belong to.

    Raises:
        CheckpointError: the width is no multiple of a head's, or there are fewer than two words or no positions.
    """
    vocabulary, width = tower["token_embedding.weight"].shape
    positions = len(tower["positional_embedding"])
    if width == 0 or width % HEAD_WIDTH:
        raise CheckpointError(f"the width must be whole heads of {HEAD_WIDTH}, got {width}. Pass the original file.")
    if vocabulary < 2 or positions < 1:
        raise CheckpointError(
            f"the text tower must know two words and a position, got {vocabulary} and {positions}. Pass the original."
        )
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(tower["transformer.resblocks.0.mlp.c_fc.weight"]),
        projection_dim=None,  # the projection is left out
        num_hidden_layers=depth,
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=positions,
        hidden_act="quick_gelu",
        layer_norm_eps=NORM_EPS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )


def plain_features(tower: dict[str, Tensor], token_ids: Tensor) -> Tensor:
    """What OpenAI's text tower computes from the original tensors alone.

    Shapes:
        token_ids [B, T], as many as there are positions -> normed features of all tokens [B, T, D].
    """

    def linear(features: Tensor, name: str) -> Tensor:
        return F.linear(features, tower[f"{name}weight"], tower[f"{name}bias"])

    def norm(features: Tensor, name: str) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], tower[f"{name}weight"], tower[f"{name}bias"], NORM_EPS)

    features = tower["token_embedding.weight"][token_ids] + tower["positional_embedding"]
    later = torch.full((token_ids.shape[1],) * 2, float("-inf")).triu(1)
    index = 0
    while f"transformer.resblocks.{index}.ln_1.weight" in tower:
        block = f"transformer.resblocks.{index}"
        fused = linear(norm(features, f"{block}.ln_1."), f"{block}.attn.in_proj_")
        query, key, value = fused.unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)  # each [B, heads, T, 64]
        weights = (query @ key.transpose(-1, -2) / HEAD_WIDTH**0.5 + later).softmax(dim=-1)
        features = features + linear((weights @ value).transpose(1, 2).flatten(2), f"{block}.attn.out_proj.")
        hidden = linear(norm(features, f"{block}.ln_2."), f"{block}.mlp.c_fc.")
        features = features + linear(hidden * torch.sigmoid(1.702 * hidden), f"{block}.mlp.c_proj.")
        index += 1
    return norm(features, "ln_final.")


def convert(checkpoint: Path, output: Path) -> None:
    """Converts one file; see the module's docstring.

    Raises:
        CheckpointError: something does not fit; raised before anything is written.
    """
    read = read_torchscript_archive if is_torchscript_archive(checkpoint) else read_original_checkpoint
    original = read(checkpoint)
    tower, depth = text_tower(original.tensors)
    check_numbers(checkpoint, tower)
    config = clip_text_config(tower, depth)
    with torch.device("meta"):
        model = CLIPTextModel(config)
    model.load_state_dict(renamed(tower, clip_text_layout(depth), model), assign=True)

    random = torch.Generator().manual_seed(0)
    token_ids = torch.randint(config.vocab_size, (1, config.max_position_embeddings), generator=random)
    difference = save_checked(model, output, {"input_ids": token_ids}, plain_features(tower, token_ids))
    print(
        f"{len(tower)} tensors written to {output}: {depth} blocks of width {config.hidden_size}, {config.vocab_size} "
        f"words, {config.max_position_embeddings} positions"
    )
    left_out = Counter(name.partition(".")[0] for name in original.tensors if name not in tower)
    print(
        f"left out, {left_out.total()} tensors: {dict(left_out)}; and {len(original.other)} values that are no tensors"
    )
    print(f"reloaded and compared on one sentence: largest relative difference {difference:.3g}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns 0, or 2 where the user's input is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .pt or .pth")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: convert(options.checkpoint, options.output))


if __name__ == "__main__":
    sys.exit(main())
