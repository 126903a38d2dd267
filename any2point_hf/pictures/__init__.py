"""Pictures: what a model attends to and compares, on the points, and how a training went."""
