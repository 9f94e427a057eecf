"""A folder of predictions that one baseline makes of a folder of scans, case by case, resuming where it was killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.files import check_output, read_json, remove_partial, sha256_of, write_json
from dataset_conversion.scans.picture import COLOURS
from dataset_conversion.scans.volumes import list_volumes, volume_extension
from pseudo_labeling.run.failures import CaseFailures
from pseudo_labeling.run.workspace import ENDING, Workspace, key_of
from pseudo_labeling.settings import WindowSettings
from pseudo_labeling.slices import Grid, read_shown, write_mask

PACKAGES = ("nnunetv2-clisc", "torch", "numpy", "scipy", "scikit-image", "segment-anything", "open_clip_torch")
Segment = Callable[[str, Grid, np.ndarray], np.ndarray]
"""A case's name, grid and slices, `(z, y, x)` uint8 from foot to head (of a picture `(1, y, x, 3)`), to its mask.

Slices and mask, `(z, y, x)` bool, are at square pixels.
"""


class BaselineFolder:
    """`OUT/CASE.nii.gz` in the scans' geometry, `OUT/baseline.json` when all are there, records in `OUT/clisc`.

    Args:
        name: of the baseline, told in messages.
        images: folder of scans, `CASE.nii.gz` or `CASE_0000.nii.gz` (or another format that `convert folder` reads).
        output: folder to write.
        window: of the slices.
        pictures: the scans are pictures, `CASE_0000.nii.gz` to `CASE_0002.nii.gz`.

    Raises:
        UserError: the output is the input, or holds masks of something else; the scans cannot be listed.
    """

    def __init__(
        self,
        name: str,
        images: Path,
        output: Path,
        *,
        window: WindowSettings = WindowSettings(),
        pictures: bool = False,
    ) -> None:
        self.name, self.output, self.window = name, output, window
        self.scans = list_cases(images, channels=len(COLOURS) if pictures else 1)
        check_output(output, {"--images": images})
        self.files = Workspace(output)
        self._marker = self.files.root / "baseline.json"
        self._check_ours()

    def run(self, segment: Segment, facts: dict[str, Any]) -> list[Path]:
        """Segment every case that is not yet done with the same scan and facts.

        Args:
            segment: the method.
            facts: all that the masks depend on besides the scan; plain JSON types, written to `baseline.json`.

        Returns:
            The masks, one a case.

        Raises:
            UserError: cases failed; the others are done.
        """
        summary = self.output / "baseline.json"
        remove_partial(self.output)  # of a run that was killed
        write_json(self._marker, {"baseline": self.name})
        summary.unlink(missing_ok=True)  # until the end, nothing says that the folder is complete
        masks, empty, failures = [], [], CaseFailures()
        for case, shown in tqdm(self.scans.items(), desc=self.name, unit="case"):
            with failures.of(case):
                record = self._case(case, shown, segment, facts)
                masks.append(self.output / f"{case}{ENDING}")
                if record["voxels"] == 0:
                    empty.append(case)
        failures.check(self.name, len(self.scans))
        versions = {name: version(name) for name in PACKAGES}
        write_json(summary, {"baseline": self.name, **facts, "cases": len(masks), "empty": empty, "versions": versions})
        return masks

    def _case(self, case: str, shown: Sequence[Path], segment: Segment, facts: dict[str, Any]) -> dict[str, Any]:
        """The record of a case, which is segmented if its mask is not there or was made of something else."""
        target = self.output / f"{case}{ENDING}"
        key = key_of(*map(sha256_of, shown), facts)
        record = self.files.record("cases", case, key)
        if record is None:
            target.unlink(missing_ok=True)  # a case that fails now must not keep the mask of another scan or settings
            grid, slices = read_shown(shown, self.window)
            mask = segment(case, grid, slices)
            write_mask(grid, mask, target)
            record = self.files.finish("cases", case, key, [target], voxels=int(grid.from_squares(mask).sum()))
        return record

    def _check_ours(self) -> None:
        """Never write into a folder of masks, or of another baseline."""
        if self._marker.is_file():
            found = read_json(self._marker).get("baseline")
            if found != self.name:
                raise UserError(f"-o {self.output}: holds masks of the baseline '{found}'; name another folder")
        else:
            refuse_strangers(self.output)


def list_cases(images: Path, *, channels: int) -> dict[str, list[Path]]:
    """The files of each case in a folder: its scan alone, with its mirror image, or the three channels of a picture.

    Raises:
        UserError: see `list_volumes`; a case without one of its channels.
    """
    if channels == 1:
        return {case: [path] for case, path in list_volumes(images).items()}
    found = list_volumes(images, strip_channel=False)
    cases: dict[str, list[Path]] = {}
    for name in found:
        case, _, channel = name.rpartition("_")
        names = [f"{case}_{number:04d}" for number in range(channels)]
        if not case or not channel.isdigit() or not set(names) <= found.keys():
            what, maker = ("picture", "convert pictures") if channels == len(COLOURS) else ("mirrored scan", "mirror")
            raise UserError(f"{found[name]}: no channel of a {what}; give what `{maker}` wrote, or imagesTs")
        cases[case] = [found[each] for each in names]
    return cases


def refuse_strangers(output: Path) -> None:
    """Raise where a folder to be written holds volumes: they are of somebody else."""
    strangers = [path for path in sorted(output.glob("*")) if volume_extension(path) is not None]
    if strangers:
        raise UserError(f"-o {strangers[0]}: not made by this command; name another folder")
