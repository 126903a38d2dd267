"""Ways to compute the tokenizer's numbers with less memory or time."""
