"""Several adapters on one backbone: switching, averaging, mixed batches, LoRA."""
