"""Which dataset folders a conversion will write: nnU-Net's own folders, a free id, a sound name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.errors import ConversionError

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"


@dataclass(frozen=True)
class Target:
    """The dataset to be written: checked folders and names."""

    raw: Path
    preprocessed: Path
    name: str
    dataset: str
    fullsup: str | None


def prepare_target(dataset_id: int, name: str, fullsup_id: int | None = None) -> Target:
    """Check ids, name and nnU-Net's folders before anything is read or written.

    Raises:
        ConversionError: an environment variable is unset, the name or an id is not allowed, or an id is taken.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise ConversionError(f"-n {name!r}: not allowed as a dataset name; use letters, digits, '_' and '-'")
    if fullsup_id == dataset_id:
        raise ConversionError(f"--fullsup-d {fullsup_id}: same id as -d; choose another")
    raw, preprocessed = (_environment_folder(variable) for variable in (RAW, PREPROCESSED))
    if raw.resolve() == preprocessed.resolve():
        raise ConversionError(f"{RAW} and {PREPROCESSED} are the same folder; export two different ones")
    searched = [raw, preprocessed]
    if os.environ.get(RESULTS):
        searched.append(_environment_folder(RESULTS))
    for flag, number in (("-d", dataset_id), ("--fullsup-d", fullsup_id)):
        if number is None:
            continue
        if not 1 <= number <= 999:
            raise ConversionError(f"{flag} {number}: dataset ids go from 1 to 999")
        for folder in searched:  # nnU-Net refuses an id that has two names in any of these
            if taken := sorted(folder.glob(f"Dataset{number:03d}_*")):
                raise ConversionError(f"{flag} {number}: taken by {taken[0]}; choose another id or remove that folder")
    fullsup = None if fullsup_id is None else f"Dataset{fullsup_id:03d}_{name}_fullsup"
    return Target(raw, preprocessed, name, f"Dataset{dataset_id:03d}_{name}", fullsup)


def _environment_folder(variable: str) -> Path:
    value = os.environ.get(variable, "")
    if not value:
        raise ConversionError(f"{variable} is not set; type: export {variable}=/path/to/a/folder")
    folder = Path(value).absolute()
    if folder.exists() and not folder.is_dir():
        raise ConversionError(f"{variable}: {folder} is not a folder; set it to one")
    return folder
