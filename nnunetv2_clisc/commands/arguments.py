"""How a command presents itself in its help, and the arguments that commands of several modules take."""

from __future__ import annotations

import argparse
from typing import TypeAlias

# where a command is added, and where a flag is: a parser or a group of its flags; strings, because the first class
# takes no parameter at run time
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Flags: TypeAlias = "argparse._ActionsContainer"

EXAMPLE = "example:"  # begins what ends a page
SPECS = "embedded|paper|FILE"  # of weights


class Page(argparse.HelpFormatter):
    """A help page that keeps the lines of its example."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 16  # argparse forgets the indent of a list of commands, and breaks its lines

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE) else super()._fill_text(text, width, indent)


def add_command(commands: Commands, name: str, line: str, does: str, example: str) -> argparse.ArgumentParser:
    """A command with its help page; its flags belong into groups (`add_argument_group`).

    Args:
        commands: where it is added.
        name: of the command.
        line: what it is, for the list of commands.
        does: what it does, in a sentence or two.
        example: a whole command line with real flags; shown as it is, so a long one has `\\` and a line break.
    """
    return commands.add_parser(
        name,
        help=line,
        description=does,
        epilog=f"{EXAMPLE}\n  {example}",
        formatter_class=Page,
    )


def add_dataset(flags: Flags, help_text: str) -> None:
    """`-d`, nnU-Net's number or name of a dataset that exists."""
    flags.add_argument(
        "-d", "--dataset-id", dest="dataset", type=_dataset, required=True, metavar="ID",
        help=f"{help_text}: 501 or Dataset501_MyScans",
    )  # fmt: skip


def _dataset(text: str) -> int | str:
    from nnunetv2_clisc.environment import DATASET_NAME

    if text.isdecimal():
        return int(text)
    if DATASET_NAME.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"'{text}': give a number such as 501, or a name such as Dataset501_MyScans")


def add_training(flags: Flags) -> None:
    """`-tr` and `-p`: which of nnU-Net's trainings."""
    flags.add_argument(
        "-tr", "--trainer", default="CLISCTrainer", metavar="NAME", help="trainer (default: CLISCTrainer)"
    )
    flags.add_argument("-p", "--plans", default="nnUNetPlans", metavar="NAME", help="plans (default: nnUNetPlans)")


def add_device(flags: Flags) -> None:
    """`-device`, None where the choice is left to us."""
    flags.add_argument("-device", metavar="DEVICE", help="cpu, cuda, cuda:N or mps (default: cuda where there is one)")


def add_seed(flags: Flags, of: str) -> None:
    """`--seed` of what is drawn."""
    flags.add_argument("--seed", type=int, default=0, metavar="N", help=f"of {of} (default: 0)")


def up_to_128(text: str) -> int:
    """Argument type: a whole number from 1 to 128."""
    if not text.isdigit() or not 1 <= int(text) <= 128:
        raise argparse.ArgumentTypeError(f"'{text}': give a whole number from 1 to 128")
    return int(text)
