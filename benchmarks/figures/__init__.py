"""Figures from records, one file each: `python -m benchmarks.figures`."""
