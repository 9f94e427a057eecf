"""Subcommands of `nnUNetv2_clisc`, a module a topic.

`add_X(commands)` declares the options of command X and sets `run`: a function that takes the parsed arguments, calls
the library, prints, and returns the exit code. It imports the library in its body, because help and argument errors
must not wait for torch. A new command takes one more line in `cli.py`.
"""
