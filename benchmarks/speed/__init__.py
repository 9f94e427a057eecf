"""The parts of `benchmarks/bench.py`, one measured comparison a module."""
