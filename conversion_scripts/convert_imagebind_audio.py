"""Turns the audio encoder of the authors' ImageBind checkpoint into a folder that `AutoModel` loads.

    python -m any2point_hf.conversion_scripts.convert_imagebind_audio --checkpoint imagebind_huge.pth --output audio

Takes `imagebind_huge.pth` (Meta's weights, CC BY-NC 4.0) or an extract of its audio tensors by their original names.
The written model is loaded again and compared with a plain calculation from the original tensors. Nothing is written
unless all of it fits.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from any2point_hf.conversion_scripts.conversion_output import exit_code, whole_folder
from any2point_hf.conversion_scripts.original_checkpoint import check_numbers, read_original_checkpoint
from any2point_hf.modeling.backbones.imagebind_audio.configuration_imagebind_audio import ImageBindAudioConfig
from any2point_hf.modeling.backbones.imagebind_audio.modeling_imagebind_audio import ImageBindAudioModel
from any2point_hf.modeling.errors import CheckpointError

AUDIO = re.compile(r"modality_(preprocessors|trunks|heads|postprocessors)\.audio\.")
STEM = "modality_preprocessors.audio"
BLOCKS = "modality_trunks.audio.blocks"
HEAD = "modality_heads.audio"
LOG_LOGIT_SCALE = "modality_postprocessors.audio.1.log_logit_scale"

# Parts of our names, to the file's, in the order they are replaced.
RENAMED = {
    "embeddings.cls_token": f"{STEM}.cls_token",
    "embeddings.position_embeddings": f"{STEM}.pos_embedding_helper.pos_embed",
    "embeddings.projection.": f"{STEM}.rgbt_stem.proj.",
    "embeddings.norm.": f"{STEM}.rgbt_stem.norm_layer.",
    "layernorm.": f"{HEAD}.0.",
    "joint_projection.": f"{HEAD}.2.",
    "layers.": f"{BLOCKS}.",
    ".norm1.": ".norm_1.",
    ".norm2.": ".norm_2.",
    ".attention.qkv.": ".attn.in_proj_",
    ".attention.": ".attn.",
}
# Config fields, to the tensor and the axis whose size they are.
SIZES = {
    "hidden_size": (f"{STEM}.cls_token", 2),
    "intermediate_size": (f"{BLOCKS}.0.mlp.fc1.weight", 0),
    "projection_dim": (f"{HEAD}.2.weight", 0),
}
HEAD_DIM, PUBLISHED_HEADS = 64, 12
PUBLISHED_LOGIT_SCALE, LARGEST_LOGIT_SCALE = 20.0, 100.0
LARGEST_RELATIVE_DIFFERENCE = 1e-4


def original_name(name: str) -> str:
    """The file's name of one of our model's tensors."""
    for own, original in RENAMED.items():
        name = name.replace(own, original)
    return name


def logit_scale(audio: dict[str, Tensor]) -> float:
    """Length of the joint embedding, as the released module computes it.

    Raises:
        CheckpointError: it is not one positive number.
    """
    if LOG_LOGIT_SCALE not in audio:
        return PUBLISHED_LOGIT_SCALE
    scale = audio[LOG_LOGIT_SCALE].exp().clip(max=LARGEST_LOGIT_SCALE)
    if scale.numel() != 1 or not scale > 0:
        raise CheckpointError(
            f"{LOG_LOGIT_SCALE} must be the logarithm of one positive number, got {audio[LOG_LOGIT_SCALE]}. Use the "
            "file as it was released."
        )
    return float(scale)


def count_heads(width: int) -> int:
    """The number of heads of an encoder, which no tensor tells: as many as are 64 wide, or else the published twelve.

    Raises:
        CheckpointError: the width is neither a multiple of 64 nor of 12.
    """
    if width % HEAD_DIM and width % PUBLISHED_HEADS:
        raise CheckpointError(
            f"the width must be a multiple of {HEAD_DIM}, a head's, or of {PUBLISHED_HEADS}, the published number of "
            f"heads; got {width} from the CLS token."
        )
    return PUBLISHED_HEADS if width % HEAD_DIM else width // HEAD_DIM


def read_config(audio: dict[str, Tensor]) -> ImageBindAudioConfig:
    """The config whose sizes are those of the file's audio tensors.

    Raises:
        CheckpointError: a tensor that tells a size is missing or wrongly shaped, or the width is not whole heads.
    """
    sizes: dict[str, Any] = {}
    for field, (name, axis) in SIZES.items():
        shape = list(audio[name].shape) if name in audio else None
        if shape is None or len(shape) <= axis or shape[axis] == 0:
            received = "it is missing" if shape is None else f"it is wrongly shaped: {shape}"
            raise CheckpointError(f"the checkpoint must hold {name}, which tells {field}; {received}.")
        sizes[field] = shape[axis]
    num_heads = count_heads(sizes["hidden_size"])
    blocks = {match[1] for name in audio if (match := re.match(rf"{re.escape(BLOCKS)}\.(\d+)\.", name))}
    return ImageBindAudioConfig(
        num_hidden_layers=len(blocks),
        num_attention_heads=num_heads,
        logit_scale=logit_scale(audio),
        **sizes,
    )


def make_model(config: ImageBindAudioConfig, audio: dict[str, Tensor]) -> ImageBindAudioModel:
    """The model with the file's tensors, all of them and nothing else.

    Raises:
        CheckpointError: names or shapes differ; the first differences are named.
    """
    with torch.device("meta"):  # random weights would be thrown away
        model = ImageBindAudioModel(config)
    own = {original_name(name): (name, list(tensor.shape)) for name, tensor in model.state_dict().items()}
    missing = [name for name in own if name not in audio]
    unexpected = [name for name in audio if name not in own and name != LOG_LOGIT_SCALE]
    reshaped = [
        f"{name} {list(audio[name].shape)} for {shape}"
        for name, (_, shape) in own.items()
        if name in audio and list(audio[name].shape) != shape
    ]
    if missing or unexpected or reshaped:
        raise CheckpointError(
            "the checkpoint must hold exactly the tensors of ImageBind's audio encoder. "
            f"Missing: {missing[:4]}; unexpected: {unexpected[:4]}; wrongly shaped: {reshaped[:4]}."
        )
    model.to_empty(device="cpu")
    model.load_state_dict({name: audio[original] for original, (name, _) in own.items()})
    return model


def plain_outputs(audio: dict[str, Tensor], spectrograms: Tensor) -> tuple[Tensor, Tensor]:
    """What the original tensors compute, by torch's functions alone, in the tensors' dtype.

    Shapes:
        spectrograms [B, 1, 128, 204] -> tokens after the final norm [B, 229, D], joint embedding [B, P].
    """

    def norm(rows: Tensor, name: str, eps: float = 1e-6) -> Tensor:
        return F.layer_norm(rows, rows.shape[-1:], audio[f"{name}.weight"], audio[f"{name}.bias"], eps)

    def linear(rows: Tensor, name: str) -> Tensor:
        return F.linear(rows, audio[f"{name}.weight"], audio[f"{name}.bias"])

    patches = F.conv2d(spectrograms, audio[f"{STEM}.rgbt_stem.proj.weight"], stride=10).flatten(2).transpose(1, 2)
    patches = norm(patches, f"{STEM}.rgbt_stem.norm_layer", eps=1e-5)
    cls_token = audio[f"{STEM}.cls_token"].expand(len(patches), -1, -1)
    tokens = torch.cat([cls_token, patches], dim=1) + audio[f"{STEM}.pos_embedding_helper.pos_embed"]
    width, index = tokens.shape[-1], 0
    while f"{BLOCKS}.{index}.norm_1.weight" in audio:
        block = f"{BLOCKS}.{index}"
        normed = norm(tokens, f"{block}.norm_1").transpose(0, 1)  # torch's attention wants [L, B, D]
        attended, _ = F.multi_head_attention_forward(
            normed,
            normed,
            normed,
            embed_dim_to_check=width,
            num_heads=count_heads(width),
            in_proj_weight=audio[f"{block}.attn.in_proj_weight"],
            in_proj_bias=audio[f"{block}.attn.in_proj_bias"],
            bias_k=audio[f"{block}.attn.bias_k"],
            bias_v=audio[f"{block}.attn.bias_v"],
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=audio[f"{block}.attn.out_proj.weight"],
            out_proj_bias=audio[f"{block}.attn.out_proj.bias"],
            training=False,
            need_weights=False,
        )
        tokens = tokens + attended.transpose(0, 1)
        inner = F.gelu(linear(norm(tokens, f"{block}.norm_2"), f"{block}.mlp.fc1"))
        tokens = tokens + linear(inner, f"{block}.mlp.fc2")
        index += 1
    tokens = norm(tokens, f"{HEAD}.0")
    joint = F.linear(tokens[:, 0], audio[f"{HEAD}.2.weight"])
    return tokens, logit_scale(audio) * joint / joint.norm(dim=-1, keepdim=True)


def check_written(folder: Path, audio: dict[str, Tensor]) -> float:
    """Largest difference of a written model's outputs from the plain calculation, relative to the values' size.

    Raises:
        CheckpointError: it is more than 1e-4.
    """
    model = AutoModel.from_pretrained(folder)
    spectrograms = torch.randn(1, 1, 128, 204, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs, expected = model(spectrograms), plain_outputs(audio, spectrograms)
    pairs = zip((outputs.last_hidden_state, outputs.pooler_output), expected, strict=True)
    differences = [float((actual - plain).abs().max() / plain.abs().max()) for actual, plain in pairs]
    if not all(difference <= LARGEST_RELATIVE_DIFFERENCE for difference in differences):  # NaN fails too
        raise CheckpointError(
            f"the converted model must compute what the file's tensors do to {LARGEST_RELATIVE_DIFFERENCE} of the "
            f"values' size; its tokens and joint embedding differ by {differences}. Use the file as it was released."
        )
    return max(differences)


def convert(checkpoint: Path, output: Path) -> None:
    """Converts one file; see the module's docstring.

    Raises:
        CheckpointError: something does not fit; raised before anything is written.
    """
    tensors, other = read_original_checkpoint(checkpoint)
    audio = {name: tensor.float() for name, tensor in tensors.items() if AUDIO.match(name)}
    if not audio:
        raise CheckpointError(
            f"{checkpoint} must hold ImageBind's audio encoder, tensors such as {STEM}.cls_token, found none. It "
            f"begins with {', '.join(list(tensors)[:4])}."
        )
    check_numbers(checkpoint, {name: tensor for name, tensor in tensors.items() if name in audio})
    config = read_config(audio)
    model = make_model(config, audio)
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        difference = check_written(folder, audio)
    print(
        f"audio encoder: {len(audio)} tensors, {config.num_hidden_layers} blocks, width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, MLP {config.intermediate_size}, joint embedding {config.projection_dim} "
        f"of length {config.logit_scale:g}"
    )
    print(f"left out: {len(tensors) - len(audio)} tensors of other modalities, {len(other)} other entries")
    print(f"written to {output}, reloaded and run: differs from the plain calculation by {difference:.3g}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns 0, or 2 where the user's input is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="imagebind_huge.pth or an extract of it")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: convert(options.checkpoint, options.output))


if __name__ == "__main__":
    sys.exit(main())
