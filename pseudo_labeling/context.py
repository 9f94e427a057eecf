"""What all stages of one run share: folders, settings, weights, device, and how to read a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dataset_conversion.files import read_json, sha256_of
from pseudo_labeling import models
from pseudo_labeling.ahead import AheadReader
from pseudo_labeling.errors import PseudoLabelError
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import Grid, fits_beside_another, read_grid, read_slices
from pseudo_labeling.weights import WeightSpecs
from pseudo_labeling.workspace import Workspace

Records = Mapping[str, dict[str, Any] | None]


class RunContext:
    """One run over the cases in `imagesTr` of a dataset.

    Args:
        dataset: folder `nnUNet_raw/DatasetNNN_NAME`.
        settings: of every stage.
        specs: weights.
        device: `cpu`, `cuda`, ...
        image_labels: the user's slice labels, used instead of CLIP.
    """

    def __init__(
        self, dataset: Path, settings: Settings, specs: WeightSpecs, device: str, image_labels: Path | None
    ) -> None:
        self.files = Workspace(dataset)
        self.settings = settings
        self.specs = specs
        self.device = torch.device(device)
        self.image_labels = image_labels
        self.cases = self.files.cases()
        self._grids: dict[str, Grid] = {}
        self._reader = AheadReader(
            lambda case: read_slices(self.files.image(case), self.settings.window), self.fits_beside_another
        )

    @cached_property
    def images(self) -> dict[str, str]:
        """SHA-256 of every scan: a replaced scan is labelled again."""
        bar = tqdm(self.cases, desc="checking scans", unit="case", leave=False)
        return {case: sha256_of(self.files.image(case)) for case in bar}

    @cached_property
    def clip(self) -> models.ClipBundle:
        """CLIP, loaded once, when it is needed."""
        return models.load_clip(self.specs.clip, self.device)

    def expect(self, cases: Sequence[str]) -> None:
        """Say in which order :meth:`read` will be called: the next scan is read while one is worked on."""
        self._reader.expect(cases)

    def read(self, case: str) -> tuple[Grid, np.ndarray]:
        """Grid and windowed slices `(z, y, x)` uint8 of a scan."""
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
        return list(read_json(self.files.root / "slice_labels" / f"{case}.json").get("ignored", []))

    def fits_beside_another(self, case: str) -> bool:
        """Whether there is memory to work on a case while another one is read or written."""
        return fits_beside_another(self.files.image(case))

    def _grid(self, case: str) -> Grid | None:
        """Of the scan's header; None where it has none, which reading it will say."""
        if case not in self._grids:
            try:
                self._grids[case] = read_grid(self.files.image(case))
            except RuntimeError:
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
            PseudoLabelError: cases without a record.
        """
        missing = [case for case, record in records.items() if record is None]
        if missing:
            raise PseudoLabelError(
                f"{folder}: {what} of {len(missing)} of {len(records)} cases are missing, changed or made with other "
                f"settings ({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); run "
                f"`{self.command(stage)}` with the same settings first"
            )
        return {case: record for case, record in records.items() if record is not None}
