"""Point clouds in people's own files, and the rules they must meet."""
