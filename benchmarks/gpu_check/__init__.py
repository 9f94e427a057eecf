"""`make gpu-check`: all that is to be known of a machine with a GPU, in one command of nine minutes; docs/speed.md."""
