"""Find the cases of a downloaded archive, a folder each, at the top or a level or two down."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource


def find_cases(
    source: Path, pattern: re.Pattern[str], archive: str, read_case: Callable[[Path], CaseSource]
) -> dict[str, CaseSource]:
    """Cases by name, from the folders whose names match in the first place that has any.

    Args:
        source: the folder of the case folders, or one or two levels above it.
        pattern: what a case folder is called.
        archive: what the folder of the case folders is called, where `source` lies above it; `*` stands for anything.
        read_case: makes a case of its folder.

    Raises:
        UserError: no such folder, or no case folder in any of these places, or in two of one level; or what
            `read_case` raises.
    """
    return {folder.name: read_case(folder) for folder in _case_folders(Path(source), pattern, archive)}


def _case_folders(source: Path, pattern: re.Pattern[str], archive: str) -> list[Path]:
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the folder {archive} to --source")
    for places in ([source], sorted(source.glob(archive)), sorted(source.glob(f"*/{archive}"))):
        found = {place: _matching(place, pattern) for place in places if place.is_dir()}
        holders = [place for place, folders in found.items() if folders]
        if len(holders) > 1:
            raise UserError(
                f"{source}: both {holders[0].name} and {holders[1].name} have case folders; give one to --source"
            )
        if holders:
            return found[holders[0]]
    raise UserError(f"{source}: has no case folder ({pattern.pattern}); give the folder {archive} to --source")


def _matching(place: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [entry for entry in sorted(place.iterdir()) if pattern.fullmatch(entry.name) and entry.is_dir()]
