"""What a pushed adapter carries: its card, its description, the push itself."""
