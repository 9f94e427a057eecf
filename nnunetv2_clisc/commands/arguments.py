"""Arguments that commands of several modules take."""

from __future__ import annotations

import argparse
from typing import TypeAlias

# where a command is added; a string, since the class takes no parameter at run time
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_dataset_id(parser: argparse.ArgumentParser, title: str | None = None) -> None:
    """`-d`, nnU-Net's number of a dataset."""
    parser.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID", help=title)


def add_trainer(parser: argparse.ArgumentParser) -> None:
    """`-tr` and `-p`: which of nnU-Net's trainings."""
    parser.add_argument("-tr", "--trainer", default="CLISCTrainer", help="(default: CLISCTrainer)")
    parser.add_argument("-p", "--plans", default="nnUNetPlans", help="(default: nnUNetPlans)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """`-device`, None where the choice is left to us."""
    parser.add_argument("-device", default=None, help="cpu, cuda, cuda:N or mps (default: cuda where there is one)")


def up_to_128(text: str) -> int:
    """Argument type: a whole number from 1 to 128."""
    if not text.isdigit() or not 1 <= int(text) <= 128:
        raise argparse.ArgumentTypeError(f"'{text}': give a whole number from 1 to 128")
    return int(text)
