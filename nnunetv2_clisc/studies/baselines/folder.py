"""A folder of predictions that one baseline makes of a folder of scans, case by case, resuming where it was killed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.files import check_output, read_json, remove_partial, sha256_of, write_json
from dataset_conversion.scans.volumes import list_volumes, volume_extension
from pseudo_labeling.run.failures import CaseFailures
from pseudo_labeling.run.workspace import ENDING, Workspace, key_of
from pseudo_labeling.slices import Scan, read_scan, write_mask

PACKAGES = ("nnunetv2-clisc", "torch", "numpy", "scipy", "scikit-image", "segment-anything", "open_clip_torch")
Segment = Callable[[str, Scan], np.ndarray]
"""A case's name and scan to its mask, `(z, y, x)` bool axial slices at square pixels from foot to head."""


class BaselineFolder:
    """`OUT/CASE.nii.gz` in the scans' geometry, `OUT/baseline.json` when all are there, records in `OUT/clisc`.

    Args:
        name: of the baseline, told in messages.
        images: folder of scans, `CASE.nii.gz` or `CASE_0000.nii.gz` (or another format that `convert folder` reads).
        output: folder to write.

    Raises:
        UserError: the output is the input, or holds masks of something else; the scans cannot be listed.
    """

    def __init__(self, name: str, images: Path, output: Path) -> None:
        self.name, self.output = name, output
        self.scans = list_volumes(images)
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
        for case, path in tqdm(self.scans.items(), desc=self.name, unit="case"):
            with failures.of(case):
                record = self._case(case, path, segment, facts)
                masks.append(self.output / f"{case}{ENDING}")
                if record["voxels"] == 0:
                    empty.append(case)
        failures.check(self.name, len(self.scans))
        versions = {name: version(name) for name in PACKAGES}
        write_json(summary, {"baseline": self.name, **facts, "cases": len(masks), "empty": empty, "versions": versions})
        return masks

    def _case(self, case: str, path: Path, segment: Segment, facts: dict[str, Any]) -> dict[str, Any]:
        """The record of a case, which is segmented if its mask is not there or was made of something else."""
        target = self.output / f"{case}{ENDING}"
        key = key_of(sha256_of(path), facts)
        record = self.files.record("cases", case, key)
        if record is None:
            target.unlink(missing_ok=True)  # a case that fails now must not keep the mask of another scan or settings
            scan = read_scan(path)
            mask = segment(case, scan)
            write_mask(scan, mask, target)
            record = self.files.finish("cases", case, key, [target], voxels=int(scan.from_squares(mask).sum()))
        return record

    def _check_ours(self) -> None:
        """Never write into a folder of masks, or of another baseline."""
        if self._marker.is_file():
            found = read_json(self._marker).get("baseline")
            if found != self.name:
                raise UserError(f"-o {self.output}: holds masks of the baseline '{found}'; name another folder")
        else:
            refuse_strangers(self.output)


def refuse_strangers(output: Path) -> None:
    """Raise where a folder to be written holds volumes: they are of somebody else."""
    strangers = [path for path in sorted(output.glob("*")) if volume_extension(path) is not None]
    if strangers:
        raise UserError(f"-o {strangers[0]}: not made by this command; name another folder")
