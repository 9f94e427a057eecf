"""What makers of this package run, from the root of a clone; never installed."""
