"""Data sets with a part for each point: columns `points`, `part` and maybe `category`."""
