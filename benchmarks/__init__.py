"""What measures the project; run from the repository's root, not installed."""
