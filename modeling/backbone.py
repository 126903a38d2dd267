"""Former path of backbones/loading.py."""

from .backbones.loading import *  # noqa: F403
