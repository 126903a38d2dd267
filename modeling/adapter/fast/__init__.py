"""The adapter's aggregation again, with the same numbers and less memory or time."""
