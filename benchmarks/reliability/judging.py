"""Make a damaged input, have it read, and judge what came of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.reliability import checkpoints, images, texts
from benchmarks.reliability.damage import Damaged, Wrong
from benchmarks.reliability.mutations import Rng
from dataset_conversion.errors import UserError, explain

ERROR, RIGHT, FAULT = "one-line error", "right result", "FAULT"

KINDS: dict[str, tuple[float, Callable[[Rng, Path], Damaged]]] = {
    "scan": (0.28, images.scan),
    "mask": (0.10, images.mask),
    "prediction": (0.12, images.prediction),
    "slice labels (CSV)": (0.10, texts.slice_labels),
    "settings (JSON)": (0.12, texts.settings),
    "split (JSON)": (0.04, texts.split_file),
    "record (JSON)": (0.08, texts.record),
    "weights": (0.07, checkpoints.weights),
    "network": (0.04, checkpoints.network),
    "training checkpoint": (0.05, checkpoints.training_checkpoint),
}


@dataclass
class Outcome:
    """What came of one input."""

    number: int
    kind: str
    outcome: str
    what: str
    message: str


def kind_of(number: int, seed: int) -> tuple[str, np.random.Generator]:
    """The kind of an input and its chance; both come from seed and number alone."""
    rng = np.random.default_rng([seed, number])
    names = list(KINDS)
    shares = np.array([share for share, _ in KINDS.values()])
    return names[int(rng.choice(len(names), p=shares / shares.sum()))], rng


def try_input(number: int, seed: int, folder: Path, through_command: bool = False) -> Outcome:
    """Make one damaged input in a folder of its own, read it, and judge."""
    kind, rng = kind_of(number, seed)
    folder = folder / f"{number:05d}"
    folder.mkdir(parents=True)
    damaged = KINDS[kind][1](rng, folder)
    if through_command and damaged.command:
        outcome, message = _by_command(damaged, folder)
        kind = f"{kind}, installed command"
    else:
        outcome, message = _in_process(damaged)
    if damaged.marker is not None and damaged.marker.exists():
        outcome, message = FAULT, f"code in the file has run ({message})"
    if outcome != FAULT:
        shutil.rmtree(folder)
    return Outcome(number, kind, outcome, damaged.what, message)


def _in_process(damaged: Damaged) -> tuple[str, str]:
    try:
        return RIGHT, damaged.read()
    except Wrong as error:
        return FAULT, f"wrong: {error}"
    except (UserError, OSError) as error:
        message = explain(error) if isinstance(error, OSError) else str(error)
        return _judged(message, damaged)
    except MemoryError:
        return FAULT, "asks for more memory than there is"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "benchmarks" not in f.filename and "site-packages" not in f.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return FAULT, f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:150]}"


def _judged(message: str, damaged: Damaged) -> tuple[str, str]:
    """Is an error one line that names what to mend?"""
    if "\n" in message.strip():
        return FAULT, f"several lines: {message[:300]!r}"
    if damaged.path.name not in message and not any(name in message for name in (*damaged.names, "--")):
        return FAULT, f"names no file: {message[:300]}"
    return ERROR, message


def _by_command(damaged: Damaged, folder: Path) -> tuple[str, str]:
    images.nnunet_folders(folder)
    if damaged.command[0] == "pseudo_label":  # needs a dataset, which it must not get to
        (folder / "nnUNet_raw" / "Dataset501_F").mkdir()
    program = str(Path(sys.executable).parent / "nnUNetv2_clisc")
    done = subprocess.run([program, *damaged.command], capture_output=True, text=True, timeout=120)
    lines = done.stderr.strip().splitlines()
    if "Traceback" in done.stderr or done.returncode not in (0, 2):
        return FAULT, f"exit code {done.returncode}: {' '.join(lines[-1:])}"
    if done.returncode == 0:
        return RIGHT, "exit code 0"
    if not lines[-1].startswith("error: "):
        return FAULT, f"no line 'error: …': {lines[-1]}"
    if damaged.command[0] == "pseudo_label" and "imagesTr" in lines[-1]:
        return RIGHT, "settings accepted"  # then misses the scans
    return _judged(lines[-1], damaged)
