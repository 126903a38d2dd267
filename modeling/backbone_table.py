"""Former path of backbones/table.py."""

from .backbones.table import *  # noqa: F403
