"""Section 3.2 of the paper: the virtual projection and its position encodings."""
