"""A part for every point: how good the answers are, and how they come back to the points of a file."""
