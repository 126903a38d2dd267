"""Writes two small transformers with real weights, of audio and of images, as folders that `AutoModel` loads.

python benchmarks/real_backbones.py {kwt1,vit_cifar10} SOURCE OUTPUT

SOURCE holds config.json and NAME.safetensors; OUTPUT becomes a `BertModel`, because both are made of BERT's block,
x = LN(x + sublayer(x)):

- kwt1: the Keyword Transformer KWT-1 (Berg et al. 2021, Apache-2.0), trained on spoken commands. Width 64, 12 blocks,
  1 head, MLP 256 with tanh-GELU, eps 1e-6, no bias in q, k, v (here: zeros); 98 positions, one a frame in time.
- vit_cifar10: a ViT (no licence stated), trained on CIFAR-10 as a `torch.nn.TransformerEncoder`. Width 128, 6 blocks,
  8 heads, MLP 256 with ReLU, eps 1e-5; 64 positions, row by row over 8 × 8 patches of 4 × 4 pixels.

What is kept is what an adapter uses: the blocks, and the table of positions without the row of the CLS token. Front
end, input projection, CLS token and classifier stay behind; word and token-type embeddings are zero and never used.

One departure: BERT normalises its embeddings before block 0, these two do not. `embeddings.LayerNorm` has weight 1 and
bias 0, but still normalises. The originals' own forward is `model.encoder` called on their embeddings.

A BertModel's positions lie on a line unless told otherwise, as the frames of kwt1 do; modality="2d" with
plane=[32, 32] lays the 64 rows of vit_cifar10 out as the 8 × 8 grid that they were trained on.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import any2point_hf.calm_threads  # noqa: F401  # isort: skip
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel

SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
)  # by the same names in the source and in BERT
QUERY, KEY, VALUE = (f"attention.self.{part}" for part in ("query", "key", "value"))
# A block's modules by the source's names, each with the modules of BERT's that it holds, one above the other.
KWT1_MODULES = {
    "attention.query": (QUERY,),
    "attention.key": (KEY,),
    "attention.value": (VALUE,),
    "attention.out": ("attention.output.dense",),
    "norm1": ("attention.output.LayerNorm",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
    "norm2": ("output.LayerNorm",),
}
VIT_CIFAR10_MODULES = {
    "self_attn.in_proj": (QUERY, KEY, VALUE),
    "self_attn.out_proj": ("attention.output.dense",),
    "norm1": ("attention.output.LayerNorm",),
    "linear1": ("intermediate.dense",),
    "linear2": ("output.dense",),
    "norm2": ("output.LayerNorm",),
}


def convert_kwt1(source: Path, output: Path) -> None:
    """Converts the Keyword Transformer.

    Args:
        source: folder with config.json and kwt1.safetensors.
        output: folder to write.
    """
    weights = load_file(source / "kwt1.safetensors")
    blocks = _bert_blocks(weights, "layers", KWT1_MODULES)
    for name in [name for name in blocks if "attention.self." in name]:
        blocks[name.replace("weight", "bias")] = torch.zeros(len(blocks[name]))
    _save_bert(source, output, blocks, weights["embeddings.position_embeddings"])


def convert_vit_cifar10(source: Path, output: Path) -> None:
    """Converts the ViT.

    Args:
        source: folder with config.json and vit_cifar10.safetensors.
        output: folder to write.
    """
    weights = load_file(source / "vit_cifar10.safetensors")
    blocks = _bert_blocks(weights, "transformer.layers", VIT_CIFAR10_MODULES)
    _save_bert(source, output, blocks, weights["pos_embed"])


def _bert_blocks(weights: dict[str, Tensor], root: str, modules: dict[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """The tensors of all blocks, by BERT's names."""
    blocks = {}
    for name, tensor in weights.items():
        found = re.fullmatch(rf"{root}\.(\d+)\.(.+)[._](weight|bias)", name)
        if found:
            index, module, kind = found.groups()
            parts = modules[module]
            for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
                blocks[f"encoder.layer.{index}.{part}.{kind}"] = rows
    return blocks


def _save_bert(source: Path, output: Path, blocks: dict[str, Tensor], positions: Tensor) -> None:
    """Writes a BertModel of these blocks and positions [1, 1 + R, D], of which the first row is of the CLS token."""
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    positions = positions[0, 1:]
    num_rows, width = positions.shape
    config = BertConfig(
        **{name: settings[name] for name in SETTINGS},
        max_position_embeddings=num_rows,
        vocab_size=1,
        type_vocab_size=1,
    )
    embeddings = {
        "embeddings.word_embeddings.weight": torch.zeros(1, width),
        "embeddings.token_type_embeddings.weight": torch.zeros(1, width),
        "embeddings.position_embeddings.weight": positions,
        "embeddings.LayerNorm.weight": torch.ones(width),
        "embeddings.LayerNorm.bias": torch.zeros(width),
    }
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(embeddings | blocks)  # strictly: every tensor is there and has its place
    model.save_pretrained(output)


CONVERSIONS = {"kwt1": convert_kwt1, "vit_cifar10": convert_vit_cifar10}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one conversion from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONVERSIONS)
    parser.add_argument("source", type=Path, help="folder with config.json and NAME.safetensors")
    parser.add_argument("output", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    CONVERSIONS[options.name](options.source, options.output)


if __name__ == "__main__":
    main()
