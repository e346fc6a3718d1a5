"""The laboratory: what every row needs to measure and to compare."""
