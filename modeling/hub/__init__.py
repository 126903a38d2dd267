"""Names and files on the Hub, read with limits."""
