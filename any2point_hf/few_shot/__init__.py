"""Few-shot classification: folds, baselines and the protocol."""
