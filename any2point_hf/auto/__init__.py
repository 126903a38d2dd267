"""The Auto classes and pipelines of transformers, and how they learn of ours."""
