"""One script for each source checkpoint; each ends with a check of its own output."""
