"""Section 3.3 of the paper: guided adapters."""
