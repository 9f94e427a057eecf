"""Archives with a folder a case, at the top or a level or two down: their cases found and converted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource, ConversionSummary, write_dataset
from dataset_conversion.raw.splits import choose_split
from dataset_conversion.raw.target import prepare_target


@dataclass(frozen=True)
class Archive:
    """A data set as it is distributed.

    Attributes:
        name: by which `convert` and `dataset.json` know it.
        dataset: default NAME of `DatasetNNN_NAME`.
        pattern: of the names of case folders.
        folder: pattern of the name of the folder above them, as downloaded; `*` stands for anything.
        read_case: makes a case of its folder.
        split: file of the default split; None draws 70:10:20, the paper's ratio (Sec. 3.1).
    """

    name: str
    dataset: str
    pattern: re.Pattern[str]
    folder: str
    read_case: Callable[[Path], CaseSource]
    split: Path | None = None

    def convert(
        self,
        source: Path,
        *,
        dataset_id: int,
        name: str | None = None,
        split: Path | None = None,
        fullsup_id: int | None = None,
        seed: int = 0,
    ) -> ConversionSummary:
        """Convert the FLAIR scans, with every label above 0 as tumour.

        Args:
            source: folder of the case folders, or one or two levels above the archive's folder.
            dataset_id: NNN of `DatasetNNN_NAME`.
            name: its NAME.
            split: JSON file; by default the archive's. Where one is drawn, time points of a patient stay together.
            fullsup_id: id of a second dataset with ground truth for training.
            seed: of the split, where one is drawn.

        Raises:
            UserError: see `case_folders`, `prepare_target`, `choose_split` and `write_dataset`.
        """
        target = prepare_target(dataset_id, name or self.dataset, fullsup_id)
        folders = case_folders(Path(source), self.pattern, self.folder)
        cases = {folder.name: self.read_case(folder) for folder in folders}
        split = split or self.split
        chosen = choose_split(None if split is None else Path(split), cases, seed=seed, val=0.1, test=0.2)
        return write_dataset(target, cases, chosen, source=self.name, seed=seed)


def case_folders(source: Path, pattern: re.Pattern[str], archive: str) -> list[Path]:
    """Folders whose names match, in the first place that has any: `source`, or one or two levels below it.

    Args:
        source: where to look.
        pattern: of the names of case folders.
        archive: pattern of the name of the folder above them, as downloaded; `*` stands for anything.

    Raises:
        UserError: no such folder, or none that matches, or some in two places of one level.
    """
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
