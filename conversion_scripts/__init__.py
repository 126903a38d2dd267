"""One script a source checkpoint; each ends by checking its own output."""
