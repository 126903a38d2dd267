"""What `benchmarks/gpu.py` does on a machine with a GPU: inputs, ratios, plans, a training, the queue, tables."""
