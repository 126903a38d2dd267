"""Former path of backbones/spec.py."""

from .backbones.spec import *  # noqa: F403
