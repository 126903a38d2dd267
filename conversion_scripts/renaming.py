"""Renames the tensors of an original transformer to those of transformers' model, and checks every shape."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from any2point_hf.modeling.errors import CheckpointError

HEAD_WIDTH = 64  # of every published ViT and CLIP

# Original names to the names in the model; a fused tensor has several, in the order of its rows.
Layout = dict[str, tuple[str, ...]]


def needed_tensors(tensors: dict[str, Tensor], layout: Layout, dimensions: dict[str, int]) -> dict[str, Tensor]:
    """The tensors of a layout in float32, checked so that sizes can be read from those in `dimensions`.

    Raises:
        CheckpointError: names are missing, or a tensor holds integers or has another number of dimensions.
    """
    missing = [name for name in layout if name not in tensors]
    if missing:
        raise CheckpointError(
            f"the checkpoint must hold all {len(layout)} weights of the model; {len(missing)} miss: {missing[:4]}. Its "
            f"names begin with {list(tensors)[:4]}: pass the original file."
        )
    for name in layout:
        tensor = tensors[name]
        if not tensor.is_floating_point() or tensor.dim() != dimensions.get(name, tensor.dim()):
            raise CheckpointError(
                f"{name} must be floating-point numbers in {dimensions.get(name, tensor.dim())} dimensions, got "
                f"{tensor.dtype} {list(tensor.shape)}. Pass the original file."
            )
    return {name: tensors[name].detach().float() for name in layout}


def renamed(state: dict[str, Tensor], layout: Layout, model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's own state dict from the original one; fused tensors are split along their rows.

    Raises:
        CheckpointError: a tensor has another shape than the model's.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    converted = {}
    for name, parts in layout.items():
        rows, *rest = shapes[parts[0]]
        expected = [rows * len(parts), *rest]
        if list(state[name].shape) != expected:
            raise CheckpointError(
                f"{name} must be {expected} by the other sizes, got {list(state[name].shape)}. Pass the original file."
            )
        for part, tensor in zip(parts, state[name].chunk(len(parts)), strict=True):
            # Parts of one storage would be taken for tied weights when they are saved.
            converted[part] = tensor.clone(memory_format=torch.contiguous_format)
    return converted
