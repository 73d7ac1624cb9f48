"""Score tables to differences, intervals, tests and verdicts."""
