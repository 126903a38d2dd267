"""Precision, norms, dropout and start values."""
