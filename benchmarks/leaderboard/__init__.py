"""The board from records: `python -m benchmarks.leaderboard`."""
