"""Section 3.1 of the paper: the point tokenizer."""
