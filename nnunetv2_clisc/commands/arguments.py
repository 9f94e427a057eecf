"""Arguments that commands of several modules take."""

from __future__ import annotations

import argparse
from typing import TypeAlias

# where a command is added; a string, since the class takes no parameter at run time
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_device(parser: argparse.ArgumentParser) -> None:
    """`-device`, None where the choice is left to us."""
    parser.add_argument("-device", default=None, help="cpu or cuda (default: cuda where there is one)")


def up_to_128(text: str) -> int:
    """Argument type: a whole number from 1 to 128."""
    if not text.isdigit() or not 1 <= int(text) <= 128:
        raise argparse.ArgumentTypeError(f"'{text}': give a whole number from 1 to 128")
    return int(text)
