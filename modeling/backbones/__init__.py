"""Frozen transformers: where each family keeps its parts, and how one is loaded and called."""
