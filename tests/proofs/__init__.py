"""The parts of `make prove`, see tests/prove.py. Each has `prove(share, seed)`, which counts what it tried, and lists as
`found` what should not have been."""
