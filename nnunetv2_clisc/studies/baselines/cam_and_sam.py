"""The paper's rows before the network, on any scans: CAMs and SAM pseudo-labels of cases that trained nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dataset_conversion.errors import UserError
from nnunetv2_clisc.environment import raw_dataset, usable_device
from nnunetv2_clisc.studies.baselines.folder import BaselineFolder
from pseudo_labeling.roi import roi_from_cam
from pseudo_labeling.run.classifier_files import Which
from pseudo_labeling.run.new_cases import FinishedRun, finished_entry
from pseudo_labeling.run.new_segments import FinishedSegments
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import Grid


def cam_baseline(
    dataset_id: int | str, images: Path, output: Path, *, which: Which = "amda", device: str | None = None
) -> list[Path]:
    """The CAM as a segmentation: CLIP labels the slices, the stored classifier maps, the ROI is the mask.

    Args:
        dataset_id: of a dataset that `pseudo_label` has been through; its settings hold.
        images: folder of scans.
        output: folder that gets `CASE.nii.gz` in the scans' geometry.
        which: the classifier before (`raw`) or after AMDA.
        device: `cpu` or `cuda`.

    Returns:
        The masks, one a case.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    finished = FinishedRun(Workspace(raw_dataset(dataset_id)), usable_device(device))
    folder = folder_of(finished.files, finished.settings, f"cam {which}", images, output)

    def segment(_case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
        return finished.roi(which, slices, finished.labels(slices, scan.slice_mm).label)

    return folder.run(segment, finished.facts(which, sam=False))


def pseudo_label_baseline(
    dataset_id: int | str,
    images: Path,
    output: Path,
    *,
    prompts: Literal["box", "points", "both"] | None = None,
    device: str | None = None,
) -> list[Path]:
    """SAM pseudo-labels of new cases: the whole first pass with the stored classifier, nothing trained, no mask read.

    For a training case this is exactly its pseudo-label in `labelsTr`.

    Args:
        dataset_id, images, output, device: as of :func:`cam_baseline`, which also says what is returned and raised.
        prompts: kind of prompts, instead of the dataset's.
    """
    files = Workspace(raw_dataset(dataset_id))
    if Settings.from_dict(finished_entry(files)["settings"]).masks.source == "everything":
        if prompts is not None:
            raise UserError("--prompts: this dataset was labelled without prompts; leave the flag out")
        return _from_segments(FinishedSegments(files, usable_device(device)), images, output)
    finished = FinishedRun(files, usable_device(device))
    if prompts is not None:
        prompting = replace(finished.settings.prompts, kind=prompts)
        finished.settings = replace(finished.settings, prompts=prompting)
    folder = folder_of(files, finished.settings, "pseudo_label", images, output)

    def segment(case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
        label = finished.labels(slices, scan.slice_mm).label
        cams = finished.cams(finished.final, slices, label)
        roi = roi_from_cam(cams[0], slices, finished.settings.roi)
        return finished.mask(slices, roi, scan.pixel_mm, case=case, cams=cams)

    return folder.run(segment, finished.facts(finished.final, sam=True))


def _from_segments(finished: FinishedSegments, images: Path, output: Path) -> list[Path]:
    folder = folder_of(finished.files, finished.settings, "pseudo_label", images, output)
    return folder.run(lambda _case, _scan, slices: finished.mask(slices), finished.facts())


def folder_of(files: Workspace, settings: Settings, name: str, images: Path, output: Path) -> BaselineFolder:
    """A folder of masks of scans, or of pictures, that are shown as those of a labelled dataset were."""
    return BaselineFolder(name, images, output, window=settings.window, pictures=files.pictures)
