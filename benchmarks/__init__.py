"""Benchmarks: each figure has a floor that is measured in the same run. See `python -m benchmarks --help`."""
