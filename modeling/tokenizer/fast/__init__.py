"""The tokenizer again, with the same numbers and less memory or time."""
