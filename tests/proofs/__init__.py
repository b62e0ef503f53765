"""The parts of `make prove`, see tests/prove.py. Each has `prove(share, seed)`, which counts what it tried, and lists
what should not have been as `found`."""
