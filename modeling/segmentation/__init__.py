"""A label for every point: interpolation to points, the head, categories and their parts, clouds of any size."""
