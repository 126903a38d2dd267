"""Former path of publishing/model_card.py."""

from .publishing.model_card import *  # noqa: F403
