"""The command `nnUNetv2_clisc`: parses, runs one of `commands`, and turns the user's mistakes into one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from nnunetv2_clisc import __version__
from nnunetv2_clisc.commands import baselines, convert, labelling, prediction, scoring, studies, tools
from nnunetv2_clisc.commands.arguments import EXAMPLE, Page


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; mistakes of the user end in one line on standard error and exit code 2."""
    parsed = _parser().parse_args(arguments)
    # torch warns of its own deprecated parts when other packages are imported; nothing a user can act on
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from dataset_conversion.errors import UserError, explain

    command: Callable[[argparse.Namespace], int] = parsed.run
    try:
        code = command(parsed)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # e.g. piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # rights, a full disk: the system's own words name the file
        print(f"error: {explain(error, parsed.command)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        code = 130
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_clisc",
        description="Brain tumour segmentation from FLAIR scans without masks, as an extension of nnU-Net v2. Each "
        "command has its own page: nnUNetv2_clisc COMMAND -h",
        epilog=f"{EXAMPLE}\n  nnUNetv2_clisc convert folder --images MY_FLAIR_SCANS -d 501 -n MyScans\n"
        "  nnUNetv2_clisc pseudo_label -d 501",
        formatter_class=Page,
    )
    parser.add_argument("--version", action="version", version=f"nnunetv2-clisc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    # in the order of the help
    convert.add_convert(commands)
    prediction.add_mirror(commands)
    prediction.add_masks_to_png(commands)
    labelling.add_pseudo_label(commands)
    labelling.add_relabel(commands)
    labelling.add_submit(commands)
    scoring.add_evaluate(commands)
    scoring.add_compare(commands)
    scoring.add_stages(commands)
    baselines.add_sam_prompted(commands)
    baselines.add_baseline(commands)
    studies.add_ablate(commands)
    studies.add_sanity(commands)
    tools.add_weights(commands)
    tools.add_export_stock(commands)
    studies.add_report(commands)
    tools.add_demo(commands)
    tools.add_doctor(commands)
    return parser


if __name__ == "__main__":
    main()
