"""Former path of trained_adapter.py."""

from .trained_adapter import *  # noqa: F403
