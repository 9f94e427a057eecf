"""The parts of `benchmarks.bench`, one measured comparison a module."""
