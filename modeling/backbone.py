"""Former path of backbones/loading.py and backbones/blocks.py."""

from .backbones.blocks import *  # noqa: F403
from .backbones.loading import *  # noqa: F403
