"""What all stages of one run share: folders, settings, weights, device, and how to read a case."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.files import sha256_of_all
from dataset_conversion.raw.dataset import IMAGE_LABELS
from dataset_conversion.scans.integrity import check_complete
from dataset_conversion.scans.volumes import binarise_mask, check_same_grid, read_image
from pseudo_labeling.ahead import AheadReader
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import Grid, fits_beside_another, read_grid, read_shown
from pseudo_labeling.weights.files import WeightSpecs
from pseudo_labeling.weights.models import ClipBundle, load_clip

TABLE = "slice_labels.csv"
logger = logging.getLogger(__name__)

Records = Mapping[str, dict[str, Any] | None]


def labels_beside(dataset: Path) -> Path | None:
    """The labels that came with a dataset of pictures, where there are any."""
    path = dataset / IMAGE_LABELS
    return path if path.is_file() else None


class RunInputs:
    """One run over the cases in `imagesTr` of a dataset.

    Args:
        dataset: folder `nnUNet_raw/DatasetNNN_NAME`.
        settings: of every stage.
        specs: weights.
        device: `cpu`, `cuda`, ...
        image_labels: the user's slice labels, used instead of CLIP.
        redo: what to make anew although a person has changed it: cases, or the table of slice labels; all of it when
            empty, nothing when None.

    Raises:
        UserError: no scans, or a name in `redo` that nothing is called by.
    """

    def __init__(
        self,
        dataset: Path,
        settings: Settings,
        specs: WeightSpecs,
        device: str,
        image_labels: Path | None,
        redo: Sequence[str] | None = None,
    ) -> None:
        known = [*Workspace(dataset).cases(), TABLE]
        if redo and (unknown := [name for name in redo if name not in known]):
            raise UserError(f"--redo {unknown[0]}: {dataset} has no such case; name cases, or {TABLE}")
        self.files = Workspace(dataset, known if redo is not None and not redo else redo or ())
        self.settings = settings
        self.specs = specs
        self.device = torch.device(device)
        self.image_labels = image_labels
        self.cases = self.files.cases()
        self._by_hand: dict[Path, tuple[str, int] | None] = {}
        self._grids: dict[str, Grid] = {}
        self._reader = AheadReader(
            lambda case: read_shown(self.files.shown(case), self.settings.window), self.fits_beside_another
        )

    @cached_property
    def images(self) -> dict[str, str]:
        """SHA-256 of every scan, of a picture's channels together: one that was replaced is labelled again."""
        bar = tqdm(self.cases, desc="checking scans", unit="case", leave=False)
        return {case: sha256_of_all(self.files.shown(case)) for case in bar}

    @cached_property
    def clip(self) -> ClipBundle:
        """CLIP, loaded once, when it is needed."""
        return load_clip(self.specs.clip, self.device)

    def expect(self, cases: Sequence[str]) -> None:
        """Say in which order :meth:`read` will be called: the next scan is read while one is worked on."""
        self._reader.expect(cases)

    def read(self, case: str) -> tuple[Grid, np.ndarray]:
        """Grid and slices of a case: windowed `(z, y, x)` uint8 of a scan, `(1, y, x, 3)` uint8 of a picture."""
        return self._reader(case)

    def squares(self, case: str) -> list[int]:
        """What a key must tell of a scan's pixels: how many squares they become, nothing where they are square."""
        grid = self._grid(case)
        return [] if grid is None or grid.square_shape == grid.shape else list(grid.square_shape)

    def pixel_mm(self, case: str) -> list[float]:
        """What the key of prompts must tell beside it: the pixels' edge, nothing where it is 1 mm."""
        grid = self._grid(case)
        return [] if grid is None or grid.pixel_mm == 1 else [grid.pixel_mm]

    def ignored(self, case: str) -> list[str]:
        """What the intensity window of a case left out, from the record of its slice labels."""
        return list(self.files.slice_record(case).get("ignored", []))

    def fits_beside_another(self, case: str) -> bool:
        """Whether there is memory to work on a case while another one is read or written."""
        return fits_beside_another(self.files.image(case))

    def changed_by_hand(self, stage: str, case: str) -> dict[str, Any] | None:
        """The record of a case's mask or ROI that a person has changed, with its number of `voxels` of now.

        Such a file is kept and used, and the log says so; one that is cut short is nobody's work and is made anew.

        Raises:
            UserError: it does not lie on the scan's grid, or holds other values than 0 and 1.
        """
        record = self.files.changed_by_hand(stage, case)
        if record is None:
            return None
        file, sha256 = next(iter(record["files"].items()))
        path = self.files.dataset / file
        if path not in self._by_hand:
            self._by_hand[path] = self._checked(path, case, sha256)
        known = self._by_hand[path]
        return None if known is None else record | {"files": {file: known[0]}, "voxels": known[1]}

    def _checked(self, path: Path, case: str, sha256: str) -> tuple[str, int] | None:
        """SHA-256 and voxels of a changed mask; None where it is damaged."""
        try:
            check_complete(path)
        except UserError as error:
            logger.warning("%s; it is made anew", error)
            return None
        try:
            scan, mask = read_image(self.files.image(case)), read_image(path)
            check_same_grid(scan, self.files.image(case), mask, path)
            if (values := binarise_mask(mask, path)).sum() != sitk.GetArrayViewFromImage(mask).sum():
                raise UserError(f"{path}: has other values than 0 and 1")
        except UserError as error:
            raise UserError(f"{error}; it was changed by hand: mend it, or make it anew with --redo {case}") from error
        logger.warning("%s: changed by hand, so it is kept and used; --redo %s makes it anew", path, case)
        return sha256, int(values.sum())

    def _grid(self, case: str) -> Grid | None:
        """Of the scan's header; None where it has none, which reading it will say."""
        if case not in self._grids:
            try:
                self._grids[case] = read_grid(self.files.image(case))
            except UserError:
                return None
        return self._grids[case]

    def command(self, stage: str) -> str:
        """What a user types to run one stage of this dataset."""
        return f"nnUNetv2_clisc pseudo_label -d {self.files.dataset.name[7:10]} --stage {stage}"

    def all_finished(self, what: str, folder: Path, stage: str, records: Records) -> dict[str, dict[str, Any]]:
        """The records of all cases of a stage that the caller cannot do without.

        Args:
            what: the stage makes, in the plural, for the message.
            folder: where it puts them.
            stage: its name on the command line.
            records: of each case; None where there is none for these settings.

        Raises:
            UserError: cases without a record.
        """
        missing = [case for case, record in records.items() if record is None]
        if missing:
            raise UserError(
                f"{folder}: {what} of {len(missing)} of {len(records)} cases are missing, changed or made with other "
                f"settings ({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); run "
                f"`{self.command(stage)}` with the same settings first"
            )
        return {case: record for case, record in records.items() if record is not None}
