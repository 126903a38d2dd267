"""Control backbones of the same family, width and depth whose weights know nothing, to tell what pretraining brings.

Unusual here: a backbone with its family's own start values is hardly one at all, because its feed-forward branches add
little to the tokens. Permuted weights keep the entries of every matrix, and so how much each layer adds, but lose what
was learned.
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
        backbone: pretrained; it is left as it is. The copy has its norms, biases and tables of positions (also those
            inside blocks) unchanged, and also the parts of a larger model that are not the backbone, such as a decoder.
        seed: of the order.
    """
    permuted = copy.deepcopy(backbone)
    same_tensors = share_backbone(permuted)
    spec = backbone_spec(same_tensors.config)
    freeze_backbone(same_tensors, spec, None)  # it also unrolls blocks that share a layer
    generator = torch.Generator().manual_seed(seed)
    layers = [module for module in find(same_tensors, spec.blocks).modules() if isinstance(module, nn.Linear | Conv1D)]
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():  # a shared weight once
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
