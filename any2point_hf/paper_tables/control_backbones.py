"""Backbones that know nothing, to tell what pretraining brings: the same family, width and depth with other weights.

Unusual here: random weights of a family's own start values are hardly a backbone at all, as their feed-forward branches
add little to the tokens. Permuted weights keep every matrix' entries, and with them how much each layer adds, and lose
what was learned.
"""

import copy

import torch
from torch import nn

from ..modeling.backbone import build_backbone
from ..modeling.backbone_detector import backbone_spec
from ..modeling.backbone_specs import find


@torch.no_grad()
def permuted_weights(backbone: nn.Module, seed: int) -> nn.Module:
    """A copy of a backbone whose blocks' matrices have their entries in random order.

    Args:
        backbone: pretrained; it is left as it is. Norms, biases and the table of positions are copied.
        seed: of the order.
    """
    permuted = copy.deepcopy(backbone)
    generator = torch.Generator().manual_seed(seed)
    for parameter in find(permuted, backbone_spec(backbone.config).blocks).parameters():
        if parameter.ndim == 2:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return permuted


def random_weights(backbone: nn.Module, seed: int) -> nn.Module:
    """A new backbone of the same config, with its family's start values.

    Args:
        backbone: whose config is used.
        seed: of the weights; torch's generator is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_backbone(copy.deepcopy(backbone.config))
