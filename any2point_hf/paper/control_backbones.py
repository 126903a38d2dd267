"""Backbones that know nothing, to tell what pretraining brings: the same family, width and depth with other weights.

Unusual here: random weights of a family's own start values are hardly a backbone at all, as their feed-forward branches
add little to the tokens. Permuted weights keep every matrix' entries, and with them how much each layer adds, and lose
what was learned.
"""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..modeling.backbones.blocks import freeze_backbone
from ..modeling.backbones.detector import backbone_spec
from ..modeling.backbones.loading import build_backbone, share_backbone
from ..modeling.backbones.spec import find


@torch.no_grad()
def permuted_weights(backbone: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A copy of a backbone whose blocks' matrices have their entries in random order.

    Args:
        backbone: pretrained; it is left as it is. Norms, biases and tables of positions are copied, those inside blocks
            too, and so is what is not the backbone in a larger model (of an encoder-decoder the decoder).
        seed: of the order.
    """
    permuted = copy.deepcopy(backbone)
    same_tensors = share_backbone(permuted)
    spec = backbone_spec(same_tensors.config)
    freeze_backbone(same_tensors, spec, None)  # which finds the blocks of layers that are shared
    generator = torch.Generator().manual_seed(seed)
    layers = [module for module in find(same_tensors, spec.blocks).modules() if isinstance(module, nn.Linear | Conv1D)]
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():  # of a shared layer once
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    return permuted


def random_weights(backbone: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A new backbone of the same config, with its family's start values.

    Args:
        backbone: whose config is used.
        seed: of the weights; torch's generator is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_backbone(copy.deepcopy(backbone.config))
