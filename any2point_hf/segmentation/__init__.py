"""A part for every point: answers for a cloud of any size, back in the order of its file, and how good they are."""
