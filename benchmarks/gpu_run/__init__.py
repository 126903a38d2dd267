"""What `benchmarks/gpu.py` does on a machine with a GPU, a file each: inputs, ratios, training, queue, plans, tables."""
